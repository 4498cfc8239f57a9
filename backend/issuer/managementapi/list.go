package managementapi

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// List reads the collection, which the API returns whole.
func (c *cluster) List(ctx context.Context, yield func(issuer.Info) error) error {
	r, err := c.ask(ctx, query{method: http.MethodGet, read: func(body io.Reader) error {
		return decodeList(body, yield)
	}})
	switch {
	case err != nil:
		return fmt.Errorf("list database tokens: %w", err)
	case r.status != http.StatusOK:
		return fmt.Errorf("list database tokens: %w", r.err(c.secrets()...))
	}
	return nil
}
