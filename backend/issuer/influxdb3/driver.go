// Package influxdb3 is the issuer for InfluxDB 3 Core, Enterprise and Cloud. It
// speaks their HTTP API and knows no Vault. It returns errors and does not log.
//
// In these products the client chooses the name of a token, the name is unique
// in the cluster, and a token is deleted by its name. The driver uses the name
// as the ID, see [issuer.Namer].
//
// A call goes through these files: issue.go, revoke.go, list.go and inspect.go
// have one method each; request.go sends a request through package httpapi and
// checks which cluster has answered; errors.go decides what an answer means;
// decode.go decodes the answers. The driver never repeats a request and never
// follows a redirect.
package influxdb3

import (
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/httpapi"
)

// spreadTime is how long the nodes of a cluster may need to learn of a new token:
// the documented interval is 10 s, and a node may be late.
const spreadTime = time.Minute

// A Config configures the drivers.
type Config struct {
	UserAgent string           // header of all requests, such as "program/v1.2.3"
	Now       func() time.Time // nil: time.Now
}

// Drivers are the drivers for the two kinds of token. They share connections and
// the limits on parallel requests. They are safe for concurrent use.
type Drivers struct {
	options   *httpapi.Options
	endpoints httpapi.Pool[*endpoint]
}

// New returns the drivers. They use the proxies that the environment variables
// HTTPS_PROXY, HTTP_PROXY and NO_PROXY name now.
func New(cfg Config) *Drivers {
	return &Drivers{options: httpapi.NewOptions(httpapi.Options{UserAgent: cfg.UserAgent, Now: cfg.Now})}
}

// Management returns the driver that issues named admin tokens, on all three
// products.
func (d *Drivers) Management() issuer.Driver { return &driver{d, management} }

// Database returns the driver that issues resource tokens for databases, on
// Enterprise and Cloud. On Core its Issue fails with [issuer.ErrInvalid].
func (d *Drivers) Database() issuer.Driver { return &driver{d, database} }

// Close closes the idle connections.
func (d *Drivers) Close() error {
	d.endpoints.Close()
	return nil
}

// A kind is a kind of token.
type kind int

const (
	management kind = iota
	database
)

// A driver opens issuers for one kind of token.
type driver struct {
	drivers *Drivers
	kind    kind
}

// Open returns the issuer of a cluster. c.MaxParallel limits the requests of all
// issuers of both kinds together whose clusters differ only in the root
// credential, the timeout or the UUID.
func (d *driver) Open(c issuer.Cluster) issuer.Issuer {
	place := c
	place.UUID = ""
	e := d.drivers.endpoints.Get(place, func() *endpoint { return newEndpoint(d.drivers.options, place) })
	return &cluster{Cluster: c, kind: d.kind, drivers: d.drivers, endpoint: e}
}

// A cluster is the issuer of one cluster and one kind of token.
type cluster struct {
	issuer.Cluster
	kind     kind
	drivers  *Drivers
	endpoint *endpoint
}

var (
	_ issuer.Namer        = (*cluster)(nil)
	_ issuer.Describer    = (*cluster)(nil)
	_ issuer.Inspector    = (*cluster)(nil)
	_ issuer.UUIDReporter = (*cluster)(nil)
)

// IDOf returns the name of the token, which is the description of the request.
func (c *cluster) IDOf(r issuer.Request) string { return r.Description }

// Traits describes the product. Core is a single node, which knows a token as
// soon as it has created it.
func (c *cluster) Traits() issuer.Traits {
	t := issuer.Traits{KeepsExpired: true, OneList: true, UnknownAge: issuer.DefaultUnknownAge, SpreadTime: spreadTime}
	if c.Product == issuer.Core {
		t.UnknownAge, t.SpreadTime = -1, 0
	}
	return t
}

// ReportedUUID returns the cluster-uuid that the server at this address has sent
// last.
func (c *cluster) ReportedUUID() string { return c.endpoint.reportedUUID() }

// secrets are what no error may quote.
func (c *cluster) secrets() []issuer.Secret { return []issuer.Secret{c.Root, c.ClientKey} }
