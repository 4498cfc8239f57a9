package influxdb3

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator/influxdb3server"
)

const (
	rootSecret = "apiv3_rootROOTroot1234567890-_"
	rootName   = "vault root"
	otherUUID  = "ffffffff-0000-4000-8000-00000000000f"
	userAgent  = "vault-plugin-secrets-influxdb/v0.0.0-test"
)

var products = []string{issuer.Core, issuer.Enterprise, issuer.Cloud}

// A stage is an HTTP server, the drivers for it, and a record of the requests.
type stage struct {
	*Drivers
	t      *testing.T
	server *httptest.Server

	mu     sync.Mutex // guards what follows
	seen   []string   // method and path of each request
	busy   int        // requests under way,
	peak   int        // and at most
	dialed int
	active map[net.Conn]bool
}

// newStage serves handler and records all requests.
func newStage(t *testing.T, handler http.Handler) *stage {
	t.Helper()
	s := newUnstarted(t, handler)
	s.server.Start()
	return s
}

func newUnstarted(t *testing.T, handler http.Handler) *stage {
	t.Helper()
	s := &stage{t: t, active: map[net.Conn]bool{}, Drivers: New(Config{UserAgent: userAgent})}
	s.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.enter(r)
		defer s.leave()
		handler.ServeHTTP(w, r)
	}))
	s.server.Config.ConnState = s.connection
	t.Cleanup(func() { s.Drivers.Close(); s.server.Close() })
	return s
}

func (s *stage) enter(r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, r.Method+" "+r.URL.Path)
	s.busy++
	s.peak = max(s.peak, s.busy)
}

func (s *stage) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
}

func (s *stage) connection(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state == http.StateNew {
		s.dialed++
	}
	if s.active[c] = state == http.StateActive; !s.active[c] {
		delete(s.active, c)
	}
}

// requests returns the requests so far, of one method or of any.
func (s *stage) requests(method string) (found []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.seen {
		if strings.HasPrefix(r, method) {
			found = append(found, r)
		}
	}
	return found
}

// leftovers names connections on which a request is still under way.
func (s *stage) leftovers() (left []string) {
	eventually(s.t, "no connection is busy", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		left = nil
		for c := range s.active {
			left = append(left, c.RemoteAddr().String())
		}
		return len(left) == 0
	})
	return left
}

// cluster describes the server as a cluster of a product.
func (s *stage) cluster(product string) issuer.Cluster {
	s.t.Helper()
	at, err := url.Parse(s.server.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	return issuer.Cluster{
		Product: product, Host: at.Hostname(), Port: at.Port(), DisableTLS: at.Scheme == "http",
		Root: issuer.NewSecret(rootSecret), MaxParallel: 4, Timeout: 20 * time.Second,
	}
}

// open returns the issuer of management tokens of the server as a Core server.
func (s *stage) open() issuer.Issuer { return s.Management().Open(s.cluster(issuer.Core)) }

// A simulation is a stage with a simulated server.
type simulation struct {
	*stage
	sim     *influxdb3server.Cluster
	product string
}

// simulate serves a simulated server with the root credential as a named admin
// token. A request that must never be sent fails the test.
func simulate(t *testing.T, o influxdb3server.Options) *simulation {
	t.Helper()
	o.Databases, o.Alarm = []string{"db", "other"}, t.Error
	sim := influxdb3server.New(o)
	sim.AddToken(influxdb3server.Operator, "", time.Time{})
	sim.AddToken(rootName, rootSecret, time.Time{})
	return &simulation{newStage(t, sim), sim, o.Product}
}

// where is the server as it is, with its UUID pinned.
func (s *simulation) where() issuer.Cluster {
	c := s.cluster(s.product)
	c.UUID = s.sim.UUID()
	return c
}

// has reports whether the newest catalog has a token of the name.
func (s *simulation) has(name string) bool {
	_, there := s.sim.Token(name)
	return there
}

// request asks for a token that lives for an hour.
func request(name string) issuer.Request {
	return issuer.Request{
		Description: name, ExpiresAt: time.Now().Add(time.Hour).Truncate(time.Second),
		Read: []string{"db"}, Write: []string{"db", "other"},
	}
}

// collect returns what a list yields.
func collect(ctx context.Context, i issuer.Issuer) (infos []issuer.Info, err error) {
	err = i.List(ctx, func(info issuer.Info) error { infos = append(infos, info); return nil })
	return infos, err
}

// kindOf names what an error wraps. "doubt" means that it is not known whether
// the cluster has acted.
func kindOf(err error) string {
	var is []string
	for _, one := range []struct {
		name string
		err  error
	}{
		{"invalid", issuer.ErrInvalid}, {"unauthorized", issuer.ErrUnauthorized}, {"refused", issuer.ErrRefused},
		{"unknown", issuer.ErrUnknown}, {"unreachable", issuer.ErrUnreachable},
	} {
		switch {
		case !errors.Is(err, one.err):
		case one.err == issuer.ErrRefused && len(is) > 0:
		case one.err == issuer.ErrUnreachable && len(is) == 0:
			is = append(is, "doubt", one.name)
		default:
			is = append(is, one.name)
		}
	}
	switch {
	case err == nil:
		return "ok"
	case len(is) == 0:
		return "doubt"
	}
	return strings.Join(is, " ")
}

// eventually polls for what another goroutine does.
func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !happened() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Error("never: " + what)
			return
		}
	}
}

// answer replies with a status and a body.
func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

// texts returns the text of an error and of all errors that it wraps.
func texts(err error) string {
	if err == nil {
		return ""
	}
	all := err.Error()
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		all += "\n" + texts(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			all += "\n" + texts(inner)
		}
	}
	return all
}
