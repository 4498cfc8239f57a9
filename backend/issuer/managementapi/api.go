package managementapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/boundedjson"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/failure"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/httpapi"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/rootcredential"
)

// An endpoint is what the issuers of one cluster share.
type endpoint struct {
	*httpapi.Endpoint
	collections []string // paths that the cluster may serve, the most likely first

	served atomic.Pointer[string] // the collection that has answered
}

func newEndpoint(o *httpapi.Options, c issuer.Cluster) *endpoint {
	origin, originErr := originOf(c)
	collections, err := collectionsOf(c)
	if err != nil {
		collections = []string{""} // no request is sent
	}
	return &endpoint{Endpoint: httpapi.NewEndpoint(o, c, origin, errors.Join(originErr, err)), collections: collections}
}

// collection returns the path to try first, and whether it has answered before.
func (e *endpoint) collection() (path string, served bool) {
	if p := e.served.Load(); p != nil {
		return *p, true
	}
	return e.collections[0], false
}

// documented reports whether path is the documented one.
func (e *endpoint) documented(path string) bool { return path == e.collections[0] }

// candidates returns the paths at which the collection may be. Once the documented
// one has answered, there is no other: what else is served may be empty, and would
// be taken for the proof that the tokens are gone.
func (e *endpoint) candidates() []string {
	if path, served := e.collection(); served && e.documented(path) {
		return e.collections[:1]
	}
	return e.collections
}

// remember records that a call to path has succeeded. A list at another path than
// the documented one does not count, because it may be that of another account.
func (e *endpoint) remember(path string, q call) {
	if e.documented(path) || q.method != http.MethodGet || q.id != "" {
		e.served.Store(&path)
	}
}

// A call is a request to the collection of tokens, or to one token in it.
type call struct {
	method string
	id     string // of a token; empty: the collection
	body   any    // encoded as JSON; nil: none

	// read reads the body of a success; nil ignores it.
	read func(io.Reader) error
}

// An answer is the answer to a call.
type answer struct {
	httpapi.Response
	collection string // the path at which it was asked
}

// do sends a call to the collection that the cluster serves.
//
// The API answers 404 both for a path that it does not serve and for a token
// that it does not know (docs/vendor-facts.md, "management-api-404"). After a
// 404, do looks for the collection, unless the call is about one token and the
// collection has answered before. So a 404 for one token does not prove that
// the token is unknown; see settleNotFound.
func (c *cluster) do(ctx context.Context, q call) (answer, error) {
	path, served := c.endpoint.collection()
	r, err := c.send(ctx, path, q)
	if err != nil || r.Status != http.StatusNotFound || served && q.id != "" {
		return answer{r, path}, err
	}
	found, err := c.findCollection(ctx)
	switch {
	case err != nil:
		return answer{}, failure.Wrap(fmt.Errorf("%w; finding the tokens of the cluster failed too: %w", c.statusError(r), err), issuer.ErrRefused)
	case found == path:
		return answer{r, path}, nil
	}
	r, err = c.send(ctx, found, q)
	return answer{r, found}, err
}

// findCollection returns the path of the collection that the cluster serves.
func (c *cluster) findCollection(ctx context.Context) (string, error) {
	var last error
	list := call{method: http.MethodGet, read: func(body io.Reader) error {
		if err := boundedjson.StartsArray(body); err != nil {
			return err
		}
		return httpapi.ErrStop // the list may be long
	}}
	for _, path := range c.endpoint.candidates() {
		r, err := c.send(ctx, path, list)
		switch {
		case errors.Is(err, httpapi.ErrStop):
			c.endpoint.remember(path, list)
			return path, nil
		case err != nil:
			return "", err
		}
		last = fmt.Errorf("GET %s: %w", path, c.statusError(r))
		if r.Status != http.StatusNotFound {
			return "", last
		}
	}
	return "", last
}

// send sends a call to a collection and remembers a success. It repeats all calls
// but POST, which could create a second token.
func (c *cluster) send(ctx context.Context, collection string, q call) (r httpapi.Response, err error) {
	request := httpapi.Request{Method: q.method, Path: collection, Root: c.Root, Timeout: c.Timeout, Read: q.read}
	if q.id != "" {
		request.Path += "/" + url.PathEscape(q.id)
	}
	if q.body != nil {
		if request.Body, err = json.Marshal(q.body); err != nil {
			return httpapi.Response{}, failure.NotSentf("encode the request: %w", err)
		}
	}
	do := c.endpoint.DoRepeatedly
	if q.method == http.MethodPost {
		do = c.endpoint.Do
	}
	r, err = do(ctx, request)
	if err == nil && r.Success() {
		c.endpoint.remember(collection, q)
	}
	return r, err
}

// statusError returns the error for an answer that is not the expected success.
func (c *cluster) statusError(r httpapi.Response) error {
	return r.Err(message(r.Body), httpapi.Advice{
		Unauthorized: rootcredential.NotAccepted(c.Cluster),
		Forbidden:    rootcredential.NotAllowed(c.Cluster),
		NotFound:     "the API does not know this token, cluster or account: check api_url, host, account_id and cluster_id in config",
	})
}

// message returns the message of an error answer in the documented form
// {"code": 404, "message": "…"}, and nothing for any other text, such as a page
// of a proxy. The code may be a string. See docs/vendor-facts.md,
// "management-api-errors".
func message(body []byte) string {
	var answer struct {
		Code    any     `json:"code"`
		Message *string `json:"message"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.Code == nil || answer.Message == nil {
		return ""
	}
	return *answer.Message
}
