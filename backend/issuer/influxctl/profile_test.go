package influxctl

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

var (
	allSettings = issuer.Cluster{
		Product: issuer.Clustered, AccountID: "acc", ClusterID: "clu", Host: "h.example", Port: "8086",
		Root: issuer.NewSecret(`M.V1."quoted'\n` + "\n[[profile]]"), CACert: "CA", ClientCert: "CERT", ClientKey: issuer.NewSecret("KEY"),
		InsecureTLS: true, DisableTLS: true,
	}
	fewSettings = issuer.Cluster{Product: issuer.Dedicated, AccountID: "acc", ClusterID: "clu", Host: "h.example", Port: "8086", Root: issuer.NewSecret("M.V1.r")}
)

func TestWriteProfile_HoldsWhatTheProductNeeds(t *testing.T) {
	for _, c := range []struct {
		cluster issuer.Cluster
		want    string
		files   map[string]string
	}{
		{allSettings, `[[profile]]
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
		{fewSettings, `[[profile]]
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

func TestWriteProfile_CannotWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	for _, c := range []issuer.Cluster{{}, {CACert: "CA"}} {
		if _, err := writeProfile(dir, c); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
}

// The program reads all settings exactly as they are, and nothing else.
func FuzzWriteProfile(f *testing.F) {
	f.Add(issuer.Dedicated, "11111111-2222-4333-8444-555555555555", "", "", "M.V1.r", "", "", false, false)
	f.Add(issuer.Clustered, "", "h.example", "8086", "M.V1.\"quoted'\n\n[[profile]]\nname = 'vault'", "CA", "KEY", true, true)
	f.Add("'''", `"""`, "\\u0000", "\x7f\t\r", "#", "[profile.tls]", "\x00", false, true)
	s := &scratch{memory: memoryDir} // faster than a disk
	f.Cleanup(s.close)
	f.Fuzz(func(t *testing.T, product, id, host, port, root, ca, key string, insecure, plain bool) {
		text := func(s string) string { return strings.ToValidUTF8(s, "?") } // settings come from JSON, which is valid UTF-8
		c := issuer.Cluster{
			Product: text(product), AccountID: text(id), ClusterID: text(id), Host: text(host), Port: text(port), Root: issuer.NewSecret(text(root)),
			CACert: ca, ClientCert: ca, ClientKey: issuer.NewSecret(key), InsecureTLS: insecure, DisableTLS: plain,
		}
		dir, err := s.make()
		if err != nil {
			t.Fatal(err)
		}
		defer discard(dir)
		path, err := writeProfile(dir, c)
		if err != nil {
			t.Fatal(err)
		}
		written, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var got profileFile
		decoder := toml.NewDecoder(strings.NewReader(string(written))).DisallowUnknownFields()
		if err := decoder.Decode(&got); err != nil || len(got.Profiles) != 1 {
			t.Fatalf("%d profiles, %v, in\n%s", len(got.Profiles), err, written)
		}
		if diff := cmp.Diff(profileOf(c), withFiles(t, got.Profiles[0])); diff != "" {
			t.Error(diff)
		}
	})
}

// profileOf returns the profile that the program must read, with the contents of
// files instead of their names.
func profileOf(c issuer.Cluster) profile {
	p := profile{Name: profileName, Product: c.Product, AccountID: c.AccountID, ClusterID: c.ClusterID, MgmtToken: c.Root.Reveal()}
	if c.Product != issuer.Dedicated {
		p.Host, p.Port = c.Host, c.Port
	}
	tls := profileTLS{Insecure: c.InsecureTLS, Disable: c.DisableTLS, CA: c.CACert, Cert: c.ClientCert, Key: c.ClientKey.Reveal()}
	if tls != (profileTLS{}) {
		p.TLS = &tls
	}
	return p
}

// withFiles replaces the names of files by their contents.
func withFiles(t *testing.T, p profile) profile {
	t.Helper()
	if p.TLS == nil {
		return p
	}
	for _, name := range []*string{&p.TLS.CA, &p.TLS.Cert, &p.TLS.Key} {
		if *name == "" {
			continue
		}
		text, err := os.ReadFile(*name)
		if err != nil {
			t.Error(err)
		}
		*name = string(text)
	}
	return p
}
