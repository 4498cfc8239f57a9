package plugin_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
)

// A way is one to end all leases of a mount, and what tells that it is over.
type way struct{ name, method, path, over string }

// measureRevocation ends many leases, and ten times as many, in each way. Every
// time has a server and a cluster of its own: a cluster lists its dead, too.
func measureRevocation(b *testing.B, sheet *sheet) {
	most := number(b, "BENCH_LEASES", 10_000)
	for n := max(1, most/10); n <= most; n *= 10 {
		for _, w := range []way{
			{"revoked lazily", "PUT", "sys/leases/revoke-prefix/", "nothing is owed"},
			{"by disabling the mount", "DELETE", "sys/mounts/", "the mount is gone"},
		} {
			b.Run(fmt.Sprint(n, " ", w.name), func(b *testing.B) { newRig(b).measureEnd(b, sheet, n, w) })
		}
	}
}

// measureEnd counts the processes that end n leases, and says how long Vault
// takes to end as many that cost nothing.
func (r *rig) measureEnd(b *testing.B, sheet *sheet, n int, w way) {
	began := time.Now()
	r.take(b, n, "engine/creds/cli")
	fmt.Printf("%d leases were taken in %s\n", n, time.Since(began).Round(time.Second))
	r.take(b, n, "yardstick/bare")
	sheet.disturbances = append(sheet.disturbances, awaitQuiet(b))
	bareCalls, calls := 0, 0
	theirs := timed(b, func() (err error) { bareCalls, err = r.endBare(b, n, w); return err })
	r.slow(b, 200*time.Millisecond)
	r.forgetRuns(b)
	began = time.Now()
	ours := timed(b, func() (err error) { calls, err = r.end(b, w); return err })
	dead := r.lastDeath(b, isCredential).Sub(began).Seconds()

	count, peak := r.countRuns(b)
	sheet.add(fmt.Sprintf("%d leases %s, 200 ms a run: processes", n, w.name), fmt.Sprint(count), fmt.Sprint(n),
		ratio(float64(count), float64(n)), mostRuns(count, n))
	sheet.add("— at a time", fmt.Sprint(peak), "", "", bar(peak <= maxParallel, fmt.Sprintf("≤ %d", maxParallel)))
	sheet.add("— until the last token is dead", seconds(dead), "", "", "")
	sheet.add("— until "+w.over, seconds(ours)+repeated(calls), seconds(theirs)+" (UUIDs)"+repeated(bareCalls), ratio(ours, theirs), "")
}

// repeated says how often Vault was asked, if more than once.
func repeated(calls int) string {
	if calls == 1 {
		return ""
	}
	return fmt.Sprintf(", asked %d times", calls)
}

// mostRuns holds the processes of n revocations against what is to be reached
// with a thousand. For more of them nothing is set.
func mostRuns(count, n int) string {
	const most = 60
	if n <= 1000 {
		return bar(count <= most, fmt.Sprintf("≤ %d", most))
	}
	return fmt.Sprintf("none (at %d per 1000: %d)", most, most*n/1000)
}

// take reads n credentials at a path, as fast as it goes.
func (r *rig) take(b *testing.B, n int, path string) {
	b.Helper()
	must(b, atOnce(n, 2*maxParallel, func() error { return r.reads(path)(b.Context()) }))
}

// ask has Vault end all leases of a mount, and says how many calls that took:
// one that takes longer than Vault lets a request last fails, whatever it has
// done by then, and has to be repeated.
func (r *rig) ask(b *testing.B, w way, mount string) (calls int, err error) {
	err = eventually(b.Context(), 10*time.Minute, func() error {
		calls++
		return r.call(b.Context(), w.method, w.path+mount, map[string]any{"sync": false}, nil)
	})
	return calls, err
}

// endBare ends the n leases of the yardstick, until it has been told so of the
// last, or is gone.
func (r *rig) endBare(b *testing.B, n int, w way) (calls int, err error) {
	calls, err = r.ask(b, w, "yardstick")
	if err != nil || w.method == "DELETE" {
		return calls, err
	}
	return calls, eventually(b.Context(), 10*time.Minute, func() error {
		var answer struct {
			Data struct {
				Count int `json:"count"`
			} `json:"data"`
		}
		if err := r.call(b.Context(), "GET", "yardstick/revoked", nil, &answer); err != nil {
			return err
		}
		if answer.Data.Count < n {
			return fmt.Errorf("%d of %d leases are revoked", answer.Data.Count, n)
		}
		return nil
	})
}

// end ends all leases of the engine, until its ledger holds nothing or it is
// gone.
func (r *rig) end(b *testing.B, w way) (calls int, err error) {
	calls, err = r.ask(b, w, "engine")
	if err != nil || w.method == "DELETE" {
		return calls, err
	}
	return calls, eventually(b.Context(), 10*time.Minute, func() error {
		known, err := r.known(b)
		if err == nil && known.Pending+known.Live+known.Owed > 0 {
			err = fmt.Errorf("the ledger is not empty: %+v", known)
		}
		return err
	})
}

// known is what the engine's status tells of its ledger.
func (r *rig) known(b *testing.B) (mountStatus, error) {
	b.Helper()
	var answer struct {
		Data mountStatus `json:"data"`
	}
	err := r.call(b.Context(), "GET", "engine/status", nil, &answer)
	return answer.Data, err
}

// lastDeath is when the last of the cluster's tokens of a sort was revoked. It
// fails the measurement if one lives, or none was there: it measured nothing.
func (r *rig) lastDeath(b *testing.B, counts func(simulator.Token) bool) (last time.Time) {
	b.Helper()
	for _, token := range r.tokens(b) {
		switch {
		case !counts(token):
		case token.Live:
			b.Fatalf("token %q is alive", token.Description)
		case token.RevokedAt.After(last):
			last = token.RevokedAt
		}
	}
	if last.IsZero() {
		b.Fatal("no token was revoked")
	}
	return last
}

// isCredential tells tokens that were minted for somebody from the root.
func isCredential(token simulator.Token) bool { return !token.Root }

// tokens are all that the cluster has ever had.
func (r *rig) tokens(b *testing.B) (all []simulator.Token) {
	b.Helper()
	r.control(b, "GET", "tokens", nil, &all)
	return all
}

// forgetRuns has the cluster count the CLI's processes anew.
func (r *rig) forgetRuns(b *testing.B) {
	b.Helper()
	r.control(b, "DELETE", "runs", nil, nil)
}

// countRuns is how many processes the CLI has had since forgetRuns, in all and
// at a time.
func (r *rig) countRuns(b *testing.B) (count, peak int) {
	b.Helper()
	var answer struct {
		Peak int               `json:"peak"`
		Runs []json.RawMessage `json:"runs"`
	}
	r.control(b, "GET", "runs", nil, &answer)
	return len(answer.Runs), answer.Peak
}
