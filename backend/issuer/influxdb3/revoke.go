package influxdb3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/boundedjson"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/failure"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/httpapi"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/redact"
)

const pathToken = "/api/v3/configure/token"

// Revoke deletes the tokens by their names, at most MaxParallel at the same time.
// A deleted token vanishes: to revoke it again is [issuer.ErrUnknown].
func (c *cluster) Revoke(ctx context.Context, ids ...string) map[string]error {
	failed := httpapi.RevokeEach(ctx, ids, c.MaxParallel, c.revoke)
	for id, err := range failed {
		failed[id] = fmt.Errorf("revoke token %q: %w", redact.Quote(id), err)
	}
	return failed
}

var (
	errNotEmpty = errors.New("the answer to a delete has a body, and no cluster-uuid: it is not known to come from InfluxDB 3, " +
		"so check host and port in config")
	errOtherMissing = errors.New("the cluster says that it knows no token of another name: something on the way changes the requests, " +
		"so check the proxies")
)

// revoke deletes one token. Success is the documented answer, 200 without a body,
// or any 200 of a server that identifies itself: a proxy may answer every request
// by 200 with a page. A 404 says that the token is unknown only if the catalog of
// the configured cluster says so about this name: a wrong address, another product
// or a proxy also answer 404.
func (c *cluster) revoke(ctx context.Context, name string) error {
	if name == "" {
		return invalid("the name of a token must not be empty")
	}
	empty := false
	r, err := c.do(ctx, call{method: http.MethodDelete, path: pathOf(name), want: http.StatusOK, read: func(in io.Reader) error {
		empty = boundedjson.End(in, httpapi.MaxAnswer) == nil
		return nil
	}})
	missing, unknown := strings.CutPrefix(r.message, textNoSuchToken)
	switch {
	case err != nil:
		return err
	case r.done && !empty && r.uuid == "":
		return errNotEmpty
	case r.done:
		return nil
	case r.status != http.StatusNotFound || r.source != nil || !unknown:
		return c.err(r)
	case !strings.Contains(missing, name):
		return errOtherMissing
	}
	return failure.New("the cluster knows no token of this name", issuer.ErrUnknown)
}

// pathOf returns the path and the query to delete a token. A blank in the name is
// %20 and not a plus sign, which not everything on the way takes for a blank.
func pathOf(name string) string {
	return pathToken + "?token_name=" + strings.ReplaceAll(url.QueryEscape(name), "+", "%20")
}
