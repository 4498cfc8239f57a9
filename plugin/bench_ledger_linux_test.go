package plugin_test

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
)

// tickMetrics has the server tell, by mount, how long its calls of the periodic
// functions took.
const tickMetrics = "telemetry {\n add_mount_point_rollback_metrics = true\n }"

// measureLedger starts the server with ever more records in the ledger, and
// waits for what Vault calls the engine for about every minute.
func measureLedger(b *testing.B, sheet *sheet) {
	r, most := newRig(b, "raw_storage_endpoint = true", tickMetrics), number(b, "BENCH_RECORDS", 100_000)
	r.set(b, "engine/roles/many", map[string]any{"ttl": "8h", "max_active": 3*most + 100})
	one := r.specimenOf(b, "engine", "many")
	held := 0
	for n := max(1, most/100); n <= most; n *= 10 {
		began := time.Now()
		r.fill(b, one, n-held)
		fmt.Printf("%d records were stored in %s\n", n-held, time.Since(began).Round(time.Second))
		held = n
		due := r.outlive(b, one, min(n, 1000))
		r.measureStart(b, sheet, n, n == most)
		r.measureTicks(b, sheet, n, due)
	}
}

const outlived = "outlived" // what the descriptions of such tokens begin with

// outlive makes n tokens on the cluster that have outlived their leases, which
// Vault has lost: it has not said a word of them when it should have. That is
// more work than tokens that have expired, of which only the record has to go.
// It returns the tokens' ids.
func (r *rig) outlive(b *testing.B, like specimen, n int) (ids []string) {
	b.Helper()
	r.control(b, "POST", "tokens", map[string]any{"count": n, "kind": simulator.Management, "description": outlived}, nil)
	queue := make(chan string, n)
	for _, token := range r.tokens(b) {
		if hasOutlived(token) && token.Live {
			ids = append(ids, token.ID)
			queue <- token.ID
		}
	}
	past := time.Now().Add(-time.Hour)
	must(b, atOnce(n, 64, func() error {
		return r.copyRecord(b.Context(), like, map[string]any{"token_id": <-queue, "issued_at": past.Add(-time.Hour), "lease_end": past, "due": past})
	}))
	return ids
}

func hasOutlived(token simulator.Token) bool { return strings.HasPrefix(token.Description, outlived) }

// restart kills the server, and its plugins, of which the yardstick would not
// notice, starts it again, and waits until it is active.
func (r *rig) restart(b *testing.B) {
	b.Helper()
	r.process.kill()
	_, orphaned := r.pluginProcesses()
	kill(orphaned...)
	r.run(b)
	r.unseal(b)
	r.logLess(b)
}

// measureStart says when a server that has just become active has the first
// credential to give, and when the engine knows all n records. What is to be
// reached is said of the largest ledger.
func (r *rig) measureStart(b *testing.B, sheet *sheet, n int, largest bool) {
	b.Helper()
	sheet.disturbances = append(sheet.disturbances, awaitQuiet(b))
	r.restart(b)
	theirs := timed(b, func() error { return r.reads("yardstick/bare")(b.Context()) })
	r.restart(b)
	ours := timed(b, func() error { return r.reads("engine/creds/cli")(b.Context()) })
	all := ours + timed(b, func() error { return r.reads("engine/creds/many")(b.Context()) }) // counts those of its role
	known, err := r.known(b)
	must(b, err)
	if known.Live < n {
		b.Fatalf("of %d records %d are known", n, known.Live)
	}
	must(b, r.reads("yardstick/bare")(b.Context())) // starts its process
	r.findProcesses(b)
	resident, peak := r.engine.memory(b)
	goal := func(reached bool, text string) string {
		if !largest {
			return ""
		}
		return bar(reached, text)
	}
	sheet.add(fmt.Sprintf("a ledger of %d records: from the start to the first credential", n), seconds(ours), seconds(theirs), ratio(ours, theirs), goal(ours <= 1, "≤ 1 s"))
	sheet.add("— until all records are known", seconds(all), "", "", goal(all <= 15, "≤ 15 s"))
	sheet.add("— memory then, resident (at its peak)", fmt.Sprintf("%s (%s)", megabytes(resident), megabytes(peak)), "", "", goal(resident <= 150, "≤ 150 MB"))
}

// measureTicks awaits a tick with the tokens due that are named, and one with
// none.
func (r *rig) measureTicks(b *testing.B, sheet *sheet, n int, due []string) {
	b.Helper()
	r.slow(b, 200*time.Millisecond)
	r.forgetRuns(b)
	ours, theirs, began := r.awaitTick(b)
	r.awaitDeaths(b, due)
	must(b, eventually(b.Context(), time.Minute, func() error { return r.settled(b, n) }))
	took := r.lastDeath(b, hasOutlived).Sub(began).Seconds()
	if took < 0 {
		b.Fatal("a tick went by unseen")
	}
	count, peak := r.countRuns(b)
	sheet.add(fmt.Sprintf("— a tick with %d due: Vault's call", len(due)), fine(ours), fine(theirs), ratio(ours, theirs), "")
	sheet.add("— until the last token is dead, 200 ms a run", seconds(took), "", "", "")
	sheet.add("— processes (at a time)", fmt.Sprintf("%d (%d)", count, peak), fmt.Sprint(len(due)), ratio(float64(count), float64(len(due))), "")
	r.slow(b, 0)
	r.forgetRuns(b)
	ours, theirs, _ = r.awaitTick(b)
	count, _ = r.countRuns(b)
	sheet.add("— a tick with nothing due: Vault's call", fine(ours), fine(theirs), ratio(ours, theirs), bar(ours-theirs <= 1, "≤ 1 ms more"))
	sheet.add("— processes", fmt.Sprint(count), "", "", bar(count == 0, "0"))
}

func fine(milliseconds float64) string { return fmt.Sprintf("%.2f ms", milliseconds) }

// awaitDeaths waits until the cluster accepts none of the tokens. It asks for
// few of them at a time, to disturb nobody.
func (r *rig) awaitDeaths(b *testing.B, ids []string) {
	b.Helper()
	must(b, eventually(b.Context(), 10*time.Minute, func() error {
		for ; len(ids) > 0; ids = ids[1:] {
			var token simulator.Token
			if r.control(b, "GET", "tokens/"+ids[0], nil, &token); token.Live {
				return fmt.Errorf("token %s is alive", token.ID)
			}
		}
		return nil
	}))
}

// settled fails until the engine knows n live tokens, and none that must die.
func (r *rig) settled(b *testing.B, n int) error {
	b.Helper()
	known, err := r.known(b)
	if err == nil && (known.Live < n || known.Pending+known.Owed > 0) {
		err = fmt.Errorf("of %d records the engine knows these: %+v", n, known)
	}
	return err
}

// awaitTick waits until Vault has called the periodic functions of the engine
// and of the yardstick, and returns how many milliseconds these took, and when
// the engine's was seen to be over.
func (r *rig) awaitTick(b *testing.B) (ours, theirs float64, seen time.Time) {
	b.Helper()
	before := []ticks{r.ticks(b, "engine"), r.ticks(b, "yardstick")}
	took := make([]float64, len(before))
	for i, mount := range []string{"engine", "yardstick"} {
		must(b, eventually(b.Context(), 2*time.Minute, func() error {
			now := r.ticks(b, mount)
			if now.count == before[i].count {
				return fmt.Errorf("no tick of %s", mount)
			}
			took[i] = (now.sum - before[i].sum) / (now.count - before[i].count)
			return nil
		}))
		if i == 0 {
			seen = time.Now()
		}
	}
	return took[0], took[1], seen
}

// ticks are Vault's calls of a mount's periodic function since the server was
// started: how many, and how many milliseconds they took together.
type ticks struct{ count, sum float64 }

func (r *rig) ticks(b *testing.B, mount string) (t ticks) {
	b.Helper()
	for line := range strings.Lines(r.metrics(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		var err error
		switch name {
		case "vault_route_rollback_" + mount + "__count":
			t.count, err = strconv.ParseFloat(value, 64)
		case "vault_route_rollback_" + mount + "__sum":
			t.sum, err = strconv.ParseFloat(value, 64)
		}
		must(b, err)
	}
	return t
}

// metrics are those of the server, in Prometheus' format.
func (r *rig) metrics(b *testing.B) string {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, r.addr+"/v1/sys/metrics?format=prometheus", nil)
	must(b, err)
	req.Header.Set("X-Vault-Token", r.token)
	resp, err := r.web.Do(req)
	must(b, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(b, err)
	if resp.StatusCode != http.StatusOK {
		b.Fatalf("metrics: %s: %s", resp.Status, text)
	}
	return string(text)
}
