// Package managementapi is the driver for the HTTP Management API v0, with which
// InfluxDB 3 Cloud Dedicated and InfluxDB Clustered manage database tokens. It
// returns errors and does not log.
//
// A call goes through these files: issue.go, revoke.go and list.go have one
// method of issuer.Issuer each; api.go finds the path that the cluster serves and
// sends requests through package httpapi; address.go builds the addresses;
// token.go decodes the answers.
package managementapi

import (
	"context"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/httpapi"
)

// A Config configures a Driver.
type Config struct {
	// UserAgent names the program that sends the requests, such as
	// "program/v1.2.3".
	UserAgent string

	Now func() time.Time // nil: time.Now

	// Pause waits before a request is repeated, and returns early with an error
	// if ctx is done. Nil waits in real time.
	Pause func(context.Context, time.Duration) error
}

// A Driver opens issuers. Issuers of the same cluster share connections. It is
// an [issuer.Driver].
type Driver struct {
	options   *httpapi.Options
	endpoints httpapi.Pool[*endpoint]
}

var _ issuer.Driver = (*Driver)(nil)

// New returns a driver. It uses the proxies that the environment variables
// HTTPS_PROXY, HTTP_PROXY and NO_PROXY name now.
func New(cfg Config) *Driver {
	return &Driver{options: httpapi.NewOptions(httpapi.Options{UserAgent: cfg.UserAgent, Now: cfg.Now, Pause: cfg.Pause})}
}

// Open returns the issuer of a cluster. c.MaxParallel limits the requests of all
// issuers together whose clusters differ only in the root credential or the
// timeout.
func (d *Driver) Open(c issuer.Cluster) issuer.Issuer {
	return &cluster{Cluster: c, driver: d, endpoint: d.endpoints.Get(c, func() *endpoint { return newEndpoint(d.options, c) })}
}

// Close closes the idle connections.
func (d *Driver) Close() error {
	d.endpoints.Close()
	return nil
}

// A cluster is the issuer of one cluster.
type cluster struct {
	issuer.Cluster
	driver   *Driver
	endpoint *endpoint
}

var _ issuer.Issuer = (*cluster)(nil)
