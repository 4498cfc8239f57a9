package influxdb3server

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// start is the time at which the tests' clocks begin.
var start = time.Date(2026, 6, 20, 4, 5, 6, 789e6, time.UTC)

// A clock is moved by the test.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

// call sends a request to a handler, with a secret if it is not empty.
func call(t *testing.T, h http.Handler, secret, method, target, body string) *http.Response {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	if secret != "" {
		r.Header.Set("Authorization", "Bearer "+secret)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func bodyOf(t *testing.T, r *http.Response) string {
	t.Helper()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// newCluster returns a cluster with the operator token and an admin token.
func newCluster(t *testing.T, o Options) (c *Cluster, at *clock, root string) {
	t.Helper()
	at = &clock{start}
	o.Now = at.now
	c = New(o)
	c.AddToken(Operator, "", time.Time{})
	return c, at, c.AddToken("root", "", time.Time{})
}

func TestTokenCalls_AnswerAsTheProducts(t *testing.T) {
	const named, resource, remove = "POST /api/v3/configure/token/named_admin", "POST /api/v3/enterprise/configure/token", "DELETE /api/v3/configure/token"
	list := func(format string) string {
		return `{"db":"_internal","format":"` + format + `","q":"SELECT name FROM system.tokens"}`
	}
	for _, c := range []struct {
		product, call, body string
		status              int
		want                string
	}{
		{Core, named, `{"token_name":"a","expiry_secs":60,"type":"x"}`, 201, `{"id":2,"name":"a","token":"apiv3_`},
		{Core, named, `{"token_name":"root"}`, 409, `token name already exists, root`},
		{Core, named, `{"token_name":""}`, 201, `{"id":2,"name":""`},
		{Core, named, `{}`, 400, "serde json error: missing field `token_name`"},
		{Core, named, `{"token_name":"a","expiry_secs":-1}`, 400, `serde json error: `},
		{Core, named, `not JSON`, 400, `serde json error: `},
		{Core, resource, `{"token_name":"a","permissions":[]}`, 404, `Not found`},
		{Enterprise, resource, `{"token_name":"a"}`, 400, "serde json error: missing field `permissions`"},
		{Enterprise, resource, `{"token_name":"a","permissions":[{"resource_type":"db","resource_names":["db"],"actions":["read","write"]}]}`, 201, `{"id":2,"name":"a"`},
		{Enterprise, resource, `{"token_name":"a","permissions":[{"resource_type":"db","resource_names":["no"],"actions":["read"]}]}`, 400, `cannot parse token permission, invalid resource name no`},
		{Enterprise, resource, `{"token_name":"a","permissions":[{"resource_type":"db","resource_names":["db","*"],"actions":["read"]}]}`, 400, `cannot parse token permission, invalid resource name *`},
		{Enterprise, resource, `{"token_name":"a","permissions":[{"resource_type":"system","resource_names":["health"],"actions":["write"]}]}`, 400, `cannot parse token permission, invalid action write`},
		{Enterprise, resource, `{"token_name":"root","permissions":[]}`, 409, `token name already exists, root`},
		{Core, remove + "?token_name=root", ``, 200, ``},
		{Core, remove + "?token_name=a+b%26c", ``, 404, `the requested resource was not found: a b&c`},
		{Core, remove + "?token_name=_admin", ``, 405, `cannot delete operator token`},
		{Core, remove, ``, 400, `serde error: missing field`},
		{Core, "POST /api/v3/query_sql", list("json"), 200, `[{"name":"_admin"},{"name":"root"}]`},
		{Core, "POST /api/v3/query_sql", `{"db":"_internal","q":"SELECT nope FROM system.tokens"}`, 400, `Schema error: No field named nope.`},
		{Core, "POST /api/v3/query_sql", `{"db":"_internal","q":"DELETE FROM system.tokens"}`, 400, `simulator: `},
		{Core, "POST /api/v3/query_sql", list("jsonl"), 400, `simulator: `},
		{Core, "POST /api/v3/query_sql", `{"db":"no","q":"SELECT 1"}`, 404, `{"error": "database not found: no"}`},
		{Core, "HEAD /ping", ``, 404, `Not found`},
		{Core, "GET /elsewhere", ``, 404, `Not found`},
		{Core, "GET /api/v3/configure/token", ``, 404, `Not found`},
	} {
		cluster, _, root := newCluster(t, Options{Product: c.product, Databases: []string{"db"}, Alarm: t.Error})
		method, target, _ := strings.Cut(c.call, " ")
		r := call(t, cluster, root, method, target, c.body)
		if got := bodyOf(t, r); r.StatusCode != c.status || !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s, %s %s: %d %s", c.product, c.call, c.body, r.StatusCode, got)
		}
		if got := r.Header.Get("cluster-uuid"); got != cluster.UUID() {
			t.Errorf("%s: cluster-uuid %q", c.call, got)
		}
		if kind, has := r.Header["Content-Type"]; r.StatusCode >= 400 && has && kind != nil {
			t.Errorf("%s: an error of type %q", c.call, kind)
		}
	}
}

func TestCreate_NeedsTheContentType(t *testing.T) {
	c, _, root := newCluster(t, Options{})
	r := httptest.NewRequest("POST", "/api/v3/configure/token/named_admin", strings.NewReader(`{"token_name":"a"}`))
	r.Header.Set("Authorization", "Bearer "+root)
	w := httptest.NewRecorder()
	c.ServeHTTP(w, r)
	if w.Code != 415 || w.Body.String() != "unacceptable content-type, expected: application/json" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestCreate_AnswerHoldsTheSecretOnce(t *testing.T) {
	c, at, root := newCluster(t, Options{})
	r := call(t, c, root, "POST", "/api/v3/configure/token/named_admin", `{"token_name":"a","expiry_secs":3600}`)
	text := bodyOf(t, r)
	shape := regexp.MustCompile(`^\{"id":2,"name":"a","token":"(apiv3_[\w-]{86})","hash":"([0-9a-f]{128})","created_at":"2026-06-20T04:05:06\.789Z","expiry":"2026-06-20T05:05:06\.789Z"\}$`)
	parts := shape.FindStringSubmatch(text)
	if parts == nil || r.Header.Get("Content-Type") != "json" || hashOf(parts[1]) != parts[2] || !c.Accepts(parts[1]) {
		t.Fatalf("%q %s", r.Header, text)
	}
	list := bodyOf(t, call(t, c, root, "POST", "/api/v3/query_sql", `{"db":"_internal","q":"SELECT * FROM system.tokens","format":"json"}`))
	want := `{"token_id":2,"name":"a","hash":"` + parts[2][:9] + `","created_at":"2026-06-20T04:05:06.789","expiry":"2026-06-20T05:05:06.789","permissions":"*:*:*"}]`
	if !strings.HasSuffix(list, want) || strings.Contains(list, parts[1]) {
		t.Error(list)
	}
	at.Time = start.Add(time.Hour - 789*time.Millisecond)
	again := bodyOf(t, call(t, c, root, "POST", "/api/v3/configure/token/named_admin", `{"token_name":"b","expiry_secs":1}`))
	if !strings.Contains(again, `"expiry":"2026-06-20T05:05:07Z"`) {
		t.Errorf("decimals although the milliseconds are 0: %s", again)
	}
}

func TestExpired_StaysAndKeepsItsName(t *testing.T) {
	c, at, root := newCluster(t, Options{})
	secret := c.AddToken("a", "", start.Add(time.Second))
	at.Time = start.Add(time.Second)
	if c.Accepts(secret) {
		t.Error("it is accepted at the millisecond of its expiry")
	}
	if r := call(t, c, secret, "GET", "/ping", ""); r.StatusCode != 401 || bodyOf(t, r) != `{"error": "the request was not authenticated"}` {
		t.Error(r.StatusCode)
	}
	if r := call(t, c, root, "POST", "/api/v3/configure/token/named_admin", `{"token_name":"a"}`); r.StatusCode != 409 {
		t.Error(r.StatusCode)
	}
	if _, there := c.Token("a"); !there {
		t.Error("it is gone")
	}
	call(t, c, root, "DELETE", "/api/v3/configure/token?token_name=a", "")
	if r := call(t, c, root, "POST", "/api/v3/configure/token/named_admin", `{"token_name":"a"}`); r.StatusCode != 201 || !strings.HasPrefix(bodyOf(t, r), `{"id":3,`) {
		t.Error("the name is not free again, or the ID is used again")
	}
}

func TestExpiry_TooLargeDependsOnTheVersion(t *testing.T) {
	for version, want := range map[string]string{"3.9.3": "500", "3.10.1": `"expiry":null`, "3.11.1": `"expiry":"292278994-`} {
		c, _, root := newCluster(t, Options{Version: version})
		r := call(t, c, root, "POST", "/api/v3/configure/token/named_admin", `{"token_name":"a","expiry_secs":18446744073709551615}`)
		if got := fmt.Sprint(r.StatusCode) + bodyOf(t, r); !strings.Contains(got, want) {
			t.Errorf("%s: %s", version, got)
		}
	}
}

func TestAuthorization_IsReadAsTheProductsDo(t *testing.T) {
	c, _, root := newCluster(t, Options{Product: Enterprise, Databases: []string{"db", "other"}})
	limited := c.AddToken("limited", "", time.Time{}, "db:db:write")
	for header, want := range map[string]int{
		"": 401, "Bearer " + root: 200, "Token " + root: 200, "Basic dTo=": 401, "Basic " + base64.StdEncoding.EncodeToString([]byte("u:"+root)): 200, "bearer " + root: 400, "Bearer  " + root: 400, "Bearer": 400,
		"Bearer apiv3_wrong": 401, "Bearer " + limited: 200,
	} {
		r := httptest.NewRequest("GET", "/ping", nil)
		r.Header.Set("Authorization", header)
		w := httptest.NewRecorder()
		c.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%.12s: %d, want %d", header, w.Code, want)
		}
	}
	for target, want := range map[string]int{
		"POST /api/v3/configure/token/named_admin": 403, "DELETE /api/v3/configure/token?token_name=limited": 403,
		"POST /api/v3/enterprise/configure/token": 403, "POST /api/v3/write_lp?db=db": 204, "POST /api/v3/write_lp?db=other": 403,
		"GET /api/v3/query_sql?db=_internal&q=SELECT+1&format=json": 403, "GET /api/v3/query_sql?db=db&q=SELECT+1&format=json": 403,
	} {
		method, path, _ := strings.Cut(target, " ")
		if r := call(t, c, limited, method, path, "{}"); r.StatusCode != want {
			t.Errorf("%s: %d, want %d", target, r.StatusCode, want)
		}
	}
	core, _, _ := newCluster(t, Options{})
	named := core.AddToken("named", "", time.Time{})
	if r := call(t, core, named, "DELETE", "/api/v3/configure/token?token_name=named", ""); r.StatusCode != 200 || core.Accepts(named) {
		t.Errorf("on Core every token may delete itself: %d", r.StatusCode)
	}
}

func TestWithoutAuth_DisablesTheTokenCalls(t *testing.T) {
	c, _, _ := newCluster(t, Options{WithoutAuth: true})
	if r := call(t, c, "", "POST", "/api/v3/configure/token/named_admin", `{}`); r.StatusCode != 405 || bodyOf(t, r) != "endpoint disabled, started without auth" {
		t.Error(r.StatusCode)
	}
	list := `{"db":"_internal","format":"json","q":"SELECT * FROM system.tokens"}`
	if got := bodyOf(t, call(t, c, "", "POST", "/api/v3/query_sql", list)); strings.Contains(got, "hash") || !strings.HasPrefix(got, `[{"token_id":0`) {
		t.Error(got)
	}
}

func TestPing_NamesProductAndVersion(t *testing.T) {
	for _, c := range []struct {
		options     Options
		build, uuid string
	}{
		{Options{Version: "3.6.0"}, "Core", ""},
		{Options{Product: Enterprise, Version: "3.7.0", UUID: "u"}, "Enterprise", "u"},
		{Options{Product: Cloud, UUID: "u"}, "Cloud", "u"},
		{Options{Product: Cloud, UUID: "u", Build: "Enterprise"}, "Enterprise", "u"},
		{Options{Build: "-", UUID: "u"}, "", "u"},
	} {
		cluster, _, root := newCluster(t, c.options)
		r := call(t, cluster, root, "GET", "/ping", "")
		var said map[string]string
		if err := json.NewDecoder(r.Body).Decode(&said); err != nil {
			t.Fatal(err)
		}
		if r.Header.Get("X-Influxdb-Build") != c.build || r.Header.Get("cluster-uuid") != c.uuid || r.Header.Get("X-Influxdb-Version") != said["version"] {
			t.Errorf("%+v: %q", c.options, r.Header)
		}
	}
}

func TestNodes_LearnOfChangesLater(t *testing.T) {
	c, at, root := newCluster(t, Options{Product: Enterprise})
	at.Time = at.Add(time.Minute)
	stale := c.AddNode(10 * time.Second)
	create := func(h http.Handler, name string) *http.Response {
		return call(t, h, root, "POST", "/api/v3/configure/token/named_admin", `{"token_name":"`+name+`","expiry_secs":60}`)
	}
	remove := func(h http.Handler, name string) int {
		return call(t, h, root, "DELETE", "/api/v3/configure/token?token_name="+name, "").StatusCode
	}
	var made struct{ Token string }
	if err := json.NewDecoder(create(c, "a").Body).Decode(&made); err != nil {
		t.Fatal(err)
	}
	ping := func(h http.Handler) int { return call(t, h, made.Token, "GET", "/ping", "").StatusCode }
	if got := []int{ping(c), ping(stale), remove(stale, "a")}; !cmp.Equal(got, []int{200, 401, 404}) {
		t.Errorf("fresh: %d", got)
	}
	at.Time = at.Add(10 * time.Second)
	if got := []int{ping(stale), remove(c, "a"), ping(c), ping(stale), create(stale, "a").StatusCode}; !cmp.Equal(got, []int{200, 200, 401, 200, 409}) {
		t.Errorf("deleted elsewhere: %d", got)
	}
	if got := []int{create(stale, "b").StatusCode, ping(stale)}; !cmp.Equal(got, []int{201, 401}) {
		t.Errorf("a node that writes catches up: %d", got)
	}
	if got := create(stale, "a").StatusCode; got != 201 {
		t.Errorf("after it has caught up: %d", got)
	}
	// The name is free on the stale node, but not in the log.
	third := c.AddNode(time.Hour)
	c.AddToken("seen", "", time.Time{})
	if got := call(t, third, root, "POST", "/api/v3/configure/token/named_admin", `{"token_name":"a"}`).StatusCode; got != 401 {
		t.Errorf("a node that knows nothing does not know the root: %d", got)
	}
}

func TestBalance_TakesNodesInTurn(t *testing.T) {
	c, _, root := newCluster(t, Options{})
	balanced := Balance(c, c.AddNode(time.Hour))
	var got []int
	for range 4 {
		got = append(got, call(t, balanced, root, "GET", "/ping", "").StatusCode)
	}
	if !cmp.Equal(got, []int{200, 401, 200, 401}) {
		t.Error(got)
	}
}

func TestRestore_BringsDeletedTokensBack(t *testing.T) {
	c, _, root := newCluster(t, Options{})
	old := c.AddToken("old", "", time.Time{})
	backup := c.Backup()
	call(t, c, root, "DELETE", "/api/v3/configure/token?token_name=old", "")
	newer := c.AddToken("newer", "", time.Time{})
	if c.Accepts(old) || !c.Accepts(newer) {
		t.Fatal("before")
	}
	c.Restore(backup)
	if !c.Accepts(old) || c.Accepts(newer) || len(c.Tokens()) != 3 {
		t.Errorf("after: %+v", c.Tokens())
	}
}

func TestViolations_AreRecorded(t *testing.T) {
	var alarms int
	c, _, root := newCluster(t, Options{Alarm: func(...any) { alarms++ }})
	for _, path := range []string{"/api/v3/configure/token/admin", "/api/v3/configure/token/admin/regenerate", "/ping?p=" + root} {
		call(t, c, root, "POST", path, "")
	}
	if got := c.Violations(); len(got) != 3 || alarms != 3 || strings.Contains(strings.Join(got, ""), root) {
		t.Errorf("%q, %d alarms", got, alarms)
	}
	if len(c.Tokens()) != 2 || !c.Accepts(root) {
		t.Error("the call had an effect")
	}
}

func TestFaults_HitAsOftenAsTheyShould(t *testing.T) {
	c, _, root := newCluster(t, Options{})
	create := func(name string) (int, string) {
		r := call(t, c, root, "POST", "/api/v3/configure/token/named_admin", `{"token_name":"`+name+`","expiry_secs":9}`)
		return r.StatusCode, bodyOf(t, r)
	}
	c.Inject(Fault{Op: Delete, Status: 500})
	c.Inject(Fault{Op: Create, Times: 1, Apply: true, Conflict: true})
	c.Inject(Fault{Op: Create, Times: 2, Apply: true, Status: 503, Body: "later"})
	c.Inject(Fault{Op: Create, Times: 1, NoExpiry: true, Apply: true, Truncate: 2})
	c.Inject(ProxyAnswer(Create, 404))
	for _, want := range []struct {
		name   string
		status int
		body   string
		exists bool
	}{
		{"a", 409, "token name already exists, a", true}, {"b", 503, "later", true}, {"c", 503, "later", true},
		{"d", 201, `"expiry":nul`, true}, {"e", 404, Page, false}, {"f", 404, Page, false},
	} {
		status, body := create(want.name)
		if _, exists := c.Token(want.name); status != want.status || !strings.HasSuffix(body, want.body) || exists != want.exists {
			t.Errorf("%s: %d %q, exists: %v", want.name, status, body, exists)
		}
	}
	c.Heal()
	if status, _ := create("f"); status != 201 {
		t.Error("not healed")
	}
}

func TestOutage_EndsConnections(t *testing.T) {
	c, _, root := newCluster(t, Options{})
	server := httptest.NewServer(c)
	defer server.Close()
	get := func() error {
		r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+"/ping", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+root)
		answer, err := server.Client().Do(r)
		if err == nil {
			answer.Body.Close()
		}
		return err
	}
	if err := get(); err != nil {
		t.Error(err)
	}
	c.SetOutage(true)
	if get() == nil {
		t.Error("an answer in an outage")
	}
}

func TestControl_ShowsAndDisturbs(t *testing.T) {
	c, _, root := newCluster(t, Options{})
	control := c.Control()
	post := func(path, body string) string { return bodyOf(t, call(t, control, "", "POST", path, body)) }
	if got := bodyOf(t, call(t, control, "", "GET", "/tokens", "")); strings.Contains(got, root) || !strings.Contains(got, hashOf(root)) || !strings.Contains(got, `"live":true`) {
		t.Error(got)
	}
	if got := post("/check", `{"token":"`+root+`"}`) + post("/check", `{"token":"x"}`); got != "{\"accepted\":true}\n{\"accepted\":false}\n" {
		t.Error(got)
	}
	if got := call(t, control, "", "POST", "/restore", "{}").StatusCode; got != 409 {
		t.Error(got)
	}
	post("/backup", "{}")
	call(t, c, root, "DELETE", "/api/v3/configure/token?token_name=root", "")
	if post("/restore", "{}"); !c.Accepts(root) {
		t.Error("not restored")
	}
	post("/outage", `{"on":true}`)
	if c.mu.Lock(); !c.outage {
		t.Error("no outage")
	}
	c.mu.Unlock()
	if got := bodyOf(t, call(t, control, "", "GET", "/violations", "")); got != "[]\n" {
		t.Error(got)
	}
}
