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

// newPair makes a certificate that is its own authority.
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

// encrypted serves a simulated cluster by TLS. If it asks for a client
// certificate, that is the authority's own.
func encrypted(t *testing.T, version uint16, authority *pair) *simulation {
	t.Helper()
	sim := simulator.NewCluster(simulator.Options{Product: simulator.Clustered, AccountID: accountID, ClusterID: clusterID, Root: rootToken})
	s := &simulation{newUnstarted(t, sim.ServeHTTP), sim}
	s.server.Config.ErrorLog = log.New(io.Discard, "", 0) // it complains about handshakes that are meant to end
	s.server.EnableHTTP2 = true
	s.server.TLS = &tls.Config{MaxVersion: version}
	if authority != nil {
		s.server.TLS.ClientAuth, s.server.TLS.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		s.server.TLS.ClientCAs.AppendCertsFromPEM([]byte(authority.cert))
	}
	s.server.StartTLS()
	return s
}

// serverCA is the certificate that a test server's is to be trusted by.
func serverCA(s *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

func TestTheClusterIsTrustedAsConfigured(t *testing.T) {
	client, stranger := newPair(t, "client"), newPair(t, "stranger")
	for _, c := range []struct {
		name      string
		authority *pair
		with      func(*issuer.Cluster, *httptest.Server)
		want      string
	}{
		{"its CA", nil, func(c *issuer.Cluster, s *httptest.Server) { c.CACert = serverCA(s) }, "ok"},
		{"several CAs", nil, func(c *issuer.Cluster, s *httptest.Server) { c.CACert = stranger.cert + serverCA(s) }, "ok"},
		{"no CA", nil, func(*issuer.Cluster, *httptest.Server) {}, "refused"},
		{"another CA", nil, func(c *issuer.Cluster, _ *httptest.Server) { c.CACert = stranger.cert }, "refused"},
		{"no CA, not verified", nil, func(c *issuer.Cluster, _ *httptest.Server) { c.InsecureTLS = true }, "ok"},
		{"another name", nil, func(c *issuer.Cluster, s *httptest.Server) { c.CACert, c.Host = serverCA(s), "localhost" }, "refused"},
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
		where := s.cluster(issuer.Clustered)
		c.with(&where, s.server)
		_, err := s.issue(s.Open(where), "d")
		ids, _ := s.described("d")
		if is(err) != c.want || (len(ids) == 1) != (c.want == "ok") {
			t.Errorf("%s: %v, %d tokens made", c.name, err, len(ids))
		}
		if err != nil && (strings.Contains(err.Error(), "PRIVATE") || strings.Contains(err.Error(), rootToken)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// With TLS 1.3 the client learns only after its request that its certificate
// is not wanted. Whether the server's alert outruns the end of the connection
// is not ours to say: it may be a refusal or leave doubt, but is no success.
func TestAClientCertificateThatIsRefusedLate(t *testing.T) {
	client := newPair(t, "client")
	s := encrypted(t, tls.VersionTLS13, &client)
	where := s.cluster(issuer.Clustered)
	where.CACert = serverCA(s.server)
	_, err := s.issue(s.Open(where), "d")
	if ids, _ := s.described("d"); err == nil || len(ids) > 0 {
		t.Errorf("%v, %d tokens made", err, len(ids))
	}
}

func TestHTTP2IsSpokenWhereTheClusterCan(t *testing.T) {
	var major atomic.Int32
	s := newUnstarted(t, func(w http.ResponseWriter, r *http.Request) {
		major.Store(int32(r.ProtoMajor))
		io.WriteString(w, `[]`)
	})
	s.server.EnableHTTP2 = true
	s.server.StartTLS()
	where := s.cluster(issuer.Clustered)
	where.CACert = serverCA(s.server)
	if _, err := collect(t.Context(), s.Open(where)); err != nil || major.Load() != 2 {
		t.Errorf("HTTP/%d, %v", major.Load(), err)
	}
}

func TestAClusterOutOfReachIsARefusal(t *testing.T) {
	s := newStage(t, status(204, ""))
	s.server.Close()
	if _, err := s.issue(s.open(), "d"); is(err) != "refused" {
		t.Error(err)
	}
	where := s.cluster(issuer.Clustered)
	where.Host = "cluster.invalid"
	if _, err := s.issue(s.Open(where), "d"); is(err) != "refused" {
		t.Error(err)
	}
}

func TestAHandshakeThatNeverEndsIsARefusal(t *testing.T) {
	mute, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
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
	s := newStage(t, status(204, ""))
	where := s.cluster(issuer.Clustered)
	where.APIURL, where.Timeout = "https://"+mute.Addr().String(), 100*time.Millisecond
	if _, err := s.issue(s.Open(where), "d"); is(err) != "refused" || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	before := accepted.Load()
	if err := s.Open(where).Revoke(t.Context(), someID)[someID]; is(err) != "refused" {
		t.Error(err)
	}
	if n := accepted.Load() - before; n != 1 {
		t.Errorf("%d connections to find out that nothing was sent", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	where.Timeout = time.Minute
	before = accepted.Load()
	serving.Go(func() {
		eventually(t, "it is called", func() bool { return accepted.Load() > before })
		cancel()
	})
	if _, err := s.Open(where).Issue(ctx, request("d")); is(err) != "refused" || !strings.Contains(err.Error(), "canceled before") {
		t.Error(err)
	}
}

// A connection that was good for one request ends during the next, which the
// server has read. A client that took it for stale would mint twice.
func TestAMintIsNotReplayedOverANewConnection(t *testing.T) {
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
		where := s.cluster(issuer.Clustered)
		where.CACert = serverCA(s.server)
		for range 5 {
			if _, err := collect(t.Context(), s.Open(where)); err != nil {
				t.Fatal(err)
			}
			if _, err := s.issue(s.Open(where), "d"); is(err) != "doubt" {
				t.Errorf("HTTP/2 %v: %v", http2, err)
			}
		}
		if sent := s.requests(http.MethodPost); len(sent) != 5 {
			t.Errorf("HTTP/2 %v: %d requests for 5 mints", http2, len(sent))
		}
	}
}

func TestARedirectIsNotFollowed(t *testing.T) {
	elsewhere := newStage(t, status(204, ""))
	for _, code := range []int{301, 302, 303, 307, 308} {
		s := newStage(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.server.URL+r.URL.Path, code)
		})
		_, mint := s.issue(s.open(), "d")
		_, list := collect(t.Context(), s.open())
		revoke := s.open().Revoke(t.Context(), someID)[someID]
		if is(mint) != "doubt" || is(list) != "doubt" || is(revoke) != "doubt" {
			t.Errorf("%d: %v, %v, %v", code, mint, list, revoke)
		}
	}
	if sent := elsewhere.requests(""); len(sent) > 0 {
		t.Errorf("sent elsewhere: %q", sent)
	}
}

func TestAnAnswerWithoutEndIsNotRead(t *testing.T) {
	const enough = 64 << 20
	for name, start := range map[string]string{
		"a description": `[{"id":"` + someID + `","description":"`, "a token": `{"id":"`, "white space": ` `, "an array": `[ `, "a message": `{"code":500,"message":"`,
	} {
		for _, code := range []int{200, 404, 409, 500} {
			var most atomic.Int64
			s := newStage(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(code)
				io.WriteString(w, start)
				filler := []byte(strings.Repeat(map[bool]string{true: " ", false: "a"}[strings.HasSuffix(start, " ")], 64<<10))
				for n := int64(0); n < enough; n += int64(len(filler)) {
					if _, err := w.Write(filler); err != nil {
						return
					}
					most.Store(max(most.Load(), n))
				}
			})
			_, mint := s.issue(s.open(), "d")
			_, list := collect(t.Context(), s.open())
			revoke := s.open().Revoke(t.Context(), someID)[someID]
			if mint == nil || list == nil || revoke == nil {
				t.Errorf("%s, %d: %v, %v, %v", name, code, mint, list, revoke)
			}
			if code == 200 && errors.Is(mint, issuer.ErrRefused) {
				t.Errorf("%s: a token may be in it: %v", name, mint)
			}
			if got := most.Load(); got > enough/2 {
				t.Errorf("%s, %d: %d bytes were taken", name, code, got)
			}
		}
	}
}

func TestAnAnswerThatIsNoHTTPIsNotQuoted(t *testing.T) {
	const root = "0f-n0-known-shape"
	for _, secret := range []string{"apiv1_m1nted/M1NTED", root} {
		s := newStage(t, func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			fmt.Fprintf(conn, "what? %s\r\n\r\n", secret)
		})
		where := s.cluster(issuer.Clustered)
		where.Root = issuer.NewSecret(root)
		_, err := s.issue(s.Open(where), "d")
		if is(err) != "doubt" || strings.Contains(texts(err), secret) || !strings.Contains(texts(err), "malformed") {
			t.Error(err)
		}
	}
}

// setProxy makes the environment name a proxy, for drivers made from now on.
func setProxy(t *testing.T, address string) {
	t.Helper()
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		t.Setenv(name, address)
	}
	for _, name := range []string{"NO_PROXY", "no_proxy", "REQUEST_METHOD"} {
		t.Setenv(name, "")
	}
}

func TestAProxyOfTheEnvironmentIsUsed(t *testing.T) {
	s := simulate(t, simulator.Clustered, nil) // plain text: the proxy is the server itself
	setProxy(t, s.server.URL)
	where := s.cluster(issuer.Clustered)
	where.Host = "cluster.invalid"
	if _, err := s.issue(New(Config{}).Open(where), "d"); err != nil {
		t.Fatal(err)
	}
	if ids, live := s.described("d"); len(ids) != 1 || !live {
		t.Error("no token was made")
	}
}

func TestTLSGoesThroughAProxy(t *testing.T) {
	s := encrypted(t, tls.VersionTLS13, nil)
	var tunnels atomic.Int32
	proxy := newStage(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != "example.com:443" {
			t.Errorf("%s %s", r.Method, r.Host)
			return
		}
		if r.Header.Get("Proxy-Authorization") == "" {
			http.Error(w, "who are you?", http.StatusProxyAuthRequired)
			return
		}
		tunnels.Add(1)
		tunnel(t, w, s.server.Listener.Addr().String())
	})
	where := s.cluster(issuer.Clustered)
	where.Host, where.Port, where.CACert = "example.com", "", serverCA(s.server) // a name of the test server's certificate
	setProxy(t, strings.Replace(proxy.server.URL, "://", "://user:passw0rd@", 1))
	through := New(Config{})
	t.Cleanup(func() { through.Close() })
	if _, err := s.issue(through.Open(where), "d"); err != nil || tunnels.Load() != 1 {
		t.Errorf("%v, %d tunnels", err, tunnels.Load())
	}
	setProxy(t, proxy.server.URL)
	if _, err := s.issue(New(Config{}).Open(where), "d"); is(err) != "refused" {
		t.Errorf("the proxy refused: %v", err)
	}
	setProxy(t, "http://user:passw0rd@127.0.0.1:1")
	if _, err := s.issue(New(Config{}).Open(where), "d"); is(err) != "refused" || strings.Contains(err.Error(), "passw0rd") {
		t.Errorf("no proxy there: %v", err)
	}
}

// tunnel joins the connection of a request with one to address.
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
