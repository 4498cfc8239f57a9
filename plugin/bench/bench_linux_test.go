// Package bench measures the engine on a real Vault, next to the same work done
// without the engine.
package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	maxParallel = 4 // the engine's default
	cliLatency  = 100 * time.Millisecond
	rounds      = 6 // the loads of a comparison take turns this often
)

// BenchmarkEngine measures the engine on a real Vault and compares it with two
// baselines: the same CLI in a loop, and a plugin that answers a leased UUID.
// It writes the results to $BENCH_OUTPUT or standard output, one JSON object per
// line. A slow result does not fail the benchmark.
//
// Sizes: $BENCH_LEASES leases are revoked at most (10000), the ledger has
// $BENCH_RECORDS records at most (100000), $BENCH_LIST tokens are listed at most
// (1000000), and one measurement takes $BENCH_SECONDS (6).
func BenchmarkEngine(b *testing.B) {
	out := newResults(b)
	out.addMachine(b)
	for _, part := range []struct {
		name    string
		measure func(*testing.B, results)
	}{
		{"CLI", measureCLI}, {"database", measureDatabase}, {"InfluxDB3", measureInfluxDB3},
		{"nodes", measureNodes}, {"hang", measureHang}, {"ledger", measureLedger},
		{"revocation", measureRevocation}, {"list", measureList},
	} {
		b.Run(part.name, func(b *testing.B) { part.measure(b, out) })
	}
	measureParts(b, out)
}

// measureParts runs the Go benchmarks of the parts that need no Vault.
func measureParts(b *testing.B, out results) {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), "go", "test", "-run", "^$", "-bench", "Terms|Index|Decode|Tick|Load/100000$", "-benchmem", "./backend/...")
	cmd.Dir = "../.."
	text, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("%v\n%s", err, text)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "Benchmark") {
			out.addGoBenchmark(b, strings.Join(strings.Fields(line), " "))
		}
	}
}

// size is the size of a measurement: the environment variable, if it is set.
func size(b *testing.B, name string, usual int) int {
	b.Helper()
	text, ok := os.LookupEnv(name)
	if !ok {
		return usual
	}
	n := 0
	_, err := fmt.Sscan(text, &n)
	must(b, err)
	return n
}

// must ends the benchmark if there is an error.
func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// reads returns a function that reads a path of the server.
func (r *rig) reads(path string) func(context.Context) error {
	return func(ctx context.Context) error { return r.Call(ctx, "GET", path, nil, nil) }
}

// bare returns a function that runs the CLI as the engine does, without the
// engine's own work: the profile exists already, and the output is discarded.
func (r *rig) bare(args ...string) func(context.Context) error {
	args = append([]string{"--config", r.profile, "--profile", "vault", "--timeout", "40s", "management"}, args...)
	return func(ctx context.Context) error {
		cmd := exec.CommandContext(ctx, r.cli, args...)
		cmd.Env = []string{"HOME=" + r.Home}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%w: %s", err, &stderr)
		}
		return nil
	}
}

// bareCreate returns a function that creates a management token with the CLI.
func (r *rig) bareCreate() func(context.Context) error {
	until := time.Now().Add(time.Hour).UTC().Format("2006-01-02T15:04:05Z")
	return r.bare("create", "--description=bare", "--expires-at="+until, "--format", "json")
}

// A load is a call that clients repeat. The clients are goroutines rather than a
// load generator such as vegeta, because that sends HTTP requests and cannot run
// the CLI, and both sides of a comparison need the same generator.
type load struct {
	clients int
	do      func(context.Context) error
}

// A measurement holds how long each call of a load took, and how long the load
// ran.
type measurement struct {
	calls []time.Duration
	took  time.Duration
}

func (m measurement) perSecond() float64 { return float64(len(m.calls)) / m.took.Seconds() }

// quantile is a quantile (0 to 1) of the duration of the calls, in milliseconds.
func (m measurement) quantile(q float64) float64 {
	sorted := slices.Sorted(slices.Values(m.calls))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)].Seconds() * 1000
}

// compare runs loads in turns, so that a disturbance of the machine affects all
// of them.
func compare(b *testing.B, loads ...load) []measurement {
	b.Helper()
	length := time.Duration(size(b, "BENCH_SECONDS", 6)) * time.Second / rounds
	total := make([]measurement, len(loads))
	for range rounds {
		for i, l := range loads {
			m, err := l.run(b.Context(), length)
			must(b, err)
			total[i].calls = append(total[i].calls, m.calls...)
			total[i].took += m.took
		}
	}
	return total
}

// alternate makes one call of each function after the other, repeatedly. It is
// for calls so short that a disturbance of one could look like its cost.
func alternate(b *testing.B, calls ...func(context.Context) error) []measurement {
	b.Helper()
	total := make([]measurement, len(calls))
	length := time.Duration(len(calls)*size(b, "BENCH_SECONDS", 6)) * time.Second
	for began := time.Now(); time.Since(began) < length; {
		for i, do := range calls {
			start := time.Now()
			must(b, do(b.Context()))
			elapsed := time.Since(start)
			total[i].calls = append(total[i].calls, elapsed)
			total[i].took += elapsed
		}
	}
	return total
}

// run runs the load for the given time. Calls that have begun by then are
// completed and counted.
func (l load) run(ctx context.Context, length time.Duration) (m measurement, err error) {
	var mu sync.Mutex // guards m and err
	var clients sync.WaitGroup
	began := time.Now()
	for range l.clients {
		clients.Go(func() {
			for time.Since(began) < length {
				start := time.Now()
				failed := l.do(ctx)
				elapsed := time.Since(start)
				mu.Lock()
				m.calls = append(m.calls, elapsed)
				if failed != nil {
					err = failed
				}
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	m.took = time.Since(began)
	return m, err
}

// timed returns how many seconds a call takes.
func timed(b *testing.B, f func() error) (seconds float64) {
	b.Helper()
	began := time.Now()
	must(b, f())
	return time.Since(began).Seconds()
}
