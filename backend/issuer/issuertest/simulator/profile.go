package simulator

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/pelletier/go-toml/v2"
)

// A configuration is the file with the connection profiles. The command refuses
// unknown keys since 2.0.1, so all documented keys are here.
type configuration struct {
	Profile []profile `toml:"profile"`
}

type profile struct {
	Name      string      `toml:"name"`
	Product   string      `toml:"product"`
	AccountID string      `toml:"account_id"`
	ClusterID string      `toml:"cluster_id"`
	Host      string      `toml:"host"`
	Port      string      `toml:"port"`
	Database  string      `toml:"database"`
	Token     string      `toml:"token"`
	MgmtToken string      `toml:"mgmt_token"`
	TLS       profileTLS  `toml:"tls"`
	Auth      profileAuth `toml:"auth"`
}

// profileTLS contains paths of PEM files.
type profileTLS struct {
	Insecure bool   `toml:"insecure"`
	Disable  bool   `toml:"disable"`
	Cert     string `toml:"cert"`
	Key      string `toml:"key"`
	CA       string `toml:"ca"`
}

type profileAuth struct {
	Token struct {
		TokenFile string `toml:"token_file"`
	} `toml:"token"`
	OAuth2 struct {
		ClientID   string            `toml:"client_id"`
		Scopes     []string          `toml:"scopes"`
		Parameters map[string]string `toml:"parameters"`
		TokenURL   string            `toml:"token_url"`
		DeviceURL  string            `toml:"device_url"`
	} `toml:"oauth2"`
}

// readProfile returns the profile name of the file at path.
func readProfile(path, name string) (profile, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return profile{}, fmt.Errorf("read configuration: %w", err)
	}
	var config configuration
	decoder := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := decoder.Decode(&config); err != nil {
		return profile{}, fmt.Errorf("parse configuration: %w", err)
	}
	var found []profile
	for _, p := range config.Profile {
		if p.Name == name {
			found = append(found, p)
		}
	}
	if len(found) != 1 {
		return profile{}, fmt.Errorf("configuration has %d profiles with the name %q", len(found), name)
	}
	return found[0], found[0].check()
}

// check checks that the profile has what the product needs.
func (p profile) check() error {
	switch {
	case p.MgmtToken == "":
		return errors.New("profile: missing field mgmt_token: the simulator has no login in a browser")
	case p.Product == Dedicated && (p.AccountID == "" || p.ClusterID == ""):
		return errors.New("profile: missing field account_id or cluster_id")
	case p.Product == Clustered && p.Host == "":
		return errors.New("profile: missing field host")
	case p.Product != Dedicated && p.Product != Clustered:
		return fmt.Errorf("profile: unrecognized product %q", p.Product)
	}
	return nil
}
