package influxctl

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/pelletier/go-toml/v2"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// A profileFile is the file that --config names. The program refuses a file with
// a key that it does not know, so only keys that the product needs are written.
// See docs/vendor-facts.md, "profile-keys".
type profileFile struct {
	Profiles []profile `toml:"profile"`
}

type profile struct {
	Name      string      `toml:"name"`
	Product   string      `toml:"product"`
	AccountID string      `toml:"account_id,omitempty"`
	ClusterID string      `toml:"cluster_id,omitempty"`
	Host      string      `toml:"host,omitempty"`
	Port      string      `toml:"port,omitempty"` // a string in the file, too
	MgmtToken string      `toml:"mgmt_token"`
	TLS       *profileTLS `toml:"tls,omitempty"`
}

// A profileTLS holds the names of certificate files.
type profileTLS struct {
	Insecure bool   `toml:"insecure,omitempty"`
	Disable  bool   `toml:"disable,omitempty"`
	Cert     string `toml:"cert,omitempty"`
	Key      string `toml:"key,omitempty"`
	CA       string `toml:"ca,omitempty"`
}

// writeProfile writes the profile of a cluster into the private directory dir
// and returns its path. The file is the only place outside this process that
// holds the root credential.
func writeProfile(dir string, c issuer.Cluster) (string, error) {
	tls, err := writeTLS(dir, c)
	if err != nil {
		return "", err
	}
	p := profile{
		Name:      profileName,
		Product:   c.Product,
		AccountID: c.AccountID,
		ClusterID: c.ClusterID,
		MgmtToken: c.Root.Reveal(),
		TLS:       tls,
	}
	if c.Product != issuer.Dedicated { // which has a fixed address
		p.Host, p.Port = c.Host, c.Port
	}
	text, err := toml.Marshal(profileFile{[]profile{p}})
	if err != nil {
		return "", fmt.Errorf("marshal the profile: %w", err)
	}
	return writePrivate(dir, "profile.toml", text)
}

// writeTLS writes the certificates. It returns nil if the profile needs no TLS
// section.
func writeTLS(dir string, c issuer.Cluster) (*profileTLS, error) {
	tls := profileTLS{Insecure: c.InsecureTLS, Disable: c.DisableTLS}
	for _, pem := range []struct {
		name, text string
		path       *string
	}{
		{"ca.pem", c.CACert, &tls.CA},
		{"cert.pem", c.ClientCert, &tls.Cert},
		{"key.pem", c.ClientKey.Reveal(), &tls.Key},
	} {
		if pem.text == "" {
			continue
		}
		path, err := writePrivate(dir, pem.name, []byte(pem.text))
		if err != nil {
			return nil, err
		}
		*pem.path = path
	}
	if tls == (profileTLS{}) {
		return nil, nil
	}
	return &tls, nil
}

func writePrivate(dir, name string, text []byte) (string, error) {
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return "", fmt.Errorf("write the profile: %w", err)
	}
	return path, nil
}
