package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// A result is one line of the output: what was measured, and the same of the
// thing it is compared with. Fields without a value are left out.
type result struct {
	What     string  `json:"what"`
	Unit     string  `json:"unit"`
	Engine   float64 `json:"engine,omitempty"`
	P50      float64 `json:"engine_p50_ms,omitempty"`
	P99      float64 `json:"engine_p99_ms,omitempty"`
	Baseline string  `json:"baseline,omitempty"` // what it is compared with
	Other    float64 `json:"baseline_value,omitempty"`
	OtherP50 float64 `json:"baseline_p50_ms,omitempty"`
	OtherP99 float64 `json:"baseline_p99_ms,omitempty"`
	Ratio    float64 `json:"ratio,omitempty"` // engine / baseline_value
	Goal     string  `json:"goal,omitempty"`  // such as "<= 40"
	Reached  *bool   `json:"reached,omitempty"`
	Note     string  `json:"note,omitempty"`
	Load     float64 `json:"load_average,omitempty"` // of the last minute, other programs included
}

// What the engine is compared with.
const (
	influxctlLoop = "influxctl in a loop"
	plainUUID     = "a plugin that answers a UUID without a lease"
	wideAnswer    = "a plugin that answers as many fields without a lease"
	leasedUUID    = "a plugin that answers a leased UUID"
	storedUUID    = "a plugin that answers a leased UUID and stores twice"
	bareRequest   = "the request to the cluster alone"
	noHang        = "the same while no cluster hangs"
	onePerLease   = "one process per lease"
)

// results writes results as JSON, one object per line.
type results struct{ encoder *json.Encoder }

// newResults writes to the file $BENCH_OUTPUT, or to standard output.
func newResults(b *testing.B) results {
	b.Helper()
	var out io.Writer = os.Stdout
	if name := os.Getenv("BENCH_OUTPUT"); name != "" {
		file, err := os.Create(name)
		must(b, err)
		b.Cleanup(func() { must(b, file.Close()) })
		out = file
	}
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	return results{encoder}
}

// add writes a result. It computes the ratio if there is something to compare
// with.
func (r results) add(b *testing.B, one result) {
	b.Helper()
	if one.Other != 0 {
		one.Ratio = one.Engine / one.Other
	}
	load, err := os.ReadFile("/proc/loadavg")
	must(b, err)
	_, err = fmt.Sscan(string(load), &one.Load)
	must(b, err)
	must(b, r.encoder.Encode(one))
}

// addRates adds the rates of two loads, with the median and the 99th percentile
// of the time that a call takes.
func (r results) addRates(b *testing.B, what string, engine measurement, baseline string, other measurement) {
	b.Helper()
	r.add(b, rates(what, engine, baseline, other))
}

func rates(what string, engine measurement, baseline string, other measurement) result {
	return result{
		What: what, Unit: "1/s", Engine: engine.perSecond(), P50: engine.quantile(.5), P99: engine.quantile(.99),
		Baseline: baseline, Other: other.perSecond(), OtherP50: other.quantile(.5), OtherP99: other.quantile(.99),
	}
}

// withGoal adds a goal to a result, and whether it was reached.
func (r result) withGoal(goal string, reached bool) result {
	r.Goal, r.Reached = goal, &reached
	return r
}

// A machine describes where the measurements were made.
type machine struct {
	CPUs   int    `json:"cpus"`
	CPU    string `json:"cpu"`
	Kernel string `json:"kernel"`
	Vault  string `json:"vault"`
	Go     string `json:"go"`
}

// addMachine writes the description of this machine.
func (r results) addMachine(b *testing.B) {
	b.Helper()
	vault, err := exec.CommandContext(b.Context(), vaulttest.Binary(b), "version").Output()
	must(b, err)
	m := machine{CPUs: runtime.NumCPU(), CPU: "unknown", Vault: strings.TrimSpace(string(vault)), Go: runtime.Version()}
	info, err := os.ReadFile("/proc/cpuinfo")
	must(b, err)
	if _, rest, found := strings.Cut(string(info), "model name\t: "); found {
		m.CPU, _, _ = strings.Cut(rest, "\n")
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	must(b, err)
	m.Kernel = strings.TrimSpace(string(release))
	must(b, r.encoder.Encode(m))
}

// addGoBenchmark writes a line of `go test -bench` as it stands.
func (r results) addGoBenchmark(b *testing.B, line string) {
	b.Helper()
	must(b, r.encoder.Encode(struct {
		Line string `json:"go_benchmark"`
	}{line}))
}
