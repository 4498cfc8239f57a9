package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/boundedjson"
)

// kindsOf names the sentinels that err wraps.
func kindsOf(err error) (kinds []string) {
	for name, kind := range map[string]error{
		"refused": issuer.ErrRefused, "invalid": issuer.ErrInvalid, "unauthorized": issuer.ErrUnauthorized,
		"unreachable": issuer.ErrUnreachable, "unknown": issuer.ErrUnknown,
	} {
		if errors.Is(err, kind) {
			kinds = append(kinds, name)
		}
	}
	return kinds
}

func hasKinds(err error, want string) bool {
	got := kindsOf(err)
	for _, kind := range strings.Fields(want) {
		if !strings.Contains(" "+strings.Join(got, " ")+" ", " "+kind+" ") {
			return false
		}
	}
	return len(got) == len(strings.Fields(want))
}

func TestResponse_MeaningOfStatuses(t *testing.T) {
	for status, want := range map[int]string{
		200: "", 204: "", 301: "", 308: "",
		400: "refused invalid", 422: "refused invalid",
		401: "refused unauthorized", 403: "refused unauthorized",
		404: "refused", 405: "refused", 407: "refused", 413: "refused", 429: "refused",
		408: "", 409: "", 499: "", 500: "", 501: "", 599: "", 999: "",
		502: "unreachable", 503: "unreachable", 504: "unreachable",
	} {
		r := Response{Status: status, secrets: []issuer.Secret{issuer.NewSecret("short-root")}}
		err := r.Err("the token short-root is bad", Advice{Unauthorized: "no", Forbidden: "no", NotFound: "no"})
		if !hasKinds(err, want) || strings.Contains(err.Error(), "short-root") || !strings.Contains(err.Error(), fmt.Sprint(status)) {
			t.Errorf("%d: %v, want %q: %v", status, kindsOf(err), want, err)
		}
	}
}

// An endpoint for a test server, which answers with handler.
func endpointFor(t *testing.T, handler http.HandlerFunc) *Endpoint {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	e := NewEndpoint(NewOptions(Options{UserAgent: "test", Pause: func(context.Context, time.Duration) error { return nil }}), issuer.Cluster{MaxParallel: 2}, server.URL, nil)
	t.Cleanup(e.Close)
	return e
}

func TestDo_ErrorsSayWhetherTheClusterCanHaveReceivedIt(t *testing.T) {
	get := Request{Method: http.MethodGet, Path: "/", Timeout: time.Second}
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for _, c := range []struct {
		name    string
		handler http.HandlerFunc
		change  func(*Endpoint, *Request)
		want    string
	}{
		{"no answer in time", hang, func(_ *Endpoint, r *Request) { r.Timeout = 50 * time.Millisecond }, "unreachable"},
		{"connection cut", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, nil, "unreachable"},
		{"no connection", hang, func(e *Endpoint, _ *Request) { e.origin = "http://127.0.0.1:1" }, "refused unreachable"},
		{"wrong config", hang, func(e *Endpoint, _ *Request) { e.err = errors.New("no host") }, "refused"},
		{"answer cut", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `[{"a":1},`)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, nil, "unreachable"},
		{"not JSON", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `<html>`) }, nil, ""},
	} {
		e, r := endpointFor(t, c.handler), get
		r.Read = func(body io.Reader) error {
			_, err := boundedjson.Array(body, MaxAnswer, func(map[string]int) error { return nil })
			return err
		}
		if c.change != nil {
			c.change(e, &r)
		}
		if _, err := e.Do(t.Context(), r); err == nil || !hasKinds(err, c.want) {
			t.Errorf("%s: %v, want %q: %v", c.name, kindsOf(err), c.want, err)
		}
	}
}

// An error of Read that the connection did not cause is returned as it is.
func TestDo_ReturnsTheErrorOfRead(t *testing.T) {
	e := endpointFor(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "x") })
	enough := errors.New("enough")
	r, err := e.Do(t.Context(), Request{Method: http.MethodGet, Path: "/", Read: func(io.Reader) error { return enough }})
	if err != enough || r.Status != 200 {
		t.Errorf("%d, %v", r.Status, err)
	}
}

func TestRevokeEach_StopsWhenTheClusterIsUnreachable(t *testing.T) {
	var ids []string
	for i := range 100 {
		ids = append(ids, fmt.Sprint(i), fmt.Sprint(i))
	}
	for _, parallel := range []int{0, 1, 4} {
		var calls atomic.Int32
		failed := RevokeEach(t.Context(), ids, parallel, func(_ context.Context, id string) error {
			calls.Add(1)
			return fmt.Errorf("revoke %s: %w", id, issuer.ErrUnreachable)
		})
		if n := int(calls.Load()); n < maxUnreachable || n > maxUnreachable+parallel {
			t.Errorf("parallel %d: %d calls", parallel, n)
		}
		notTried := 0
		for _, id := range ids {
			if !errors.Is(failed[id], issuer.ErrUnreachable) {
				t.Errorf("parallel %d, %s: %v", parallel, id, failed[id])
			}
			if errors.Is(failed[id], issuer.ErrRefused) {
				notTried++
			}
		}
		if want := 2 * (100 - int(calls.Load())); notTried != want {
			t.Errorf("parallel %d: %d not tried, want %d", parallel, notTried, want)
		}
	}
	var calls atomic.Int32
	failed := RevokeEach(t.Context(), ids, 4, func(_ context.Context, id string) error {
		calls.Add(1)
		if id == "7" {
			return issuer.ErrUnknown
		}
		return nil
	})
	if len(failed) != 1 || failed["7"] != issuer.ErrUnknown || calls.Load() != 100 {
		t.Errorf("%v after %d calls", failed, calls.Load())
	}
}

func TestOrigin(t *testing.T) {
	for _, c := range []struct {
		cluster issuer.Cluster
		want    string // empty: an error
	}{
		{issuer.Cluster{Host: "h.example"}, "https://h.example"},
		{issuer.Cluster{Host: "h.example", Port: "8181", DisableTLS: true}, "http://h.example:8181"},
		{issuer.Cluster{Host: "::1"}, "https://[::1]"},
		{issuer.Cluster{Host: "::1", Port: "1"}, "https://[::1]:1"},
		{issuer.Cluster{}, ""},
		{issuer.Cluster{Host: "a/b"}, ""},
		{issuer.Cluster{Host: "user:passw0rd@h"}, ""},
		{issuer.Cluster{Host: "h?q"}, ""},
	} {
		got, err := Origin(c.cluster)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%+v: %q, %v", c.cluster, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "passw0rd") {
			t.Error(err)
		}
	}
}

type closer struct {
	closed *[]string
	name   string
}

func (c closer) Close() { *c.closed = append(*c.closed, c.name) }

func TestPool_KeepsThoseUsedLast(t *testing.T) {
	var p Pool[closer]
	var closed []string
	get := func(c issuer.Cluster, name string) string {
		return p.Get(c, func() closer { return closer{&closed, name} }).name
	}
	always := issuer.Cluster{Host: "always", Root: issuer.NewSecret("old"), Timeout: time.Second}
	for i := range 2 * maxKept {
		always.Root, always.Timeout = issuer.NewSecret(fmt.Sprint("new", i)), time.Duration(i)
		if got := get(always, fmt.Sprint("always", i)); got != "always0" {
			t.Errorf("%s", got)
		}
		get(issuer.Cluster{Host: fmt.Sprint(i)}, fmt.Sprint(i))
	}
	if diff := cmp.Diff([]string{"0", "1"}, closed[:2]); diff != "" || len(closed) != maxKept+1 || len(p.kept) != maxKept || len(p.recent) != maxKept {
		t.Errorf("closed %d, kept %d, %s", len(closed), len(p.kept), diff)
	}
	p.Close()
	if len(closed) != 2*maxKept+1 {
		t.Errorf("%d closed in the end", len(closed))
	}
}

func TestPause_EndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if err := pause(ctx, time.Hour); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		start = time.Now()
		if err := pause(t.Context(), time.Minute); err != nil || time.Since(start) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// With TLS 1.3 the alert about the client certificate arrives after the request.
// The server has not read the request if it was the first on the connection.
func TestConnectionError_RefusedClientCertificate(t *testing.T) {
	alert := &net.OpError{Op: "remote error", Err: errors.New("tls: certificate required")}
	var p progress
	p.connected.Store(true)
	if err := p.connectionError(&url.Error{Op: "Post", URL: "x", Err: fmt.Errorf("broken: %w", alert)}, nil); !hasKinds(err, "refused unreachable") {
		t.Errorf("on a fresh connection: %v", err)
	}
	p.reused.Store(true)
	if err := p.connectionError(alert, nil); !hasKinds(err, "unreachable") {
		t.Errorf("on a connection that has served: %v", err)
	}
	p = progress{}
	p.connected.Store(true)
	if err := p.connectionError(&net.OpError{Op: "remote error", Err: errors.New("tls: internal error")}, nil); !hasKinds(err, "unreachable") {
		t.Errorf("another alert: %v", err)
	}
}

func TestDo_CheckComesBeforeRead(t *testing.T) {
	rejected, read := errors.New("rejected"), false
	for status, want := range map[int]error{200: rejected, 404: nil} {
		e := endpointFor(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		r, err := e.Do(t.Context(), Request{Method: http.MethodGet, Path: "/",
			Check: func(Response) error { return rejected },
			Read:  func(io.Reader) error { read = true; return nil }})
		if err != want || r.Status != status || read {
			t.Errorf("%d: %v, read: %v", status, err, read)
		}
	}
}
