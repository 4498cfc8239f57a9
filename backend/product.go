package backend

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// A product is what the engine knows about a product of InfluxData. Everything
// that depends on the product in config is decided by this table, by the product's
// driver and by the traits of its issuers.
type product struct {
	name  string // as in config
	title string // as InfluxData writes it

	types []string // of tokens
	lacks string   // why the other types do not exist, and what to do; empty if all exist

	credential      credentialParameter
	required        []string          // parameters of config
	foreign         map[string]string // parameters of other products, and what to use instead
	defaultPort     string            // empty: the driver knows it
	plainText       plainText
	operator        string        // ID of the token that cannot be rotated; empty if there is none
	longestLife     time.Duration // of a token, which must expire; 0: no limit, and it need not expire
	checkRead       []string      // what the token of config/check reads, if it must be able to read something
	everyTokenAdmin bool
}

// A credentialParameter is the parameter of config that holds the root credential.
type credentialParameter struct {
	name   string
	noun   string // what it must be
	begins string // how such a token begins

	// refused is how tokens begin that cannot be the root credential, and why.
	refused *regexp.Regexp
	reason  string

	// unidentified is what to do if the ID of the root credential is not known.
	unidentified string
}

// A plainText says whether the product can be used without TLS.
type plainText int

const (
	never        plainText = iota // the connection crosses the internet
	loopbackOnly                  // only a simulator or a tunnel is on the same machine
	allowed
)

var (
	mgmtToken = credentialParameter{
		name: "mgmt_token", noun: "management token", begins: "M.V",
		refused:      regexp.MustCompile(`^apiv[0-9]+_`),
		reason:       "is a database token, which cannot issue tokens: write a management token, which begins with M.V1",
		unidentified: "set mgmt_token_id in config",
	}
	adminToken = credentialParameter{
		name: "admin_token", noun: "admin token", begins: "apiv3_",
		refused:      regexp.MustCompile(`^M\.V`),
		reason:       "is a management token of InfluxDB Cloud Dedicated or Clustered: write an admin token of this server, which begins with apiv3_",
		unidentified: "write an admin_token to config that the list of the server shows",
	}

	// ofOthers are the parameters that the products with an HTTP API for tokens
	// of their own do not have.
	ofOthers = map[string]string{
		"account_id": "host and port say where the server is", "cluster_id": "host and port say where the server is",
		"api_url": "host and port say where the API is", "mgmt_token": "the root credential is admin_token",
		"mgmt_token_id": "the name of admin_token is found in the list of the server",
	}
	noAdminToken = map[string]string{"admin_token": "the root credential is mgmt_token"}
)

// The limits of InfluxDB 3 Core, Enterprise and Cloud. See docs/vendor-facts.md.
const (
	operatorToken = "_admin"

	// namedTokenLife is the longest life that their servers calculate correctly.
	namedTokenLife = 10 * 365 * 24 * time.Hour
)

// products is the table of products, in the order in which messages name them.
var products = []product{
	{
		name: issuer.Dedicated, title: "InfluxDB Cloud Dedicated", types: []string{Management, Database},
		credential: mgmtToken, required: []string{"account_id", "cluster_id"}, foreign: noAdminToken,
	},
	{
		name: issuer.Clustered, title: "InfluxDB Clustered", types: []string{Management, Database},
		credential: mgmtToken, required: []string{"host"}, foreign: noAdminToken, plainText: allowed,
	},
	{
		name: issuer.Core, title: "InfluxDB 3 Core", types: []string{Management},
		lacks:      "every token of InfluxDB 3 Core is a full administrator. Use token_type=management, or InfluxDB 3 Enterprise",
		credential: adminToken, required: []string{"host"}, foreign: ofOthers, defaultPort: "8181", plainText: allowed,
		operator: operatorToken, longestLife: namedTokenLife, everyTokenAdmin: true,
	},
	{
		name: issuer.Enterprise, title: "InfluxDB 3 Enterprise", types: []string{Management, Database},
		credential: adminToken, required: []string{"host"}, foreign: ofOthers, defaultPort: "8181", plainText: allowed,
		operator: operatorToken, longestLife: namedTokenLife, checkRead: []string{"*"},
	},
	{
		name: issuer.Cloud, title: "InfluxDB 3 Cloud", types: []string{Management, Database},
		credential: adminToken, required: []string{"host"}, foreign: ofOthers, defaultPort: "443", plainText: loopbackOnly,
		operator: operatorToken, longestLife: namedTokenLife, checkRead: []string{"*"},
	},
}

// productNamed returns the product with a name. A product that is not in the table
// has only its name and the parameter mgmt_token.
func productNamed(name string) (p product, known bool) {
	for _, p := range products {
		if p.name == name {
			return p, true
		}
	}
	return product{name: name, credential: mgmtToken}, false
}

// configuredProduct returns the product in config. Without a config it is a product
// that allows everything.
func configuredProduct(ctx context.Context, s logical.Storage) (product, error) {
	c, err := loadConfig(ctx, s)
	if errors.Is(err, errNoConfig) {
		return product{}, nil
	}
	return c.product(), err
}

func (c config) product() product {
	p, _ := productNamed(c.Product)
	return p
}

// productNames returns the names of the products, for the schema of config.
func productNames() (names []any) {
	for _, p := range products {
		names = append(names, p.name)
	}
	return names
}

// listProducts names the products with their titles, for messages.
func listProducts() string {
	var named []string
	for _, p := range products {
		named = append(named, fmt.Sprintf("%s (%s)", p.name, p.title))
	}
	return strings.Join(named[:len(named)-1], ", ") + " or " + named[len(named)-1]
}

// refuseForeign refuses a parameter of another product and names the right one.
func (p product) refuseForeign(parameter string) error {
	return fmt.Errorf("%s is not a parameter of product=%s: %s", parameter, p.name, p.foreign[parameter])
}

// checkType refuses a token type that the product does not have.
func (p product) checkType(tokenType string) error {
	if slices.Contains(p.types, tokenType) || p.lacks == "" {
		return nil
	}
	return badRequest("%s has no %s tokens: %s", p.title, tokenType, p.lacks)
}

// checkCredential checks the form of a root credential, which is not empty.
func (p product) checkCredential(root string) error {
	name := p.credential.name
	switch {
	case len(root) > maxRoot:
		return fmt.Errorf("%s has %d characters; a token has at most %d", name, len(root), maxRoot)
	case !tokenPattern.MatchString(root):
		return fmt.Errorf("%s is not a token: a token has no spaces and only printable ASCII characters", name)
	case p.credential.refused.MatchString(root):
		return fmt.Errorf("%s %s", name, p.credential.reason)
	}
	return nil
}

// checkRotation checks what the product requires of a rotation policy.
func (p product) checkRotation(r rotationPolicy) error {
	switch ttl := r.ttl(); {
	case p.longestLife == 0:
		return nil
	case ttl == 0:
		return fmt.Errorf("rotation_ttl must not be 0 for product=%s: only its expiry ends a root credential that is lost, and deleted tokens come back when the server is restored from a backup", p.name)
	case ttl > p.longestLife:
		return fmt.Errorf("rotation_ttl is %s; the longest life of a token of %s is %s (unless it is set, rotation_ttl is three times the longest rotation interval)", shortDuration(ttl), p.title, shortDuration(p.longestLife))
	}
	return nil
}

// checkPlainText checks whether disable_tls may be used for a host.
func (p product) checkPlainText(host string) error {
	switch {
	case p.plainText == allowed, p.plainText == loopbackOnly && isLoopback(host):
		return nil
	case p.plainText == loopbackOnly:
		return fmt.Errorf("disable_tls is allowed for product=%s only with a loopback address as host: it would send the root credential in plain text over the internet", p.name)
	}
	return fmt.Errorf("disable_tls is not for product=%s: it would send the root credential in plain text over the internet", p.name)
}

// errOperator refuses to rotate the operator token.
var errOperator = errors.New("the root credential is the operator token " + operatorToken + ", which cannot be rotated: a new one would end the old one at once, " +
	"and a lost answer would lock everyone out. Create a named admin token (`influxdb3 create token --admin --name vault-root --expiry 1y`), " +
	"and write it to config as admin_token; then rotate that")

// warnings returns what an operator should know about the product and its root
// credential.
func (p product) warnings(rootID string) []string {
	w := p.roleWarnings()
	if p.operator != "" && rootID == p.operator {
		w = append(w, fmt.Sprintf("admin_token is the operator token %s, which never expires and cannot be rotated. Create a named admin token (`influxdb3 create token --admin --name vault-root --expiry 1y`), and write that to config.", p.operator))
	}
	return w
}

// roleWarnings returns what the author of a role should know about the product.
func (p product) roleWarnings() []string {
	if !p.everyTokenAdmin {
		return nil
	}
	return []string{fmt.Sprintf("Every token of %s is a full administrator. The holder of a credential can create tokens that outlive the lease, and can delete the root credential.", p.title)}
}
