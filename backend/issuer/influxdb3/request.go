package influxdb3

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/failure"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/httpapi"
)

// uuidHeader holds the UUID of the catalog, in every answer of the server since
// release 3.7.0, also in errors. Answers of a proxy do not have it.
const uuidHeader = "Cluster-Uuid"

// defaultPorts are the ports that the products listen on.
var defaultPorts = map[string]string{issuer.Core: "8181", issuer.Enterprise: "8181", issuer.Cloud: "443"}

// An endpoint is what the issuers of one cluster share.
type endpoint struct {
	*httpapi.Endpoint
	uuid atomic.Pointer[string] // the last cluster-uuid; nil: none
}

// newEndpoint prepares the endpoint of a cluster. What is wrong with c is the
// error of every request.
func newEndpoint(o *httpapi.Options, c issuer.Cluster) *endpoint {
	origin, err := originOf(c)
	return &endpoint{Endpoint: httpapi.NewEndpoint(o, c, origin, err)}
}

func originOf(c issuer.Cluster) (string, error) {
	port, ok := defaultPorts[c.Product]
	if !ok {
		return "", fmt.Errorf("%q is not a product with this API", c.Product)
	}
	if c.Port == "" {
		c.Port = port
	}
	return httpapi.Origin(c)
}

func (e *endpoint) reportedUUID() string {
	if u := e.uuid.Load(); u != nil {
		return *u
	}
	return ""
}

var uuidShape = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// learn remembers the cluster-uuid of an answer and returns it.
func (e *endpoint) learn(h http.Header) string {
	uuid := h.Get(uuidHeader)
	if !uuidShape.MatchString(uuid) {
		return ""
	}
	if e.reportedUUID() != uuid {
		e.uuid.Store(&uuid)
	}
	return uuid
}

var (
	errNoUUID = errors.New("the answer has no cluster-uuid, although the cluster sends one: " +
		"it comes from a proxy or from an older server, so check host and port in config")
	errOtherCluster = errors.New("the answer comes from another cluster than the configured one (its cluster-uuid differs): " +
		"check host and port in config")

	// errNoRoot is the error of a root credential that cannot be sent.
	errNoRoot = failure.New("the root credential is empty, or has characters that a token cannot have: "+
		"write a valid admin_token to config", issuer.ErrUnauthorized)

	// errUnexpected ends a request whose answer is not to be decoded.
	errUnexpected = errors.New("unexpected answer")
)

// checkSource returns an error if an answer with this cluster-uuid is not one of
// the configured cluster. It is nil as long as the UUID of the cluster is not
// known.
func (c *cluster) checkSource(uuid string) error {
	switch {
	case c.UUID == "" || strings.EqualFold(uuid, c.UUID):
		return nil
	case uuid == "":
		return errNoUUID
	}
	return errOtherCluster
}

// A call is one request.
type call struct {
	method string
	path   string // escaped; may have a query
	body   any    // encoded as JSON; nil for none

	want int                   // the status of a success
	read func(io.Reader) error // reads the body of a success; nil ignores it
}

// A reply is an answer that has arrived.
type reply struct {
	status int
	header http.Header
	uuid   string // cluster-uuid; empty if there is none

	source error // why it is not an answer of the configured cluster, or nil
	done   bool  // it is a success of the configured cluster

	message string // the body of an error
	html    bool   // that body is HTML
}

// do sends a request once. An error means that there was no complete answer, or
// is that of read. An answer of another cluster is never decoded.
func (c *cluster) do(ctx context.Context, q call) (reply, error) {
	request := httpapi.Request{Method: q.method, Path: q.path, Root: c.Root, Timeout: c.Timeout, Read: q.read}
	if root := c.Root.Reveal(); root == "" || strings.ContainsFunc(root, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return reply{}, errNoRoot
	}
	if q.body != nil {
		body, err := json.Marshal(q.body)
		if err != nil {
			return reply{}, failure.NotSentf("encode a request: %w", err)
		}
		request.Body = body
	}
	var r reply
	request.Check = func(answer httpapi.Response) error {
		if answer.Status != q.want || c.checkSource(answer.Header.Get(uuidHeader)) != nil {
			return errUnexpected
		}
		return nil
	}
	answer, err := c.endpoint.Do(ctx, request)
	if answer.Header != nil {
		r = reply{status: answer.Status, header: answer.Header, uuid: c.endpoint.learn(answer.Header)}
		r.source = c.checkSource(r.uuid)
		r.readError(answer.Body)
	}
	switch {
	case errors.Is(err, errUnexpected):
		return r, nil
	case err != nil:
		return r, err
	}
	r.done = answer.Success()
	return r, nil
}

// readError reads the body of an error: plain text from the token calls, or
// {"error": "…"} from the authentication. The body of another answer may hold a
// secret and is not read.
func (r *reply) readError(body []byte) {
	if r.status < 400 {
		return
	}
	r.message = string(body)
	var said struct {
		Error *string `json:"error"`
	}
	if json.Unmarshal(body, &said) == nil && said.Error != nil {
		r.message = *said.Error
	}
	kind := strings.ToLower(r.header.Get("Content-Type"))
	r.html = strings.Contains(kind, "html") || strings.HasPrefix(strings.TrimSpace(r.message), "<")
}
