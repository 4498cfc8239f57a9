package managementapi

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// List reads the collection, which the API returns as a whole, without pages:
// docs/vendor-facts.md, "management-api-list".
func (c *cluster) List(ctx context.Context, yield func(issuer.Info) error) error {
	_, err := c.list(ctx, yield)
	return err
}

// list is List. It returns the path of the collection that was listed.
func (c *cluster) list(ctx context.Context, yield func(issuer.Info) error) (collection string, err error) {
	r, err := c.do(ctx, call{method: http.MethodGet, read: func(body io.Reader) error {
		return decodeList(body, yield)
	}})
	switch {
	case err != nil:
		return "", fmt.Errorf("list database tokens: %w", err)
	case r.Status != http.StatusOK:
		return "", fmt.Errorf("list database tokens: %w", c.statusError(r.Response))
	}
	return r.collection, nil
}
