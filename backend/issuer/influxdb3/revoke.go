package influxdb3

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
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

// revoke deletes one token. A 404 says that the token is unknown only if the
// catalog of the configured cluster says so: a wrong address, another product or
// a proxy also answer 404.
func (c *cluster) revoke(ctx context.Context, name string) error {
	if name == "" {
		return invalid("the name of a token must not be empty")
	}
	target := pathToken + "?" + url.Values{"token_name": {name}}.Encode()
	r, err := c.do(ctx, call{method: http.MethodDelete, path: target, want: http.StatusOK})
	switch {
	case err != nil:
		return err
	case r.done:
		return nil
	case r.status == http.StatusNotFound && r.source == nil && strings.HasPrefix(r.message, textNoSuchToken):
		return failure.New("the cluster knows no token of this name", issuer.ErrUnknown)
	}
	return c.err(r)
}
