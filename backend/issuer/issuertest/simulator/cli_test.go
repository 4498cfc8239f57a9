package simulator_test

import (
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
)

func TestVersionsDifferAsTheReleaseNotesSay(t *testing.T) {
	for _, c := range []struct {
		version, args string
		exit          int
		stdout        string
		stderr        string
	}{
		{"2.12.0", "version", 0, "influxctl v2.12.0 linux/amd64\n", ""},
		{"", "version", 0, "influxctl v" + simulator.LatestVersion + " linux/amd64\n", ""},
		{"nightly build", "version", 0, "nightly build\n", ""},
		{"nightly build", "--timeout 5s management list --sort id", 0, "CREATED AT", ""},
		{"2.5.0", "management list", 3, "", "No help topic for 'management'"},
		{"2.6.0", "management list", 0, "CREATED AT", ""},
		{"2.9.5", "--timeout 5s version", 1, "Incorrect Usage: flag provided but not defined: -timeout", "flag provided but not defined"},
		{"2.9.7", "--timeout 5s version", 0, "v2.9.7", ""},
		{"2.9.8", "management list --sort id", 1, "Incorrect Usage", "flag provided but not defined: -sort"},
		{"2.9.9", "management list --sort id", 0, "CREATED AT", ""},
	} {
		r := newVersionedRig(t, simulator.Sidecar{Version: c.version})
		got := r.run(strings.Fields(c.args)...)
		if got.exit != c.exit || !strings.Contains(got.stdout, c.stdout) || !strings.Contains(got.stderr, c.stderr) {
			t.Errorf("%s: %s: %+v", c.version, c.args, got)
		}
	}
}

func TestBadCommandLinesAreRefused(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		args   string
		exit   int
		stdout string
		stderr string
	}{
		{"frob", 3, "", "No help topic for 'frob'"},
		{"management frob", 3, "", "No help topic for 'frob'"},
		{"management create extra", 1, "", "too many arguments"},
		{"management list extra", 1, "", "too many arguments"},
		{"version extra", 1, "", "too many arguments"},
		{"management create --frob", 1, "Incorrect Usage: flag provided but not defined: -frob", "not defined"},
		{"management create --expires-at=tomorrow", 1, "Incorrect Usage", "tomorrow"},
		{"management create --expires-at=2040-01-02T03:04:05+0000", 1, "Incorrect Usage", "cannot parse"},
		{"management create --format yaml", 1, "", "invalid format"},
		{"management create --expires-at=2001-01-01T00:00:00Z", 1, "", "InvalidArgument"},
		{"management list --force", 1, "Incorrect Usage", "not defined: -force"},
		{"management revoke --force", 1, "", "at least one token ID"},
		{"management list --timeout 5s", 1, "Incorrect Usage", "not defined: -timeout"},
	} {
		got := r.run(strings.Fields(c.args)...)
		if got.exit != c.exit || !strings.Contains(got.stdout, c.stdout) || !strings.Contains(got.stderr, c.stderr) {
			t.Errorf("%s: %+v", c.args, got)
		}
	}
	if n := len(r.Tokens()); n != 1 {
		t.Errorf("%d tokens exist, want the root only", n)
	}
}

func TestCreateTakesOffsetsAndWholeSeconds(t *testing.T) {
	r := newRig(t)
	got := r.run("management", "create", "--description=-d", "--expires-at=2040-01-02T03:04:05.9-06:00")
	want := time.Date(2040, 1, 2, 9, 4, 5, 0, time.UTC)
	if made := r.described("-d"); got.exit != 0 || !made.ExpiresAt.Equal(want) {
		t.Errorf("expires at %v, want %v; %+v", made.ExpiresAt, want, got)
	}
	if got := r.run("management", "create", "--description=ever"); got.exit != 0 || !r.described("ever").ExpiresAt.IsZero() {
		t.Errorf("without --expires-at: %+v", got)
	}
}

func TestRevokeKillsTokens(t *testing.T) {
	r := newRig(t)
	a, b, c := r.create("a"), r.create("b"), r.create("c")
	if got := r.run("management", "revoke", "--force", a.ID, b.ID); got.exit != 0 {
		t.Fatalf("%+v", got)
	}
	for _, want := range []struct {
		id   string
		live bool
	}{{a.ID, false}, {b.ID, false}, {c.ID, true}} {
		if got, _ := r.Token(want.id); got.Live != want.live {
			t.Errorf("token %s live: %v", got.Description, got.Live)
		}
	}
	if got := r.run("management", "revoke", "--force", a.ID); got.exit != 0 {
		t.Errorf("revoking again: %+v", got)
	}
	r.SetFaults(simulator.Faults{RevokeDeadError: simulator.TextAlreadyRevoked})
	if got := r.run("management", "revoke", "--force", a.ID); got.exit != 1 || !strings.Contains(got.stderr, "already revoked") {
		t.Errorf("revoking again where that is an error: %+v", got)
	}
	if got := r.run("management", "revoke", "--force", accountID); got.exit != 1 || !strings.Contains(got.stderr, "NotFound") {
		t.Errorf("revoking an unknown ID: %+v", got)
	}
}

func TestForceAfterAnIDIsTakenForAnID(t *testing.T) {
	r := newRig(t)
	id := r.create("a").ID
	got := r.run("management", "revoke", id, "--force")
	if got.exit != 1 || !strings.Contains(got.stdout, "Revoke 2 management tokens?") || !strings.Contains(got.stderr, "EOF") {
		t.Errorf("%+v", got)
	}
	if token, _ := r.Token(id); !token.Live {
		t.Error("the token was revoked without confirmation")
	}
}

func TestRevokeGoesOnAfterAnErrorSince2_9_8(t *testing.T) {
	for version, goesOn := range map[string]bool{"2.9.7": false, "2.9.8": true, "2.12.0": true} {
		r := newVersionedRig(t, simulator.Sidecar{Version: version})
		a, b := r.create("a"), r.create("b")
		r.SetFaults(simulator.Faults{RevokeErrors: map[string]string{a.ID: simulator.TextInternal}})
		got := r.run("management", "revoke", "--force", a.ID, b.ID)
		if got.exit != 1 || !strings.Contains(got.stderr, a.ID) || !strings.Contains(got.stderr, "Internal") {
			t.Errorf("%s: %+v", version, got)
		}
		first, _ := r.Token(a.ID)
		second, _ := r.Token(b.ID)
		if !first.Live || second.Live == goesOn {
			t.Errorf("%s: first live %v, second live %v", version, first.Live, second.Live)
		}
	}
}

func TestProfilesAreReadStrictly(t *testing.T) {
	r := newRig(t)
	good := dedicatedProfile(r.Root())
	for what, c := range map[string]struct{ text, stderr string }{
		"an unknown key":        {good + "colour = 'blue'\n", "strict mode"},
		"an unknown table":      {good + "[profile.tls]\nskip_verify = true\n", "strict mode"},
		"client_secret":         {good + "[profile.auth.oauth2]\nclient_secret = 'x'\n", "strict mode"},
		"a port that is no str": {good + "port = 443\n", "cannot decode TOML integer"},
		"two of a name":         {good + good, `2 profiles called "p"`},
		"another name":          {strings.Replace(good, "'p'", "'q'", 1), `0 profiles called "p"`},
		"no product":            {strings.Replace(good, "product = 'dedicated'", "", 1), "unrecognized product"},
		"no cluster":            {strings.Replace(good, "cluster_id", "#", 1), "missing field"},
		"no host":               {"[[profile]]\nname = 'p'\nproduct = 'clustered'\n", "missing field host"},
		"broken quotes":         {good + "database = 'a\n", "parse configuration"},
	} {
		r.writeProfile(c.text)
		if got := r.run("management", "list"); got.exit != 1 || !strings.Contains(got.stderr, c.stderr) {
			t.Errorf("%s: %+v", what, got)
		}
	}
	r.writeProfile(good + "host = 'h'\nport = '443'\ndatabase = 'd'\ntoken = 't'\n[profile.tls]\ninsecure = false\ndisable = false\ncert = ''\nkey = ''\nca = ''\n" +
		"[profile.auth.token]\ntoken_file = 'f'\n[profile.auth.oauth2]\nclient_id = 'c'\nscopes = ['s']\ntoken_url = 'u'\ndevice_url = 'v'\n[profile.auth.oauth2.parameters]\naudience = 'a'\n")
	if got := r.run("management", "list"); got.exit != 0 {
		t.Errorf("every documented key: %+v", got)
	}
}

func TestDefaultConfigurationIsBelowHome(t *testing.T) {
	r := newRig(t)
	dir := filepath.Join(r.dir, ".config", "influxctl")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r.profile = filepath.Join(dir, "config.toml")
	r.writeProfile(strings.Replace(dedicatedProfile(r.Root()), "'p'", "'default'", 1))
	if got := r.exec([]string{r.path, "management", "list"}, nil); got.exit != 0 {
		t.Errorf("%+v", got)
	}
}

func TestRootTokenMustBeALivingManagementToken(t *testing.T) {
	r := newRig(t)
	dead := r.AddRoot()
	r.Kill(dead.ID)
	expired := r.AddToken(simulator.Token{ExpiresAt: r.clock.now().Add(-time.Second)})
	database := r.AddToken(simulator.Token{Kind: simulator.Database})
	for what, token := range map[string]string{
		"made up": "M.V1.nothing", "revoked": dead.Secret, "expired": expired.Secret, "for data": database.Secret,
	} {
		r.writeProfile(dedicatedProfile(token))
		before := len(r.Tokens())
		got := r.run("management", "create", "--description=x", "--expires-at="+future)
		if got.exit != 1 || !strings.Contains(got.stderr, "code = Unauthenticated") || len(r.Tokens()) != before {
			t.Errorf("%s: %+v", what, got)
		}
	}
}

func TestTokenMintedByATokenIsARootToo(t *testing.T) {
	r := newRig(t)
	r.writeProfile(dedicatedProfile(r.create("first").Secret))
	r.create("second")
}

func TestDedicatedProfileMustNameTheAccountAndCluster(t *testing.T) {
	r := newRig(t)
	got := r.run("--account", clusterID, "management", "list")
	if got.exit != 1 || !strings.Contains(got.stderr, "PermissionDenied") {
		t.Errorf("%+v", got)
	}
}

func TestWithoutACredentialTheCLIWaitsForAHuman(t *testing.T) {
	r := newRig(t)
	r.writeProfile(dedicatedProfile(""))
	got := r.run("--timeout", "20ms", "management", "list")
	if got.exit != 1 || !strings.Contains(got.stderr, "log in") || !strings.Contains(got.stderr, "DeadlineExceeded") {
		t.Errorf("%+v", got)
	}
}

func TestClusterOutOfReachIsUnavailable(t *testing.T) {
	r := newRig(t)
	r.server.Close()
	got := r.run("management", "list")
	if got.exit != 1 || !strings.Contains(got.stderr, "code = Unavailable") || !strings.Contains(got.stderr, "connection refused") {
		t.Errorf("%+v", got)
	}
	if got := r.run("version"); got.exit != 0 {
		t.Errorf("version needs no cluster: %+v", got)
	}
	r.install(simulator.Sidecar{})
	if got := r.run("management", "list"); got.exit != 1 || !strings.Contains(got.stderr, "no such host") {
		t.Errorf("without a URL: %+v", got)
	}
}

// A host that accepts connections and says nothing.
func TestTimeoutEndsTheWaitForASilentHost(t *testing.T) {
	r := newBareRig(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	r.install(simulator.Sidecar{URL: "http://" + silent.Addr().String()})
	r.writeProfile(dedicatedProfile(r.Root()))
	got := r.run("--timeout", "50ms", "management", "list")
	if got.exit != 1 || !strings.Contains(got.stderr, "DeadlineExceeded") {
		t.Errorf("%+v", got)
	}
}

func TestClusteredProfileIsReachedByHostAndPort(t *testing.T) {
	r := newBareRig(t)
	r.install(simulator.Sidecar{})
	r.server = httptest.NewServer(r.Cluster)
	t.Cleanup(r.server.Close)
	r.writeProfile(clusteredProfile(t, r) + "[profile.tls]\ndisable = true\n")
	r.create("plain")
	if n := len(r.Runs()); n != 1 {
		t.Errorf("the cluster knows of %d runs, want 1", n)
	}
	r.writeProfile(clusteredProfile(t, r))
	if got := r.run("management", "list"); got.exit != 1 || !strings.Contains(got.stderr, "authentication handshake failed: tls: first record") {
		t.Errorf("TLS where there is none: %+v", got)
	}
}

func TestClusteredProfileTrustsOnlyWhatItIsTold(t *testing.T) {
	r := newBareRig(t)
	r.install(simulator.Sidecar{})
	r.server = httptest.NewUnstartedServer(r.Cluster)
	r.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	r.server.StartTLS()
	t.Cleanup(r.server.Close)
	ca := filepath.Join(r.dir, "ca.pem")
	block := pem.Block{Type: "CERTIFICATE", Bytes: r.server.Certificate().Raw}
	if err := os.WriteFile(ca, pem.EncodeToMemory(&block), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		tls    string
		exit   int
		stderr string
	}{
		{"ca = '" + ca + "'", 0, ""},
		{"insecure = true", 0, ""},
		{"", 1, "authentication handshake failed: tls: failed to verify certificate: x509:"},
		{"ca = '" + r.profile + "'", 1, "tls.ca: no certificate"},
		{"insecure = true\ncert = '" + ca + "'\nkey = '" + ca + "'", 1, "tls.cert"},
	} {
		r.writeProfile(clusteredProfile(t, r) + "[profile.tls]\n" + c.tls + "\n")
		got := r.run("management", "list")
		if got.exit != c.exit || !strings.Contains(got.stderr, c.stderr) {
			t.Errorf("%q: %+v", c.tls, got)
		}
	}
}

func clusteredProfile(t *testing.T, r *rig) string {
	t.Helper()
	u, err := url.Parse(r.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("[[profile]]\nname = 'p'\nproduct = 'clustered'\nhost = '%s'\nport = '%s'\nmgmt_token = '%s'\n",
		u.Hostname(), u.Port(), r.Root())
}

func TestAClusterOfOneProductRefusesProfilesOfTheOther(t *testing.T) {
	r := newBareRig(t)
	r.Cluster = simulator.NewCluster(simulator.Options{Product: simulator.Dedicated})
	r.install(simulator.Sidecar{})
	r.server = httptest.NewServer(r.Cluster)
	t.Cleanup(r.server.Close)
	r.writeProfile(clusteredProfile(t, r) + "[profile.tls]\ndisable = true\n")
	if got := r.run("management", "list"); got.exit != 1 || !strings.Contains(got.stderr, "Unimplemented") {
		t.Errorf("%+v", got)
	}
}

func TestInstallCopiesWhereItCannotLinkAndReplacesTheSidecar(t *testing.T) {
	r := newRig(t)
	r.install(simulator.Sidecar{Version: "2.10.0"})
	if got := r.run("version"); !strings.Contains(got.stdout, "2.10.0") {
		t.Errorf("%+v", got)
	}
	if _, err := simulator.Install(r.dir+"/none", r.path, simulator.Sidecar{}); err == nil {
		t.Error("installing into a directory that does not exist succeeded")
	}
}

// A gigabyte arrives in full, and in little memory.
func TestGigabyteShapeIsAGigabyte(t *testing.T) {
	r := newVersionedRig(t, simulator.Sidecar{Shape: "gigabyte"})
	var stderr strings.Builder
	var n counter
	argv := r.globals("management", "create", "--description=d", "--expires-at="+future, "--format", "json")
	if exit := simulator.RunCLI(argv, r.env, nil, &n, &stderr); exit != 0 || n < 1<<30 {
		t.Errorf("exit %d after %d bytes: %s", exit, n, stderr.String())
	}
}

// A counter counts what is written.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

var _ io.Writer = (*counter)(nil)
