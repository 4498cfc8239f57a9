package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// TestStories runs the scripts of testdata on a real Vault with the plugin
// binary. Each script has its own mount ($mount), plugin process, CLI and
// simulated cluster, so that the scripts can run in parallel.
//
// The scripts use the commands of testscript and those of the table below. After
// each script [story.end] searches for leaked secrets.
func TestStories(t *testing.T) {
	s := vaulttest.Start(t)
	cli := t.TempDir()
	vaulttest.Build(t, cli, "./cmd/influxsim")
	deadline, _ := t.Deadline()
	testscript.Run(t, testscript.Params{
		Dir:      "testdata",
		Deadline: deadline,
		Setup: func(env *testscript.Env) error {
			return newStory(env, s, filepath.Join(cli, "influxsim"))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"await":     await,
			"bounded":   command(bounded),
			"configure": command(configure),
			"faults":    command(faults),
			"lease":     command(lease),
			"live":      command(live),
			"profile":   command(profile),
			"renewed":   command(renewed),
			"tokens":    command(tokens),
			"use":       command(use),
			"vault":     command(vault),
			"write":     command(writeData),
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// A story holds what a script works with.
type story struct {
	server  *vaulttest.Server
	cluster *simulator.Cluster
	web     *httptest.Server // serves the cluster
	mount   string
	t       testing.TB
}

type storyKey struct{}

func storyOf(ts *testscript.TestScript) *story { return ts.Value(storyKey{}).(*story) }

// newStory registers the plugin for a script with a simulated influxctl of a new
// cluster, mounts it, and sets these variables:
//
//	$mount                    path of the mount
//	$plugin                   name that the plugin is registered under
//	$root                     root credential: the cluster's first management token
//	$account_id, $cluster_id  of the cluster
//	$host, $port              of the cluster as one of product clustered (plain text)
//	$api_url                  of the cluster's HTTP Management API
//	$influxctl                path of the CLI
//	$examples                 folder of the examples
func newStory(env *testscript.Env, s *vaulttest.Server, cli string) error {
	t := env.T().(testing.TB)
	name := "influxdb-" + strings.TrimSuffix(filepath.Base(t.Name()), ".txtar")
	st := &story{server: s, cluster: simulator.NewCluster(simulator.Options{}), mount: name, t: t}
	st.web = httptest.NewServer(st.cluster)
	env.Values[storyKey{}] = st
	env.Defer(st.end)

	dir := filepath.Join(env.WorkDir, ".cli")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	influxctl, err := simulator.Install(dir, cli, simulator.Sidecar{URL: st.web.URL})
	if err != nil {
		return err
	}
	if err := s.Register(t.Context(), name, "INFLUXCTL_PATH="+influxctl); err != nil {
		return err
	}
	if err := s.Mount(t.Context(), name, name); err != nil {
		return err
	}
	examples, err := filepath.Abs(filepath.Join("..", "..", "examples"))
	if err != nil {
		return err
	}
	host, port, _ := strings.Cut(st.web.Listener.Addr().String(), ":")
	for name, value := range map[string]string{
		"mount":       st.mount,
		"plugin":      name,
		"root":        st.cluster.Root(),
		"account_id":  st.cluster.AccountID(),
		"cluster_id":  st.cluster.ClusterID(),
		"host":        host,
		"port":        port,
		"api_url":     st.web.URL,
		"influxctl":   influxctl,
		"examples":    examples,
		"PATH":        strings.Join([]string{s.Bin, s.Plugins, os.Getenv("PATH")}, string(filepath.ListSeparator)),
		"VAULT_ADDR":  s.Addr,
		"VAULT_TOKEN": s.Token,
	} {
		env.Setenv(name, value)
	}
	return nil
}

// end checks what must hold after every story: no secret of its cluster is in a
// log of Vault, no CLI process is left, and the CLI got no secret in its
// arguments or environment. The logs are searched again when the server has
// ended.
func (st *story) end() {
	t := st.t
	defer st.web.Close()
	var secrets []string
	for _, token := range st.cluster.Tokens() {
		secrets = append(secrets, token.Secret)
	}
	st.server.KeepSecret(secrets...)
	for _, path := range st.server.Logs {
		log, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
		}
		for _, leak := range vaulttest.Leaks(string(log), secrets) {
			t.Errorf("%s: %s", filepath.Base(path), leak)
		}
	}
	for _, violation := range st.cluster.Violations() {
		t.Errorf("the CLI was called in a way that is not allowed: %s", violation)
	}
	if err := vaulttest.Eventually(t.Context(), 10*time.Second, func() error {
		if n := st.cluster.Running(); n > 0 {
			return fmt.Errorf("%d CLI processes are left", n)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// An act implements a command of the scripts. It returns an error that `!`
// expects and that `await` retries. Wrong usage ends the script instead.
type act func(ts *testscript.TestScript, st *story, args []string) error

// acts are the commands that `await` can repeat.
var acts = map[string]act{
	"exec": program, "live": live, "renewed": renewed, "tokens": tokens, "use": use, "vault": vault,
}

// command turns an act into a command of testscript.
func command(a act) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		switch err := a(ts, storyOf(ts), args); {
		case err == nil && neg:
			ts.Fatalf("unexpected success")
		case err != nil && !neg:
			ts.Fatalf("%v", err)
		}
	}
}

var errSucceeded = errors.New("the command succeeds")

// await [LIMIT] [!] COMMAND ARG... repeats a command until it succeeds, or with !
// until it fails, for at most LIMIT (30s by default).
func await(ts *testscript.TestScript, neg bool, args []string) {
	limit, words := 30*time.Second, args
	if d, err := time.ParseDuration(args[0]); err == nil {
		limit, words = d, words[1:]
	}
	fail := words[0] == "!"
	if fail {
		words = words[1:]
	}
	a, ok := acts[words[0]]
	if !ok || neg {
		ts.Fatalf("usage: await [LIMIT] [!] exec|live|renewed|tokens|use|vault ARG...")
	}
	err := vaulttest.Eventually(storyOf(ts).t.Context(), limit, func() error {
		err := a(ts, storyOf(ts), words[1:])
		switch {
		case !fail:
			return err
		case err == nil:
			return errSucceeded
		}
		return nil
	})
	if err != nil {
		ts.Fatalf("%s: %v", words[0], err) // without the arguments: one may be a token
	}
}

// vault ARG... runs the vault command line with the Vault root token.
func vault(ts *testscript.TestScript, st *story, args []string) error {
	err := ts.Exec("vault", args...)
	for _, token := range st.cluster.Tokens() {
		if len(vaulttest.Leaks(ts.ReadFile("stderr"), []string{token.Secret})) > 0 {
			ts.Fatalf("vault %s: a secret on stderr", args[0])
		}
	}
	return err
}

// configure [KEY=VALUE]... writes $mount/config for the story's cluster with
// product=dedicated. Arguments replace or add parameters.
func configure(ts *testscript.TestScript, st *story, args []string) error {
	words := []string{"write", st.mount + "/config"}
	for _, setting := range []string{
		"product=dedicated", "account_id=" + st.cluster.AccountID(), "cluster_id=" + st.cluster.ClusterID(),
		"mgmt_token=" + st.cluster.Root(),
	} {
		key, _, _ := strings.Cut(setting, "=")
		if !slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, key+"=") }) {
			words = append(words, setting)
		}
	}
	return vault(ts, st, append(words, args...))
}

// lease NAME reads the credential that the last command printed as JSON, and sets
// $NAME_lease, $NAME_id, $NAME_token and $NAME_expires_at.
func lease(ts *testscript.TestScript, _ *story, args []string) error {
	if len(args) != 1 {
		ts.Fatalf("usage: lease NAME")
	}
	var answer struct {
		LeaseID string `json:"lease_id"`
		Data    struct {
			Token     string `json:"token"`
			TokenID   string `json:"token_id"`
			ExpiresAt string `json:"expires_at"`
		} `json:"data"`
	}
	if err := json.Unmarshal([]byte(ts.ReadFile("stdout")), &answer); err != nil {
		return fmt.Errorf("read the output of the last command: %w", err)
	}
	for field, value := range map[string]string{
		"lease": answer.LeaseID, "id": answer.Data.TokenID, "token": answer.Data.Token, "expires_at": answer.Data.ExpiresAt,
	} {
		if value == "" {
			return fmt.Errorf("the last answer had no %s", field)
		}
		ts.Setenv(args[0]+"_"+field, value)
	}
	return nil
}

// faults JSON sets the faults of the cluster, see [simulator.Faults]. {} ends them.
func faults(ts *testscript.TestScript, st *story, args []string) error {
	var f simulator.Faults
	if len(args) != 1 {
		ts.Fatalf("usage: faults JSON")
	}
	decoder := json.NewDecoder(strings.NewReader(args[0]))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&f); err != nil {
		return err
	}
	st.cluster.SetFaults(f)
	return nil
}

var errDead = errors.New("the token is dead")

// live ID succeeds if the cluster accepts the token with the ID.
func live(ts *testscript.TestScript, st *story, args []string) error {
	if len(args) != 1 {
		ts.Fatalf("usage: live ID")
	}
	token, ok := st.cluster.Token(args[0])
	if !ok {
		ts.Fatalf("the cluster has never known a token %q", args[0])
	}
	if !token.Live {
		return errDead
	}
	return nil
}

// tokens N succeeds if N tokens are alive, not counting root credentials.
func tokens(ts *testscript.TestScript, st *story, args []string) error {
	want, err := strconv.Atoi(strings.Join(args, " "))
	if err != nil {
		ts.Fatalf("usage: tokens N")
	}
	got := 0
	for _, token := range st.cluster.Tokens() {
		if token.Live && !token.Root {
			got++
		}
	}
	if got != want {
		return fmt.Errorf("%d tokens are alive", got)
	}
	return nil
}

// use STATUS TOKEN lists the databases of the cluster with a management token. It
// succeeds if the cluster answers with the HTTP status.
func use(ts *testscript.TestScript, st *story, args []string) error {
	if len(args) != 2 {
		ts.Fatalf("usage: use STATUS TOKEN")
	}
	path := fmt.Sprintf("/api/v0/accounts/%s/clusters/%s/databases", st.cluster.AccountID(), st.cluster.ClusterID())
	return st.answers(ts, args[0], args[1], http.MethodGet, path, "")
}

// answers sends a request with a token to the cluster. It returns an error unless
// the cluster answers with the HTTP status.
func (st *story) answers(ts *testscript.TestScript, status, token, method, path, body string) error {
	req, err := http.NewRequestWithContext(st.t.Context(), method, st.web.URL+path, strings.NewReader(body))
	ts.Check(err)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer func() { _ = resp.Body.Close() }()
	if strconv.Itoa(resp.StatusCode) != status {
		return fmt.Errorf("the cluster answers %s", resp.Status)
	}
	return nil
}
