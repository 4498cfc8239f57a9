package managementapi

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-cleanhttp"
	"golang.org/x/sync/semaphore"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// maxEndpoints bounds how many endpoints are kept for the next who comes.
const maxEndpoints = 64

// endpoints keeps the endpoints used last. One that has to give way closes its
// connections as they fall idle, so that a config that has changed leaves
// nothing behind.
type endpoints struct {
	proxy func(*http.Request) (*url.URL, error)

	mu     sync.Mutex // guards what follows
	byKey  map[issuer.Cluster]*endpoint
	recent []issuer.Cluster // the keys, the one used last at the end
}

// keyOf is what endpoints are told apart by. The root token travels with each
// request and not with the connection.
func keyOf(c issuer.Cluster) issuer.Cluster {
	c.Root, c.Timeout = issuer.Secret{}, 0
	return c
}

// of returns the endpoint of a cluster.
func (e *endpoints) of(c issuer.Cluster) *endpoint {
	key := keyOf(c)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.recent = append(slices.DeleteFunc(e.recent, func(k issuer.Cluster) bool { return k == key }), key)
	if known := e.byKey[key]; known != nil {
		return known
	}
	if e.byKey == nil {
		e.byKey = map[issuer.Cluster]*endpoint{}
	}
	made := newEndpoint(c, e.proxy)
	e.byKey[key] = made
	if len(e.recent) > maxEndpoints {
		e.byKey[e.recent[0]].close()
		delete(e.byKey, e.recent[0])
		e.recent = slices.Delete(e.recent, 0, 1)
	}
	return made
}

func (e *endpoints) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, one := range e.byKey {
		one.close()
	}
}

// An endpoint is where the requests for a cluster go, and what they share.
type endpoint struct {
	err         error // why no request can be made
	origin      string
	collections []string // paths that may be served, the most likely first
	client      *http.Client
	gate        *semaphore.Weighted

	served atomic.Pointer[string] // the collection that has answered
}

// newEndpoint prepares an endpoint, without I/O. What is wrong with c shows
// when a request is made.
func newEndpoint(c issuer.Cluster, proxy func(*http.Request) (*url.URL, error)) *endpoint {
	e := &endpoint{gate: semaphore.NewWeighted(int64(max(c.MaxParallel, 1)))}
	var errs [3]error
	e.origin, errs[0] = originOf(c)
	e.collections, errs[1] = collectionsOf(c)
	transport := cleanhttp.DefaultPooledTransport()
	transport.TLSClientConfig, errs[2] = tlsOf(c)
	e.err = errors.Join(errs[:]...)
	transport.Proxy = proxy
	transport.MaxIdleConnsPerHost = max(c.MaxParallel, 1)
	transport.MaxResponseHeaderBytes = maxAnswer
	// A connection whose other end has vanished must not swallow one request
	// after the other until the system gives it up.
	transport.HTTP2 = &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second}
	e.client = &http.Client{
		Transport: transport,
		// A redirect would carry the root token to wherever it points.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return e
}

func (e *endpoint) close() { e.client.CloseIdleConnections() }

// collection returns the path to try first, and whether it has been served
// before.
func (e *endpoint) collection() (path string, served bool) {
	if p := e.served.Load(); p != nil {
		return *p, true
	}
	return e.collections[0], false
}

// tlsOf says how to trust a cluster and how to be trusted by it. Its errors do
// not quote a key.
func tlsOf(c issuer.Cluster) (*tls.Config, error) {
	cfg := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: c.InsecureTLS, //nolint:gosec // the operator asks for it, and is warned
	}
	if c.CACert != "" {
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM([]byte(c.CACert)) {
			return nil, errors.New("ca_cert in config holds no certificate")
		}
	}
	if c.ClientCert != "" {
		pair, err := tls.X509KeyPair([]byte(c.ClientCert), []byte(c.ClientKey.Reveal()))
		if err != nil {
			return nil, errors.New("client_cert and client_key in config are no certificate and its key")
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}
