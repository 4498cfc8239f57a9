package influxctl

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

var (
	everything = issuer.Cluster{
		Product: issuer.Clustered, AccountID: "acc", ClusterID: "clu", Host: "h.example", Port: "8086",
		Root: issuer.NewSecret(`M.V1."quoted'\n` + "\n[[profile]]"), CACert: "CA", ClientCert: "CERT", ClientKey: issuer.NewSecret("KEY"),
		InsecureTLS: true, DisableTLS: true,
	}
	needed = issuer.Cluster{Product: issuer.Dedicated, AccountID: "acc", ClusterID: "clu", Host: "h.example", Port: "8086", Root: issuer.NewSecret("M.V1.r")}
)

func TestAProfileHoldsWhatTheProductNeeds(t *testing.T) {
	for _, c := range []struct {
		cluster issuer.Cluster
		want    string
		files   map[string]string
	}{
		{everything, `[[profile]]
name = 'vault'
product = 'clustered'
account_id = 'acc'
cluster_id = 'clu'
host = 'h.example'
port = '8086'
mgmt_token = "M.V1.\"quoted'\\n\n[[profile]]"

[profile.tls]
insecure = true
disable = true
cert = 'DIR/cert.pem'
key = 'DIR/key.pem'
ca = 'DIR/ca.pem'
`, map[string]string{"ca.pem": "CA", "cert.pem": "CERT", "key.pem": "KEY"}},
		{needed, `[[profile]]
name = 'vault'
product = 'dedicated'
account_id = 'acc'
cluster_id = 'clu'
mgmt_token = 'M.V1.r'
`, map[string]string{}},
	} {
		dir := t.TempDir()
		path, err := writeProfile(dir, c.cluster)
		if err != nil {
			t.Fatal(err)
		}
		files := readAll(t, dir)
		got := strings.ReplaceAll(files[filepath.Base(path)], dir, "DIR")
		delete(files, filepath.Base(path))
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(c.files, files); diff != "" {
			t.Error(diff)
		}
	}
}

// readAll reads the files of a directory and fails unless they are private.
func readAll(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		info, infoErr := e.Info()
		if err != nil || infoErr != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v, %v", e.Name(), err, infoErr, info.Mode())
		}
		files[e.Name()] = string(text)
	}
	return files
}

func TestAProfileThatCannotBeWrittenIsAnError(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	for _, c := range []issuer.Cluster{{}, {CACert: "CA"}} {
		if _, err := writeProfile(dir, c); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
}
