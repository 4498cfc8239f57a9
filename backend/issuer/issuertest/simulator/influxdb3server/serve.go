package influxdb3server

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// maxRequest is the server's default for --max-http-request-size.
const maxRequest = 10 << 20

const (
	pathPing       = "/ping"
	pathOperator   = "/api/v3/configure/token/admin"
	pathRegenerate = "/api/v3/configure/token/admin/regenerate"
	pathNamedAdmin = "/api/v3/configure/token/named_admin"
	pathToken      = "/api/v3/configure/token"
	pathResource   = "/api/v3/enterprise/configure/token"
	pathQuery      = "/api/v3/query_sql"
	pathWrite      = "/api/v3/write_lp"
)

// An answer is what a handler has decided.
type answer struct {
	status      int
	contentType string // empty: the header is absent
	body        []byte
	header      map[string]string
}

// text is an error of the token calls: plain text without a content type.
func text(status int, format string, args ...any) answer {
	return answer{status: status, body: fmt.Appendf(nil, format, args...)}
}

// jsonError is an error of authentication or authorization.
func jsonError(status int, message string) answer {
	return text(status, `{"error": %q}`, message)
}

var (
	notFound        = text(http.StatusNotFound, "Not found")
	unauthenticated = jsonError(http.StatusUnauthorized, "the request was not authenticated")
	forbidden       = jsonError(http.StatusForbidden, "the request was forbidden")
)

// A request is what a handler needs to know. Its caller is nil if the server
// runs without authentication.
type request struct {
	*http.Request
	body   []byte
	caller *Token
	fault  *Fault // that hits the request, or nil
}

// admin reports whether the caller may manage tokens. On Core every token may.
func (c *Cluster) admin(caller *Token) bool {
	return caller == nil || c.options.Product == Core || caller.Admin()
}

// ServeHTTP answers a request as the product does.
func (n *Node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxRequest+1))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	c := n.cluster
	c.mu.Lock()
	fault, outage := c.take(r), c.outage
	c.mu.Unlock()
	switch {
	case outage:
		panic(http.ErrAbortHandler)
	case fault != nil && !fault.Apply:
		fault.act(r)
		if fault.answers() {
			n.write(w, fault.answer(), fault)
			return
		}
	}
	a := n.answer(request{Request: r, body: body, fault: fault})
	if fault != nil && fault.Apply {
		fault.act(r)
		if fault.answers() {
			a = fault.answer()
		}
		if fault.Conflict && a.status == http.StatusCreated {
			a = text(http.StatusConflict, "token name already exists, %s", nameIn(body))
		}
	}
	n.write(w, a, fault)
}

// nameIn returns the token name in the body of a create.
func nameIn(body []byte) string {
	var order struct {
		Name string `json:"token_name"`
	}
	_ = json.Unmarshal(body, &order)
	return order.Name
}

// answer performs a request.
func (n *Node) answer(r request) answer {
	c := n.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	n.catchUp()
	if strings.Contains(r.URL.String(), "apiv3_") {
		c.violation("a secret in the URL of " + r.Method + " " + r.URL.Path)
	}
	if len(r.body) > maxRequest {
		return text(http.StatusRequestEntityTooLarge, "max request size (%d bytes) exceeded", maxRequest)
	}
	if r.URL.Path == pathOperator || r.URL.Path == pathRegenerate {
		c.violation(r.Method + " " + r.URL.Path + " must never be called")
		return text(http.StatusInternalServerError, "simulator: %s must never be called", r.URL.Path)
	}
	if a, ok := n.authenticate(&r); !ok {
		return a
	}
	return n.route(r)
}

// route finds the handler of an authenticated request.
func (n *Node) route(r request) answer {
	o := n.cluster.options
	// Whether this holds for the path of Enterprise, too, is unknown.
	if o.WithoutAuth && strings.HasPrefix(r.URL.Path, pathToken) {
		return text(http.StatusMethodNotAllowed, "endpoint disabled, started without auth")
	}
	switch r.Method + " " + r.URL.Path {
	case "GET " + pathPing, "POST " + pathPing:
		return n.ping()
	case "POST " + pathNamedAdmin:
		return n.createAdmin(r)
	case "POST " + pathResource:
		if o.Product == Core {
			return notFound
		}
		return n.createResource(r)
	case "DELETE " + pathToken:
		return n.deleteToken(r)
	case "GET " + pathQuery, "POST " + pathQuery:
		return n.query(r)
	case "POST " + pathWrite:
		return n.writeLines(r)
	}
	return notFound // HEAD /ping as well
}

// authenticate finds the token of the caller. The words for the schemes are
// case-sensitive and followed by exactly one space.
func (n *Node) authenticate(r *request) (answer, bool) {
	if n.cluster.options.WithoutAuth {
		return answer{}, true
	}
	header := r.Header.Get("Authorization")
	if header == "" {
		return unauthenticated, false
	}
	scheme, secret, found := strings.Cut(header, " ")
	if !found || secret == "" || strings.Contains(secret, " ") {
		return jsonError(http.StatusBadRequest, "the authorization header was malformed"), false
	}
	switch scheme {
	case "Bearer", "Token":
	case "Basic":
		pair, err := base64.StdEncoding.DecodeString(secret)
		if err != nil {
			return jsonError(http.StatusBadRequest, "the authorization header was malformed"), false
		}
		_, secret, _ = strings.Cut(string(pair), ":")
	default:
		return jsonError(http.StatusBadRequest, "the authorization header was malformed"), false
	}
	r.caller = n.catalog.byHash[hashOf(secret)]
	if r.caller == nil || !r.caller.Live(n.cluster.now()) {
		return unauthenticated, false
	}
	return answer{}, true
}

// ping says what the server is.
func (n *Node) ping() answer {
	o := n.cluster.options
	build := map[string]string{Core: "Core", Enterprise: "Enterprise", Cloud: "Cloud"}[o.Product]
	body, _ := json.Marshal(map[string]string{
		"product_name": "InfluxDB 3 " + build, "version": o.Version, "revision": "0123456789", "process_id": o.UUID,
	})
	a := answer{status: http.StatusOK, contentType: "application/json", body: body, header: map[string]string{
		"X-Influxdb-Build": build, "X-Influxdb-Version": o.Version,
	}}
	switch o.Build {
	case "":
	case "-":
		delete(a.header, "X-Influxdb-Build")
	default:
		a.header["X-Influxdb-Build"] = o.Build
	}
	return a
}

// write sends an answer. Since release 3.7.0 every answer carries the UUID of
// the catalog.
func (n *Node) write(w http.ResponseWriter, a answer, f *Fault) {
	n.cluster.mu.Lock()
	version, uuid := n.cluster.options.Version, n.cluster.options.UUID
	n.cluster.mu.Unlock()
	h := w.Header()
	h["Content-Type"] = nil
	if a.contentType != "" {
		h.Set("Content-Type", a.contentType)
	}
	for name, value := range a.header {
		h.Set(name, value)
	}
	if atLeast(version, 3, 7) && (f == nil || !f.Foreign) {
		h.Set("cluster-uuid", uuid)
	}
	if f != nil && f.UUID != "" {
		h.Set("cluster-uuid", f.UUID)
	}
	if f != nil && f.Truncate != 0 {
		a.body = a.body[:max(0, len(a.body)-f.Truncate)]
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body)
}

// atLeast reports whether a version is major.minor or later.
func atLeast(version string, major, minor int) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return false
	}
	a, errA := strconv.Atoi(parts[0])
	b, errB := strconv.Atoi(parts[1])
	return errA == nil && errB == nil && (a > major || a == major && b >= minor)
}
