package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// TestSecrets_AppearNowhere uses all operations of the engine, with and without
// faults, and then searches for every secret that existed: in the answers of
// Vault except credentials, in its log at trace level, its audit log and its
// storage, and in the arguments and the environment of every program that the
// plugin has run. Profiles must have been in memory, and must be deleted.
//
// The tests of the engine check events, because nobody can subscribe to them in
// the Community edition of Vault.
func TestSecrets_AppearNowhere(t *testing.T) {
	t.Parallel()
	h := newHunt(t)
	h.live(t)
	h.misfortunes(t)
	h.databases(t)
	h.stop()

	for _, token := range h.cluster.Tokens() {
		h.secrets = append(h.secrets, token.Secret)
	}
	h.KeepSecret(h.secrets...) // for the logs, which are read when the server has ended
	h.mustHaveNone(t, "an answer", h.answers.String())
	h.mustHaveNoneInProcesses(t)
	h.mustHaveNoneInStorage(t)
}

// A hunt is a stage and what others could see of it.
type hunt struct {
	*stage
	secrets []string
	answers strings.Builder
	seen    map[string]string // arguments and environment, by process and what it runs
	stop    func()            // ends the watch over processes
}

func newHunt(t *testing.T) *hunt {
	t.Helper()
	h := &hunt{stage: newStage(t, vaulttest.Start(t), "leaks"), seen: map[string]string{}}
	h.disownRoot()
	ctx, stop := context.WithCancel(t.Context())
	var watch sync.WaitGroup
	watch.Go(func() { h.watchProcesses(ctx) })
	h.stop = func() { stop(); watch.Wait() }
	t.Cleanup(h.stop)
	return h
}

// ask sends a request to the mount and keeps the answer, unless it is a credential.
// It reports whether the request succeeded.
func (h *hunt) ask(t *testing.T, method, path string, data map[string]any) (ok bool) {
	t.Helper()
	var answer json.RawMessage
	err := h.Call(t.Context(), method, h.mounted+"/"+path, data, &answer)
	if answer, refused := errors.AsType[*vaulttest.StatusError](err); refused {
		h.answers.WriteString(answer.Error())
		return false
	}
	if !strings.HasPrefix(path, "creds/") {
		h.answers.Write(answer)
	}
	return true
}

// must ends the test unless the request succeeds or fails as wanted.
func (h *hunt) must(t *testing.T, want bool, method, path string, data map[string]any) {
	t.Helper()
	if h.ask(t, method, path, data) != want {
		t.Fatalf("%s %s: success is not %v, but\n%s", method, path, want, h.answers.String())
	}
}

// live uses the mount without faults.
func (h *hunt) live(t *testing.T) {
	slow := simulator.Fault{Latency: simulator.Duration(200 * time.Millisecond)}
	h.cluster.SetFaults(simulator.Faults{Any: slow}) // to be seen in
	h.must(t, true, "PUT", "config", map[string]any{"rotation_overlap": "1h"})
	h.must(t, true, "PUT", "config/check", nil)
	h.must(t, true, "PUT", "roles/ci", map[string]any{"ttl": "1h", "max_ttl": "8h"})
	for range 2 {
		one, err := h.read(t.Context(), "ci", "")
		must(t, err)
		must(t, h.Call(t.Context(), "PUT", "sys/leases/renew", map[string]any{"lease_id": one.Lease, "increment": 60}, nil))
		must(t, h.Call(t.Context(), "PUT", "sys/leases/revoke", map[string]any{"lease_id": one.Lease, "sync": true}, nil))
	}
	h.must(t, true, "GET", "creds/ci", nil)
	h.must(t, true, "PUT", "config/rotate-root", nil)
	for _, path := range []string{"config", "status", "roles/ci", "tokens?list=true"} {
		h.must(t, true, "GET", path, nil)
	}
	h.must(t, true, "PUT", "tidy", map[string]any{"dry_run": false})
}

// misfortunes makes callers, the CLI and the cluster do wrong things.
func (h *hunt) misfortunes(t *testing.T) {
	const wrong, key = "M.V1.wrongWRONGwrong0123456789wrongWRONGwrong", "-----BEGIN PRIVATE KEY-----\nkeyKEYkey0123456789keyKEYkey0123456789\n-----END PRIVATE KEY-----"
	h.secrets = append(h.secrets, wrong, key)
	for _, config := range []map[string]any{
		{"mgmt_token": wrong}, {"mgmt_token": []string{wrong}}, {"mgmt_token": map[string]any{"value": wrong}},
		{"client_key": key}, {"client_key": []any{key}, "client_cert": "x"}, {"mgmt_token": wrong, "typo": 1},
	} {
		h.must(t, false, "PUT", "config", config)
	}
	roots := strings.Join([]string{h.cluster.Root(), wrong}, " and ")
	for _, create := range []simulator.Fault{
		{Error: simulator.TextUnauthenticated + " of " + roots}, {Error: "made with " + roots, Committed: true},
		{Shape: "two-tokens"}, {Shape: "html"}, {Shape: "help"}, {Shape: "no-secret"}, {Shape: "gigabyte"},
		{Die: simulator.DieKilled}, {Cut: true},
	} {
		h.cluster.SetFaults(simulator.Faults{Create: create})
		h.must(t, false, "GET", "creds/ci", nil)
	}
	h.cluster.SetFaults(simulator.Faults{Create: simulator.Fault{Shape: "token-stderr"}})
	h.must(t, true, "GET", "creds/ci", nil)
	for _, other := range []simulator.Faults{
		{List: simulator.Fault{Error: roots}}, {List: simulator.Fault{Shape: simulator.ListHTML}}, {Outage: true},
	} {
		h.cluster.SetFaults(other)
		h.must(t, false, "PUT", "tidy", nil)
		h.must(t, false, "PUT", "config/check", nil)
	}
	h.cluster.SetFaults(simulator.Faults{Revoke: simulator.Fault{Error: roots}, List: simulator.Fault{Error: roots}})
	if err := h.Call(t.Context(), "PUT", "sys/leases/revoke-prefix/"+h.mounted+"/creds/ci", map[string]any{"sync": true}, nil); err == nil {
		t.Error("a revocation succeeded although nothing can be revoked")
	} else {
		h.answers.WriteString(err.Error())
	}
	h.must(t, true, "GET", "status", nil)
	h.cluster.SetFaults(simulator.Faults{})
}

// databases issues and revokes a database token.
func (h *hunt) databases(t *testing.T) {
	web := httptest.NewServer(h.cluster)
	t.Cleanup(web.Close)
	at, err := url.Parse(web.URL)
	must(t, err)
	root := h.cluster.AddRoot()
	h.must(t, true, "PUT", "config", map[string]any{
		"product": "clustered", "host": at.Hostname(), "port": at.Port(), "disable_tls": true, "mgmt_token": root.Secret, "force": true,
	})
	h.must(t, true, "PUT", "roles/telegraf", map[string]any{"token_type": "database", "write_databases": "metrics", "ttl": "1h"})
	one, err := h.read(t.Context(), "telegraf", "")
	must(t, err)
	must(t, h.Call(t.Context(), "PUT", "sys/leases/revoke", map[string]any{"lease_id": one.Lease, "sync": true}, nil))
	h.cluster.SetFaults(simulator.Faults{Create: simulator.Fault{Error: "no " + root.Secret}})
	h.must(t, false, "GET", "creds/telegraf", nil)
	h.cluster.SetFaults(simulator.Faults{})
}

// watchProcesses records the arguments and the environment of all processes that
// the plugin runs.
func (h *hunt) watchProcesses(ctx context.Context) {
	for vaulttest.Wait(ctx, 10*time.Millisecond) {
		plugins, _ := h.PluginProcesses()
		for _, p := range append(vaulttest.Children(plugins), plugins...) {
			argv, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
			environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.PID))
			if len(argv) > 0 { // else it has ended
				h.seen[fmt.Sprintf("%d %.200s", p.PID, argv)] = strings.ReplaceAll(string(argv)+string(environ), "\x00", "\n")
			}
		}
	}
}

func (h *hunt) mustHaveNone(t *testing.T, where, text string) {
	t.Helper()
	if text == "" {
		t.Errorf("%s: nothing was seen", where)
	}
	for _, leak := range vaulttest.Leaks(text, h.secrets) {
		t.Errorf("%s: %s", where, leak)
	}
}

// mustHaveNoneInProcesses searches what watchProcesses has recorded.
func (h *hunt) mustHaveNoneInProcesses(t *testing.T) {
	t.Helper()
	verbs := map[string]int{}
	for _, shown := range h.seen {
		h.mustHaveNone(t, "a process", shown)
		_, rest, run := strings.Cut(shown, "\n--config\n")
		if !run {
			continue
		}
		if _, err := os.Stat("/dev/shm"); err == nil && !strings.HasPrefix(rest, "/dev/shm/") {
			t.Errorf("a profile is not in memory: %.80s", rest)
		}
		profile, _, _ := strings.Cut(rest, "\n")
		if _, err := os.Stat(filepath.Dir(profile)); err == nil {
			t.Errorf("%s is still there", filepath.Dir(profile))
		}
		for _, verb := range []string{"create", "list", "revoke"} {
			if strings.Contains(rest, "\nmanagement\n"+verb+"\n") {
				verbs[verb]++
			}
		}
	}
	if len(verbs) < 3 {
		t.Errorf("not every command was seen: %v", verbs)
	}
}

// mustHaveNoneInStorage searches the files of the server's storage.
func (h *hunt) mustHaveNoneInStorage(t *testing.T) {
	t.Helper()
	size := 0
	must(t, filepath.WalkDir(filepath.Join(h.Home, "raft"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		size += len(text)
		h.mustHaveNone(t, path, string(text))
		return err
	}))
	if size < 10_000 {
		t.Errorf("the storage has only %d bytes", size)
	}
}
