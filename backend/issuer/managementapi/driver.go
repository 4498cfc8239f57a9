// Package managementapi is the issuer that speaks the HTTP Management API v0,
// with which InfluxDB 3 Cloud Dedicated and InfluxDB Clustered manage database
// tokens. It knows the API and no Vault, returns errors and does not log.
//
// A call passes through these files, in this order: issue.go, revoke.go and
// list.go, which are the three verbs; ask.go, which finds the path that the
// cluster serves and asks again where that is safe; exchange.go, which sends
// one request over what endpoint.go and address.go have prepared; errors.go,
// which judges what came of it; token.go, which reads what was answered.
package managementapi

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// defaultTimeout holds for a cluster that names none.
const defaultTimeout = 30 * time.Second

// A Config says how requests are made, whichever cluster they go to.
type Config struct {
	UserAgent string // what requests say they come from, such as "program/v1.2.3"

	Now func() time.Time // nil: time.Now

	// Pause waits before a request is repeated, and returns early with an
	// error if ctx is done. Nil waits in real time.
	Pause func(context.Context, time.Duration) error
}

// A Driver opens issuers that share connections where they go to the same
// place. It is an [issuer.Driver].
type Driver struct {
	userAgent string
	now       func() time.Time
	pause     func(context.Context, time.Duration) error
	endpoints endpoints
}

var _ issuer.Driver = (*Driver)(nil)

// New returns a driver. Proxies are those that the environment names now, in
// the usual variables: HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
func New(cfg Config) *Driver {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Pause == nil {
		cfg.Pause = pause
	}
	proxyOf := httpproxy.FromEnvironment().ProxyFunc()
	d := &Driver{userAgent: cfg.UserAgent, now: cfg.Now, pause: cfg.Pause}
	d.endpoints.proxy = func(r *http.Request) (*url.URL, error) { return proxyOf(r.URL) }
	return d
}

// Open returns the issuer of a cluster. The number of requests that
// c.MaxParallel allows is counted over all issuers that differ in nothing but
// the root token and the timeout.
func (d *Driver) Open(c issuer.Cluster) issuer.Issuer {
	return &cluster{Cluster: c, driver: d, endpoint: d.endpoints.of(c)}
}

// Close closes the connections that nobody uses.
func (d *Driver) Close() error {
	d.endpoints.close()
	return nil
}

// pause waits in real time.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A cluster is the issuer of one cluster.
type cluster struct {
	issuer.Cluster
	driver   *Driver
	endpoint *endpoint
}

var _ issuer.Issuer = (*cluster)(nil)

func (c *cluster) timeout() time.Duration {
	if c.Timeout <= 0 {
		return defaultTimeout
	}
	return c.Timeout
}
