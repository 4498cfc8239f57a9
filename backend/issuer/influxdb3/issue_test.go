package influxdb3

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/httpapi"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator/influxdb3server"
)

// Every fault that can happen to a create: what Issue returns, and whether a
// token exists afterwards. Whatever happened, nothing is left after Revoke, and
// one POST was sent.
func TestIssue_EveryFault(t *testing.T) {
	type fault = influxdb3server.Fault
	status := func(status int, body string) fault { return fault{Status: status, Body: body} }
	applied := func(f fault) fault { f.Apply = true; return f }
	for _, c := range []struct {
		name   string
		fault  fault
		want   string
		exists bool
	}{
		{"no fault", fault{Op: influxdb3server.Ping}, "ok", true},
		{"connection cut before the effect", fault{Cut: true}, "doubt unreachable", false},
		{"connection cut after the effect", applied(fault{Cut: true}), "doubt unreachable", true},
		{"hang before the effect", fault{Hang: true}, "doubt unreachable", false},
		{"hang after the effect", applied(fault{Hang: true}), "doubt unreachable", true},
		{"500 before the effect", status(500, "internal error"), "doubt", false},
		{"500 after the effect", applied(status(500, "catalog update channel closed")), "doubt", true},
		{"502", applied(status(502, "bad gateway")), "doubt unreachable", true},
		{"503", status(503, "not ready"), "doubt unreachable", false},
		{"504", applied(status(504, "")), "doubt unreachable", true},
		{"409 after an applied create", applied(fault{Conflict: true}), "doubt", true},
		{"409 without the effect", status(409, "token name already exists, x"), "doubt", false},
		{"408", applied(status(408, "")), "doubt", true},
		{"499", applied(status(499, "")), "doubt", true},
		{"429", status(429, "slow down"), "doubt", false},
		{"no expiry", applied(fault{NoExpiry: true}), "doubt", true},
		{"201 breaks off", applied(fault{Truncate: 40}), "doubt", true},
		{"201 without a body", applied(status(201, "")), "doubt", true},
		{"201 with null", applied(status(201, "null")), "doubt", true},
		{"201 with a page", applied(status(201, influxdb3server.Page)), "doubt", true},
		{"201 of a megabyte", applied(status(201, strings.Repeat(" ", httpapi.MaxAnswer+1))), "doubt", true},
		{"200", applied(status(200, "{}")), "doubt", true},
		{"another cluster", applied(fault{UUID: otherUUID}), "doubt", true},
		{"201 without a cluster-uuid", applied(fault{Foreign: true}), "doubt", true},
		{"400", status(400, "serde json error: missing field"), "invalid", false},
		{"401", status(401, `{"error": "the request was not authenticated"}`), "unauthorized", false},
		{"403", status(403, ""), "unauthorized", false},
		{"404 of the router", status(404, "Not found"), "refused", false},
		{"404 of the catalog", status(404, "the requested resource was not found: x"), "doubt", false},
		{"405", status(405, "endpoint disabled, started without auth"), "refused", false},
		{"415", status(415, "unacceptable content-type, expected: application/json"), "refused", false},
		{"404 of a proxy", influxdb3server.ProxyAnswer("", 404), "doubt", false},
		{"403 of a proxy", influxdb3server.ProxyAnswer("", 403), "doubt", false},
		{"503 of a proxy", influxdb3server.ProxyAnswer("", 503), "doubt unreachable", false},
		{"503 of another cluster", fault{Status: 503, UUID: otherUUID}, "doubt", false},
		{"200 with the page of a proxy", influxdb3server.ProxyAnswer("", 200), "doubt", false},
		{"400 of another cluster", fault{Status: 400, UUID: otherUUID}, "doubt", false},
		{"401 of another cluster", fault{Status: 401, UUID: otherUUID}, "doubt", false},
		{"404 of another cluster", fault{Status: 404, Body: "Not found", UUID: otherUUID}, "doubt", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := simulate(t, influxdb3server.Options{Product: issuer.Enterprise})
			if c.fault.Op == "" {
				c.fault.Op = influxdb3server.Create
			}
			s.sim.Inject(c.fault)
			where := s.where()
			if c.fault.Hang {
				where.Timeout = 100 * time.Millisecond
			}
			i := s.Database().Open(where)
			r := request("[vault:tag:accessor] " + c.name)
			token, err := i.Issue(t.Context(), r)
			if got := kindOf(err); got != c.want {
				t.Errorf("%s, want %s: %v", got, c.want, err)
			}
			if err == nil && (token.ID != r.Description || !s.sim.Accepts(token.Secret.Reveal())) {
				t.Errorf("the token is not as requested: %+v", token)
			}
			if got := s.has(r.Description); got != c.exists {
				t.Errorf("a token exists: %v, want %v", got, c.exists)
			}
			if strings.Contains(texts(err), "apiv3_") {
				t.Errorf("a secret in the error: %v", err)
			}
			if sent := s.requests(http.MethodPost); len(sent) != 1 {
				t.Errorf("sent: %q", sent)
			}
			s.sim.Heal()
			err = i.Revoke(t.Context(), r.Description)[r.Description]
			if want := map[bool]string{true: "ok", false: "unknown"}[c.exists]; kindOf(err) != want || s.has(r.Description) {
				t.Errorf("revoke by name: %v, want %s", err, want)
			}
		})
	}
}

// Until the UUID of the cluster is known, the server's refusals count by their
// status.
func TestIssue_WithoutPinnedUUID(t *testing.T) {
	for status, want := range map[int]string{400: "invalid", 401: "unauthorized", 403: "unauthorized", 404: "doubt", 500: "doubt"} {
		s := newStage(t, answer(status, influxdb3server.Page))
		_, err := s.open().Issue(t.Context(), request("a"))
		if kindOf(err) != want || !strings.Contains(err.Error(), "HTML") || strings.Contains(err.Error(), "<") {
			t.Errorf("%d: %v, want %s", status, err, want)
		}
	}
}

func TestIssue_UnreachableIsRefused(t *testing.T) {
	s := newStage(t, answer(200, ""))
	s.server.Close()
	where := s.cluster(issuer.Core)
	nowhere := where
	nowhere.Host = "server.invalid"
	for _, c := range []issuer.Cluster{where, nowhere} {
		if _, err := s.Management().Open(c).Issue(t.Context(), request("a")); kindOf(err) != "refused unreachable" {
			t.Errorf("%s: %v", c.Host, err)
		}
	}
}

// bodyOf returns the path and the body of the request that Issue sends.
func bodyOf(t *testing.T, d func(*Drivers) issuer.Driver, product string, now time.Time, r issuer.Request) (path, body string) {
	t.Helper()
	s := newStage(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		path, body = r.URL.Path, string(text)
		want := http.Header{
			"Accept": {"application/json"}, "Accept-Encoding": {"gzip"}, "Authorization": {"Bearer " + rootSecret},
			"Content-Type": {"application/json"}, "User-Agent": {userAgent}, "Content-Length": {fmt.Sprint(len(text))},
		}
		if diff := cmp.Diff(want, r.Header); diff != "" {
			t.Error("-want +got\n" + diff)
		}
		w.WriteHeader(http.StatusBadRequest)
	}))
	s.Drivers.options.Now = func() time.Time { return now }
	if _, err := d(s.Drivers).Open(s.cluster(product)).Issue(t.Context(), r); kindOf(err) != "invalid" {
		t.Error(err)
	}
	return path, body
}

func TestIssue_SendsWhatTheProductWants(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 1, time.UTC)
	all := []string{"*"}
	const named, resource = `/api/v3/configure/token/named_admin`, `/api/v3/enterprise/configure/token`
	for _, c := range []struct {
		kind        func(*Drivers) issuer.Driver
		product     string
		rest        time.Duration
		read, write []string
		path, want  string
	}{
		{(*Drivers).Management, issuer.Core, time.Hour, nil, nil, named, `{"token_name":"a \"b\" \u003cc\u003e","expiry_secs":3600}`},
		{(*Drivers).Management, issuer.Cloud, time.Hour + 1, []string{"db"}, nil, named, `{"token_name":"a \"b\" \u003cc\u003e","expiry_secs":3601}`},
		{(*Drivers).Management, issuer.Enterprise, 1, nil, nil, named, `{"token_name":"a \"b\" \u003cc\u003e","expiry_secs":1}`},
		{(*Drivers).Management, issuer.Enterprise, maxLife, nil, nil, named, `{"token_name":"a \"b\" \u003cc\u003e","expiry_secs":315360000}`},
		{(*Drivers).Database, issuer.Enterprise, time.Second, []string{"r"}, nil, resource,
			`{"token_name":"a \"b\" \u003cc\u003e","expiry_secs":1,"permissions":[{"resource_type":"db","resource_names":["r"],"actions":["read"]}]}`},
		{(*Drivers).Database, issuer.Cloud, time.Second, []string{"b", "a", "r", "b"}, []string{"w", "b", "a"}, resource,
			`{"token_name":"a \"b\" \u003cc\u003e","expiry_secs":1,"permissions":[` +
				`{"resource_type":"db","resource_names":["a","b"],"actions":["read","write"]},{"resource_type":"db","resource_names":["r"],"actions":["read"]},{"resource_type":"db","resource_names":["w"],"actions":["write"]}]}`},
		{(*Drivers).Database, issuer.Enterprise, time.Second, all, all, resource,
			`{"token_name":"a \"b\" \u003cc\u003e","expiry_secs":1,"permissions":[{"resource_type":"db","resource_names":["*"],"actions":["read","write"]}]}`},
		{(*Drivers).Database, issuer.Enterprise, time.Second, all, []string{"b", "a"}, resource,
			`{"token_name":"a \"b\" \u003cc\u003e","expiry_secs":1,"permissions":[{"resource_type":"db","resource_names":["*"],"actions":["read"]},{"resource_type":"db","resource_names":["a","b"],"actions":["read","write"]}]}`},
		{(*Drivers).Database, issuer.Enterprise, time.Second, []string{"a"}, all, resource,
			`{"token_name":"a \"b\" \u003cc\u003e","expiry_secs":1,"permissions":[{"resource_type":"db","resource_names":["*"],"actions":["write"]},{"resource_type":"db","resource_names":["a"],"actions":["read","write"]}]}`},
	} {
		r := issuer.Request{Description: `a "b" <c>`, ExpiresAt: now.Add(c.rest), Read: c.read, Write: c.write}
		if path, body := bodyOf(t, c.kind, c.product, now, r); path != c.path || body != c.want {
			t.Errorf("%s, read %q, write %q: %s %s", c.product, c.read, c.write, path, body)
		}
	}
}

func TestIssue_RefusesWithoutAsking(t *testing.T) {
	s := newStage(t, answer(201, ""))
	now := time.Now()
	good := func(change func(*issuer.Request)) issuer.Request {
		r := issuer.Request{Description: "a", ExpiresAt: now.Add(time.Hour), Read: []string{"db"}}
		change(&r)
		return r
	}
	for _, c := range []struct {
		name    string
		product string
		r       issuer.Request
		says    string
	}{
		{"database token of Core", issuer.Core, good(func(*issuer.Request) {}), "every token of Core is an administrator"},
		{"no name", issuer.Enterprise, good(func(r *issuer.Request) { r.Description = "" }), "name"},
		{"name of the operator", issuer.Enterprise, good(func(r *issuer.Request) { r.Description = "_admin" }), "_admin"},
		{"no expiry", issuer.Enterprise, good(func(r *issuer.Request) { r.ExpiresAt = time.Time{} }), "rotation_ttl"},
		{"past expiry", issuer.Enterprise, good(func(r *issuer.Request) { r.ExpiresAt = now }), "future"},
		{"late expiry", issuer.Enterprise, good(func(r *issuer.Request) { r.ExpiresAt = now.Add(maxLife + 1) }), "10 years"},
		{"no databases", issuer.Cloud, good(func(r *issuer.Request) { r.Read = nil }), "at least one database"},
		{"a database without a name", issuer.Cloud, good(func(r *issuer.Request) { r.Write = []string{""} }), "empty"},
		{"* and names to read", issuer.Cloud, good(func(r *issuer.Request) { r.Read = []string{"db", "*"} }), "mixed"},
		{"* and names to write", issuer.Cloud, good(func(r *issuer.Request) { r.Write = []string{"*", "db"} }), "mixed"},
	} {
		s.Drivers.options.Now = func() time.Time { return now }
		_, err := s.Database().Open(s.cluster(c.product)).Issue(t.Context(), c.r)
		if kindOf(err) != "invalid" || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if sent := s.requests(""); len(sent) > 0 {
		t.Errorf("sent: %q", sent)
	}
}

func TestIssue_DatabaseThatDoesNotExist(t *testing.T) {
	for status, want := range map[int]string{400: "invalid", 500: "doubt"} {
		s := simulate(t, influxdb3server.Options{Product: issuer.Enterprise, InvalidDatabase: status})
		r := request("a")
		r.Read = []string{"missing"}
		_, err := s.Database().Open(s.where()).Issue(t.Context(), r)
		if kindOf(err) != want || !strings.Contains(err.Error(), "invalid resource name missing") {
			t.Errorf("%d: %v", status, err)
		}
	}
}

func TestIssue_BadServersAndRoots(t *testing.T) {
	for name, c := range map[string]struct {
		options influxdb3server.Options
		driver  func(*Drivers) issuer.Driver
		product string // in config
		root    func(*simulation) string
		want    string
		says    string
	}{
		"no authentication":           {influxdb3server.Options{WithoutAuth: true}, (*Drivers).Management, issuer.Core, nil, "refused", "without authentication"},
		"Core behind Enterprise":      {influxdb3server.Options{}, (*Drivers).Database, issuer.Enterprise, nil, "refused", "check product"},
		"deleted root":                {influxdb3server.Options{}, (*Drivers).Management, issuer.Core, func(*simulation) string { return "apiv3_deleted" }, "unauthorized", "admin_token"},
		"token of another product":    {influxdb3server.Options{}, (*Drivers).Management, issuer.Core, func(*simulation) string { return "M.V1.abc" }, "unauthorized", "admin_token"},
		"a root with a space":         {influxdb3server.Options{}, (*Drivers).Management, issuer.Core, func(*simulation) string { return "apiv3_a b" }, "unauthorized", "characters"},
		"expired root":                {influxdb3server.Options{}, (*Drivers).Management, issuer.Core, func(s *simulation) string { return s.sim.AddToken("old", "", time.Now().Add(-time.Second)) }, "unauthorized", "expired"},
		"root that is no admin":       {influxdb3server.Options{Product: issuer.Enterprise}, (*Drivers).Management, issuer.Enterprise, func(s *simulation) string { return s.sim.AddToken("ro", "", time.Time{}, "db:db:read") }, "unauthorized", "administrator"},
		"operator token as the root":  {influxdb3server.Options{Product: issuer.Enterprise}, (*Drivers).Database, issuer.Enterprise, func(s *simulation) string { return s.sim.AddToken("admin2", "", time.Time{}) }, "ok", ""},
		"a root with a line break":    {influxdb3server.Options{}, (*Drivers).Management, issuer.Core, func(*simulation) string { return "apiv3_a\nb" }, "unauthorized", "characters"},
		"a version before the header": {influxdb3server.Options{Version: "3.6.0"}, (*Drivers).Management, issuer.Core, nil, "ok", ""},
	} {
		s := simulate(t, c.options)
		where := s.cluster(c.product)
		if c.root != nil {
			where.Root = issuer.NewSecret(c.root(s))
		}
		_, err := c.driver(s.Drivers).Open(where).Issue(t.Context(), request("a"))
		if kindOf(err) != c.want || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		if s.has("a") != (c.want == "ok") {
			t.Errorf("%s: a token exists: %v", name, s.has("a"))
		}
	}
}

// The life of a token is measured on the server's own clock. Clocks that differ
// by minutes do no harm; those that differ by more are an error that says so.
func TestIssue_ClocksDiffer(t *testing.T) {
	for offset, want := range map[time.Duration]string{
		0: "ok", 5 * time.Minute: "ok", -5 * time.Minute: "ok", 11 * time.Minute: "doubt", -11 * time.Minute: "doubt",
	} {
		s := simulate(t, influxdb3server.Options{})
		s.sim.SetClockOffset(offset)
		_, err := s.open().Issue(t.Context(), request("a"))
		if kindOf(err) != want || err != nil && !strings.Contains(err.Error(), "clocks") {
			t.Errorf("%s: %v, want %s", offset, err, want)
		}
	}
}

func TestIssue_ChecksTheAnswer(t *testing.T) {
	const secret = "apiv3_5Ecr3t5Ecr3t5Ecr3t5Ecr3t5Ecr3t"
	wish := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	body := func(change map[string]any) string {
		fields := map[string]any{"id": 5, "name": "a", "token": secret, "hash": "00", "created_at": wish.Add(-time.Hour), "expiry": wish}
		for key, value := range change {
			fields[key] = value
			if value == "absent" {
				delete(fields, key)
			}
		}
		text, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	type change = map[string]any
	for name, c := range map[string]struct {
		body string
		want string
	}{
		"as requested":              {body(nil), "ok"},
		"more fields":               {body(change{"more": []int{1}}), "ok"},
		"no creation time":          {body(change{"created_at": "absent"}), "ok"},
		"decimals":                  {body(change{"expiry": wish.Add(123 * time.Millisecond)}), "ok"},
		"another name":              {body(change{"name": "A"}), "doubt"},
		"no name":                   {body(change{"name": "absent"}), "doubt"},
		"no token":                  {body(change{"token": "absent"}), "doubt"},
		"token of another product":  {body(change{"token": "apiv1_" + secret}), "doubt"},
		"only the prefix":           {body(change{"token": "apiv3_"}), "doubt"},
		"a token of two words":      {body(change{"token": secret + " x"}), "doubt"},
		"the root credential":       {body(change{"token": rootSecret}), "doubt"},
		"a very long token":         {body(change{"token": secret + strings.Repeat("A", 5000)}), "doubt"},
		"no expiry":                 {body(change{"expiry": "absent"}), "doubt"},
		"null expiry":               {body(change{"expiry": nil}), "doubt"},
		"expiry in the far future":  {body(change{"expiry": "+292278994-08-17T07:12:55.807Z"}), "doubt"},
		"lives too long":            {body(change{"expiry": wish.Add(2 * time.Minute)}), "doubt"},
		"lives too short":           {body(change{"expiry": wish.Add(-2 * time.Minute)}), "doubt"},
		"expires at birth":          {body(change{"expiry": wish.Add(-time.Hour)}), "doubt"},
		"another hour":              {body(change{"expiry": wish.Add(time.Hour), "created_at": wish}), "doubt"},
		"another hour, unmeasured":  {body(change{"expiry": wish.Add(time.Hour), "created_at": nil}), "doubt"},
		"a time that is a number":   {body(change{"expiry": 7337}), "doubt"},
		"a time that is no time":    {body(change{"expiry": secret}), "doubt"},
		"a name that is a number":   {body(change{"name": 7337}), "doubt"},
		"an array":                  {"[" + body(nil) + "]", "doubt"},
		"two answers":               {body(nil) + body(nil), "doubt"},
		"half an answer":            {body(nil)[:50], "doubt"},
		"an answer and white space": {body(nil) + strings.Repeat(" ", httpapi.MaxAnswer), "doubt"},
	} {
		s := newStage(t, answer(http.StatusCreated, c.body))
		token, err := s.open().Issue(t.Context(), issuer.Request{Description: "a", ExpiresAt: wish})
		if kindOf(err) != c.want || strings.Contains(texts(err), "5Ecr3t") || strings.Contains(texts(err), "7337") {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		if name == "null expiry" && !strings.Contains(err.Error(), "a token was created, but the answer says that it never expires") {
			t.Errorf("%s: %v", name, err)
		}
		if want := (issuer.Token{ID: "a", Secret: issuer.NewSecret(secret)}); err == nil && token != want {
			t.Errorf("%s: %+v", name, token)
		}
	}
}

// A connection that was good for one request ends during the next one, which the
// server has read. A client that repeats it creates two tokens.
func TestIssue_IsNotSentTwice(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		s := newUnstarted(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == pathQuery {
				_, _ = io.WriteString(w, `[]`)
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			panic(http.ErrAbortHandler)
		}))
		s.server.EnableHTTP2 = http2
		s.server.StartTLS()
		where := s.cluster(issuer.Core)
		where.CACert = serverCA(s.server)
		i := s.Management().Open(where)
		for range 5 {
			if _, err := collect(t.Context(), i); err != nil {
				t.Fatal(err)
			}
			if _, err := i.Issue(t.Context(), request("a")); !errors.Is(err, issuer.ErrUnreachable) || errors.Is(err, issuer.ErrRefused) {
				t.Errorf("HTTP/2 %v: %v", http2, err)
			}
		}
		if sent := s.requests("POST " + pathNamedAdmin); len(sent) != 5 {
			t.Errorf("HTTP/2 %v: %d requests for 5 calls", http2, len(sent))
		}
	}
}
