package httpapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-cleanhttp"
	"golang.org/x/net/http/httpproxy"
	"golang.org/x/sync/semaphore"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// MaxAnswer is the largest answer, answer header, or entry of a list, in bytes.
const MaxAnswer = 1 << 20

// Options are what all requests of a driver have in common.
type Options struct {
	// UserAgent names the program that sends requests, such as
	// "program/v1.2.3".
	UserAgent string

	Now func() time.Time // nil: time.Now

	// Pause waits before a request is repeated, and returns early with an error
	// if ctx is done. Nil waits in real time.
	Pause func(context.Context, time.Duration) error

	// Proxy returns the proxy for a request. Nil: the proxies that the usual
	// variables of the environment name when NewOptions is called.
	Proxy func(*http.Request) (*url.URL, error)
}

// NewOptions returns o with defaults filled in.
func NewOptions(o Options) *Options {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Pause == nil {
		o.Pause = pause
	}
	if o.Proxy == nil {
		proxyOf := httpproxy.FromEnvironment().ProxyFunc()
		o.Proxy = func(r *http.Request) (*url.URL, error) { return proxyOf(r.URL) }
	}
	return &o
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

// An Endpoint is where the requests for one cluster go. The issuers of the
// cluster share its connections and its limit of requests at the same time. It
// is safe for concurrent use.
type Endpoint struct {
	options   *Options
	err       error // why no request can be sent
	origin    string
	clientKey issuer.Secret
	client    *http.Client
	slots     *semaphore.Weighted
}

// NewEndpoint returns the endpoint at origin, such as "https://host:8181", with
// the TLS settings and the MaxParallel of c. It does no I/O. A non-nil err, or
// what is wrong with the settings, is the error of every request.
func NewEndpoint(o *Options, c issuer.Cluster, origin string, err error) *Endpoint {
	parallel := max(c.MaxParallel, 1)
	config, tlsErr := TLSConfig(c)
	transport := cleanhttp.DefaultPooledTransport()
	transport.TLSClientConfig = config
	transport.Proxy = o.Proxy
	transport.MaxIdleConnsPerHost = parallel
	transport.MaxResponseHeaderBytes = MaxAnswer
	// Without pings, each request over a connection whose other end has
	// disappeared is lost until the operating system closes the connection.
	transport.HTTP2 = &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second}
	return &Endpoint{
		options: o, err: errors.Join(err, tlsErr), origin: origin, clientKey: c.ClientKey,
		slots: semaphore.NewWeighted(int64(parallel)),
		client: &http.Client{
			Transport: transport,
			// A redirect would send the root credential to another place.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// Close closes the idle connections. Requests may still be sent afterwards.
func (e *Endpoint) Close() { e.client.CloseIdleConnections() }

// TLSConfig returns the TLS configuration for a cluster. Its errors do not quote
// keys.
func TLSConfig(c issuer.Cluster) (*tls.Config, error) {
	config := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: c.InsecureTLS, //nolint:gosec // set by the operator, with a warning
	}
	if c.CACert != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(c.CACert)) {
			return nil, errors.New("ca_cert in config holds no certificate")
		}
	}
	if c.ClientCert != "" {
		pair, err := tls.X509KeyPair([]byte(c.ClientCert), []byte(c.ClientKey.Reveal()))
		if err != nil {
			return nil, errors.New("client_cert and client_key in config are not a certificate and its key")
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// maxKept is how many clusters a Pool keeps.
const maxKept = 64

// A Pool keeps one T for each of the clusters that were used last, such as an
// endpoint. It closes a T that has to make room. The zero value is empty. It is
// safe for concurrent use.
type Pool[T interface{ Close() }] struct {
	mu     sync.Mutex // guards what follows
	kept   map[issuer.Cluster]T
	recent []issuer.Cluster // the keys, the one used last at the end
}

// Get returns what the pool keeps for c, or else what open returns. Clusters that
// differ only in the root credential or the timeout are the same, since those
// belong to a request and not to a connection.
func (p *Pool[T]) Get(c issuer.Cluster, open func() T) T {
	key := c
	key.Root, key.Timeout = issuer.Secret{}, 0
	p.mu.Lock()
	defer p.mu.Unlock()
	p.recent = append(slices.DeleteFunc(p.recent, func(k issuer.Cluster) bool { return k == key }), key)
	if known, ok := p.kept[key]; ok {
		return known
	}
	if p.kept == nil {
		p.kept = map[issuer.Cluster]T{}
	}
	opened := open()
	p.kept[key] = opened
	if len(p.recent) > maxKept {
		p.kept[p.recent[0]].Close()
		delete(p.kept, p.recent[0])
		p.recent = slices.Delete(p.recent, 0, 1)
	}
	return opened
}

// Close closes all that the pool keeps.
func (p *Pool[T]) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.kept {
		one.Close()
	}
}
