package bench

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// tickMetrics makes the server measure, for each mount, its calls of the
// periodic function, which it makes about every minute.
const tickMetrics = "telemetry {\n add_mount_point_rollback_metrics = true\n }"

// measureLedger starts the server with a growing ledger and measures the start,
// and the periodic function with the largest ledger.
func measureLedger(b *testing.B, out results) {
	r, most := newRig(b, "raw_storage_endpoint = true", tickMetrics), size(b, "BENCH_RECORDS", 100_000)
	r.write(b, "engine/roles/many", map[string]any{"ttl": "8h", "max_active": 3*most + 100})
	sample := r.SampleRecord(b, "engine", "many")
	held := 0
	for n := max(1, most/100); n <= most; n *= 10 {
		r.FillLedger(b, sample, n-held)
		held = n
		if n < most {
			r.measureStart(b, out, n, false)
			continue
		}
		overdue := r.addOverdue(b, sample, min(n, 1000))
		r.measureStart(b, out, n, true)
		r.measureTicks(b, out, n, overdue) // Vault calls once a minute, so only here
	}
}

const overduePrefix = "overdue" // of the descriptions of overdue tokens

// addOverdue makes n live tokens on the cluster whose records are past their
// deadline, as if Vault had lost their leases. For the engine they are more work
// than expired tokens, of which only the record must be removed. It returns the
// IDs of the tokens.
func (r *rig) addOverdue(b *testing.B, sample vaulttest.Sample, n int) (ids []string) {
	b.Helper()
	r.control(b, "POST", "tokens", map[string]any{"count": n, "kind": simulator.Management, "description": overduePrefix}, nil)
	queue := make(chan string, n)
	for _, token := range r.tokens(b) {
		if isOverdue(token) && token.Live {
			ids = append(ids, token.ID)
			queue <- token.ID
		}
	}
	past := time.Now().Add(-time.Hour)
	must(b, vaulttest.Concurrently(n, 64, func() error {
		return r.CopyRecord(b.Context(), sample, map[string]any{
			"token_id": <-queue, "issued_at": past.Add(-time.Hour), "lease_end": past, vaulttest.DeadlineField: past,
		})
	}))
	return ids
}

func isOverdue(token simulator.Token) bool {
	return strings.HasPrefix(token.Description, overduePrefix)
}

// measureStart measures when a server that has just become active answers the
// first credential, and when the engine has loaded all n records. The goals are
// for the largest ledger.
func (r *rig) measureStart(b *testing.B, out results, n int, largest bool) {
	b.Helper()
	r.restart(b)
	other := timed(b, func() error { return r.reads("yardstick/bare")(b.Context()) })
	r.restart(b)
	first := timed(b, func() error { return r.reads("engine/creds/cli")(b.Context()) })
	all := first + timed(b, func() error { return r.reads("engine/creds/many")(b.Context()) }) // counts the tokens of its role
	status, err := r.status(b)
	must(b, err)
	if active := vaulttest.Count(status.Active); active < n {
		b.Fatalf("%d of %d records are known", active, n)
	}
	must(b, r.reads("yardstick/bare")(b.Context())) // starts its process
	r.findProcesses(b)
	resident, peak := r.engine.Memory(b)
	what := fmt.Sprintf("a ledger of %d records: ", n)
	lines := []result{
		{What: what + "from the start to the first credential", Unit: "s", Engine: first, Baseline: leasedUUID, Other: other},
		{What: what + "until all records are known", Unit: "s", Engine: all},
		{What: what + "memory then, resident", Unit: "MB", Engine: resident, Note: fmt.Sprintf("peak %.1f MB", peak)},
	}
	for i, limit := range []float64{0.3, 6, 100} {
		if largest {
			lines[i] = lines[i].withGoal(fmt.Sprintf("<= %g", limit), lines[i].Engine <= limit)
		}
		out.add(b, lines[i])
	}
}

// measureTicks measures one call of the periodic function with the overdue
// tokens, and one with nothing to do.
func (r *rig) measureTicks(b *testing.B, out results, n int, overdue []string) {
	b.Helper()
	what := fmt.Sprintf("a ledger of %d records, a tick with %d overdue: ", n, len(overdue))
	r.slow(b, 200*time.Millisecond)
	r.forgetRuns(b)
	engine, other, began := r.awaitTick(b)
	r.awaitDeaths(b, overdue)
	must(b, vaulttest.Eventually(b.Context(), time.Minute, func() error { return r.settled(b, n) }))
	dead := r.lastDeath(b, isOverdue).Sub(began).Seconds()
	if dead < 0 {
		b.Fatal("the tokens died before the tick: a tick was missed")
	}
	count, peak := r.countRuns(b)
	out.add(b, result{What: what + "call of Vault", Unit: "ms", Engine: engine, Baseline: leasedUUID, Other: other})
	out.add(b, result{What: what + "until the last token is dead, 200 ms a run", Unit: "s", Engine: dead})
	out.add(b, result{
		What: what + "processes", Unit: "1", Engine: float64(count), Baseline: onePerLease, Other: float64(len(overdue)),
		Note: fmt.Sprintf("at a time: %d", peak),
	})

	what = fmt.Sprintf("a ledger of %d records, a tick with nothing due: ", n)
	r.slow(b, 0)
	r.forgetRuns(b)
	engine, other, _ = r.awaitTick(b)
	count, _ = r.countRuns(b)
	out.add(b, result{What: what + "call of Vault", Unit: "ms", Engine: engine, Baseline: leasedUUID, Other: other}.
		withGoal("<= baseline + 1", engine-other <= 1))
	out.add(b, result{What: what + "processes", Unit: "1", Engine: float64(count)}.withGoal("0", count == 0))
}

// awaitDeaths waits until the cluster accepts none of the tokens. It asks for
// one token at a time, so that it does not disturb the measurement.
func (r *rig) awaitDeaths(b *testing.B, ids []string) {
	b.Helper()
	must(b, vaulttest.Eventually(b.Context(), 10*time.Minute, func() error {
		for ; len(ids) > 0; ids = ids[1:] {
			var token simulator.Token
			if r.control(b, "GET", "tokens/"+ids[0], nil, &token); token.Live {
				return fmt.Errorf("token %s is alive", token.ID)
			}
		}
		return nil
	}))
}

// settled fails until the ledger holds at least n active tokens and no others.
func (r *rig) settled(b *testing.B, n int) error {
	b.Helper()
	status, err := r.status(b)
	if err != nil {
		return err
	}
	active, rest := vaulttest.Count(status.Active), vaulttest.Count(status.Issuing)+vaulttest.Count(status.Revoking)
	if active < n || rest > 0 {
		return fmt.Errorf("of %d tokens %d are active, %d others are left", n, active, rest)
	}
	return nil
}

// awaitTick waits until Vault has called the periodic functions of the engine
// and of the yardstick. It returns how many milliseconds each call took, and
// when it noticed that the engine's had ended.
func (r *rig) awaitTick(b *testing.B) (engine, other float64, seen time.Time) {
	b.Helper()
	mounts := []string{"engine", "yardstick"}
	before := []ticks{r.ticks(b, mounts[0]), r.ticks(b, mounts[1])}
	elapsed := make([]float64, len(mounts))
	for i, mount := range mounts {
		must(b, vaulttest.Eventually(b.Context(), 2*time.Minute, func() error {
			now := r.ticks(b, mount)
			if now.count == before[i].count {
				return fmt.Errorf("no tick of %s", mount)
			}
			elapsed[i] = (now.sum - before[i].sum) / (now.count - before[i].count)
			return nil
		}))
		if i == 0 {
			seen = time.Now()
		}
	}
	return elapsed[0], elapsed[1], seen
}

// ticks are Vault's calls of a mount's periodic function since the start of the
// server: their number and their total duration in milliseconds.
type ticks struct{ count, sum float64 }

// ticks reads the metrics of a mount.
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

// metrics returns the metrics of the server in the format of Prometheus.
func (r *rig) metrics(b *testing.B) string {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, r.Addr+"/v1/sys/metrics?format=prometheus", nil)
	must(b, err)
	req.Header.Set("X-Vault-Token", r.Token)
	resp, err := r.HTTP.Do(req)
	must(b, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(b, err)
	if resp.StatusCode != http.StatusOK {
		b.Fatalf("metrics: %s: %s", resp.Status, text)
	}
	return string(text)
}
