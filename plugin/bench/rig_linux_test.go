package bench

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// A rig is a server with a mount of the engine and a mount of the yardstick, and
// a simulated cluster. The cluster is a process of its own, so that its CPU time
// and memory are not counted as the benchmark's.
type rig struct {
	*vaulttest.Server
	cluster   cluster
	simulator string // path of influxsim
	cli       string // path of the simulated influxctl
	profile   string // its configuration file in the loop without the engine
	engine    vaulttest.Process
	yardstick vaulttest.Process
}

// A cluster is what a simulated cluster of the product clustered says of itself.
type cluster struct {
	URL       string `json:"url"`
	AccountID string `json:"account_id"`
	ClusterID string `json:"cluster_id"`
	Root      string `json:"root"`
}

// newRig starts a rig that ends with the benchmark. The settings are added to
// the configuration of the server.
func newRig(b *testing.B, settings ...string) *rig {
	b.Helper()
	return newRigOn(b, vaulttest.Start(b, settings...))
}

// newRigOn makes a rig of a server that runs.
func newRigOn(b *testing.B, server *vaulttest.Server) *rig {
	b.Helper()
	r := &rig{Server: server}
	r.logLess(b)
	dir := b.TempDir()
	r.simulator = filepath.Join(dir, "influxsim")
	vaulttest.Build(b, dir, "./cmd/influxsim")
	vaulttest.Build(b, r.Plugins, "./plugin/bench/testdata/yardstick")
	r.startSimulator(b, &r.cluster, "cluster")
	var err error
	r.cli, err = simulator.Install(dir, r.simulator, simulator.Sidecar{URL: r.cluster.URL})
	must(b, err)
	r.mountBoth(b)
	at := parse(b, r.cluster.URL)
	r.configure(b, "engine", r.cluster)
	r.write(b, "engine/roles/cli", map[string]any{"ttl": "1h", "max_ttl": "8h"})
	r.write(b, "engine/roles/api", map[string]any{"ttl": "1h", "max_ttl": "8h", "token_type": "database", "write_databases": "metrics"})
	r.profile = filepath.Join(dir, "profile", "profile.toml")
	must(b, os.Mkdir(filepath.Dir(r.profile), 0o700))
	must(b, os.WriteFile(r.profile, fmt.Appendf(nil,
		"[[profile]]\nname = 'vault'\nproduct = 'clustered'\nhost = %q\nport = %q\nmgmt_token = %q\n[profile.tls]\ndisable = true\n",
		at.Hostname(), at.Port(), r.cluster.Root), 0o600))
	return r
}

// logLess sets the log level of the server to that of production.
func (r *rig) logLess(b *testing.B) {
	b.Helper()
	r.write(b, "sys/loggers", map[string]any{"level": "info"})
}

// configure writes the config of a mount of the engine for a cluster.
func (r *rig) configure(b *testing.B, mount string, c cluster) {
	b.Helper()
	at := parse(b, c.URL)
	r.write(b, mount+"/config", map[string]any{
		"product": "clustered", "host": at.Hostname(), "port": at.Port(), "disable_tls": true, "mgmt_token": c.Root,
		"request_timeout": "40s",
	})
}

func parse(b *testing.B, address string) *url.URL {
	b.Helper()
	at, err := url.Parse(address)
	must(b, err)
	return at
}

// startSimulator runs influxsim until the benchmark ends, and decodes the line
// that it prints as soon as it listens.
func (r *rig) startSimulator(b *testing.B, announced any, args ...string) {
	b.Helper()
	cmd := vaulttest.Command(r.simulator, args...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	must(b, err)
	stdout, err := cmd.StdoutPipe()
	must(b, err)
	must(b, cmd.Start())
	b.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait() // exit status 143: ended by the signal
	})
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	must(b, err)
	must(b, json.Unmarshal(line, announced))
}

// mountBoth mounts the engine and the yardstick.
func (r *rig) mountBoth(b *testing.B) {
	b.Helper()
	must(b, r.Register(b.Context(), "engine", "INFLUXCTL_PATH="+r.cli))
	must(b, r.Mount(b.Context(), "engine", "engine"))
	must(b, r.RegisterCommand(b.Context(), "yardstick", "yardstick"))
	must(b, r.Mount(b.Context(), "yardstick", "yardstick"))
	r.findProcesses(b)
}

// findProcesses finds the plugin processes of the engine and of the yardstick.
// Both must have served a request since the server was started.
func (r *rig) findProcesses(b *testing.B) {
	b.Helper()
	for of, want := range map[*vaulttest.Process]string{&r.engine: vaulttest.PluginCommand, &r.yardstick: "yardstick"} {
		current, _ := r.PluginProcesses()
		i := slices.IndexFunc(current, func(p vaulttest.Process) bool { return filepath.Base(p.Program) == want })
		if i < 0 {
			b.Fatalf("no process runs %s", want)
		}
		*of = current[i]
	}
}

// restart kills the server and its plugins, starts it again and waits until it
// is active. The yardstick does not notice by itself that its server has ended.
func (r *rig) restart(b *testing.B) {
	b.Helper()
	r.Kill()
	_, orphaned := r.PluginProcesses()
	vaulttest.Kill(orphaned...)
	r.Run(b)
	r.Unseal(b)
	r.logLess(b)
}

// write writes to a path of the server.
func (r *rig) write(b *testing.B, path string, data map[string]any) {
	b.Helper()
	must(b, r.Call(b.Context(), "POST", path, data, nil))
}

// status reads the status of the engine.
func (r *rig) status(b *testing.B) (vaulttest.Status, error) {
	b.Helper()
	var answer struct {
		Data vaulttest.Status `json:"data"`
	}
	err := r.Call(b.Context(), "GET", "engine/status", nil, &answer)
	return answer.Data, err
}

// awaitLedger waits until the engine has loaded its ledger, so that its counts
// are known.
func (r *rig) awaitLedger(b *testing.B) {
	b.Helper()
	must(b, vaulttest.Eventually(b.Context(), 2*time.Minute, func() error {
		status, err := r.status(b)
		if err == nil && !status.LedgerLoaded {
			err = errors.New("the ledger is not loaded")
		}
		return err
	}))
}

// control sends a request to the control API of the simulated cluster of the
// mount engine.
func (r *rig) control(b *testing.B, method, path string, body, into any) {
	b.Helper()
	r.controlOf(b, r.cluster, method, path, body, into)
}

// controlOf sends a request to the control API of a simulated cluster.
func (r *rig) controlOf(b *testing.B, c cluster, method, path string, body, into any) {
	b.Helper()
	text, err := json.Marshal(body)
	must(b, err)
	req, err := http.NewRequestWithContext(b.Context(), method, c.URL+"/sim/control/"+path, bytes.NewReader(text))
	must(b, err)
	resp, err := r.HTTP.Do(req)
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

// slow sets the time that every operation of the cluster takes.
func (r *rig) slow(b *testing.B, latency time.Duration) {
	b.Helper()
	r.control(b, "PUT", "faults", simulator.Faults{Any: simulator.Fault{Latency: simulator.Duration(latency)}}, nil)
}

// tokens returns all tokens that the cluster has ever had.
func (r *rig) tokens(b *testing.B) (all []simulator.Token) {
	b.Helper()
	r.control(b, "GET", "tokens", nil, &all)
	return all
}

// lastDeath returns when the last of some tokens was revoked. The benchmark
// fails if one of them is alive or if there is none: it has measured nothing.
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

// forgetRuns resets the cluster's count of CLI processes.
func (r *rig) forgetRuns(b *testing.B) {
	b.Helper()
	r.control(b, "DELETE", "runs", nil, nil)
}

// countRuns returns how many CLI processes have run since forgetRuns, in total
// and at a time.
func (r *rig) countRuns(b *testing.B) (count, peak int) {
	b.Helper()
	var answer struct {
		Peak int               `json:"peak"`
		Runs []json.RawMessage `json:"runs"`
	}
	r.control(b, "GET", "runs", nil, &answer)
	return len(answer.Runs), answer.Peak
}
