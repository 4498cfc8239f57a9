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

func TestRevoke_RevokesTokens(t *testing.T) {
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

func TestRevoke_ContinuesAfterErrorSince2_9_8(t *testing.T) {
	for version, continues := range map[string]bool{"2.9.7": false, "2.9.8": true, "2.12.0": true} {
		r := newRigWith(t, simulator.Sidecar{Version: version})
		a, b := r.create("a"), r.create("b")
		r.SetFaults(simulator.Faults{RevokeErrors: map[string]string{a.ID: simulator.TextInternal}})
		got := r.run("management", "revoke", "--force", a.ID, b.ID)
		if got.exit != 1 || !strings.Contains(got.stderr, a.ID) || !strings.Contains(got.stderr, "Internal") {
			t.Errorf("%s: %+v", version, got)
		}
		first, _ := r.Token(a.ID)
		second, _ := r.Token(b.ID)
		if !first.Live || second.Live == continues {
			t.Errorf("%s: first live %v, second live %v", version, first.Live, second.Live)
		}
	}
}

func TestProfile_IsParsedStrictly(t *testing.T) {
	r := newRig(t)
	good := dedicatedProfile(r.Root())
	for what, c := range map[string]struct{ text, stderr string }{
		"an unknown key":          {good + "color = 'blue'\n", "strict mode"},
		"an unknown table":        {good + "[profile.tls]\nskip_verify = true\n", "strict mode"},
		"client_secret":           {good + "[profile.auth.oauth2]\nclient_secret = 'x'\n", "strict mode"},
		"a port that is a number": {good + "port = 443\n", "cannot decode TOML integer"},
		"two of a name":           {good + good, `2 profiles with the name "p"`},
		"another name":            {strings.Replace(good, "'p'", "'q'", 1), `0 profiles with the name "p"`},
		"no product":              {strings.Replace(good, "product = 'dedicated'", "", 1), "unrecognized product"},
		"no cluster":              {strings.Replace(good, "cluster_id", "#", 1), "missing field"},
		"no host":                 {"[[profile]]\nname = 'p'\nproduct = 'clustered'\nmgmt_token = 'x'\n", "missing field host"},
		"no token":                {dedicatedProfile(""), "missing field mgmt_token"},
		"broken quotes":           {good + "database = 'a\n", "parse configuration"},
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

func TestProfile_DefaultPathIsBelowHome(t *testing.T) {
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

func TestProfile_TokenMustBeAValidManagementToken(t *testing.T) {
	r := newRig(t)
	dead := r.AddToken(simulator.Token{RevokedAt: r.clock.now()})
	expired := r.AddToken(simulator.Token{ExpiresAt: r.clock.now().Add(-time.Second)})
	database := r.AddToken(simulator.Token{Kind: simulator.Database})
	for what, token := range map[string]string{
		"unknown": "M.V1.nothing", "revoked": dead.Secret, "expired": expired.Secret, "database token": database.Secret,
	} {
		r.writeProfile(dedicatedProfile(token))
		before := len(r.Tokens())
		got := r.run("management", "create", "--description=x", "--expires-at="+future)
		if got.exit != 1 || !strings.Contains(got.stderr, "code = Unauthenticated") || len(r.Tokens()) != before {
			t.Errorf("%s: %+v", what, got)
		}
	}
}

func TestCreate_WithACreatedToken(t *testing.T) {
	r := newRig(t)
	r.writeProfile(dedicatedProfile(r.create("first").Secret))
	r.create("second")
}

func TestProfile_OfAnotherCluster(t *testing.T) {
	r := newRig(t)
	r.writeProfile(strings.ReplaceAll(dedicatedProfile(r.Root()), accountID, clusterID))
	got := r.run("management", "list")
	if got.exit != 1 || !strings.Contains(got.stderr, "PermissionDenied") {
		t.Errorf("%+v", got)
	}
}

func TestCLI_ClusterNotReachable(t *testing.T) {
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

// The host accepts connections and sends nothing.
func TestCLI_TimeoutEndsWaitForSilentHost(t *testing.T) {
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

func TestClustered_UsesHostAndPort(t *testing.T) {
	r := newBareRig(t)
	r.install(simulator.Sidecar{})
	r.server = httptest.NewServer(r.Cluster)
	t.Cleanup(r.server.Close)
	r.writeProfile(clusteredProfile(t, r) + "[profile.tls]\ndisable = true\n")
	r.create("plain")
	if n := len(r.Runs()); n != 1 {
		t.Errorf("the cluster has recorded %d runs, want 1", n)
	}
	r.writeProfile(clusteredProfile(t, r))
	if got := r.run("management", "list"); got.exit != 1 || !strings.Contains(got.stderr, "authentication handshake failed: tls: first record") {
		t.Errorf("TLS where there is none: %+v", got)
	}
}

func TestClustered_VerifiesCertificate(t *testing.T) {
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

func TestCluster_RefusesProfileOfOtherProduct(t *testing.T) {
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

func TestInstall_ReplacesSidecar(t *testing.T) {
	r := newRig(t)
	r.install(simulator.Sidecar{Version: "2.10.0"})
	if got := r.run("version"); !strings.Contains(got.stdout, "2.10.0") {
		t.Errorf("%+v", got)
	}
	if _, err := simulator.Install(r.dir+"/none", r.path, simulator.Sidecar{}); err == nil {
		t.Error("installing into a directory that does not exist succeeded")
	}
}

func TestShapes_Gigabyte(t *testing.T) {
	r := newRigWith(t, simulator.Sidecar{Shape: "gigabyte"})
	var stderr strings.Builder
	var n counter
	argv := r.argv("management", "create", "--description=d", "--expires-at="+future, "--format", "json")
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

func TestSidecar_BadVersion(t *testing.T) {
	r := newRigWith(t, simulator.Sidecar{Version: "nightly"})
	if got := r.run("version"); got.exit != 1 || !strings.Contains(got.stderr, `version "nightly" in influxsim.json`) {
		t.Errorf("%+v", got)
	}
}
