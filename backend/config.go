package backend

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-uuid"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

const configKey = "config"

const configVersion = 1

// A config is the mount's configuration: the one cluster it serves.
type config struct {
	issuer.Cluster
	RootID        string    // of the root token; empty when not known
	RootExpiresAt time.Time // zero when not known, or never
	RootSince     time.Time // when the root token became that

	Rotation rotationPolicy

	// Fingerprint tells the cluster from others. It is what the cluster was
	// called when it was configured, and stays when the cluster is renamed.
	Fingerprint string
}

var defaultConfig = config{
	Cluster:  issuer.Cluster{Timeout: 30 * time.Second, MaxParallel: 4},
	Rotation: rotationPolicy{Warning: 7 * 24 * time.Hour},
}

// storedConfig is the config as it is stored, seal-wrapped, and the only place
// where the root token is written.
type storedConfig struct {
	Version       int       `json:"version"`
	Product       string    `json:"product"`
	AccountID     string    `json:"account_id,omitempty"`
	ClusterID     string    `json:"cluster_id,omitempty"`
	Host          string    `json:"host,omitempty"`
	Port          string    `json:"port,omitempty"`
	APIURL        string    `json:"api_url,omitempty"`
	MgmtToken     string    `json:"mgmt_token"`
	RootID        string    `json:"mgmt_token_id,omitempty"`
	RootExpiresAt time.Time `json:"mgmt_token_expires_at,omitzero"`
	CACert        string    `json:"ca_cert,omitempty"`
	ClientCert    string    `json:"client_cert,omitempty"`
	ClientKey     string    `json:"client_key,omitempty"`
	InsecureTLS   bool      `json:"insecure_tls,omitempty"`
	DisableTLS    bool      `json:"disable_tls,omitempty"`
	TimeoutSecs   int       `json:"request_timeout"`
	MaxParallel   int       `json:"max_parallel"`
	Fingerprint   string    `json:"fingerprint"`
	RootSince     time.Time `json:"mgmt_token_since,omitzero"`

	RotationPeriodSecs  int64  `json:"rotation_period,omitempty"`
	RotationTTLSecs     *int64 `json:"rotation_ttl,omitempty"` // absent: the default; 0: never
	RotationOverlapSecs *int64 `json:"rotation_overlap,omitempty"`
	ExpiryWarningSecs   int64  `json:"expiry_warning"`
}

func (c config) entry() (*logical.StorageEntry, error) {
	return logical.StorageEntryJSON(configKey, storedConfig{
		Version: configVersion,
		Product: c.Product, AccountID: c.AccountID, ClusterID: c.ClusterID, Host: c.Host, Port: c.Port, APIURL: c.APIURL,
		MgmtToken: c.Root.Reveal(), RootID: c.RootID, RootExpiresAt: c.RootExpiresAt,
		CACert: c.CACert, ClientCert: c.ClientCert, ClientKey: c.ClientKey.Reveal(),
		InsecureTLS: c.InsecureTLS, DisableTLS: c.DisableTLS,
		TimeoutSecs: int(c.Timeout / time.Second), MaxParallel: c.MaxParallel,
		Fingerprint: c.Fingerprint, RootSince: c.RootSince,
		RotationPeriodSecs: int64(c.Rotation.Period / time.Second), RotationTTLSecs: seconds(c.Rotation.TTL),
		RotationOverlapSecs: seconds(c.Rotation.Overlap), ExpiryWarningSecs: int64(c.Rotation.Warning / time.Second),
	})
}

func configFrom(e *logical.StorageEntry) (config, error) {
	var s storedConfig
	if err := json.Unmarshal(e.Value, &s); err != nil {
		return config{}, errors.New("the stored config is damaged") // no cause: it may quote a secret
	}
	if s.Version > configVersion {
		return config{}, fmt.Errorf("config: %w", newerVersion(s.Version))
	}
	return config{
		Cluster: issuer.Cluster{
			Product: s.Product, AccountID: s.AccountID, ClusterID: s.ClusterID, Host: s.Host, Port: s.Port, APIURL: s.APIURL,
			Root:   issuer.NewSecret(s.MgmtToken),
			CACert: s.CACert, ClientCert: s.ClientCert, ClientKey: issuer.NewSecret(s.ClientKey),
			InsecureTLS: s.InsecureTLS, DisableTLS: s.DisableTLS,
			Timeout: time.Duration(s.TimeoutSecs) * time.Second, MaxParallel: s.MaxParallel,
		},
		RootID: s.RootID, RootExpiresAt: s.RootExpiresAt, RootSince: s.RootSince, Fingerprint: s.Fingerprint,
		Rotation: rotationPolicy{
			Period: time.Duration(s.RotationPeriodSecs) * time.Second, TTL: duration(s.RotationTTLSecs),
			Overlap: duration(s.RotationOverlapSecs), Warning: time.Duration(s.ExpiryWarningSecs) * time.Second,
		},
	}, nil
}

// seconds and duration carry a setting that may be absent.
func seconds(d *time.Duration) *int64 {
	if d == nil {
		return nil
	}
	n := int64(*d / time.Second)
	return &n
}

func duration(secs *int64) *time.Duration {
	if secs == nil {
		return nil
	}
	d := time.Duration(*secs) * time.Second
	return &d
}

// loadConfig returns the stored config, or errNoConfig.
func loadConfig(ctx context.Context, s logical.Storage) (config, error) {
	entry, err := s.Get(ctx, configKey)
	if err != nil {
		return config{}, fmt.Errorf("read the config: %w", err)
	}
	if entry == nil {
		return config{}, errNoConfig
	}
	return configFrom(entry)
}

// place is where the root token is sent and what is trusted to be there.
func (c config) place() issuer.Cluster {
	return issuer.Cluster{
		Product: c.Product, Host: c.Host, Port: c.Port, APIURL: c.APIURL,
		CACert: c.CACert, InsecureTLS: c.InsecureTLS, DisableTLS: c.DisableTLS,
	}
}

// fingerprint is what the configured cluster is called now.
func (c config) fingerprint() string {
	if c.Product == issuer.Dedicated {
		return strings.ToLower(c.Product + "/" + c.AccountID + "/" + c.ClusterID)
	}
	return strings.ToLower(c.Product + "/" + net.JoinHostPort(c.Host, c.Port))
}

const (
	maxTimeout  = 40 * time.Second
	mostAtATime = 64
)

// validate checks everything that can be judged without asking the cluster.
// Its error names the field and is fit for users.
func (c config) validate() error {
	switch {
	case c.Root.IsZero():
		return errors.New("mgmt_token is required: the management token that mints the others")
	case len(c.Root.Reveal()) > 4096 || !tokenPattern.MatchString(c.Root.Reveal()):
		return errors.New("mgmt_token is not a token: it must be one word of printable ASCII")
	case c.Timeout < time.Second || c.Timeout > maxTimeout:
		return fmt.Errorf("request_timeout must be between 1s and %s, so that a revocation and the list after it fit into Vault's 90s", maxTimeout)
	case c.MaxParallel < 1 || c.MaxParallel > mostAtATime:
		return fmt.Errorf("max_parallel must be between 1 and %d", mostAtATime)
	}
	return errors.Join(c.validateCluster(), c.validateTLS(), c.Rotation.validate())
}

var tokenPattern = regexp.MustCompile(`^[!-~]+$`)

func (c config) validateCluster() error {
	for _, id := range []struct{ field, value string }{
		{"account_id", c.AccountID}, {"cluster_id", c.ClusterID}, {"mgmt_token_id", c.RootID},
	} {
		if id.value == "" {
			continue
		}
		if _, err := uuid.ParseUUID(id.value); err != nil {
			return fmt.Errorf("%s must be a UUID, like 00000000-0000-0000-0000-000000000000", id.field)
		}
	}
	switch c.Product {
	case issuer.Dedicated:
		if c.AccountID == "" || c.ClusterID == "" {
			return errors.New("account_id and cluster_id are required for product=dedicated")
		}
	case issuer.Clustered:
		if c.Host == "" {
			return errors.New("host is required for product=clustered")
		}
	case "":
		return errors.New("product is required: dedicated (InfluxDB 3 Cloud Dedicated) or clustered (InfluxDB Clustered)")
	default:
		return errors.New("product must be dedicated (InfluxDB 3 Cloud Dedicated) or clustered (InfluxDB Clustered)")
	}
	return c.validateAddress()
}

var hostPattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$`)

func (c config) validateAddress() error {
	if c.Host != "" && net.ParseIP(c.Host) == nil && !hostPattern.MatchString(c.Host) {
		return errors.New("host must be a host name or an address alone, like cluster.example.com; a port goes into port")
	}
	if n, err := strconv.Atoi(c.Port); c.Port != "" && (err != nil || n < 1 || n > 65535) {
		return errors.New("port must be a number between 1 and 65535")
	}
	if c.APIURL == "" {
		return nil
	}
	u, err := url.Parse(c.APIURL)
	if err != nil || u.Hostname() == "" || (&url.URL{Scheme: u.Scheme, Host: u.Host}).String() != c.APIURL {
		return errors.New("api_url must be an origin and no more, like https://cluster.example.com")
	}
	if u.Scheme == "https" || u.Scheme == "http" && (c.DisableTLS || isLoopback(u.Hostname())) {
		return nil
	}
	return errors.New("api_url must begin with https://; http:// goes with disable_tls, or with an address of this machine's own")
}

// isLoopback reports whether what is sent to host stays on the machine.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (c config) validateTLS() error {
	if c.DisableTLS && c.Product == issuer.Dedicated {
		return errors.New("disable_tls is for product=clustered only: it would send the root token in plain text over the internet")
	}
	if c.DisableTLS && (c.InsecureTLS || c.CACert != "" || c.ClientCert != "") {
		return errors.New("disable_tls excludes insecure_tls, ca_cert and client_cert: without TLS they have no effect")
	}
	if c.CACert != "" {
		if err := checkCertificates(c.CACert); err != nil {
			return fmt.Errorf("ca_cert: %w", err)
		}
	}
	if (c.ClientCert == "") != c.ClientKey.IsZero() {
		return errors.New("client_cert and client_key go together")
	}
	if c.ClientCert != "" {
		if _, err := tls.X509KeyPair([]byte(c.ClientCert), []byte(c.ClientKey.Reveal())); err != nil {
			return errors.New("client_cert and client_key must be a certificate and its private key, in PEM")
		}
	}
	return nil
}

// checkCertificates proves that text is PEM and holds certificates only.
func checkCertificates(text string) error {
	rest, n := []byte(text), 0
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return errors.New("must hold certificates only, in PEM")
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("certificate %d cannot be parsed", n+1)
		}
		n++
	}
	if n == 0 {
		return errors.New("must be one certificate or more, in PEM")
	}
	return nil
}

// warnings says what an operator should know although the config is accepted.
func (c config) warnings() (w []string) {
	if !strings.HasPrefix(c.Root.Reveal(), "M.V") {
		w = append(w, "mgmt_token does not look like a management token, which begins with M.V1.; a database token cannot mint others.")
	}
	if c.InsecureTLS {
		w = append(w, "insecure_tls is set: whoever can answer in the cluster's place gets the root token. Set ca_cert instead.")
	}
	if c.Rotation.TTL != nil && *c.Rotation.TTL == 0 {
		w = append(w, "rotation_ttl is 0: new root tokens never expire, and one that is lost lives for ever.")
	}
	if c.DisableTLS {
		w = append(w, "disable_tls is set: the root token travels in plain text.")
	}
	return w
}
