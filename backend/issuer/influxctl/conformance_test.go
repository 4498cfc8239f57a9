//go:build linux

package influxctl

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
)

// A testCluster is a real or simulated cluster to test, with its program.
type testCluster struct {
	*testing.T
	driver *Driver
	target issuer.Cluster
	real   bool
	name   string
}

// openTestCluster returns the cluster of an influxctl profile with the program of
// $INFLUXCTL_PATH. $INFLUXCTL_CONFIG is the file with the profile, and
// $INFLUXCTL_PROFILE the name of the profile, by default "default". Without
// $INFLUXCTL_CONFIG it returns a simulated cluster.
func openTestCluster(t *testing.T) *testCluster {
	t.Helper()
	file := os.Getenv("INFLUXCTL_CONFIG")
	if file == "" {
		s := simulate(t, simulator.Dedicated, simulator.Sidecar{})
		return &testCluster{t, s.driver, s.target, false, "the SIMULATOR, which proves nothing about a real cluster; to test a real one, " +
			"set INFLUXCTL_CONFIG to the config.toml of an influxctl, INFLUXCTL_PROFILE to a profile in it, and INFLUXCTL_PATH to the program"}
	}
	name := cmp.Or(os.Getenv("INFLUXCTL_PROFILE"), "default")
	target, err := readProfile(file, name)
	if err != nil {
		t.Fatal(err)
	}
	program := os.Getenv("INFLUXCTL_PATH")
	driver := newDriver(t, Config{Path: program})
	return &testCluster{t, driver, target, true, fmt.Sprintf("the cluster of profile %s, with %s", name, cmp.Or(program, "influxctl on PATH"))}
}

// readProfile reads a profile from a config.toml of influxctl.
func readProfile(file, name string) (issuer.Cluster, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return issuer.Cluster{}, err
	}
	var all profileFile
	if err := toml.Unmarshal(text, &all); err != nil {
		return issuer.Cluster{}, fmt.Errorf("%s is not TOML, or not a config.toml of influxctl", file) // the cause would quote the file
	}
	for _, p := range all.Profiles {
		if p.Name != name {
			continue
		}
		if p.MgmtToken == "" {
			return issuer.Cluster{}, fmt.Errorf("profile %s of %s has no mgmt_token, which the tests need", name, file)
		}
		return p.cluster()
	}
	return issuer.Cluster{}, fmt.Errorf("%s has no profile %s", file, name)
}

// cluster returns the cluster of the profile.
func (p profile) cluster() (issuer.Cluster, error) {
	c := issuer.Cluster{
		Product: p.Product, AccountID: p.AccountID, ClusterID: p.ClusterID, Host: p.Host, Port: p.Port,
		Root: issuer.NewSecret(p.MgmtToken), Timeout: 30 * time.Second, MaxParallel: 4,
	}
	if p.TLS == nil {
		return c, nil
	}
	c.InsecureTLS, c.DisableTLS = p.TLS.Insecure, p.TLS.Disable
	var key string
	for path, target := range map[string]*string{p.TLS.CA: &c.CACert, p.TLS.Cert: &c.ClientCert, p.TLS.Key: &key} {
		if path == "" {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return c, err
		}
		*target = string(text)
	}
	c.ClientKey = issuer.NewSecret(key)
	return c, nil
}

func TestRealCluster_Conforms(t *testing.T) {
	t.Log("testing " + openTestCluster(t).name)
	issuertest.Run(t, func(t *testing.T) issuertest.Subject {
		s := openTestCluster(t)
		refused := s.target
		refused.Root = issuer.NewSecret("M.V1.not+the+root+token+Aa1")
		return issuertest.Subject{
			Issuer: s.driver.Open(s.target), Refused: s.driver.Open(refused), Secrets: []issuer.Secret{s.target.Root, refused.Root},
		}
	})
}

func TestReadProfile(t *testing.T) {
	dir := t.TempDir()
	file, ca := filepath.Join(dir, "config.toml"), filepath.Join(dir, "ca.pem")
	for name, text := range map[string]string{ca: "CA", file: `
[[profile]]
  name = "default"
  product = "dedicated"
  account_id = "a"
  cluster_id = "c"
  database = "d"
  [profile.auth.oauth2]
    client_id = "i"
[[profile]]
  name = "mine"
  product = "clustered"
  host = "h.example"
  port = "8086"
  mgmt_token = "M.V1.r"
  [profile.tls]
    ca = "` + ca + `"
`} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := issuer.Cluster{
		Product: issuer.Clustered, Host: "h.example", Port: "8086", Root: issuer.NewSecret("M.V1.r"), CACert: "CA",
		Timeout: 30 * time.Second, MaxParallel: 4,
	}
	if got, err := readProfile(file, "mine"); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, name := range []string{"default", "theirs"} {
		if got, err := readProfile(file, name); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
