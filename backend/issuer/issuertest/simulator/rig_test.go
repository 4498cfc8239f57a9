package simulator_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
)

// The test binary is the simulated command if it is started as influxctl.
func TestMain(m *testing.M) {
	if simulator.IsCLI(os.Args) {
		os.Exit(simulator.Main(os.Args))
	}
	os.Exit(m.Run())
}

const (
	accountID = "aaaaaaaa-0000-4000-8000-000000000001"
	clusterID = "bbbbbbbb-0000-4000-8000-000000000002"
	future    = "2040-01-02T03:04:05Z"

	rootSecret = "M.V1.the+secret+of+the+root+credential"
)

// A clock changes only when a test advances it.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// A rig is a cluster with a server, the command, and a profile for both.
type rig struct {
	*simulator.Cluster
	t       *testing.T
	clock   *clock
	server  *httptest.Server
	dir     string // with the command and its sidecar
	path    string // of the command
	profile string
	env     []string
}

// newRig returns a rig of the product dedicated.
func newRig(t *testing.T) *rig {
	t.Helper()
	return newRigWith(t, simulator.Sidecar{})
}

// newRigWith returns a rig with a sidecar, whose URL it sets.
func newRigWith(t *testing.T, side simulator.Sidecar) *rig {
	t.Helper()
	r := newBareRig(t)
	r.server = httptest.NewServer(r.Cluster)
	t.Cleanup(r.server.Close)
	side.URL = r.server.URL
	r.install(side)
	r.writeProfile(dedicatedProfile(r.Root()))
	return r
}

// newBareRig returns a rig without server, command and profile.
func newBareRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r := &rig{
		t:       t,
		clock:   &clock{t: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)},
		dir:     dir,
		profile: filepath.Join(dir, "config.toml"),
		env:     []string{"HOME=" + dir, "NO_COLOR=1"},
	}
	r.Cluster = simulator.NewCluster(simulator.Options{
		AccountID: accountID, ClusterID: clusterID, Root: rootSecret, Now: r.clock.now,
	})
	return r
}

func (r *rig) install(side simulator.Sidecar) {
	r.t.Helper()
	program, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	if r.path, err = simulator.Install(r.dir, program, side); err != nil {
		r.t.Fatal(err)
	}
}

func dedicatedProfile(token string) string {
	return fmt.Sprintf("[[profile]]\nname = 'p'\nproduct = 'dedicated'\naccount_id = '%s'\ncluster_id = '%s'\nmgmt_token = '%s'\n",
		accountID, clusterID, token)
}

func (r *rig) writeProfile(text string) {
	r.t.Helper()
	if err := os.WriteFile(r.profile, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// A result is the output and the exit status of a run.
type result struct {
	stdout, stderr string
	exit           int
}

// argv returns the command line of a run with the profile.
func (r *rig) argv(args ...string) []string {
	return append([]string{r.path, "--config", r.profile, "--profile", "p"}, args...)
}

// run runs the command with the profile, in this process.
func (r *rig) run(args ...string) result {
	return r.exec(r.argv(args...), nil)
}

// exec runs a command line in this process. Tests that do so must not run in parallel,
// because the command line library writes to variables of its package.
func (r *rig) exec(argv []string, stdin io.Reader) result {
	var stdout, stderr bytes.Buffer
	exit := simulator.RunCLI(argv, r.env, stdin, &stdout, &stderr)
	return result{stdout.String(), stderr.String(), exit}
}

// command returns a run with the profile as a process.
func (r *rig) command(args ...string) *exec.Cmd {
	argv := r.argv(args...)
	cmd := exec.CommandContext(r.t.Context(), argv[0], argv[1:]...)
	cmd.Env = r.env
	return cmd
}

// create creates a token with the command and returns it.
func (r *rig) create(description string) simulator.Token {
	r.t.Helper()
	got := r.run("management", "create", "--description="+description, "--expires-at="+future)
	if got.exit != 0 {
		r.t.Fatalf("create: %+v", got)
	}
	return r.described(description)
}

// described returns the only token with a description.
func (r *rig) described(description string) simulator.Token {
	r.t.Helper()
	var found []simulator.Token
	for _, t := range r.Tokens() {
		if t.Description == description {
			found = append(found, t)
		}
	}
	if len(found) != 1 {
		r.t.Fatalf("%d tokens have the description %q, want 1", len(found), description)
	}
	return found[0]
}

// listed returns the entries of the list, without the root credential.
func (r *rig) listed() []map[string]any {
	r.t.Helper()
	got := r.run("management", "list", "--format", "json")
	if got.exit != 0 {
		r.t.Fatalf("list: %+v", got)
	}
	var entries []map[string]any
	if err := json.Unmarshal([]byte(got.stdout), &entries); err != nil {
		r.t.Fatal(err)
	}
	return entries[1:]
}

// request sends an HTTP request to the cluster.
func (r *rig) request(method, path, token, body string) (int, string) {
	r.t.Helper()
	answer := r.response(method, path, token, body)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

func (r *rig) response(method, path, token, body string) *http.Response {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.server.URL+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer
}

// eventually waits until something has happened in another process.
func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !happened() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("timed out: " + what)
		}
	}
}
