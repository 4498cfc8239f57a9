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
	r, err := c.do(ctx, call{method: http.MethodGet, read: func(body io.Reader) error {
		return decodeList(body, yield)
	}})
	switch {
	case err != nil:
		return fmt.Errorf("list database tokens: %w", err)
	case r.Status != http.StatusOK:
		return fmt.Errorf("list database tokens: %w", c.statusError(r))
	}
	return nil
}
