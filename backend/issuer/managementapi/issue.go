package managementapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// An order is the body of a POST: the token that is asked for.
type order struct {
	Description    string       `json:"description"`
	Permissions    []permission `json:"permissions"`
	ExpiresAt      string       `json:"expiresAt,omitempty"`
	ExpirationType string       `json:"expirationType,omitempty"`
}

type permission struct {
	Action   string `json:"action"`
	Resource string `json:"resource"` // the name of a database, or "*"
}

// orderOf writes a request in the API's words. Times are whole seconds: a
// client that sent fractions would not find them again.
func orderOf(r issuer.Request) order {
	o := order{Description: r.Description, Permissions: []permission{}} // never null
	for _, database := range r.Read {
		o.Permissions = append(o.Permissions, permission{"read", database})
	}
	for _, database := range r.Write {
		o.Permissions = append(o.Permissions, permission{"write", database})
	}
	if !r.ExpiresAt.IsZero() {
		o.ExpiresAt = r.ExpiresAt.UTC().Format(time.RFC3339)
	}
	return o
}

// typed says what kind of expiry the order has, which one page of the
// documentation asks for and the API's specification does not know.
func (o order) typed() order {
	o.ExpirationType = "datetime"
	if o.ExpiresAt == "" {
		o.ExpirationType = "noExpiration"
	}
	return o
}

// Issue mints a token by one POST. A second one follows only on an answer of
// 400 that asks for the kind of expiry, or of 404 from a path that turns out
// not to be the cluster's: neither has made anything.
func (c *cluster) Issue(ctx context.Context, r issuer.Request) (issuer.Token, error) {
	o := orderOf(r)
	made, answer, err := c.post(ctx, o)
	if err == nil && answer.status == http.StatusBadRequest && strings.Contains(strings.ToLower(answer.message), "expirationtype") {
		made, answer, err = c.post(ctx, o.typed())
	}
	if err == nil && !answer.success() {
		err = answer.err(c.secrets()...)
	}
	if err != nil {
		return issuer.Token{}, fmt.Errorf("mint a database token: %w", err)
	}
	if err := c.checkMinted(made, r); err != nil {
		return issuer.Token{}, fmt.Errorf("mint a database token: one was made, but %w", err)
	}
	return issuer.Token{ID: made.ID, Secret: issuer.NewSecret(made.AccessToken)}, nil
}

// post sends an order once.
func (c *cluster) post(ctx context.Context, o order) (made tokenJSON, _ reply, _ error) {
	body, err := json.Marshal(o)
	if err != nil {
		return tokenJSON{}, reply{}, notSent("write the order", err)
	}
	answer, err := c.ask(ctx, query{method: http.MethodPost, body: body, read: func(r io.Reader) (err error) {
		made, err = decodeToken(r)
		return err
	}})
	return made, answer, err
}

var (
	errNoSecret  = errors.New("the answer does not hold it")
	errOtherTerm = errors.New("the answer says that it does not expire as was asked: " +
		"InfluxDB Clustered knows expiry since release 20250508-1719206")
)

// checkMinted says what is wrong with a token just made.
func (c *cluster) checkMinted(made tokenJSON, r issuer.Request) error {
	switch {
	case !plausibleID(made.ID):
		return errNoID
	case made.AccessToken == "" || made.AccessToken == c.Root.Reveal():
		return errNoSecret
	case !r.ExpiresAt.IsZero() && (made.ExpiresAt.IsZero() || made.ExpiresAt.After(r.ExpiresAt.Add(time.Second))):
		return errOtherTerm
	}
	return nil
}
