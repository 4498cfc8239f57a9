package bench

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// A way is a way to end all leases of a mount.
type way struct{ name, method, path string }

// measureRevocation ends many leases in each way, and ten times as many by a
// prefix. Each measurement has a server and a cluster of its own, because a
// cluster also lists its revoked tokens.
func measureRevocation(b *testing.B, out results) {
	most := size(b, "BENCH_LEASES", 10_000)
	for n := max(1, most/10); n <= most; n *= 10 {
		for _, w := range []way{
			{"lease revoke -prefix", "PUT", "sys/leases/revoke-prefix/"},
			{"secrets disable", "DELETE", "sys/mounts/"},
		} {
			if n > 1000 && w.method == "DELETE" {
				continue // takes minutes, and Vault's own part of it is most of them
			}
			b.Run(fmt.Sprint(n, " ", w.name), func(b *testing.B) { newRig(b).measureEnd(b, out, n, w) })
		}
	}
}

// measureEnd ends n leases of the engine and n of the yardstick. It counts the
// CLI processes of the engine and measures how long both take.
func (r *rig) measureEnd(b *testing.B, out results, n int, w way) {
	r.take(b, n, "engine/creds/cli")
	r.take(b, n, "yardstick/bare")
	otherCalls, calls := 0, 0
	other := timed(b, func() (err error) { otherCalls, err = r.endYardstick(b, n, w); return err })
	r.awaitLedger(b)
	r.slow(b, 200*time.Millisecond)
	r.forgetRuns(b)
	began := time.Now()
	engine := timed(b, func() (err error) { calls, err = r.endEngine(b, w); return err })
	dead := r.lastDeath(b, isCredential).Sub(began).Seconds()

	count, peak := r.countRuns(b)
	what := fmt.Sprintf("%d leases, %s, 200 ms a run: ", n, w.name)
	processes := result{What: what + "processes", Unit: "1", Engine: float64(count), Baseline: onePerLease, Other: float64(n)}
	if n <= 1000 {
		processes = processes.withGoal("<= 45", count <= 45)
	}
	out.add(b, processes)
	out.add(b, result{What: what + "processes at a time", Unit: "1", Engine: float64(peak)}.
		withGoal(fmt.Sprintf("<= %d", maxParallel), peak <= maxParallel))
	lastDead := result{What: what + "until the last token is dead", Unit: "s", Engine: dead}
	if n == 10_000 {
		lastDead = lastDead.withGoal("<= 60", dead <= 60)
	}
	out.add(b, lastDead)
	out.add(b, result{
		What: what + "until Vault and the ledger are done", Unit: "s", Engine: engine, Baseline: leasedUUID, Other: other,
		Note: fmt.Sprintf("requests to Vault: %d, baseline %d", calls, otherCalls),
	})
}

// take reads n credentials at a path, as fast as possible.
func (r *rig) take(b *testing.B, n int, path string) {
	b.Helper()
	must(b, vaulttest.Concurrently(n, 2*maxParallel, func() error { return r.reads(path)(b.Context()) }))
}

// request asks Vault to end all leases of a mount. It returns how many requests
// that took: one that takes longer than Vault's limit for a request fails and
// must be repeated.
func (r *rig) request(b *testing.B, w way, mount string) (calls int, err error) {
	err = vaulttest.Eventually(b.Context(), 10*time.Minute, func() error {
		calls++
		return r.Call(b.Context(), w.method, w.path+mount, map[string]any{"sync": false}, nil)
	})
	return calls, err
}

// endYardstick ends the n leases of the yardstick. It returns when Vault has
// revoked the last one or the mount is gone.
func (r *rig) endYardstick(b *testing.B, n int, w way) (calls int, err error) {
	calls, err = r.request(b, w, "yardstick")
	if err != nil || w.method == "DELETE" {
		return calls, err
	}
	return calls, vaulttest.Eventually(b.Context(), 10*time.Minute, func() error {
		var answer struct {
			Data struct {
				Count int `json:"count"`
			} `json:"data"`
		}
		if err := r.Call(b.Context(), "GET", "yardstick/revoked", nil, &answer); err != nil {
			return err
		}
		if answer.Data.Count < n {
			return fmt.Errorf("%d of %d leases are revoked", answer.Data.Count, n)
		}
		return nil
	})
}

// endEngine ends all leases of the engine. It returns when the ledger is empty
// or the mount is gone.
func (r *rig) endEngine(b *testing.B, w way) (calls int, err error) {
	calls, err = r.request(b, w, "engine")
	if err != nil || w.method == "DELETE" {
		return calls, err
	}
	return calls, vaulttest.Eventually(b.Context(), 10*time.Minute, func() error {
		status, err := r.status(b)
		if err == nil && !status.Empty() {
			err = errors.New("the ledger is not empty")
		}
		return err
	})
}

// isCredential reports whether a token was issued with the root credential.
func isCredential(token simulator.Token) bool { return !token.Root }
