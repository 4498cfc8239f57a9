package plugin_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
)

const (
	maxParallel = 4 // what the engine allows by default
	cliLatency  = 100 * time.Millisecond
	rounds      = 3 // in each, what is compared takes turns
)

// BenchmarkEngine measures the engine on a real Vault, beside what it is compared
// with: the same CLI run in a bare loop, and a plugin that answers a leased UUID.
// It writes docs/performance.md. Nothing in it fails for being slow.
//
// $BENCH_LEASES is how many leases are revoked at the most (10000), $BENCH_RECORDS
// how many records the ledger has (100000), $BENCH_LIST how many tokens are listed
// (1000000), $BENCH_SECONDS how long one measurement runs (10), $BENCH_PATIENCE how
// many seconds it waits for others to leave the machine (20).
func BenchmarkEngine(b *testing.B) {
	results := &sheet{}
	for _, part := range []struct {
		name    string
		measure func(*testing.B, *sheet)
	}{
		{"CLI", measureCLI}, {"database", measureDatabase}, {"revocation", measureRevocation},
		{"ledger", measureLedger}, {"list", measureList},
	} {
		b.Run(part.name, func(b *testing.B) { part.measure(b, results) })
	}
	measureParts(b, results)
	if !b.Failed() {
		results.publish(b)
	}
}

// number is one of the measurement's own size, which the environment can change.
func number(b *testing.B, name string, usual int) int {
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

// A rig is a mount of the engine beside one of the yardstick, and a simulated
// cluster that is a process of its own, so that what it costs is nobody else's.
type rig struct {
	*server
	cluster struct {
		URL       string `json:"url"`
		AccountID string `json:"account_id"`
		ClusterID string `json:"cluster_id"`
		Root      string `json:"root"`
	}
	cli       string  // path of the program
	profile   string  // what it is configured with in the bare loop
	engine    process // that the mount's plugin runs in
	yardstick process
}

// newRig starts a server, with further lines for its configuration, and all the
// rest. They end with the benchmark.
func newRig(b *testing.B, settings ...string) *rig {
	b.Helper()
	r := &rig{server: startVault(b, settings...)}
	r.logLess(b)
	dir := b.TempDir()
	build(b, dir, "./cmd/influxsim")
	build(b, r.plugins, "./plugin/testdata/yardstick")
	r.startCluster(b, filepath.Join(dir, "influxsim"))
	var err error
	r.cli, err = simulator.Install(dir, filepath.Join(dir, "influxsim"), simulator.Sidecar{URL: r.cluster.URL})
	must(b, err)
	r.mountBoth(b)
	at, err := url.Parse(r.cluster.URL)
	must(b, err)
	r.set(b, "engine/config", map[string]any{
		"product": "clustered", "host": at.Hostname(), "port": at.Port(), "disable_tls": true, "mgmt_token": r.cluster.Root,
		"request_timeout": "40s",
	})
	r.set(b, "engine/roles/cli", map[string]any{"ttl": "1h", "max_ttl": "8h"})
	r.set(b, "engine/roles/api", map[string]any{"ttl": "1h", "max_ttl": "8h", "token_type": "database", "write_databases": "metrics"})
	r.profile = filepath.Join(dir, "profile", "profile.toml")
	must(b, os.Mkdir(filepath.Dir(r.profile), 0o700))
	must(b, os.WriteFile(r.profile, fmt.Appendf(nil,
		"[[profile]]\nname = 'vault'\nproduct = 'clustered'\nhost = %q\nport = %q\nmgmt_token = %q\n[profile.tls]\ndisable = true\n",
		at.Hostname(), at.Port(), r.cluster.Root), 0o600))
	return r
}

// logLess has the server log what it would in production.
func (r *rig) logLess(b *testing.B) {
	b.Helper()
	r.set(b, "sys/loggers", map[string]any{"level": "info"})
}

// startCluster runs the simulated cluster until the benchmark ends.
func (r *rig) startCluster(b *testing.B, program string) {
	b.Helper()
	cmd := exec.Command("/bin/sh", "-c", "exec 3<&0; "+untilOrphaned, program, "cluster")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	must(b, err)
	stdout, err := cmd.StdoutPipe()
	must(b, err)
	must(b, cmd.Start())
	b.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait() // 143: ended by a signal, as was asked
	})
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	must(b, err)
	must(b, json.Unmarshal(line, &r.cluster))
}

// mountBoth mounts the engine and the yardstick.
func (r *rig) mountBoth(b *testing.B) {
	b.Helper()
	must(b, r.register(b.Context(), "engine", "INFLUXCTL_PATH="+r.cli))
	must(b, r.mount(b.Context(), "engine", "engine"))
	must(b, r.registerCommand(b.Context(), "yardstick", "yardstick"))
	must(b, r.mount(b.Context(), "yardstick", "yardstick"))
	r.findProcesses(b)
}

// findProcesses finds the processes of the engine and of the yardstick, of which
// each has served something since the server was started.
func (r *rig) findProcesses(b *testing.B) {
	b.Helper()
	for of, want := range map[*process]string{&r.engine: pluginCommand, &r.yardstick: "yardstick"} {
		current, _ := r.pluginProcesses()
		i := slices.IndexFunc(current, func(p process) bool { return filepath.Base(p.program) == want })
		if i < 0 {
			b.Fatalf("no process runs %s", want)
		}
		*of = current[i]
	}
}

// set writes to a path of the server.
func (r *rig) set(b *testing.B, path string, data map[string]any) {
	b.Helper()
	must(b, r.call(b.Context(), "POST", path, data, nil))
}

// control asks the simulated cluster what no real one would answer.
func (r *rig) control(b *testing.B, method, path string, body, into any) {
	b.Helper()
	text, err := json.Marshal(body)
	must(b, err)
	req, err := http.NewRequestWithContext(b.Context(), method, r.cluster.URL+"/sim/control/"+path, bytes.NewReader(text))
	must(b, err)
	resp, err := r.web.Do(req)
	must(b, err)
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	must(b, err)
	if resp.StatusCode >= 300 {
		b.Fatalf("%s %s: %s: %s", method, path, resp.Status, answer)
	}
	if into != nil {
		must(b, json.Unmarshal(answer, into))
	}
}

// slow makes every operation of the cluster take so long.
func (r *rig) slow(b *testing.B, latency time.Duration) {
	b.Helper()
	r.control(b, "PUT", "faults", simulator.Faults{Any: simulator.Fault{Latency: simulator.Duration(latency)}}, nil)
}

// reads reads a path of the server.
func (r *rig) reads(path string) func(context.Context) error {
	return func(ctx context.Context) error { return r.call(ctx, "GET", path, nil, nil) }
}

// bare runs the CLI as the engine does, but for all that the engine adds: the
// profile is at hand, and nobody reads the answer.
func (r *rig) bare(args ...string) func(context.Context) error {
	args = append([]string{"--config", r.profile, "--profile", "vault", "--timeout", "40s", "management"}, args...)
	return func(ctx context.Context) error {
		cmd := exec.CommandContext(ctx, r.cli, args...)
		cmd.Env = []string{"HOME=" + r.home}
		var said bytes.Buffer
		cmd.Stderr = &said
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%w: %s", err, &said)
		}
		return nil
	}
}

func (r *rig) bareCreate() func(context.Context) error {
	until := time.Now().Add(time.Hour).UTC().Format("2006-01-02T15:04:05Z")
	return r.bare("create", "--description=bare", "--expires-at="+until, "--format", "json")
}

// A load is something that clients do over and over. They are plain goroutines,
// for a tool like vegeta sends HTTP requests and cannot run the CLI, and loads
// that two tools make would compare the tools.
type load struct {
	clients int
	do      func(context.Context) error
}

// A measurement is how long each call of a load took, and all together.
type measurement struct {
	calls []time.Duration
	took  time.Duration
}

func (m measurement) perSecond() float64 { return float64(len(m.calls)) / m.took.Seconds() }

// at is a quantile, from 0 to 1, of the calls' duration in milliseconds.
func (m measurement) at(q float64) float64 {
	sorted := slices.Sorted(slices.Values(m.calls))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)].Seconds() * 1000
}

// compare runs loads in turns, so that what disturbs one disturbs all.
func (s *sheet) compare(b *testing.B, loads ...load) []measurement {
	b.Helper()
	length := time.Duration(number(b, "BENCH_SECONDS", 10)) * time.Second / rounds
	total := make([]measurement, len(loads))
	for range rounds {
		s.disturbances = append(s.disturbances, awaitQuiet(b))
		for i, l := range loads {
			m, err := l.run(b.Context(), length)
			must(b, err)
			total[i].calls = append(total[i].calls, m.calls...)
			total[i].took += m.took
		}
	}
	return total
}

// alternate does one thing after the other, over and over: for what takes so
// little that a disturbance of one could be taken for its cost.
func (s *sheet) alternate(b *testing.B, things ...func(context.Context) error) []measurement {
	b.Helper()
	s.disturbances = append(s.disturbances, awaitQuiet(b))
	total := make([]measurement, len(things))
	length := time.Duration(len(things)*number(b, "BENCH_SECONDS", 10)) * time.Second
	for began := time.Now(); time.Since(began) < length; {
		for i, do := range things {
			start := time.Now()
			must(b, do(b.Context()))
			took := time.Since(start)
			total[i].calls = append(total[i].calls, took)
			total[i].took += took
		}
	}
	return total
}

// awaitQuiet waits until others leave the machine alone, though not for long, and
// returns what share of the CPUs they take then.
func awaitQuiet(b *testing.B) (busy float64) {
	b.Helper()
	const quiet = 0.2
	for range number(b, "BENCH_PATIENCE", 20) {
		before, all := cpuTime(b)
		wait(b.Context(), time.Second)
		after, total := cpuTime(b)
		if busy = (after - before) / (total - all); busy < quiet {
			break
		}
	}
	return busy
}

// cpuTime is the time that all CPUs were busy, and all their time.
func cpuTime(b *testing.B) (busy, all float64) {
	b.Helper()
	stat, err := os.ReadFile("/proc/stat")
	must(b, err)
	var t [8]float64 // user, nice, system, idle, iowait, irq, softirq, steal
	_, err = fmt.Sscanf(string(stat), "cpu %f %f %f %f %f %f %f %f", &t[0], &t[1], &t[2], &t[3], &t[4], &t[5], &t[6], &t[7])
	must(b, err)
	for _, part := range t {
		all += part
	}
	return all - t[3] - t[4], all
}

// run runs the load for so long, and until the calls that are under way then
// have ended.
func (l load) run(ctx context.Context, length time.Duration) (m measurement, err error) {
	var mu sync.Mutex
	var clients sync.WaitGroup
	began := time.Now()
	for range l.clients {
		clients.Go(func() {
			for time.Since(began) < length {
				start := time.Now()
				failed := l.do(ctx)
				took := time.Since(start)
				mu.Lock()
				m.calls = append(m.calls, took)
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
