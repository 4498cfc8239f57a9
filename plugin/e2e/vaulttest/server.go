package vaulttest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A Server is one Vault node: a process on raft storage, with its files in a
// temporary folder. Its log includes those of its plugins, at trace level.
// Methods that make requests are safe for concurrent use.
type Server struct {
	Addr    string       // URL of the API
	Token   string       // Vault root token
	Home    string       // folder that holds all files of the node
	Bin     string       // folder that holds the vault command
	Plugins string       // plugin_directory, which holds the plugin binary
	Logs    []string     // log of the server, and audit log
	HTTP    *http.Client // makes the requests

	key     string // unseal key
	run     *run
	secrets *secretSet
}

// Start runs a server with one node until the test ends, initialized, unsealed
// and with an audit log. The settings are added to its configuration file. When
// the test ends, Start checks the logs: see [Server.KeepSecret].
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	s := newServer(t, t.TempDir())
	s.install(t)
	s.configure(t, "only", nodeAddresses(t), "", settings...)
	s.Run(t)
	t.Cleanup(func() {
		s.End()
		checkLogs(t, s.Logs, s.secrets.all())
	})
	s.initialize(t)
	s.Unseal(t)
	s.enableAudit(t)
	return s
}

// newServer describes a node whose files are all in one folder.
func newServer(t testing.TB, dir string) *Server {
	t.Helper()
	s := &Server{
		Home:    dir,
		Bin:     filepath.Join(dir, "bin"),
		Plugins: filepath.Join(dir, "plugins"),
		Logs:    []string{filepath.Join(dir, "server.log"), filepath.Join(dir, "audit.log")},
		HTTP:    &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}},
		secrets: &secretSet{},
	}
	must(t, os.MkdirAll(filepath.Join(dir, "raft"), 0o700))
	return s
}

// install puts the vault command and the plugin into the server's folders.
func (s *Server) install(t testing.TB) {
	t.Helper()
	must(t, os.MkdirAll(s.Bin, 0o700))
	must(t, os.MkdirAll(s.Plugins, 0o700))
	must(t, os.Symlink(Binary(t), filepath.Join(s.Bin, "vault")))
	Build(t, s.Plugins, "./cmd/"+PluginCommand, RaceFlags...)
}

// configure writes the configuration file of a node that listens on the two
// addresses. The second one is for the other nodes of its cluster.
func (s *Server) configure(t testing.TB, node string, addresses [2]string, raft string, settings ...string) {
	t.Helper()
	api, cluster := addresses[0], addresses[1]
	s.Addr = "http://" + api
	must(t, os.WriteFile(s.configFile(), fmt.Appendf(nil, `
		storage "raft" {
			path                   = %q
			node_id                = %q
			performance_multiplier = 1
			%s
		}
		listener "tcp" {
			address         = %q
			cluster_address = %q
			tls_disable     = true
		}
		api_addr         = "http://%[4]s"
		cluster_addr     = "https://%[5]s"
		plugin_directory = %[6]q
		disable_mlock    = true
		log_level        = "trace"
		unsafe_allow_api_audit_creation = true # required by OpenBao; Vault warns that it does not know it
		%[7]s
		`, filepath.Join(s.Home, "raft"), node, raft, api, cluster, s.Plugins, strings.Join(settings, "\n")), 0o600))
}

func (s *Server) configFile() string { return filepath.Join(s.Home, "vault.hcl") }

// nodeAddresses returns two free loopback addresses. Their ports are below those
// that the kernel gives to outgoing connections, so that none of these takes one
// before the server does, or while it is restarted.
func nodeAddresses(t testing.TB) (addresses [2]string) {
	t.Helper()
	const first, count = 10_000, 10_000
	for i := range addresses {
		must(t, Eventually(t.Context(), 10*time.Second, func() error {
			address := fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(count))
			l, err := net.Listen("tcp", address)
			if err != nil {
				return err
			}
			addresses[i] = address
			return l.Close()
		}))
	}
	return addresses
}

// Run starts the server's process. It ends with the test process. A node that is
// started again must be unsealed.
func (s *Server) Run(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(s.Logs[0], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	cmd := Command(filepath.Join(s.Bin, "vault"), "server", "-config="+s.configFile())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"HOME=" + s.Home, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir()}
	stdin, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	s.run = &run{cmd, stdin, log}
}

// End stops the server's process by SIGTERM, if it runs, and waits for its end.
func (s *Server) End() { s.run.end() }

// Kill stops the server's process by SIGKILL and waits for its end.
func (s *Server) Kill() { s.run.kill() }

// initialize makes a new Vault out of the server, with one unseal key.
func (s *Server) initialize(t testing.TB) {
	t.Helper()
	var answer struct {
		Keys  []string `json:"keys"`
		Token string   `json:"root_token"`
	}
	must(t, Eventually(t.Context(), 30*time.Second, func() error {
		return s.Call(t.Context(), "PUT", "sys/init", map[string]any{"secret_shares": 1, "secret_threshold": 1}, &answer)
	}))
	s.Token, s.key = answer.Token, answer.Keys[0]
}

// enableAudit makes the server write its audit log.
func (s *Server) enableAudit(t testing.TB) {
	t.Helper()
	must(t, s.Call(t.Context(), "PUT", "sys/audit/file", map[string]any{
		"type": "file", "options": map[string]string{"file_path": s.Logs[1]},
	}, nil))
}

// startTime is the longest time that a step of a node's start may take. A start takes
// seconds, unless the machine is busy.
const startTime = 3 * time.Minute

// Unseal unseals the server and waits until it is the active node.
func (s *Server) Unseal(t testing.TB) {
	t.Helper()
	s.unseal(t)
	must(t, Eventually(t.Context(), startTime, func() error {
		return s.Call(t.Context(), "GET", "sys/health", nil, nil) // fails until the node is active
	}))
}

// unseal sends the unseal key once the server takes it, and waits until the
// server is unsealed. It must not send the key again: Vault 1.21 then starts two
// loops that stand for election, of which one misses that the other has lost its
// leadership, and the node goes on as if it was active.
func (s *Server) unseal(t testing.TB) {
	t.Helper()
	must(t, Eventually(t.Context(), startTime, func() error {
		return s.Call(t.Context(), "PUT", "sys/unseal", map[string]any{"key": s.key}, nil)
	}))
	must(t, Eventually(t.Context(), startTime, func() error {
		var status struct {
			Sealed bool `json:"sealed"`
		}
		err := s.Call(t.Context(), "GET", "sys/seal-status", nil, &status)
		if err == nil && status.Sealed {
			err = errors.New("the server is still sealed")
		}
		return err
	}))
}

// Register adds the plugin to the catalog under a name, with variables for its
// environment ("NAME=value"). Vault starts one plugin process for each name.
func (s *Server) Register(ctx context.Context, name string, env ...string) error {
	return s.RegisterCommand(ctx, name, PluginCommand, env...)
}

// RegisterCommand is like [Server.Register], for any program in s.Plugins.
func (s *Server) RegisterCommand(ctx context.Context, name, command string, env ...string) error {
	binary, err := os.ReadFile(filepath.Join(s.Plugins, command))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(binary)
	return s.Call(ctx, "PUT", "sys/plugins/catalog/secret/"+name, map[string]any{
		"command": command, "sha256": hex.EncodeToString(sum[:]), "env": env,
	}, nil)
}

// Mount enables a registered plugin at a path.
func (s *Server) Mount(ctx context.Context, name, path string) error {
	return s.Call(ctx, "POST", "sys/mounts/"+path, map[string]any{"type": name}, nil)
}

// Call sends a request to the server and decodes the answer into into, unless
// that is nil. If the server answers with a status of 300 or above, the error is
// a *[StatusError].
func (s *Server) Call(ctx context.Context, method, path string, body, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, s.Addr+"/v1/"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("X-Vault-Token", s.Token)
	resp, err := s.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return &StatusError{method, path, resp.Status, resp.StatusCode, string(answer)}
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}

// A StatusError is an answer of the server that is not a success.
type StatusError struct {
	Method, Path string
	Status       string // such as "404 Not Found"
	Code         int    // such as 404
	Body         string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s %s: %s: %s", e.Method, e.Path, e.Status, e.Body)
}

// HasStatus reports whether an error of [Server.Call] is an answer with the HTTP
// status.
func HasStatus(err error, status int) bool {
	answer, ok := errors.AsType[*StatusError](err)
	return ok && answer.Code == status
}

// KeepSecret adds secrets to those that must not appear in any log of the
// server. The logs are searched when the server has ended.
func (s *Server) KeepSecret(secrets ...string) { s.secrets.add(secrets...) }

// As returns the server with another Vault token for its requests.
func (s *Server) As(token string) *Server {
	other := *s
	other.Token = token
	return &other
}
