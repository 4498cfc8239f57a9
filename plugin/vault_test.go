package plugin_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A server is a real Vault: one node on raft storage in a scratch folder,
// unsealed, with an audit log, on a loopback port. Its own log holds that of
// the plugins too, at trace level.
type server struct {
	addr  string
	token string
	key   string // unseals it
	home  string // folder with all that is its own
	bin   string // folder with the vault command
	logs  []string

	plugins string // folder that plugins are run from
	process *serverProcess
	web     *http.Client

	mu      sync.Mutex // guards secrets
	secrets []string   // what must stand in no log
}

const pluginCommand = "vault-plugin-secrets-influxdb"

// startVault starts a server that ends with the test, with further lines for its
// configuration. Whoever calls it has Vault built, if there is none on the
// machine.
func startVault(t testing.TB, settings ...string) *server {
	t.Helper()
	dir := t.TempDir()
	s := &server{
		home:    dir,
		bin:     filepath.Join(dir, "bin"),
		plugins: filepath.Join(dir, "plugins"),
		logs:    []string{filepath.Join(dir, "server.log"), filepath.Join(dir, "audit.log")},
		web:     &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}},
	}
	for _, d := range []string{s.bin, s.plugins, filepath.Join(dir, "raft")} {
		must(t, os.Mkdir(d, 0o700))
	}
	must(t, os.Symlink(vaultBinary(t), filepath.Join(s.bin, "vault")))
	build(t, s.plugins, "./cmd/"+pluginCommand, raceFlags...)

	api, cluster := freeAddress(t), freeAddress(t)
	s.addr = "http://" + api
	must(t, os.WriteFile(filepath.Join(dir, "vault.hcl"), fmt.Appendf(nil, `
		storage "raft" {
			path                   = %q
			node_id                = "only"
			performance_multiplier = 1
		}
		listener "tcp" {
			address         = %q
			cluster_address = %q
			tls_disable     = true
		}
		api_addr         = "http://%[2]s"
		cluster_addr     = "https://%[3]s"
		plugin_directory = %[4]q
		disable_mlock    = true
		log_level        = "trace"
		unsafe_allow_api_audit_creation = true # OpenBao wants it; Vault warns that it knows no such thing
		%[5]s
		`, filepath.Join(dir, "raft"), api, cluster, s.plugins, strings.Join(settings, "\n")), 0o600))
	s.run(t)
	t.Cleanup(func() {
		s.process.end()
		s.autopsy(t)
	})
	s.open(t)
	return s
}

// vaultBinary is what scripts/vault.sh finds or builds.
func vaultBinary(t testing.TB) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join("..", "scripts", "vault.sh"))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	must(t, err)
	return strings.TrimSpace(string(out))
}

// build puts the program of a package of this module into a folder.
func build(t testing.TB, dir, pkg string, flags ...string) {
	t.Helper()
	args := append([]string{"build", "-o", dir + string(filepath.Separator)}, flags...)
	cmd := exec.CommandContext(t.Context(), "go", append(args, pkg)...)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
}

// freeAddress is a loopback address that nobody listened on a moment ago.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { must(t, l.Close()) }()
	return l.Addr().String()
}

// untilOrphaned runs a command until its end or that of its own standard input,
// so that a test that is killed leaves no server behind. A line of input is the
// signal to end it with.
const untilOrphaned = `"$0" "$@" </dev/null & pid=$!
(read -r signal; kill -${signal:-TERM} $pid 2>/dev/null) <&3 3<&- &
wait $pid`

// A serverProcess is one run of a server.
type serverProcess struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	log   *os.File
}

// run starts the server's process.
func (s *server) run(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(s.logs[0], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	cmd := exec.Command("/bin/sh", "-c", "exec 3<&0; "+untilOrphaned,
		filepath.Join(s.bin, "vault"), "server", "-config="+filepath.Join(s.home, "vault.hcl"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"HOME=" + s.home, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir()}
	stdin, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	s.process = &serverProcess{cmd, stdin, log}
}

// end ends the process in good order, unless it has ended.
func (p *serverProcess) end() {
	_ = p.stdin.Close()
	_ = p.cmd.Wait() // 143: ended by a signal, as was asked
	_ = p.log.Close()
}

// kill ends the process by SIGKILL.
func (p *serverProcess) kill() {
	_, _ = io.WriteString(p.stdin, "KILL\n")
	p.end()
}

// open initialises and unseals the server, and has it keep an audit log.
func (s *server) open(t testing.TB) {
	t.Helper()
	var init struct {
		Keys  []string `json:"keys"`
		Token string   `json:"root_token"`
	}
	must(t, eventually(t.Context(), 30*time.Second, func() error {
		return s.call(t.Context(), "PUT", "sys/init", map[string]any{"secret_shares": 1, "secret_threshold": 1}, &init)
	}))
	s.token, s.key = init.Token, init.Keys[0]
	s.unseal(t)
	must(t, s.call(t.Context(), "PUT", "sys/audit/file", map[string]any{
		"type": "file", "options": map[string]string{"file_path": s.logs[1]},
	}, nil))
}

// unseal unseals the server and waits until it serves.
func (s *server) unseal(t testing.TB) {
	t.Helper()
	must(t, eventually(t.Context(), 30*time.Second, func() error {
		return s.call(t.Context(), "PUT", "sys/unseal", map[string]any{"key": s.key}, nil)
	}))
	must(t, eventually(t.Context(), 60*time.Second, func() error {
		return s.call(t.Context(), "GET", "sys/health", nil, nil) // fails until the node is active
	}))
}

// register makes the plugin known under a name, with variables for its
// environment. Each name gets a process of its own.
func (s *server) register(ctx context.Context, name string, env ...string) error {
	return s.registerCommand(ctx, name, pluginCommand, env...)
}

// registerCommand does the same with any program in the folder of plugins.
func (s *server) registerCommand(ctx context.Context, name, command string, env ...string) error {
	binary, err := os.ReadFile(filepath.Join(s.plugins, command))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(binary)
	return s.call(ctx, "PUT", "sys/plugins/catalog/secret/"+name, map[string]any{
		"command": command, "sha256": hex.EncodeToString(sum[:]), "env": env,
	}, nil)
}

// mount enables a registered plugin at a path.
func (s *server) mount(ctx context.Context, name, path string) error {
	return s.call(ctx, "POST", "sys/mounts/"+path, map[string]any{"type": name}, nil)
}

// call asks the server over HTTP, and decodes the answer unless into is nil.
func (s *server) call(ctx context.Context, method, path string, body, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, s.addr+"/v1/"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("X-Vault-Token", s.token)
	resp, err := s.web.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return &refusal{method, path, resp.Status, string(answer)}
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}

// A refusal is a server's answer that is no success.
type refusal struct{ method, path, status, answer string }

func (r *refusal) Error() string {
	return fmt.Sprintf("%s %s: %s: %s", r.method, r.path, r.status, r.answer)
}

// keepSecret adds to what must stand in no log of the server.
func (s *server) keepSecret(secrets ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets = append(s.secrets, secrets...)
}

// autopsy reads the logs of a server that has ended.
func (s *server) autopsy(t testing.TB) {
	for _, path := range s.logs {
		log, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, leak := range leaks(string(log), s.secrets) {
			t.Errorf("%s: %s", filepath.Base(path), leak)
		}
		for _, sign := range []string{"WARNING: DATA RACE", "panic: ", "fatal error: "} {
			if _, after, found := strings.Cut(string(log), sign); found {
				t.Errorf("%s: %s%.2000s", filepath.Base(path), sign, after)
			}
		}
		if t.Failed() && testing.Verbose() {
			t.Logf("%s ends in:\n%s", filepath.Base(path), log[max(0, len(log)-20_000):])
		}
	}
}

// leaks finds secrets in a text. It looks for the middle of each: the first
// characters of a token are no secret, and a part is a leak too. It goes through
// the text once, for there may be thousands of secrets.
func leaks(text string, secrets []string) []string {
	const start = 8 // of a part, by which parts are found
	parts := map[string][]string{}
	for _, secret := range secrets {
		part := secret[len(secret)/4 : len(secret)*3/4]
		parts[part[:start]] = append(parts[part[:start]], part)
	}
	var found []string
	leaked := map[string]bool{}
	for i := 0; i+start <= len(text); i++ {
		for _, part := range parts[text[i:i+start]] {
			if !leaked[part] && strings.HasPrefix(text[i:], part) {
				leaked[part] = true
				found = append(found, fmt.Sprintf("a secret (…%.4s…) after …%s", part, text[max(0, i-300):i]))
			}
		}
	}
	return found
}

// eventually calls f until it succeeds, and returns its last error if it has
// not within the limit.
func eventually(ctx context.Context, limit time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", limit, err)
		case <-tick.C:
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestASecretInALogIsFound(t *testing.T) {
	secret := "M.V1.abcdefghijklmnopqrstuvwxyz0123456789"
	for _, c := range []struct {
		log  string
		want int
	}{
		{"minted " + secret[:9], 0},
		{"minted " + secret, 1},
		{"minted " + secret[8:len(secret)-8], 1},
	} {
		if got := leaks(c.log, []string{secret}); len(got) != c.want {
			t.Errorf("leaks in %q: %q", c.log, got)
		}
	}
}
