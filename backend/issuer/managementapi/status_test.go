package managementapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/httpapi"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
)

// kindOf names the kind of an error.
func kindOf(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, issuer.ErrUnauthorized):
		return "unauthorized"
	case errors.Is(err, issuer.ErrRefused):
		return "refused"
	case errors.Is(err, issuer.ErrUnknown):
		return "unknown"
	}
	return "doubt"
}

func TestStatus_ErrorOfEachMethod(t *testing.T) {
	for _, c := range []struct {
		status              int
		issue, revoke, list string
	}{
		{200, "doubt", "doubt", "doubt"}, // with an empty body
		{201, "doubt", "doubt", "doubt"},
		{202, "doubt", "doubt", "doubt"},
		{204, "doubt", "ok", "doubt"},
		{206, "doubt", "doubt", "doubt"},
		{301, "doubt", "doubt", "doubt"},
		{302, "doubt", "doubt", "doubt"},
		{303, "doubt", "doubt", "doubt"},
		{307, "doubt", "doubt", "doubt"},
		{308, "doubt", "doubt", "doubt"},
		{400, "refused", "refused", "refused"},
		{401, "unauthorized", "unauthorized", "unauthorized"},
		{403, "unauthorized", "unauthorized", "unauthorized"},
		{404, "refused", "refused", "refused"}, // and no collection at any path
		{405, "refused", "refused", "refused"},
		{407, "refused", "refused", "refused"},
		{408, "doubt", "doubt", "doubt"},
		{409, "doubt", "doubt", "doubt"},
		{413, "refused", "refused", "refused"},
		{422, "refused", "refused", "refused"},
		{429, "refused", "refused", "refused"},
		{499, "doubt", "doubt", "doubt"},
		{500, "doubt", "doubt", "doubt"},
		{502, "doubt", "doubt", "doubt"},
		{503, "doubt", "doubt", "doubt"},
		{504, "doubt", "doubt", "doubt"},
		{599, "doubt", "doubt", "doubt"},
		{999, "doubt", "doubt", "doubt"},
	} {
		s := newFixture(t, status(c.status, "a message"))
		_, issue := s.issue(s.open(), "d")
		revoke := s.open().Revoke(t.Context(), someID)[someID]
		_, list := collect(t.Context(), s.open())
		if kindOf(issue) != c.issue || kindOf(revoke) != c.revoke || kindOf(list) != c.list {
			t.Errorf("%d:\nissue %s: %v\nrevoke %s: %v\nlist %s: %v", c.status, kindOf(issue), issue, kindOf(revoke), revoke, kindOf(list), list)
		}
		if sent := s.requests(http.MethodPost); len(sent) != 1 {
			t.Errorf("%d: sent %q", c.status, sent)
		}
	}
}

func TestRevoke_ReadsTheTokenAfterAnError(t *testing.T) {
	const revoked = `{"id":"` + someID + `","description":"d","revokedAt":"2026-01-02T03:04:05.678Z"}`
	const expired = `{"id":"` + someID + `","description":"d","expiresAt":"2026-01-02T03:04:05Z"}`
	const active = `{"id":"` + someID + `","description":"d","expiresAt":"2999-01-02T03:04:05Z"}`
	const other = `{"id":"` + clusterID + `","description":"d","revokedAt":"2026-01-02T03:04:05Z"}`
	unknown := status(404, "token not found")
	for _, c := range []struct {
		name        string
		remove, get http.HandlerFunc
		want        string
	}{
		{"revoked before", status(404, "x"), text(revoked), "ok"},
		{"expired before", status(409, "x"), text(expired), "ok"},
		{"revoked, 502 from a proxy", status(502, "x"), text(revoked), "ok"},
		{"expired by this clock, server error", status(500, "x"), text(expired), "doubt"},
		{"expired by this clock, not available", status(503, "x"), text(expired), "doubt"},
		{"expired by this clock, too many requests", status(429, "x"), text(expired), "refused"},
		{"expired by this clock, no answer", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, text(expired), "doubt"},
		{"expired, refused as invalid", status(400, "x"), text(expired), "ok"},
		{"revoked with another status", status(200, "x"), text(revoked), "ok"},
		{"accepted", status(202, "x"), text(active), "doubt"},
		{"unknown", unknown, unknown, "unknown"},
		{"unknown after a server error", status(503, "x"), unknown, "unknown"},
		{"active, but 404", unknown, text(active), "refused"},
		{"active after a server error", status(500, "x"), text(active), "doubt"},
		{"about another token", unknown, text(other), "refused"},
		{"about no token", unknown, text(`{}`), "refused"},
		{"null", unknown, text(`null`), "refused"},
		{"a web page", unknown, text(`<html>welcome</html>`), "refused"},
		{"no answer", unknown, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "refused"},
		{"server error", unknown, status(500, "x"), "refused"},
	} {
		one := " " + shortPath + "/" + someID
		s := newFixture(t, script(map[string][]http.HandlerFunc{
			"DELETE" + one: {c.remove}, "GET" + one: {c.get}, "GET " + shortPath: {text(`[]`)},
		}))
		if err := s.open().Revoke(t.Context(), someID)[someID]; kindOf(err) != c.want {
			t.Errorf("%s: %s, want %s: %v", c.name, kindOf(err), c.want, err)
		}
	}
}

func TestRevoke_NotFoundFromAProxy(t *testing.T) {
	page := func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "default backend - 404", http.StatusNotFound)
	}
	one := " " + shortPath + "/" + someID
	s := newFixture(t, script(map[string][]http.HandlerFunc{
		"GET " + shortPath: {text(`[]`), text(`[]`), page}, // then only the proxy answers
		"DELETE" + one:     {status(404, "token not found"), page},
		"GET" + one:        {status(404, "token not found"), page},
	}))
	if _, err := collect(t.Context(), s.open()); err != nil {
		t.Fatal(err)
	}
	if err := s.open().Revoke(t.Context(), someID)[someID]; kindOf(err) != "unknown" {
		t.Errorf("of a cluster that answers: %v", err)
	}
	if err := s.open().Revoke(t.Context(), someID)[someID]; err == nil || errors.Is(err, issuer.ErrUnknown) {
		t.Errorf("of a cluster that does not answer: %v", err)
	}
}

func TestCollection_MustBeAList(t *testing.T) {
	s := newFixture(t, script(map[string][]http.HandlerFunc{
		"DELETE " + shortPath + "/" + someID: {status(404, "x")}, "GET " + shortPath: {text(`<html>log in</html>`)},
	}))
	if err := s.open().Revoke(t.Context(), someID)[someID]; err == nil || errors.Is(err, issuer.ErrUnknown) {
		t.Error(err)
	}
}

func TestRevoke_ImplausibleIDIsNotSent(t *testing.T) {
	s := newFixture(t, status(204, ""))
	for _, id := range []string{"", ".", "..", "a/b", "?", "%2e", "ü", strings.Repeat("a", 129)} {
		if err := s.open().Revoke(t.Context(), id)[id]; !errors.Is(err, issuer.ErrRefused) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if sent := s.requests(""); len(sent) > 0 {
		t.Errorf("sent: %q", sent)
	}
}

func TestIssue_ExpirationTypeOnRequest(t *testing.T) {
	for _, c := range []struct {
		name    string
		expires time.Time
		want    string
	}{
		{"datetime", time.Date(2030, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600)), `{"description":"d","permissions":[],"expiresAt":"2030-01-02T02:04:05Z","expirationType":"datetime"}`},
		{"never", time.Time{}, `{"description":"d","permissions":[],"expirationType":"noExpiration"}`},
	} {
		var bodies []string
		s := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			bodies = append(bodies, string(body))
			if !strings.Contains(string(body), "expirationType") {
				complain(w, 400, "missing property: ExpirationType")
				return
			}
			fmt.Fprintf(w, `{"id":%q,"accessToken":"apiv1_x","expiresAt":"2030-01-02T02:04:05Z"}`, someID)
		})
		if _, err := s.open().Issue(t.Context(), issuer.Request{Description: "d", ExpiresAt: c.expires}); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if len(bodies) != 2 || bodies[1] != c.want {
			t.Errorf("%s: %q", c.name, bodies)
		}
	}
	for _, body := range []string{"expirationType is required\n", `{"error":"missing expirationType"}`} { // not in the documented form
		s := newFixture(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, body, 400) })
		if _, err := s.issue(s.open(), "d"); kindOf(err) != "refused" || len(s.requests("")) != 2 {
			t.Errorf("%s: %v after %q", body, err, s.requests(""))
		}
	}
	s := newFixture(t, status(400, "expirationType is not known"))
	if _, err := s.issue(s.open(), "d"); kindOf(err) != "refused" || len(s.requests("")) != 2 {
		t.Errorf("%v after %q", err, s.requests(""))
	}
}

// Descriptions are unique, so a conflict may be with the token that the same
// request has created, if something between client and server has sent it twice.
func TestIssue_ConflictMayBeWithItsOwnToken(t *testing.T) {
	s := simulate(t, simulator.Clustered, nil)
	s.SetFaults(simulator.Faults{Create: simulator.Fault{Error: simulator.TextAlreadyExists, Committed: true}})
	_, err := s.issue(s.open(), "d")
	if ids, live := s.described("d"); len(ids) != 1 || !live {
		t.Fatalf("%v, %v", ids, live)
	}
	if err == nil || errors.Is(err, issuer.ErrRefused) {
		t.Errorf("the token exists: %v", err)
	}
}

func TestIssue_UnclearAnswerIsNoRefusal(t *testing.T) {
	expires := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	answer := func(id, token string, expires time.Time) string {
		text, err := json.Marshal(map[string]any{"id": id, "accessToken": token, "expiresAt": expires})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	const secret = "apiv1_5Ecr3t5Ecr3t5Ecr3t5Ecr3t5Ecr3t"
	for name, body := range map[string]string{
		"nothing":             ``,
		"null":                `null`,
		"an array":            `[` + answer(someID, secret, expires) + `]`,
		"a web page":          `<html>welcome</html>`,
		"half an answer":      answer(someID, secret, expires)[:60],
		"no id":               answer("", secret, expires),
		"an id with a path":   answer("../x", secret, expires),
		"no secret":           answer(someID, "", expires),
		"the root credential": answer(someID, rootCredential, expires),
		"no expiry":           answer(someID, secret, time.Unix(0, 0)),
		"a later expiry":      answer(someID, secret, expires.Add(time.Minute)),
		"an earlier expiry":   answer(someID, secret, expires.Add(-time.Minute)),
		"an invalid time":     `{"id":"` + someID + `","accessToken":"` + secret + `","expiresAt":"` + secret + `"}`,
		"a number for an id":  `{"id":5,"accessToken":"` + secret + `"}`,
		"a long secret":       answer(someID, secret+strings.Repeat("A", httpapi.MaxAnswer), expires),
		"a long tail":         answer(someID, secret, expires) + strings.Repeat(" ", httpapi.MaxAnswer) + "}",
		"a second token":      answer(someID, secret, expires) + answer(someID, secret, expires),
	} {
		s := newFixture(t, text(body))
		_, err := s.open().Issue(t.Context(), issuer.Request{Description: "d", ExpiresAt: expires})
		if err == nil || errors.Is(err, issuer.ErrRefused) || strings.Contains(err.Error(), "5Ecr3t") {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := newFixture(t, text(answer(someID, secret, expires)))
	token, err := s.open().Issue(t.Context(), issuer.Request{Description: "d", ExpiresAt: expires})
	if want := (issuer.Token{ID: someID, Secret: issuer.NewSecret(secret)}); err != nil || token != want {
		t.Errorf("%v, %v", token, err)
	}
}

// texts returns the text of an error and of all errors that it wraps.
func texts(err error) string {
	all := err.Error()
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			all += "\n" + texts(inner)
		}
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			all += "\n" + texts(inner)
		}
	}
	return all
}

func TestErrors_HoldNoSecret(t *testing.T) {
	const newToken = "apiv1_m1nted/M1NTED"
	const jwt = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
	for code := 200; code < 600; code += 10 {
		s := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
			_, root, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			complain(w, code, "got "+root+" for "+newToken+" of "+jwt+` {"accessToken":"plain"}`)
		})
		for _, root := range []string{"M.V1.r00t+R00T", "0f-n0-known-f0rm"} {
			target := s.cluster(issuer.Clustered)
			target.Root = issuer.NewSecret(root)
			_, issue := s.issue(s.Open(target), "d")
			_, list := collect(t.Context(), s.Open(target))
			for _, err := range []error{issue, list, s.Open(target).Revoke(t.Context(), someID)[someID]} {
				for _, secret := range []string{root, newToken, jwt, "plain"} {
					if strings.Contains(texts(err), secret) {
						t.Errorf("%d: %v", code, err)
					}
				}
				if quoted := strings.Contains(texts(err), "got [redacted]"); quoted != (code >= 300) {
					t.Errorf("%d: the rest must be quoted: %v", code, err)
				}
			}
		}
	}
}

func TestRevoke_RefusedRootCredentialSendsOneRequest(t *testing.T) {
	for _, code := range []int{401, 403} {
		s := newFixture(t, status(code, "no"))
		if err := s.open().Revoke(t.Context(), someID, someID, someID)[someID]; kindOf(err) != "unauthorized" || len(s.requests("")) != 1 {
			t.Errorf("%d: %v after %q", code, err, s.requests(""))
		}
	}
}

func TestList_PartialContentIsAnError(t *testing.T) {
	s := newFixture(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusPartialContent)
		io.WriteString(w, `[]`)
	})
	if _, err := collect(t.Context(), s.open()); kindOf(err) != "doubt" {
		t.Error(err)
	}
}

func TestErrors_QuoteTheMessage(t *testing.T) {
	for body, want := range map[string]string{
		`{"code":409,"message":"a token of this\n  description exists"}`: `with the message "a token of this description exists"`,
		`{"code":"conflict","message":"it exists"}`:                      `with the message "it exists"`,
		`{"code":409,"message":"` + strings.Repeat("long ", 100) + `"}`:  "long …",
		`<html>it exists</html>`:                                         "409 Conflict",
		`{"message":"it exists"}`:                                        "409 Conflict",
	} {
		s := newFixture(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusConflict)
			io.WriteString(w, body)
		})
		_, err := s.issue(s.open(), "d")
		if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "7s") || len(err.Error()) > 500 {
			t.Errorf("%s: %v", body, err)
		}
		if quoted := strings.Contains(err.Error(), "with the message"); quoted != strings.HasPrefix(want, "with the message") && want != "long …" {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestIssue_Request(t *testing.T) {
	var got http.Header
	var body string
	s := newFixture(t, func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		got, body = r.Header.Clone(), string(text)
		w.WriteHeader(http.StatusTeapot)
	})
	expires := time.Date(2030, 1, 2, 3, 4, 5, 999, time.FixedZone("", -3600))
	_, err := s.open().Issue(t.Context(), issuer.Request{Description: `a "b" <c>`, ExpiresAt: expires, Read: []string{"r"}, Write: []string{"*"}})
	if kindOf(err) != "refused" {
		t.Error(err)
	}
	got.Del("Content-Length")
	want := http.Header{
		"Accept": {"application/json"}, "Accept-Encoding": {"gzip"}, "Authorization": {"Bearer " + rootCredential},
		"Content-Type": {"application/json"}, "User-Agent": {userAgent},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("-want +got\n" + diff)
	}
	const wantBody = `{"description":"a \"b\" \u003cc\u003e","permissions":[{"action":"read","resource":"r"},{"action":"write","resource":"*"}],"expiresAt":"2030-01-02T04:04:05Z"}`
	if body != wantBody {
		t.Error(body)
	}
}

func TestConfig_IncompleteSendsNothing(t *testing.T) {
	s := newFixture(t, status(204, ""))
	root := issuer.NewSecret(rootCredential)
	for name, c := range map[string]issuer.Cluster{
		"no product":                          {Host: "127.0.0.1", Root: root},
		"another product":                     {Product: "core", Host: "127.0.0.1", Root: root},
		"no ids":                              {Product: issuer.Dedicated, APIURL: s.server.URL, Root: root},
		"no host":                             {Product: issuer.Clustered, Root: root},
		"a host with a path":                  {Product: issuer.Clustered, Host: "a/b", Root: root},
		"api_url, a path":                     {Product: issuer.Clustered, APIURL: s.server.URL + "/api", Root: root},
		"api_url, a user":                     {Product: issuer.Clustered, APIURL: "http://user:passw0rd@127.0.0.1", Root: root},
		"api_url, a query":                    {Product: issuer.Clustered, APIURL: s.server.URL + "?", Root: root},
		"api_url, no scheme":                  {Product: issuer.Clustered, APIURL: "127.0.0.1:80", Root: root},
		"api_url, a file":                     {Product: issuer.Clustered, APIURL: "file:///etc/passwd", Root: root},
		"an invalid CA":                       {Product: issuer.Clustered, APIURL: s.server.URL, CACert: "passw0rd", Root: root},
		"an invalid key":                      {Product: issuer.Clustered, APIURL: s.server.URL, ClientCert: "x", ClientKey: issuer.NewSecret("passw0rd"), Root: root},
		"a root credential with a line break": {Product: issuer.Clustered, APIURL: s.server.URL, Root: issuer.NewSecret("passw0rd\r\nX: y")},
	} {
		iss := s.Open(c)
		_, issue := s.issue(iss, "d")
		_, list := collect(t.Context(), iss)
		for _, err := range []error{issue, list, iss.Revoke(t.Context(), someID)[someID]} {
			if !errors.Is(err, issuer.ErrRefused) || strings.Contains(err.Error(), "passw0rd") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if sent := s.requests(""); len(sent) > 0 {
		t.Errorf("sent: %q", sent)
	}
}

func TestOriginOf(t *testing.T) {
	for _, c := range []struct {
		cluster issuer.Cluster
		want    string
	}{
		{issuer.Cluster{Product: issuer.Dedicated, Host: "x.a.influxdb.io"}, "https://console.influxdata.com"},
		{issuer.Cluster{Product: issuer.Dedicated, APIURL: "https://other.example:8443/"}, "https://other.example:8443"},
		{issuer.Cluster{Product: issuer.Clustered, Host: "c.example"}, "https://c.example"},
		{issuer.Cluster{Product: issuer.Clustered, Host: "c.example", Port: "8443"}, "https://c.example:8443"},
		{issuer.Cluster{Product: issuer.Clustered, Host: "c.example", Port: "80", DisableTLS: true}, "http://c.example:80"},
		{issuer.Cluster{Product: issuer.Clustered, Host: "::1", Port: "80"}, "https://[::1]:80"},
		{issuer.Cluster{Product: issuer.Clustered, Host: "::1"}, "https://[::1]"},
		{issuer.Cluster{Product: issuer.Clustered, Host: "c.example", APIURL: "https://api.example"}, "https://api.example"},
	} {
		if got, err := originOf(c.cluster); err != nil || got != c.want {
			t.Errorf("%+v: %q, %v", c.cluster, got, err)
		}
	}
}

func TestOpen_DoesNoIO(t *testing.T) {
	s := newFixture(t, status(204, ""))
	s.open()
	if s.dialed != 0 {
		t.Error("a connection was made")
	}
}

func TestContext_CanceledDuringARequest(t *testing.T) {
	for name, call := range map[string]func(context.Context, issuer.Issuer) error{
		"issue":  func(ctx context.Context, i issuer.Issuer) error { _, err := i.Issue(ctx, request("d")); return err },
		"list":   func(ctx context.Context, i issuer.Issuer) error { _, err := collect(ctx, i); return err },
		"revoke": func(ctx context.Context, i issuer.Issuer) error { return i.Revoke(ctx, someID)[someID] },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		s := newFixture(t, func(_ http.ResponseWriter, r *http.Request) {
			cancel()
			io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		})
		start := time.Now()
		if err := call(ctx, s.open()); kindOf(err) != "doubt" || !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		if elapsed := time.Since(start); elapsed > 10*time.Second || len(s.requests("")) != 1 {
			t.Errorf("%s: %q in %v", name, s.requests(""), elapsed)
		}
		s.leftovers()
	}
}

func TestContext_DoneWhileWaitingForASlot(t *testing.T) {
	release := make(chan struct{})
	s := newFixture(t, func(_ http.ResponseWriter, r *http.Request) { <-release })
	target := s.cluster(issuer.Clustered)
	target.MaxParallel = 1
	var first sync.WaitGroup
	first.Go(func() { s.Open(target).Revoke(t.Context(), someID) })
	t.Cleanup(func() { close(release); first.Wait() })
	eventually(t, "the first request was sent", func() bool { return len(s.requests("")) == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Open(target).Issue(ctx, request("d")); !errors.Is(err, issuer.ErrRefused) || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// A 404 for one token is about the token only if the collection is served at
// that moment. An account or a cluster that is gone answers 404 too, in the
// API's own form.
func TestRevoke_NotFoundNeedsTheCollection(t *testing.T) {
	one := " " + shortPath + "/" + someID
	const active = `[{"id":"` + someID + `","description":"d","expiresAt":"2999-01-02T03:04:05Z"}]`
	const revoked = `[{"id":"` + someID + `","description":"d","revokedAt":"2026-01-02T03:04:05Z"}]`
	clusterGone := status(404, "cluster not found")
	for _, c := range []struct {
		name       string
		collection http.HandlerFunc // after it was served once
		want       string
	}{
		{"served without the token", text(`[]`), "unknown"},
		{"served with the active token", text(active), "refused"},
		{"served with the revoked token", text(revoked), "ok"},
		{"cluster not found", clusterGone, "refused"},
		{"account not found", status(404, "account not found"), "refused"},
		{"router's 404", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "404", http.StatusNotFound) }, "refused"},
		{"server error", status(500, "x"), "refused"},
		{"incomplete list", text(`[{"id":"` + clusterID + `"}`), "refused"},
		{"login page", text(`<html>log in</html>`), "refused"},
	} {
		s := newFixture(t, script(map[string][]http.HandlerFunc{
			"GET " + shortPath: {text(`[]`), c.collection},
			"DELETE" + one:     {clusterGone},
			"GET" + one:        {clusterGone},
		}))
		if _, err := collect(t.Context(), s.open()); err != nil {
			t.Fatal(err)
		}
		if err := s.open().Revoke(t.Context(), someID)[someID]; kindOf(err) != c.want {
			t.Errorf("%s: %s, want %s: %v", c.name, kindOf(err), c.want, err)
		}
	}
}

// page404 is what a proxy answers while it does not know the cluster.
func page404(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "default backend - 404", http.StatusNotFound)
}

// While a proxy answers 404 for the documented path, the path with IDs may be
// served and empty, for example because it is that of another account. It proves
// nothing about tokens at the documented path.
func TestRevoke_OtherCollectionIsNoProof(t *testing.T) {
	for name, collection := range map[string][]http.HandlerFunc{
		"after a start":                          {page404},
		"after the documented path has answered": {text(`[]`), page404},
	} {
		one, known := "/"+someID, len(collection) > 1
		s := newFixture(t, script(map[string][]http.HandlerFunc{
			"GET " + shortPath:          collection,
			"DELETE " + shortPath + one: {page404}, "GET " + shortPath + one: {page404},
			"DELETE " + longPath + one: {status(404, "not found")}, "GET " + longPath + one: {status(404, "not found")},
			"GET " + longPath: {text(`[]`)},
		}))
		if known {
			if _, err := collect(t.Context(), s.open()); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if err := s.open().Revoke(t.Context(), someID)[someID]; err == nil || errors.Is(err, issuer.ErrUnknown) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := collect(t.Context(), s.open()); known && err == nil {
			t.Errorf("%s: the list of another collection is the list of the cluster", name)
		}
	}
}

// A cluster that serves only the path with IDs can say that a token is unknown. An
// empty list is not enough for it.
func TestRevoke_UnknownAtThePathWithIDs(t *testing.T) {
	for list, want := range map[string]string{`[]`: "refused", `[{"id":"` + accountID + `","description":"d"}]`: "unknown"} {
		one := longPath + "/" + someID
		s := newFixture(t, script(map[string][]http.HandlerFunc{
			"DELETE " + one: {status(404, "not found")}, "GET " + one: {status(404, "not found")}, "GET " + longPath: {text(list)},
		}))
		if err := s.open().Revoke(t.Context(), someID)[someID]; kindOf(err) != want {
			t.Errorf("%s: %s, want %s: %v", list, kindOf(err), want, err)
		}
	}
}

// After a list from the path with IDs, the documented path is still the first one.
func TestCollection_EmptyListIsNotRemembered(t *testing.T) {
	s := newFixture(t, script(map[string][]http.HandlerFunc{
		"GET " + shortPath: {page404, page404, text(`[{"id":"` + someID + `","description":"d"}]`)}, "GET " + longPath: {text(`[]`)},
	}))
	for _, want := range []int{0, 1} {
		if infos, err := collect(t.Context(), s.open()); err != nil || len(infos) != want {
			t.Errorf("%d tokens, want %d: %v", len(infos), want, err)
		}
	}
}

// The list must be that of the path at which the token was not found.
func TestRevoke_CollectionMovesBetweenTokenAndList(t *testing.T) {
	one := "/" + someID
	const another = `[{"id":"` + accountID + `","description":"d"}]`
	s := newFixture(t, script(map[string][]http.HandlerFunc{
		"GET " + shortPath:         {page404, text(another)},
		"DELETE " + longPath + one: {status(204, ""), status(404, "not found")}, "GET " + longPath + one: {status(404, "not found")},
		"GET " + longPath: {text(another), page404},
	}))
	if failed := s.open().Revoke(t.Context(), someID); len(failed) > 0 { // finds the path with IDs
		t.Fatal(failed)
	}
	if err := s.open().Revoke(t.Context(), someID)[someID]; err == nil || errors.Is(err, issuer.ErrUnknown) {
		t.Errorf("a list at another path: %v", err)
	}
}

// One list answers for all unknown IDs of a call.
func TestRevoke_ManyUnknownIDsNeedOneList(t *testing.T) {
	s := simulate(t, simulator.Clustered, nil)
	if _, err := collect(t.Context(), s.open()); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for i := range 20 {
		ids = append(ids, fmt.Sprintf("dddddddd-0000-4000-8000-%012d", i))
	}
	before := len(s.requests(http.MethodGet))
	failed := s.open().Revoke(t.Context(), ids...)
	for _, id := range ids {
		if !errors.Is(failed[id], issuer.ErrUnknown) {
			t.Errorf("%s: %v", id, failed[id])
		}
	}
	lists := 0
	for _, r := range s.requests(http.MethodGet)[before:] {
		if r == "GET "+shortPath {
			lists++
		}
	}
	if lists != 1 {
		t.Errorf("%d lists, want 1", lists)
	}
}
