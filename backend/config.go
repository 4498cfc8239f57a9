package backend

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
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
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
)

const configKey = "config"

const configVersion = 1

// A config is the configuration of a mount: one cluster and its root credential.
type config struct {
	issuer.Cluster
	RootID        string    // empty if it is not known
	RootKnown     bool      // a list has confirmed RootID and RootExpiresAt
	RootExpiresAt time.Time // zero: never, if RootKnown
	RootSince     time.Time // when this root credential was written or rotated
	RootAccessor  string    // of a root credential that the engine issued; else empty

	Rotation rotationPolicy

	// Fingerprint identifies the cluster in records. It is made of the names
	// that the cluster had when it was configured first, and does not change
	// when it gets new ones.
	Fingerprint string
}

var defaultConfig = config{
	Cluster:  issuer.Cluster{Timeout: 30 * time.Second, MaxParallel: 4},
	Rotation: rotationPolicy{Warning: 7 * 24 * time.Hour},
}

// storedConfig is the stored form of a config. The entry is seal-wrapped. Only
// this entry and a rotation under way hold a root credential.
type storedConfig struct {
	Version       int       `json:"version"`
	Product       string    `json:"product"`
	AccountID     string    `json:"account_id,omitempty"`
	ClusterID     string    `json:"cluster_id,omitempty"`
	Host          string    `json:"host,omitempty"`
	Port          string    `json:"port,omitempty"`
	APIURL        string    `json:"api_url,omitempty"`
	UUID          string    `json:"cluster_uuid,omitempty"`
	Root          string    `json:"root_credential,omitempty"`
	RootID        string    `json:"root_id,omitempty"`
	RootKnown     bool      `json:"root_known,omitempty"`
	RootExpiresAt time.Time `json:"root_expires_at,omitzero"`
	RootSince     time.Time `json:"root_since,omitzero"`
	RootAccessor  string    `json:"root_accessor,omitempty"`
	CACert        string    `json:"ca_cert,omitempty"`
	ClientCert    string    `json:"client_cert,omitempty"`
	ClientKey     string    `json:"client_key,omitempty"`
	InsecureTLS   bool      `json:"insecure_tls,omitempty"`
	DisableTLS    bool      `json:"disable_tls,omitempty"`
	TimeoutSecs   int       `json:"request_timeout"`
	MaxParallel   int       `json:"max_parallel"`
	Fingerprint   string    `json:"fingerprint"`

	RotationPeriodSecs  int64  `json:"rotation_period,omitempty"`
	RotationCron        string `json:"rotation_schedule,omitempty"`
	RotationWindowSecs  int64  `json:"rotation_window,omitempty"`
	RotationDisabled    bool   `json:"disable_automated_rotation,omitempty"`
	RotationTTLSecs     *int64 `json:"rotation_ttl,omitempty"` // absent: the default; 0: never expires
	RotationOverlapSecs *int64 `json:"rotation_overlap,omitempty"`
	ExpiryWarningSecs   int64  `json:"expiry_warning"`
}

func (c config) stored() storedConfig {
	return storedConfig{
		Version: configVersion,
		Product: c.Product, AccountID: c.AccountID, ClusterID: c.ClusterID, Host: c.Host, Port: c.Port, APIURL: c.APIURL, UUID: c.UUID,
		Root: c.Root.Reveal(), RootID: c.RootID, RootKnown: c.RootKnown, RootExpiresAt: c.RootExpiresAt,
		RootSince: c.RootSince, RootAccessor: c.RootAccessor,
		CACert: c.CACert, ClientCert: c.ClientCert, ClientKey: c.ClientKey.Reveal(),
		InsecureTLS: c.InsecureTLS, DisableTLS: c.DisableTLS,
		TimeoutSecs: int(c.Timeout / time.Second), MaxParallel: c.MaxParallel, Fingerprint: c.Fingerprint,
		RotationPeriodSecs: int64(c.Rotation.Schedule.Period / time.Second), RotationCron: c.Rotation.Schedule.Cron,
		RotationWindowSecs: int64(c.Rotation.Schedule.Window / time.Second), RotationDisabled: c.Rotation.Disabled, RotationTTLSecs: seconds(c.Rotation.TTL),
		RotationOverlapSecs: seconds(c.Rotation.Overlap), ExpiryWarningSecs: int64(c.Rotation.Warning / time.Second),
	}
}

func (s storedConfig) config() (config, error) {
	if s.Version > configVersion {
		return config{}, fmt.Errorf("config: %w", newerVersion(s.Version))
	}
	return config{
		Cluster: issuer.Cluster{
			Product: s.Product, AccountID: s.AccountID, ClusterID: s.ClusterID, Host: s.Host, Port: s.Port, APIURL: s.APIURL, UUID: s.UUID,
			Root:   issuer.NewSecret(s.Root),
			CACert: s.CACert, ClientCert: s.ClientCert, ClientKey: issuer.NewSecret(s.ClientKey),
			InsecureTLS: s.InsecureTLS, DisableTLS: s.DisableTLS,
			Timeout: time.Duration(s.TimeoutSecs) * time.Second, MaxParallel: s.MaxParallel,
		},
		RootID: s.RootID, RootKnown: s.RootKnown, RootExpiresAt: s.RootExpiresAt,
		RootSince: s.RootSince, RootAccessor: s.RootAccessor, Fingerprint: s.Fingerprint,
		Rotation: rotationPolicy{
			Schedule: schedule{
				Period: time.Duration(s.RotationPeriodSecs) * time.Second, Cron: s.RotationCron, Window: time.Duration(s.RotationWindowSecs) * time.Second,
			},
			Disabled: s.RotationDisabled, TTL: duration(s.RotationTTLSecs),
			Overlap: duration(s.RotationOverlapSecs), Warning: time.Duration(s.ExpiryWarningSecs) * time.Second,
		},
	}, nil
}

func (c config) entry() (*logical.StorageEntry, error) {
	return logical.StorageEntryJSON(configKey, c.stored())
}

func configFrom(e *logical.StorageEntry) (config, error) {
	var s storedConfig
	if err := json.Unmarshal(e.Value, &s); err != nil {
		return config{}, errors.New("the stored config is damaged") // the cause may quote a secret
	}
	return s.config()
}

// putConfig stores c. The caller holds configMu.
func putConfig(ctx context.Context, s logical.Storage, c config) error {
	entry, err := c.entry()
	if err != nil {
		return err
	}
	return s.Put(ctx, entry)
}

// newerVersion refuses an entry that a newer plugin has stored.
func newerVersion(v int) error {
	return fmt.Errorf("%w (format %d): run that version or a later one", ledger.ErrNewer, v)
}

// seconds and duration convert a setting that may be absent.
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

// place is where the root credential is sent, and what proves the identity of the
// server there.
func (c config) place() issuer.Cluster {
	return issuer.Cluster{
		Product: c.Product, Host: c.Host, Port: c.port(), APIURL: c.APIURL,
		CACert: c.CACert, InsecureTLS: c.InsecureTLS, DisableTLS: c.DisableTLS,
	}
}

// placeDigest identifies the place of c.
func (c config) placeDigest() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%#v", c.place())) // which quotes texts
	return hex.EncodeToString(sum[:])
}

// currentFingerprint is the fingerprint made of the names that the cluster has
// now.
func (c config) currentFingerprint() string {
	if c.Product == issuer.Dedicated {
		return strings.ToLower(c.Product + "/" + c.AccountID + "/" + c.ClusterID)
	}
	return strings.ToLower(c.Product + "/" + net.JoinHostPort(c.Host, c.port()))
}

// port is the port of the cluster. It is empty if only the driver knows it.
func (c config) port() string { return cmp.Or(c.Port, c.product().defaultPort) }

// url is the origin at which the cluster reads and writes data. It is empty if the
// config does not say where that is.
func (c config) url() string {
	if c.Host == "" {
		return ""
	}
	u := url.URL{Scheme: "https", Host: c.Host}
	if c.DisableTLS {
		u.Scheme = "http"
	}
	switch port := c.port(); {
	case port != "":
		u.Host = net.JoinHostPort(c.Host, port)
	case strings.Contains(c.Host, ":"):
		u.Host = "[" + c.Host + "]"
	}
	return u.String()
}

// productOf returns the product of the cluster that a fingerprint identifies.
func productOf(fingerprint string) string {
	product, _, _ := strings.Cut(fingerprint, "/")
	return product
}

// rootField is the name of the parameter that holds the root credential. With a
// suffix, it is the name of what answers say about the credential.
func (c config) rootField() string { return c.product().credential.name }

const (
	maxTimeout  = 40 * time.Second
	maxParallel = 64
	maxRoot     = 4096 // characters of a root credential
)

// validate checks what can be checked without the cluster. Its error names the
// field and is written for users.
func (c config) validate() error {
	p, known := productNamed(c.Product)
	root := c.Root.Reveal()
	switch {
	case c.Product == "":
		return errors.New("product is required: " + listProducts())
	case !known:
		return errors.New("product must be " + listProducts())
	case root == "":
		return fmt.Errorf("%s is required: the %s that issues and revokes the others", c.rootField(), p.credential.noun)
	case c.Timeout < time.Second || c.Timeout > maxTimeout:
		return fmt.Errorf("request_timeout must be between 1s and %s, so that a revocation and the list after it fit into Vault's 90s", maxTimeout)
	case c.MaxParallel < 1 || c.MaxParallel > maxParallel:
		return fmt.Errorf("max_parallel must be between 1 and %d", maxParallel)
	}
	if err := p.checkCredential(root); err != nil {
		return err
	}
	return errors.Join(c.validateCluster(), c.validateTLS(), c.Rotation.validate(), p.checkRotation(c.Rotation))
}

var tokenPattern = regexp.MustCompile(`^[!-~]+$`)

func (c config) validateCluster() error {
	p := c.product()
	for _, id := range []struct{ field, value string }{
		{"account_id", c.AccountID}, {"cluster_id", c.ClusterID}, {"mgmt_token_id", c.RootID},
	} {
		if id.value == "" || p.foreign[id.field] != "" {
			continue
		}
		if _, err := uuid.ParseUUID(id.value); err != nil {
			return fmt.Errorf("%s must be a UUID, like 00000000-0000-0000-0000-000000000000", id.field)
		}
	}
	given := map[string]string{"account_id": c.AccountID, "cluster_id": c.ClusterID, "host": c.Host}
	for _, field := range p.required {
		if given[field] == "" {
			return fmt.Errorf("%s for product=%s", areRequired(p.required), p.name)
		}
	}
	return c.validateAddress()
}

// areRequired says that parameters are required.
func areRequired(parameters []string) string {
	if len(parameters) == 1 {
		return parameters[0] + " is required"
	}
	return strings.Join(parameters, " and ") + " are required"
}

var hostPattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$`)

func (c config) validateAddress() error {
	if c.Host != "" && net.ParseIP(c.Host) == nil && !hostPattern.MatchString(c.Host) {
		return errors.New("host must be a host name or an IP address, like cluster.example.com; the port belongs into port")
	}
	if n, err := strconv.Atoi(c.Port); c.Port != "" && (err != nil || n < 1 || n > 65535) {
		return errors.New("port must be a number between 1 and 65535")
	}
	if c.APIURL == "" {
		return nil
	}
	u, err := url.Parse(c.APIURL)
	if err != nil || u.Hostname() == "" || (&url.URL{Scheme: u.Scheme, Host: u.Host}).String() != c.APIURL {
		return errors.New("api_url must be an origin without a path, like https://cluster.example.com")
	}
	if u.Scheme == "https" || u.Scheme == "http" && (c.DisableTLS || isLoopback(u.Hostname())) {
		return nil
	}
	return errors.New("api_url must begin with https://; http:// is allowed with disable_tls, or for a loopback address")
}

// isLoopback reports whether host is this machine.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (c config) validateTLS() error {
	if c.DisableTLS {
		if err := c.product().checkPlainText(c.Host); err != nil {
			return err
		}
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
		return errors.New("client_cert and client_key must be set together")
	}
	if c.ClientCert != "" {
		if _, err := tls.X509KeyPair([]byte(c.ClientCert), []byte(c.ClientKey.Reveal())); err != nil {
			return errors.New("client_cert and client_key must be a certificate and its private key, in PEM")
		}
	}
	return nil
}

// checkCertificates checks that text is PEM and holds only certificates.
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

// warnings returns what an operator should know although the config is accepted.
func (c config) warnings() (w []string) {
	if credential := c.product().credential; !strings.HasPrefix(c.Root.Reveal(), credential.begins) {
		w = append(w, fmt.Sprintf("%[1]s does not look like a token of this kind: a %[2]s begins with %[3]s. Other tokens cannot issue tokens.", credential.name, credential.noun, credential.begins))
	}
	if c.InsecureTLS {
		w = append(w, "insecure_tls is set: anyone who can answer in place of the cluster receives the root credential. Set ca_cert instead.")
	}
	if c.Rotation.TTL != nil && *c.Rotation.TTL == 0 {
		w = append(w, "rotation_ttl is 0: new root credentials never expire. One that is lost stays valid until it is revoked.")
	}
	if c.DisableTLS && !isLoopback(c.Host) {
		w = append(w, "disable_tls is set: the root credential is sent in plain text.")
	}
	return w
}
