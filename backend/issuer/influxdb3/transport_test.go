package influxdb3

import (
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
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator/influxdb3server"
)

// A pair is a certificate and its key, in PEM.
type pair struct{ cert, key string }

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
	return pair{
		cert: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})),
		key:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})),
	}
}

// serverCA is the certificate that a test server is verified by.
func serverCA(s *httptest.Server) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

func TestTLS_IsVerifiedAsConfigured(t *testing.T) {
	client, stranger := newPair(t, "client"), newPair(t, "stranger")
	for _, c := range []struct {
		name      string
		authority *pair // that client certificates must come from
		config    func(*issuer.Cluster, *httptest.Server)
		want      string
	}{
		{"its CA", nil, func(c *issuer.Cluster, s *httptest.Server) { c.CACert = serverCA(s) }, "ok"},
		{"no CA", nil, func(*issuer.Cluster, *httptest.Server) {}, "refused unreachable"},
		{"another CA", nil, func(c *issuer.Cluster, _ *httptest.Server) { c.CACert = stranger.cert }, "refused unreachable"},
		{"not verified", nil, func(c *issuer.Cluster, _ *httptest.Server) { c.InsecureTLS = true }, "ok"},
		{"another name", nil, func(c *issuer.Cluster, s *httptest.Server) { c.CACert, c.Host = serverCA(s), "localhost" }, "refused unreachable"},
		{"plain text", nil, func(c *issuer.Cluster, _ *httptest.Server) { c.DisableTLS = true }, "invalid"}, // 400 by net/http
		{"a CA that is none", nil, func(c *issuer.Cluster, _ *httptest.Server) { c.CACert = "passw0rd" }, "refused"},
		{"a client certificate", &client, func(c *issuer.Cluster, s *httptest.Server) {
			c.CACert, c.ClientCert, c.ClientKey = serverCA(s), client.cert, issuer.NewSecret(client.key)
		}, "ok"},
		{"another client certificate", &client, func(c *issuer.Cluster, s *httptest.Server) {
			c.CACert, c.ClientCert, c.ClientKey = serverCA(s), stranger.cert, issuer.NewSecret(stranger.key)
		}, "refused unreachable"},
		{"no client certificate", &client, func(c *issuer.Cluster, s *httptest.Server) { c.CACert = serverCA(s) }, "refused unreachable"},
		{"a key that is none", nil, func(c *issuer.Cluster, _ *httptest.Server) {
			c.ClientCert, c.ClientKey = client.cert, issuer.NewSecret("passw0rd")
		}, "refused"},
	} {
		sim := influxdb3server.New(influxdb3server.Options{Alarm: t.Error})
		sim.AddToken(rootName, rootSecret, time.Time{})
		s := newUnstarted(t, sim)
		s.server.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are meant to fail
		s.server.TLS = &tls.Config{MaxVersion: tls.VersionTLS12}
		if c.authority != nil {
			s.server.TLS.ClientAuth, s.server.TLS.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
			s.server.TLS.ClientCAs.AppendCertsFromPEM([]byte(c.authority.cert))
		}
		s.server.StartTLS()
		where := s.cluster(issuer.Core)
		c.config(&where, s.server)
		_, err := s.Management().Open(where).Issue(t.Context(), request("a"))
		if _, there := sim.Token("a"); kindOf(err) != c.want || there != (c.want == "ok") {
			t.Errorf("%s: %v, a token exists: %v", c.name, err, there)
		}
		if strings.Contains(texts(err), "passw0rd") || strings.Contains(texts(err), "PRIVATE") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// calls makes every call and returns the errors by their names.
func calls(ctx context.Context, i issuer.Issuer) map[string]error {
	_, issued := i.Issue(ctx, request("a"))
	_, listed := collect(ctx, i)
	_, inspected := i.(issuer.Inspector).Inspect(ctx)
	return map[string]error{"issue": issued, "list": listed, "inspect": inspected, "revoke": i.Revoke(ctx, "a")["a"]}
}

func TestRedirect_IsNotFollowed(t *testing.T) {
	elsewhere := newStage(t, answer(200, "[]"))
	for _, code := range []int{301, 302, 303, 307, 308} {
		s := newStage(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.server.URL+r.URL.Path, code)
		}))
		for name, err := range calls(t.Context(), s.open()) {
			if kindOf(err) != "doubt" || !strings.Contains(err.Error(), "redirect") {
				t.Errorf("%d, %s: %v", code, name, err)
			}
		}
	}
	if sent := elsewhere.requests(""); len(sent) > 0 {
		t.Errorf("sent to another place: %q", sent)
	}
}

func TestErrors_HoldNoSecret(t *testing.T) {
	const stranger, fresh = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.c2lnbmF0dXJl", "apiv3_5Ecr3t/5Ecr3t"
	for code := 200; code < 600; code += 5 {
		if code == 304 {
			continue
		}
		s := newStage(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, root, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			w.Header().Set("X-Influxdb-Version", fresh+root)
			w.Header().Set("cluster-uuid", root)
			w.WriteHeader(code)
			fmt.Fprintf(w, `got %s for %s of %s {"token":"plain"}`, root, fresh, stranger)
		}))
		for _, root := range []string{"apiv3_r00t+R00T", "0f-n0-known-shape"} {
			where := s.cluster(issuer.Core)
			where.Root = issuer.NewSecret(root)
			i := s.Management().Open(where)
			all := calls(t.Context(), i)
			all["reported UUID"] = errors.New(i.(issuer.UUIDReporter).ReportedUUID())
			for name, err := range all {
				for _, secret := range []string{root, fresh, stranger, "plain", "5Ecr3t"} {
					if strings.Contains(texts(err), secret) {
						t.Errorf("%d, %s: %v", code, name, err)
					}
				}
			}
			if told := strings.Contains(texts(all["issue"]), "got [redacted]"); told != (code >= 400) {
				t.Errorf("%d: the rest is to be told: %v", code, all["issue"])
			}
		}
	}
}

func TestErrors_OfWhatIsNotHTTP(t *testing.T) {
	for _, secret := range []string{"apiv3_5Ecr3t/5Ecr3t", rootSecret} {
		s := newStage(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			fmt.Fprintf(conn, "what? %s\r\n\r\n", secret)
		}))
		for name, err := range calls(t.Context(), s.open()) {
			if kindOf(err) != "doubt unreachable" || strings.Contains(texts(err), secret) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestAnswers_WithoutEndAreNotRead(t *testing.T) {
	for _, start := range []string{`[{"name":"`, `{"name":"`, ` `, `[ `, `error `} {
		for _, code := range []int{200, 201, 404, 500} {
			written := make(chan int, 16)
			s := newStage(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(code)
				_, _ = io.WriteString(w, start)
				filler := []byte(strings.Repeat(map[bool]string{true: " ", false: "a"}[strings.HasSuffix(start, " ")], 64<<10))
				n := 0
				for ; n < 64<<20; n += len(filler) {
					if _, err := w.Write(filler); err != nil {
						break
					}
				}
				written <- n
			}))
			for name, err := range calls(t.Context(), s.open()) {
				if err == nil && (name != "revoke" || code != 200) || name == "issue" && code == 201 && errors.Is(err, issuer.ErrRefused) {
					t.Errorf("%q, %d, %s: %v", start, code, name, err)
				}
			}
			for range 4 {
				if n := <-written; n > 32<<20 {
					t.Errorf("%q, %d: %d bytes were read", start, code, n)
				}
			}
		}
	}
}

func TestContext_EndsCalls(t *testing.T) {
	for name, call := range map[string]func(context.Context, issuer.Issuer) error{
		"issue":  func(ctx context.Context, i issuer.Issuer) error { _, err := i.Issue(ctx, request("a")); return err },
		"list":   func(ctx context.Context, i issuer.Issuer) error { _, err := collect(ctx, i); return err },
		"revoke": func(ctx context.Context, i issuer.Issuer) error { return i.Revoke(ctx, "a")["a"] },
		"inspect": func(ctx context.Context, i issuer.Issuer) error {
			_, err := i.(issuer.Inspector).Inspect(ctx)
			return err
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		s := newStage(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			cancel()
			<-r.Context().Done()
		}))
		if err := call(ctx, s.open()); kindOf(err) != "doubt" || !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		s.leftovers()
	}
}

func TestOpen_WrongConfigsAreRefusedWithoutAsking(t *testing.T) {
	s := newStage(t, answer(200, "[]"))
	for name, change := range map[string]func(*issuer.Cluster){
		"no product":         func(c *issuer.Cluster) { c.Product = "" },
		"another product":    func(c *issuer.Cluster) { c.Product = issuer.Clustered },
		"no host":            func(c *issuer.Cluster) { c.Host = "" },
		"a host with a path": func(c *issuer.Cluster) { c.Host = "127.0.0.1/api" },
		"a host with a user": func(c *issuer.Cluster) { c.Host = "user:passw0rd@127.0.0.1" },
		"a URL as host":      func(c *issuer.Cluster) { c.Host = "http://127.0.0.1" },
		"a strange port":     func(c *issuer.Cluster) { c.Port = "80/passw0rd" },
		"a CA that is none":  func(c *issuer.Cluster) { c.CACert = "passw0rd" },
		"a root in lines":    func(c *issuer.Cluster) { c.Root = issuer.NewSecret("passw0rd\r\nX: y") },
	} {
		where := s.cluster(issuer.Core)
		change(&where)
		for call, err := range calls(t.Context(), s.Management().Open(where)) {
			if !errors.Is(err, issuer.ErrRefused) || strings.Contains(texts(err), "passw0rd") {
				t.Errorf("%s, %s: %v", name, call, err)
			}
		}
	}
	if sent := s.requests(""); len(sent) > 0 {
		t.Errorf("sent: %q", sent)
	}
}

func TestOrigin_OfEachProduct(t *testing.T) {
	for _, c := range []struct {
		cluster issuer.Cluster
		want    string
	}{
		{issuer.Cluster{Product: issuer.Core, Host: "h.example"}, "https://h.example:8181"},
		{issuer.Cluster{Product: issuer.Enterprise, Host: "h.example", DisableTLS: true}, "http://h.example:8181"},
		{issuer.Cluster{Product: issuer.Cloud, Host: "h.example"}, "https://h.example:443"},
		{issuer.Cluster{Product: issuer.Core, Host: "::1", Port: "80"}, "https://[::1]:80"},
		{issuer.Cluster{Product: issuer.Core, Host: "127.0.0.1", Port: "8182"}, "https://127.0.0.1:8182"},
	} {
		if got, err := originOf(c.cluster); err != nil || got != c.want {
			t.Errorf("%+v: %q, %v", c.cluster, got, err)
		}
	}
}

func TestConnections_AreShared(t *testing.T) {
	s := simulate(t, influxdb3server.Options{Product: issuer.Enterprise})
	for n := range 10 {
		where := s.where()
		where.Timeout += time.Duration(n)
		if n%2 == 0 {
			where.UUID = ""
		}
		for _, d := range []issuer.Driver{s.Management(), s.Database()} {
			i := d.Open(where)
			token, err := i.Issue(t.Context(), request(fmt.Sprint("a", n)))
			if err != nil {
				t.Fatal(err)
			}
			if failed := i.Revoke(t.Context(), token.ID); len(failed) > 0 {
				t.Fatal(failed)
			}
		}
	}
	if s.dialed > 2 { // a connection may fall idle too late for the next request
		t.Errorf("%d connections", s.dialed)
	}
	other := s.where()
	other.UUID, other.Timeout, other.Root = "", 1, issuer.NewSecret("apiv3_other")
	if s.Management().Open(s.where()).(*cluster).endpoint != s.Database().Open(other).(*cluster).endpoint {
		t.Error("a cluster without its UUID is another place")
	}
}

func TestProxy_OfTheEnvironmentIsUsed(t *testing.T) {
	s := simulate(t, influxdb3server.Options{}) // plain text: the server itself is the proxy
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		t.Setenv(name, s.server.URL)
	}
	for _, name := range []string{"NO_PROXY", "no_proxy", "REQUEST_METHOD"} {
		t.Setenv(name, "")
	}
	where := s.cluster(issuer.Core)
	where.Host = "server.invalid"
	if _, err := New(Config{}).Management().Open(where).Issue(t.Context(), request("a")); err != nil || !s.has("a") {
		t.Error(err)
	}
}
