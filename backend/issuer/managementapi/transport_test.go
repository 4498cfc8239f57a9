package managementapi

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
)

// A pair is a certificate and its key.
type pair struct {
	cert, key string // PEM
	tls       tls.Certificate
}

// newPair makes a self-signed certificate.
func newPair(t *testing.T, name string) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	p := pair{
		cert: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})),
		key:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})),
	}
	if p.tls, err = tls.X509KeyPair([]byte(p.cert), []byte(p.key)); err != nil {
		t.Fatal(err)
	}
	return p
}

// encrypted serves a simulated cluster with TLS. With an authority, it requires a
// client certificate of that authority.
func encrypted(t *testing.T, version uint16, authority *pair) *simulation {
	t.Helper()
	sim := simulator.NewCluster(simulator.Options{Product: simulator.Clustered, AccountID: accountID, ClusterID: clusterID, Root: rootCredential})
	s := &simulation{newUnstarted(t, sim.ServeHTTP), sim}
	s.server.Config.ErrorLog = log.New(io.Discard, "", 0) // the tests make handshakes fail
	s.server.EnableHTTP2 = true
	s.server.TLS = &tls.Config{MaxVersion: version}
	if authority != nil {
		s.server.TLS.ClientAuth, s.server.TLS.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		s.server.TLS.ClientCAs.AppendCertsFromPEM([]byte(authority.cert))
	}
	s.server.StartTLS()
	return s
}

// serverCA returns the certificate that makes a test server trusted.
func serverCA(s *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

func TestTLS_TrustsWhatIsConfigured(t *testing.T) {
	client, stranger := newPair(t, "client"), newPair(t, "stranger")
	for _, c := range []struct {
		name      string
		authority *pair
		with      func(*issuer.Cluster, *httptest.Server)
		want      string
	}{
		{"the CA", nil, func(c *issuer.Cluster, s *httptest.Server) { c.CACert = serverCA(s) }, "ok"},
		{"several CAs", nil, func(c *issuer.Cluster, s *httptest.Server) { c.CACert = stranger.cert + serverCA(s) }, "ok"},
		{"no CA", nil, func(*issuer.Cluster, *httptest.Server) {}, "refused"},
		{"another CA", nil, func(c *issuer.Cluster, _ *httptest.Server) { c.CACert = stranger.cert }, "refused"},
		{"no CA, insecure", nil, func(c *issuer.Cluster, _ *httptest.Server) { c.InsecureTLS = true }, "ok"},
		{"another host name", nil, func(c *issuer.Cluster, s *httptest.Server) { c.CACert, c.Host = serverCA(s), "localhost" }, "refused"},
		{"no TLS", nil, func(c *issuer.Cluster, _ *httptest.Server) { c.DisableTLS = true }, "refused"},
		{"a client certificate", &client, func(c *issuer.Cluster, s *httptest.Server) {
			c.CACert, c.ClientCert, c.ClientKey = serverCA(s), client.cert, issuer.NewSecret(client.key)
		}, "ok"},
		{"another client certificate", &client, func(c *issuer.Cluster, s *httptest.Server) {
			c.CACert, c.ClientCert, c.ClientKey = serverCA(s), stranger.cert, issuer.NewSecret(stranger.key)
		}, "refused"},
		{"no client certificate", &client, func(c *issuer.Cluster, s *httptest.Server) { c.CACert = serverCA(s) }, "refused"},
	} {
		s := encrypted(t, tls.VersionTLS12, c.authority)
		target := s.cluster(issuer.Clustered)
		c.with(&target, s.server)
		_, err := s.issue(s.Open(target), "d")
		ids, _ := s.described("d")
		if kindOf(err) != c.want || (len(ids) == 1) != (c.want == "ok") {
			t.Errorf("%s: %v, %d tokens created", c.name, err, len(ids))
		}
		if err != nil && (strings.Contains(err.Error(), "PRIVATE") || strings.Contains(err.Error(), rootCredential)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// With TLS 1.3 the client learns only after its request that the server refuses
// its certificate. Whether the alert arrives before the connection ends depends
// on timing. So the error may be a refusal or not, but there must be an error.
func TestTLS_ClientCertificateRefusedWithTLS13(t *testing.T) {
	client := newPair(t, "client")
	s := encrypted(t, tls.VersionTLS13, &client)
	target := s.cluster(issuer.Clustered)
	target.CACert = serverCA(s.server)
	_, err := s.issue(s.Open(target), "d")
	if ids, _ := s.described("d"); err == nil || len(ids) > 0 {
		t.Errorf("%v, %d tokens created", err, len(ids))
	}
}

func TestTransport_UsesHTTP2(t *testing.T) {
	var major atomic.Int32
	s := newUnstarted(t, func(w http.ResponseWriter, r *http.Request) {
		major.Store(int32(r.ProtoMajor))
		io.WriteString(w, `[]`)
	})
	s.server.EnableHTTP2 = true
	s.server.StartTLS()
	target := s.cluster(issuer.Clustered)
	target.CACert = serverCA(s.server)
	if _, err := collect(t.Context(), s.Open(target)); err != nil || major.Load() != 2 {
		t.Errorf("HTTP/%d, %v", major.Load(), err)
	}
}

func TestTransport_NoConnectionIsARefusal(t *testing.T) {
	s := newFixture(t, status(204, ""))
	s.server.Close()
	if _, err := s.issue(s.open(), "d"); kindOf(err) != "refused" {
		t.Error(err)
	}
	target := s.cluster(issuer.Clustered)
	target.Host = "cluster.invalid"
	if _, err := s.issue(s.Open(target), "d"); kindOf(err) != "refused" {
		t.Error(err)
	}
}

func TestTransport_HandshakeTimeoutIsARefusal(t *testing.T) {
	mute, err := net.Listen("tcp", "127.0.0.1:0") // accepts connections and sends nothing
	if err != nil {
		t.Fatal(err)
	}
	var accepted atomic.Int32
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := mute.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			accepted.Add(1)
		}
	})
	t.Cleanup(func() { mute.Close(); serving.Wait() })
	s := newFixture(t, status(204, ""))
	target := s.cluster(issuer.Clustered)
	target.APIURL, target.Timeout = "https://"+mute.Addr().String(), 100*time.Millisecond
	if _, err := s.issue(s.Open(target), "d"); kindOf(err) != "refused" || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	before := accepted.Load()
	if err := s.Open(target).Revoke(t.Context(), someID)[someID]; kindOf(err) != "refused" {
		t.Error(err)
	}
	if n := accepted.Load() - before; n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	target.Timeout = time.Minute
	before = accepted.Load()
	serving.Go(func() {
		eventually(t, "a connection is accepted", func() bool { return accepted.Load() > before })
		cancel()
	})
	if _, err := s.Open(target).Issue(ctx, request("d")); kindOf(err) != "refused" || !strings.Contains(err.Error(), "canceled before") {
		t.Error(err)
	}
}

// A connection ends during its second request, which the server has read. A client
// that took the connection for stale would send the request again and create two
// tokens.
func TestTransport_IssueIsNotSentAgain(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		s := newUnstarted(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				io.WriteString(w, `[]`)
				return
			}
			io.Copy(io.Discard, r.Body)
			panic(http.ErrAbortHandler)
		})
		s.server.EnableHTTP2 = http2
		s.server.StartTLS()
		target := s.cluster(issuer.Clustered)
		target.CACert = serverCA(s.server)
		for range 5 {
			if _, err := collect(t.Context(), s.Open(target)); err != nil {
				t.Fatal(err)
			}
			if _, err := s.issue(s.Open(target), "d"); kindOf(err) != "doubt" {
				t.Errorf("HTTP/2 %v: %v", http2, err)
			}
		}
		if sent := s.requests(http.MethodPost); len(sent) != 5 {
			t.Errorf("HTTP/2 %v: %d requests, want 5", http2, len(sent))
		}
	}
}

func TestTransport_DoesNotFollowRedirects(t *testing.T) {
	elsewhere := newFixture(t, status(204, ""))
	for _, code := range []int{301, 302, 303, 307, 308} {
		s := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.server.URL+r.URL.Path, code)
		})
		_, issue := s.issue(s.open(), "d")
		_, list := collect(t.Context(), s.open())
		revoke := s.open().Revoke(t.Context(), someID)[someID]
		if kindOf(issue) != "doubt" || kindOf(list) != "doubt" || kindOf(revoke) != "doubt" {
			t.Errorf("%d: %v, %v, %v", code, issue, list, revoke)
		}
	}
	if sent := elsewhere.requests(""); len(sent) > 0 {
		t.Errorf("sent to another place: %q", sent)
	}
}

func TestTransport_LimitsTheAnswer(t *testing.T) {
	const tooMuch = 64 << 20
	for name, start := range map[string]string{
		"a description": `[{"id":"` + someID + `","description":"`, "a token": `{"id":"`, "white space": ` `, "an array": `[ `, "a message": `{"code":500,"message":"`,
	} {
		for _, code := range []int{200, 404, 409, 500} {
			var most atomic.Int64
			s := newFixture(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(code)
				io.WriteString(w, start)
				filler := []byte(strings.Repeat(map[bool]string{true: " ", false: "a"}[strings.HasSuffix(start, " ")], 64<<10))
				for n := int64(0); n < tooMuch; n += int64(len(filler)) {
					if _, err := w.Write(filler); err != nil {
						return
					}
					most.Store(max(most.Load(), n))
				}
			})
			_, issue := s.issue(s.open(), "d")
			_, list := collect(t.Context(), s.open())
			revoke := s.open().Revoke(t.Context(), someID)[someID]
			if issue == nil || list == nil || revoke == nil {
				t.Errorf("%s, %d: %v, %v, %v", name, code, issue, list, revoke)
			}
			if code == 200 && errors.Is(issue, issuer.ErrRefused) {
				t.Errorf("%s: the token may exist: %v", name, issue)
			}
			if got := most.Load(); got > tooMuch/2 {
				t.Errorf("%s, %d: %d bytes were read", name, code, got)
			}
		}
	}
}

func TestTransport_InvalidHTTPIsNotQuoted(t *testing.T) {
	const root = "0f-n0-known-f0rm"
	for _, secret := range []string{"apiv1_m1nted/M1NTED", root} {
		s := newFixture(t, func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			fmt.Fprintf(conn, "no HTTP: %s\r\n\r\n", secret)
		})
		target := s.cluster(issuer.Clustered)
		target.Root = issuer.NewSecret(root)
		_, err := s.issue(s.Open(target), "d")
		if kindOf(err) != "doubt" || strings.Contains(texts(err), secret) || !strings.Contains(texts(err), "malformed") {
			t.Error(err)
		}
	}
}

// setProxy sets a proxy in the environment.
func setProxy(t *testing.T, address string) {
	t.Helper()
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		t.Setenv(name, address)
	}
	for _, name := range []string{"NO_PROXY", "no_proxy", "REQUEST_METHOD"} {
		t.Setenv(name, "")
	}
}

func TestProxy_OfTheEnvironment(t *testing.T) {
	s := simulate(t, simulator.Clustered, nil) // without TLS, the server can be the proxy too
	setProxy(t, s.server.URL)
	target := s.cluster(issuer.Clustered)
	target.Host = "cluster.invalid"
	if _, err := s.issue(New(Config{}).Open(target), "d"); err != nil {
		t.Fatal(err)
	}
	if ids, live := s.described("d"); len(ids) != 1 || !live {
		t.Error("no token was created")
	}
}

func TestProxy_WithTLS(t *testing.T) {
	s := encrypted(t, tls.VersionTLS13, nil)
	var tunnels atomic.Int32
	proxy := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != "example.com:443" {
			t.Errorf("%s %s", r.Method, r.Host)
			return
		}
		if r.Header.Get("Proxy-Authorization") == "" {
			http.Error(w, "credentials required", http.StatusProxyAuthRequired)
			return
		}
		tunnels.Add(1)
		tunnel(t, w, s.server.Listener.Addr().String())
	})
	target := s.cluster(issuer.Clustered)
	target.Host, target.Port, target.CACert = "example.com", "", serverCA(s.server) // a name in the certificate of the test server
	setProxy(t, strings.Replace(proxy.server.URL, "://", "://user:passw0rd@", 1))
	driver := New(Config{})
	t.Cleanup(func() { driver.Close() })
	if _, err := s.issue(driver.Open(target), "d"); err != nil || tunnels.Load() != 1 {
		t.Errorf("%v, %d tunnels", err, tunnels.Load())
	}
	setProxy(t, proxy.server.URL)
	if _, err := s.issue(New(Config{}).Open(target), "d"); kindOf(err) != "refused" {
		t.Errorf("the proxy refused: %v", err)
	}
	setProxy(t, "http://user:passw0rd@127.0.0.1:1")
	if _, err := s.issue(New(Config{}).Open(target), "d"); kindOf(err) != "refused" || strings.Contains(err.Error(), "passw0rd") {
		t.Errorf("no proxy there: %v", err)
	}
}

// tunnel connects the client of a request with address.
func tunnel(t *testing.T, w http.ResponseWriter, address string) {
	far, err := net.Dial("tcp", address)
	if err != nil {
		t.Error(err)
		return
	}
	w.WriteHeader(http.StatusOK)
	near, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	go func() {
		defer near.Close()
		io.Copy(near, far)
	}()
	go func(in *bufio.ReadWriter) {
		defer far.Close()
		io.Copy(far, in)
	}(buffered)
}
