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

// is names the kind of an error.
func is(err error) string {
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

func TestEveryStatusIsTakenForWhatItSays(t *testing.T) {
	for _, c := range []struct {
		status             int
		mint, revoke, list string
	}{
		{200, "doubt", "doubt", "doubt"}, // with a body that says nothing
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
		{404, "refused", "refused", "refused"}, // and no collection anywhere
		{405, "refused", "refused", "refused"},
		{407, "refused", "refused", "refused"},
		{408, "doubt", "doubt", "doubt"},
		{409, "refused", "refused", "refused"},
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
		s := newStage(t, status(c.status, "what it says"))
		_, mint := s.issue(s.open(), "d")
		revoke := s.open().Revoke(t.Context(), someID)[someID]
		_, list := collect(t.Context(), s.open())
		if is(mint) != c.mint || is(revoke) != c.revoke || is(list) != c.list {
			t.Errorf("%d:\nmint %s: %v\nrevoke %s: %v\nlist %s: %v", c.status, is(mint), mint, is(revoke), revoke, is(list), list)
		}
		if sent := s.requests(http.MethodPost); len(sent) != 1 {
			t.Errorf("%d: sent %q", c.status, sent)
		}
	}
}

func TestWhatBecameOfATokenIsAskedFor(t *testing.T) {
	const dead = `{"id":"` + someID + `","description":"d","revokedAt":"2026-01-02T03:04:05.678Z"}`
	const gone = `{"id":"` + someID + `","description":"d","expiresAt":"2026-01-02T03:04:05Z"}`
	const alive = `{"id":"` + someID + `","description":"d","expiresAt":"2999-01-02T03:04:05Z"}`
	const other = `{"id":"` + clusterID + `","description":"d","revokedAt":"2026-01-02T03:04:05Z"}`
	unknown := status(404, "token not found")
	for _, c := range []struct {
		name        string
		remove, get http.HandlerFunc
		want        string
	}{
		{"revoked before", status(404, "x"), text(dead), "ok"},
		{"expired before", status(409, "x"), text(gone), "ok"},
		{"committed behind a gateway", status(502, "x"), text(dead), "ok"},
		{"deleted with another status", status(200, "x"), text(dead), "ok"},
		{"accepted", status(202, "x"), text(alive), "doubt"},
		{"never known", unknown, unknown, "unknown"},
		{"gone after trouble", status(503, "x"), unknown, "unknown"},
		{"alive though not found", unknown, text(alive), "refused"},
		{"alive after trouble", status(500, "x"), text(alive), "doubt"},
		{"about another token", unknown, text(other), "refused"},
		{"about no token", unknown, text(`{}`), "refused"},
		{"null", unknown, text(`null`), "refused"},
		{"a page", unknown, text(`<html>welcome</html>`), "refused"},
		{"silence", unknown, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "refused"},
		{"trouble", unknown, status(500, "x"), "refused"},
	} {
		one := " " + shortPath + "/" + someID
		s := newStage(t, script(map[string][]http.HandlerFunc{
			"DELETE" + one: {c.remove}, "GET" + one: {c.get}, "GET " + shortPath: {text(`[]`)},
		}))
		if err := s.open().Revoke(t.Context(), someID)[someID]; is(err) != c.want {
			t.Errorf("%s: %s, want %s: %v", c.name, is(err), c.want, err)
		}
	}
}

func TestA404ThatIsNotTheClustersProvesNothing(t *testing.T) {
	page := func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "default backend - 404", http.StatusNotFound)
	}
	one := " " + shortPath + "/" + someID
	s := newStage(t, script(map[string][]http.HandlerFunc{
		"GET " + shortPath: {text(`[]`), text(`[]`), page}, // the cluster goes away behind its proxy
		"DELETE" + one:     {status(404, "token not found"), page},
		"GET" + one:        {status(404, "token not found"), page},
	}))
	if _, err := collect(t.Context(), s.open()); err != nil {
		t.Fatal(err)
	}
	if err := s.open().Revoke(t.Context(), someID)[someID]; is(err) != "unknown" {
		t.Errorf("of a cluster that is there: %v", err)
	}
	if err := s.open().Revoke(t.Context(), someID)[someID]; err == nil || errors.Is(err, issuer.ErrUnknown) {
		t.Errorf("of a cluster that has gone: %v", err)
	}
}

func TestAStrangeCollectionIsNoProofOfThePath(t *testing.T) {
	s := newStage(t, script(map[string][]http.HandlerFunc{
		"DELETE " + shortPath + "/" + someID: {status(404, "x")}, "GET " + shortPath: {text(`<html>log in</html>`)},
	}))
	if err := s.open().Revoke(t.Context(), someID)[someID]; err == nil || errors.Is(err, issuer.ErrUnknown) {
		t.Error(err)
	}
}

func TestWhatIsNoIDIsNotSent(t *testing.T) {
	s := newStage(t, status(204, ""))
	for _, id := range []string{"", ".", "..", "a/b", "?", "%2e", "ü", strings.Repeat("a", 129)} {
		if err := s.open().Revoke(t.Context(), id)[id]; !errors.Is(err, issuer.ErrRefused) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if sent := s.requests(""); len(sent) > 0 {
		t.Errorf("sent: %q", sent)
	}
}

func TestTheKindOfExpiryIsSaidWhenItIsAskedFor(t *testing.T) {
	for _, c := range []struct {
		name    string
		expires time.Time
		want    string
	}{
		{"datetime", time.Date(2030, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600)), `{"description":"d","permissions":[],"expiresAt":"2030-01-02T02:04:05Z","expirationType":"datetime"}`},
		{"never", time.Time{}, `{"description":"d","permissions":[],"expirationType":"noExpiration"}`},
	} {
		var orders []string
		s := newStage(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			orders = append(orders, string(body))
			if !strings.Contains(string(body), "expirationType") {
				complain(w, 400, "missing property: ExpirationType")
				return
			}
			fmt.Fprintf(w, `{"id":%q,"accessToken":"apiv1_x","expiresAt":"2030-01-02T02:04:05Z"}`, someID)
		})
		if _, err := s.open().Issue(t.Context(), issuer.Request{Description: "d", ExpiresAt: c.expires}); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if len(orders) != 2 || orders[1] != c.want {
			t.Errorf("%s: %q", c.name, orders)
		}
	}
	s := newStage(t, status(400, "expirationType is not known"))
	if _, err := s.issue(s.open(), "d"); is(err) != "refused" || len(s.requests("")) != 2 {
		t.Errorf("%v after %q", err, s.requests(""))
	}
}

func TestAMintWhoseAnswerIsNotUnderstoodLeavesDoubt(t *testing.T) {
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
		"nothing":               ``,
		"null":                  `null`,
		"an array":              `[` + answer(someID, secret, expires) + `]`,
		"a page":                `<html>welcome</html>`,
		"half a token":          answer(someID, secret, expires)[:60],
		"no id":                 answer("", secret, expires),
		"an id with a path":     answer("../x", secret, expires),
		"no secret":             answer(someID, "", expires),
		"the root token":        answer(someID, rootToken, expires),
		"no expiry":             answer(someID, secret, time.Unix(0, 0)),
		"a later expiry":        answer(someID, secret, expires.Add(time.Minute)),
		"a time that is none":   `{"id":"` + someID + `","accessToken":"` + secret + `","expiresAt":"` + secret + `"}`,
		"a secret for a number": `{"id":5,"accessToken":"` + secret + `"}`,
		"more than fits":        answer(someID, secret+strings.Repeat("A", httpapi.MaxAnswer), expires),
		"an answer with a tail": answer(someID, secret, expires) + strings.Repeat(" ", httpapi.MaxAnswer) + "}",
		"a second token":        answer(someID, secret, expires) + answer(someID, secret, expires),
	} {
		s := newStage(t, text(body))
		_, err := s.open().Issue(t.Context(), issuer.Request{Description: "d", ExpiresAt: expires})
		if err == nil || errors.Is(err, issuer.ErrRefused) || strings.Contains(err.Error(), "5Ecr3t") {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := newStage(t, text(answer(someID, secret, expires.Add(-time.Minute)))) // a cluster may cap it
	token, err := s.open().Issue(t.Context(), issuer.Request{Description: "d", ExpiresAt: expires})
	if want := (issuer.Token{ID: someID, Secret: issuer.NewSecret(secret)}); err != nil || token != want {
		t.Errorf("%v, %v", token, err)
	}
}

// texts returns what an error says, and all errors that it wraps.
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

func TestNoErrorHoldsASecret(t *testing.T) {
	const minted = "apiv1_m1nted/M1NTED"
	const stranger = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
	for code := 200; code < 600; code += 10 {
		s := newStage(t, func(w http.ResponseWriter, r *http.Request) {
			_, root, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			complain(w, code, "got "+root+" for "+minted+" of "+stranger+` {"accessToken":"plain"}`)
		})
		for _, root := range []string{"M.V1.r00t+R00T", "0f-n0-known-shape"} {
			where := s.cluster(issuer.Clustered)
			where.Root = issuer.NewSecret(root)
			_, mint := s.issue(s.Open(where), "d")
			_, list := collect(t.Context(), s.Open(where))
			for _, err := range []error{mint, list, s.Open(where).Revoke(t.Context(), someID)[someID]} {
				for _, secret := range []string{root, minted, stranger, "plain"} {
					if strings.Contains(texts(err), secret) {
						t.Errorf("%d: %v", code, err)
					}
				}
				if said := strings.Contains(texts(err), "got [redacted]"); said != (code >= 300) {
					t.Errorf("%d: the rest should be told: %v", code, err)
				}
			}
		}
	}
}

func TestARefusedRootIsNotTriedFurther(t *testing.T) {
	for _, code := range []int{401, 403} {
		s := newStage(t, status(code, "no"))
		if err := s.open().Revoke(t.Context(), someID, someID, someID)[someID]; is(err) != "unauthorized" || len(s.requests("")) != 1 {
			t.Errorf("%d: %v after %q", code, err, s.requests(""))
		}
	}
}

func TestPartOfAListIsNoList(t *testing.T) {
	s := newStage(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusPartialContent)
		io.WriteString(w, `[]`)
	})
	if _, err := collect(t.Context(), s.open()); is(err) != "doubt" {
		t.Error(err)
	}
}

func TestWhatTheClusterSaysIsPassedOn(t *testing.T) {
	for body, want := range map[string]string{
		`{"code":409,"message":"a token of this\n  description exists"}`: `with the message "a token of this description exists"`,
		`{"code":"conflict","message":"it exists"}`:                      `with the message "it exists"`,
		`{"code":409,"message":"` + strings.Repeat("long ", 100) + `"}`:  "long …",
		`<html>it exists</html>`:                                         "409 Conflict",
		`{"message":"it exists"}`:                                        "409 Conflict",
	} {
		s := newStage(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusConflict)
			io.WriteString(w, body)
		})
		_, err := s.issue(s.open(), "d")
		if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "7s") || len(err.Error()) > 500 {
			t.Errorf("%s: %v", body, err)
		}
		if said := strings.Contains(err.Error(), "with the message"); said != strings.HasPrefix(want, "with the message") && want != "long …" {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestARequestIsWhatTheAPIWants(t *testing.T) {
	var got http.Header
	var body string
	s := newStage(t, func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		got, body = r.Header.Clone(), string(text)
		w.WriteHeader(http.StatusTeapot)
	})
	expires := time.Date(2030, 1, 2, 3, 4, 5, 999, time.FixedZone("", -3600))
	_, err := s.open().Issue(t.Context(), issuer.Request{Description: `a "b" <c>`, ExpiresAt: expires, Read: []string{"r"}, Write: []string{"*"}})
	if is(err) != "refused" {
		t.Error(err)
	}
	got.Del("Content-Length")
	want := http.Header{
		"Accept": {"application/json"}, "Accept-Encoding": {"gzip"}, "Authorization": {"Bearer " + rootToken},
		"Content-Type": {"application/json"}, "User-Agent": {userAgent},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("-want +got\n" + diff)
	}
	const order = `{"description":"a \"b\" \u003cc\u003e","permissions":[{"action":"read","resource":"r"},{"action":"write","resource":"*"}],"expiresAt":"2030-01-02T04:04:05Z"}`
	if body != order {
		t.Error(body)
	}
}

func TestAClusterThatIsNotConfiguredIsNotAsked(t *testing.T) {
	s := newStage(t, status(204, ""))
	root := issuer.NewSecret(rootToken)
	for name, c := range map[string]issuer.Cluster{
		"no product":         {Host: "127.0.0.1", Root: root},
		"another product":    {Product: "core", Host: "127.0.0.1", Root: root},
		"no ids":             {Product: issuer.Dedicated, APIURL: s.server.URL, Root: root},
		"no host":            {Product: issuer.Clustered, Root: root},
		"a strange host":     {Product: issuer.Clustered, Host: "a/b", Root: root},
		"api_url, a path":    {Product: issuer.Clustered, APIURL: s.server.URL + "/api", Root: root},
		"api_url, a user":    {Product: issuer.Clustered, APIURL: "http://user:passw0rd@127.0.0.1", Root: root},
		"api_url, a query":   {Product: issuer.Clustered, APIURL: s.server.URL + "?", Root: root},
		"api_url, no scheme": {Product: issuer.Clustered, APIURL: "127.0.0.1:80", Root: root},
		"api_url, a file":    {Product: issuer.Clustered, APIURL: "file:///etc/passwd", Root: root},
		"a CA that is none":  {Product: issuer.Clustered, APIURL: s.server.URL, CACert: "passw0rd", Root: root},
		"a key that is none": {Product: issuer.Clustered, APIURL: s.server.URL, ClientCert: "x", ClientKey: issuer.NewSecret("passw0rd"), Root: root},
		"a token in lines":   {Product: issuer.Clustered, APIURL: s.server.URL, Root: issuer.NewSecret("passw0rd\r\nX: y")},
	} {
		iss := s.Open(c)
		_, mint := s.issue(iss, "d")
		_, list := collect(t.Context(), iss)
		for _, err := range []error{mint, list, iss.Revoke(t.Context(), someID)[someID]} {
			if !errors.Is(err, issuer.ErrRefused) || strings.Contains(err.Error(), "passw0rd") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if sent := s.requests(""); len(sent) > 0 {
		t.Errorf("sent: %q", sent)
	}
}

func TestWhereTheAPIIs(t *testing.T) {
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

func TestOpeningTakesNoConnection(t *testing.T) {
	s := newStage(t, status(204, ""))
	s.open()
	if s.dialed != 0 {
		t.Error("there was a connection")
	}
}

func TestAContextThatEndsEndsACall(t *testing.T) {
	for name, call := range map[string]func(context.Context, issuer.Issuer) error{
		"mint":   func(ctx context.Context, i issuer.Issuer) error { _, err := i.Issue(ctx, request("d")); return err },
		"list":   func(ctx context.Context, i issuer.Issuer) error { _, err := collect(ctx, i); return err },
		"revoke": func(ctx context.Context, i issuer.Issuer) error { return i.Revoke(ctx, someID)[someID] },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		s := newStage(t, func(_ http.ResponseWriter, r *http.Request) {
			cancel()
			io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		})
		start := time.Now()
		if err := call(ctx, s.open()); is(err) != "doubt" || !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(start); took > 10*time.Second || len(s.requests("")) != 1 {
			t.Errorf("%s: %q in %v", name, s.requests(""), took)
		}
		s.leftovers()
	}
}

func TestACallThatWaitsForOthersIsNotBegun(t *testing.T) {
	held := make(chan struct{})
	s := newStage(t, func(_ http.ResponseWriter, r *http.Request) { <-held })
	where := s.cluster(issuer.Clustered)
	where.MaxParallel = 1
	var first sync.WaitGroup
	first.Go(func() { s.Open(where).Revoke(t.Context(), someID) })
	t.Cleanup(func() { close(held); first.Wait() })
	eventually(t, "the first is under way", func() bool { return len(s.requests("")) == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Open(where).Issue(ctx, request("d")); !errors.Is(err, issuer.ErrRefused) || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// A 404 for one token is about the token only if the collection is served at
// that moment. An account or a cluster that is gone answers 404 too, in the
// API's own form.
func TestRevoke_NotFoundNeedsTheCollection(t *testing.T) {
	one := " " + shortPath + "/" + someID
	const alive = `[{"id":"` + someID + `","description":"d","expiresAt":"2999-01-02T03:04:05Z"}]`
	const revoked = `[{"id":"` + someID + `","description":"d","revokedAt":"2026-01-02T03:04:05Z"}]`
	clusterGone := status(404, "cluster not found")
	for _, c := range []struct {
		name       string
		collection http.HandlerFunc // after it was served once
		want       string
	}{
		{"served without the token", text(`[]`), "unknown"},
		{"served with the active token", text(alive), "refused"},
		{"served with the revoked token", text(revoked), "ok"},
		{"cluster not found", clusterGone, "refused"},
		{"account not found", status(404, "account not found"), "refused"},
		{"router's 404", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "404", http.StatusNotFound) }, "refused"},
		{"server error", status(500, "x"), "refused"},
		{"incomplete list", text(`[{"id":"` + clusterID + `"}`), "refused"},
		{"login page", text(`<html>log in</html>`), "refused"},
	} {
		s := newStage(t, script(map[string][]http.HandlerFunc{
			"GET " + shortPath: {text(`[]`), c.collection},
			"DELETE" + one:     {clusterGone},
			"GET" + one:        {clusterGone},
		}))
		if _, err := collect(t.Context(), s.open()); err != nil {
			t.Fatal(err)
		}
		if err := s.open().Revoke(t.Context(), someID)[someID]; is(err) != c.want {
			t.Errorf("%s: %s, want %s: %v", c.name, is(err), c.want, err)
		}
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
