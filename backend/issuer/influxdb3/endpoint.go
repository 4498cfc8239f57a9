package influxdb3

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
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

// maxEndpoints bounds how many endpoints are kept.
const maxEndpoints = 64

// endpoints keeps the endpoints that were used last. An endpoint that is dropped
// closes its idle connections, so that a config that has changed leaves nothing
// behind.
type endpoints struct {
	proxy func(*http.Request) (*url.URL, error)

	mu     sync.Mutex // guards what follows
	byKey  map[issuer.Cluster]*endpoint
	recent []issuer.Cluster // the keys; the one used last is at the end
}

// keyOf returns what distinguishes endpoints. The root credential is a part of
// each request and not of the connection.
func keyOf(c issuer.Cluster) issuer.Cluster {
	c.Root, c.Timeout, c.UUID = issuer.Secret{}, 0, ""
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
	created := newEndpoint(c, e.proxy)
	e.byKey[key] = created
	if len(e.recent) > maxEndpoints {
		e.byKey[e.recent[0]].close()
		delete(e.byKey, e.recent[0])
		e.recent = slices.Delete(e.recent, 0, 1)
	}
	return created
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
	err    error // why no request can be made
	origin string
	client *http.Client
	gate   *semaphore.Weighted

	uuid atomic.Pointer[string] // the last cluster-uuid
}

// newEndpoint prepares an endpoint, without I/O. An error in c is returned when
// a request is made.
func newEndpoint(c issuer.Cluster, proxy func(*http.Request) (*url.URL, error)) *endpoint {
	e := &endpoint{gate: semaphore.NewWeighted(int64(max(c.MaxParallel, 1)))}
	var errs [2]error
	e.origin, errs[0] = originOf(c)
	transport := cleanhttp.DefaultPooledTransport()
	transport.TLSClientConfig, errs[1] = tlsOf(c)
	e.err = errors.Join(errs[:]...)
	transport.Proxy = proxy
	transport.MaxIdleConnsPerHost = max(c.MaxParallel, 1)
	transport.MaxResponseHeaderBytes = maxAnswer
	// Without a ping, requests on a connection whose other end has vanished
	// fail one after the other until the operating system closes it.
	transport.HTTP2 = &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second}
	e.client = &http.Client{
		Transport: transport,
		// A redirect would send the root credential to another place.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return e
}

func (e *endpoint) close() { e.client.CloseIdleConnections() }

func (e *endpoint) reportedUUID() string {
	if u := e.uuid.Load(); u != nil {
		return *u
	}
	return ""
}

// defaultPorts are the ports that the products listen on.
var defaultPorts = map[string]string{issuer.Core: "8181", issuer.Enterprise: "8181", issuer.Cloud: "443"}

// originOf returns the scheme, host and port of a cluster. Its errors do not
// quote the host, which may hold a password by mistake.
func originOf(c issuer.Cluster) (string, error) {
	port := c.Port
	if port == "" {
		port = defaultPorts[c.Product]
	}
	switch {
	case defaultPorts[c.Product] == "":
		return "", fmt.Errorf("%q is not a product with this API", c.Product)
	case c.Host == "":
		return "", errors.New("host is not set in config")
	}
	scheme := "https"
	if c.DisableTLS {
		scheme = "http"
	}
	origin := scheme + "://" + net.JoinHostPort(c.Host, port)
	u, err := url.Parse(origin)
	if err != nil || u.Hostname() != c.Host || u.Port() != port || u.User != nil || (&url.URL{Scheme: u.Scheme, Host: u.Host}).String() != origin {
		return "", errors.New("host or port in config is not valid: host is a name or an address, without scheme and path")
	}
	return origin, nil
}

// tlsOf returns how to verify the cluster and how to authenticate to it. Its
// errors do not quote a key.
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
			return nil, errors.New("client_cert and client_key in config are not a certificate and its key")
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}
