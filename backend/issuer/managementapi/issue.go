package managementapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/httpapi"
)

// A createRequest is the body of a POST that creates a token.
type createRequest struct {
	Description    string       `json:"description"`
	Permissions    []permission `json:"permissions"`
	ExpiresAt      string       `json:"expiresAt,omitempty"`
	ExpirationType string       `json:"expirationType,omitempty"`
}

type permission struct {
	Action   string `json:"action"`
	Resource string `json:"resource"` // the name of a database, or "*"
}

// newCreateRequest encodes a request. Times are in whole seconds, the only form
// that all clusters keep: docs/vendor-facts.md, "expiry-format".
func newCreateRequest(r issuer.Request) createRequest {
	c := createRequest{Description: r.Description, Permissions: []permission{}} // never null
	for _, database := range r.Read {
		c.Permissions = append(c.Permissions, permission{"read", database})
	}
	for _, database := range r.Write {
		c.Permissions = append(c.Permissions, permission{"write", database})
	}
	if !r.ExpiresAt.IsZero() {
		c.ExpiresAt = r.ExpiresAt.UTC().Format(time.RFC3339)
	}
	return c
}

// withExpirationType adds expirationType, which one page of the documentation
// requires and the API's specification does not have: docs/vendor-facts.md,
// "management-api-expiration-type".
func (c createRequest) withExpirationType() createRequest {
	c.ExpirationType = "datetime"
	if c.ExpiresAt == "" {
		c.ExpirationType = "noExpiration"
	}
	return c
}

// asksForExpirationType reports whether the body of a 400 names the field. The body
// need not have the documented form.
func asksForExpirationType(body []byte) bool {
	return bytes.Contains(bytes.ToLower(body), []byte("expirationtype"))
}

// Issue creates a token with one POST. It sends a second POST only after a 400
// that asks for expirationType, or after a 404 from a path at which the cluster
// has no tokens. Neither has created a token.
func (c *cluster) Issue(ctx context.Context, r issuer.Request) (issuer.Token, error) {
	body := newCreateRequest(r)
	created, answer, err := c.create(ctx, body)
	if err == nil && answer.Status == http.StatusBadRequest && asksForExpirationType(answer.Body) {
		created, answer, err = c.create(ctx, body.withExpirationType())
	}
	if err == nil && !answer.Success() {
		err = c.statusError(answer)
	}
	if err != nil {
		return issuer.Token{}, fmt.Errorf("issue a database token: %w", err)
	}
	if err := c.checkCreated(created, r); err != nil {
		return issuer.Token{}, fmt.Errorf("issue a database token: the cluster created one, but %w", err)
	}
	return issuer.Token{ID: created.ID, Secret: issuer.NewSecret(created.AccessToken)}, nil
}

// create sends one POST.
func (c *cluster) create(ctx context.Context, body createRequest) (created tokenJSON, r httpapi.Response, err error) {
	a, err := c.do(ctx, call{method: http.MethodPost, body: body, read: func(r io.Reader) (err error) {
		created, err = decodeToken(r)
		return err
	}})
	return created, a.Response, err
}

var (
	errNoSecret = errors.New("the answer does not hold its secret")
	errNoExpiry = errors.New("the token does not expire, or expires too late: InfluxDB Clustered supports it since release 20250508-1719206, so upgrade the cluster")
)

// checkCreated returns what is wrong with a token that was just created.
func (c *cluster) checkCreated(created tokenJSON, r issuer.Request) error {
	switch {
	case !plausibleID(created.ID):
		return errNoID
	case created.AccessToken == "" || created.AccessToken == c.Root.Reveal():
		return errNoSecret
	case !r.ExpiresAt.IsZero() && (created.ExpiresAt.IsZero() || created.ExpiresAt.After(r.ExpiresAt.Add(time.Second))):
		return errNoExpiry
	case created.ExpiresAt.Before(r.ExpiresAt.Add(-time.Second)): // a lease could end after the token
		return fmt.Errorf("it expires at %s instead of %s: if the cluster limits the life of tokens, choose a shorter max_ttl (rotation_period of a static role)",
			created.ExpiresAt.UTC().Format(time.RFC3339), r.ExpiresAt.UTC().Format(time.RFC3339))
	}
	return nil
}
