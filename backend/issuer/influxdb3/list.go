package influxdb3

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

const (
	pathQuery = "/api/v3/query_sql"

	// listTokens has no condition: the server reads all tokens anyway.
	listTokens = "SELECT name, hash, created_at, expiry FROM system.tokens"
)

// A queryJSON is the body of a query.
type queryJSON struct {
	DB     string `json:"db"`
	Q      string `json:"q"`
	Format string `json:"format"`
}

// List reads all tokens of the catalog by one query, whatever their kind. A
// query that fails midway has status 200 as well, so that a list is complete only
// if its JSON is.
func (c *cluster) List(ctx context.Context, yield func(issuer.Info) error) error {
	r, err := c.do(ctx, call{method: http.MethodPost, path: pathQuery, want: http.StatusOK,
		body: queryJSON{DB: "_internal", Q: listTokens, Format: "json"},
		read: func(in io.Reader) error { return decodeList(in, yield) }})
	switch {
	case err != nil:
		return fmt.Errorf("list tokens: %w", err)
	case !r.done:
		return fmt.Errorf("list tokens: %w", c.err(r))
	}
	return nil
}
