package managementapi

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
)

const (
	accountID      = "aaaaaaaa-0000-4000-8000-000000000001"
	clusterID      = "bbbbbbbb-0000-4000-8000-000000000002"
	someID         = "cccccccc-0000-4000-8000-000000000003"
	rootCredential = "M.V1.rootROOTroot1234567890+/="
	userAgent      = "vault-plugin-secrets-influxdb/v0.0.0-test"

	shortPath = "/api/v0/tokens"
	longPath  = "/api/v0/accounts/" + accountID + "/clusters/" + clusterID + "/tokens"
)

// A fixture is a server with a driver for it, and a record of their requests and
// connections.
type fixture struct {
	*Driver
	t      *testing.T
	server *httptest.Server

	mu     sync.Mutex // guards what follows
	seen   []string   // method and path of each request
	busy   int        // requests at this time
	peak   int        // the largest value of busy
	conns  map[net.Conn]http.ConnState
	dialed int
	pauses []time.Duration
}

// newFixture serves handler and records all requests.
func newFixture(t *testing.T, handler http.HandlerFunc) *fixture {
	t.Helper()
	s := newUnstarted(t, handler)
	s.server.Start()
	return s
}

func newUnstarted(t *testing.T, handler http.HandlerFunc) *fixture {
	t.Helper()
	s := &fixture{t: t, conns: map[net.Conn]http.ConnState{}}
	s.Driver = New(Config{UserAgent: userAgent, Pause: s.noPause})
	s.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.enter(r)
		defer s.leave()
		handler(w, r)
	}))
	s.server.Config.ConnState = s.connection
	s.server.Config.ErrorLog = nil
	t.Cleanup(func() { s.Driver.Close(); s.server.Close() })
	return s
}

func (s *fixture) enter(r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, r.Method+" "+r.URL.Path)
	s.busy++
	s.peak = max(s.peak, s.busy)
}

func (s *fixture) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
}

func (s *fixture) connection(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch state {
	case http.StateNew:
		s.dialed++
		s.conns[c] = state
	case http.StateClosed, http.StateHijacked:
		delete(s.conns, c)
	default:
		s.conns[c] = state
	}
}

// noPause records a pause and does not wait.
func (s *fixture) noPause(ctx context.Context, d time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pauses = append(s.pauses, d)
	return ctx.Err()
}

// requests returns the requests so far, of one method or of any.
func (s *fixture) requests(method string) (found []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.seen {
		if method == "" || len(r) > len(method) && r[:len(method)+1] == method+" " {
			found = append(found, r)
		}
	}
	return found
}

// leftovers returns the connections on which a request is still running.
func (s *fixture) leftovers() (left []string) {
	eventually(s.t, "no connection is busy", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		left = nil
		for c, state := range s.conns {
			if state == http.StateActive {
				left = append(left, c.RemoteAddr().String())
			}
		}
		return len(left) == 0
	})
	return left
}

// cluster returns the server as a cluster of a product.
func (s *fixture) cluster(product string) issuer.Cluster {
	s.t.Helper()
	at, err := url.Parse(s.server.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	c := issuer.Cluster{
		Product: product, AccountID: accountID, ClusterID: clusterID, Root: issuer.NewSecret(rootCredential),
		MaxParallel: 4, Timeout: 20 * time.Second,
	}
	if product == issuer.Clustered {
		c.Host, c.Port, c.DisableTLS = at.Hostname(), at.Port(), at.Scheme == "http"
	} else {
		c.APIURL = s.server.URL
	}
	return c
}

// open returns an issuer of the server as a cluster of InfluxDB Clustered.
func (s *fixture) open() issuer.Issuer { return s.Open(s.cluster(issuer.Clustered)) }

func (s *fixture) issue(i issuer.Issuer, desc string) (issuer.Token, error) {
	return i.Issue(s.t.Context(), request(desc))
}

// request returns a request for a token that may read and write one database for
// an hour.
func request(desc string) issuer.Request {
	return issuer.Request{
		Description: desc, ExpiresAt: time.Now().Add(time.Hour).Truncate(time.Second),
		Read: []string{"db"}, Write: []string{"db"},
	}
}

// collect returns all that List yields.
func collect(ctx context.Context, i issuer.Issuer) (infos []issuer.Info, err error) {
	err = i.List(ctx, func(info issuer.Info) error { infos = append(infos, info); return nil })
	return infos, err
}

// A simulation is a fixture whose server is the simulated cluster.
type simulation struct {
	*fixture
	*simulator.Cluster
}

// simulate serves a cluster that has the paths of a product. With a contract, it
// checks every request and every answer against the contract.
func simulate(t *testing.T, product string, check contract) *simulation {
	t.Helper()
	sim := simulator.NewCluster(simulator.Options{Product: product, AccountID: accountID, ClusterID: clusterID, Root: rootCredential})
	handler := sim.ServeHTTP
	if check != nil {
		handler = checked(t, check, product, sim)
	}
	return &simulation{newFixture(t, handler), sim}
}

// checked lets a handler answer and checks the exchange against a contract.
func checked(t *testing.T, check contract, product string, handler http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		requestBody, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(requestBody))
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, r)
		e := exchange{
			method: r.Method, path: r.URL.Path, header: r.Header, body: requestBody,
			status: answer.Code, answerHeader: answer.Header(), answer: answer.Body.Bytes(),
		}
		if err := check.check(product, e); err != nil && r.Context().Err() == nil {
			t.Errorf("%s %s, answer %d: %v", r.Method, r.URL.Path, answer.Code, err)
		}
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(answer.Code)
		w.Write(answer.Body.Bytes())
	}
}

// usable reports whether the cluster lets a token write.
func (s *simulation) usable(ctx context.Context, token issuer.Secret) (bool, error) {
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/api/v2/write?bucket=db", bytes.NewReader([]byte("m v=1")))
	r.Header.Set("Authorization", "Bearer "+token.Reveal())
	answer := httptest.NewRecorder()
	s.Cluster.ServeHTTP(answer, r)
	switch answer.Code {
	case http.StatusNoContent:
		return true, nil
	case http.StatusUnauthorized:
		return false, nil
	}
	return false, fmt.Errorf("status %d", answer.Code)
}

// described returns the IDs of the tokens with a description, and whether any of
// them is active.
func (s *simulation) described(desc string) (ids []string, live bool) {
	for _, token := range s.Tokens() {
		if token.Description == desc {
			ids, live = append(ids, token.ID), live || token.Live
		}
	}
	return ids, live
}

// eventually waits until happened returns true. It polls, because another
// goroutine decides.
func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !happened() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Error("did not happen: " + what)
			return
		}
	}
}

// status answers with a status and a message in the documented form.
func status(code int, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { complain(w, code, message) }
}

func complain(w http.ResponseWriter, code int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	fmt.Fprintf(w, `{"code":%d,"message":%q}`, code, message)
}

// script answers requests by their method and path. The last of several answers
// is repeated. A request without an entry gets a 404 that is not in the form of
// the API, as from a proxy.
func script(answers map[string][]http.HandlerFunc) http.HandlerFunc {
	var mu sync.Mutex
	return func(w http.ResponseWriter, r *http.Request) {
		key := r.Method + " " + r.URL.Path
		mu.Lock()
		next := slices.Clone(answers[key])
		if len(next) > 1 {
			answers[key] = next[1:]
		}
		mu.Unlock()
		if len(next) == 0 {
			http.Error(w, "default backend - 404", http.StatusNotFound)
			return
		}
		next[0](w, r)
	}
}

// text answers 200 with a body.
func text(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) }
}
