package backend

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathCreds() *framework.Path {
	credential := answers(http.StatusOK, map[string]*framework.FieldSchema{
		"token": {Type: framework.TypeString, Required: true}, "token_id": {Type: framework.TypeString, Required: true},
		"description": {Type: framework.TypeString, Required: true}, "expires_at": {Type: framework.TypeString, Required: true},
		"product": {Type: framework.TypeString, Required: true}, "account_id": {Type: framework.TypeString, Required: true},
		"cluster_id": {Type: framework.TypeString, Required: true}, "host": {Type: framework.TypeString, Required: true},
		"port": {Type: framework.TypeString, Required: true}, "token_type": {Type: framework.TypeString, Required: true},
	})
	return &framework.Path{
		Pattern:      "creds/" + framework.GenericNameRegex("role"),
		DisplayAttrs: display("generate", "credentials"),
		Fields: map[string]*framework.FieldSchema{
			"role": {Type: framework.TypeString, Required: true, Description: "The role that says what the token is like."},
			"ttl":  {Type: framework.TypeDurationSecond, Query: true, Description: "How long the lease shall last, if not as long as the role says; cut to the role's max_ttl (its ttl, where it has none)."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   operation(b.credsRead, "generate", credential),
			logical.UpdateOperation: operation(b.credsRead, "generate", credential),
		},
		HelpSynopsis: "Mint a token under a lease.",
		HelpDescription: `
    vault read influxdb/creds/automation
    vault read influxdb/creds/automation ttl=10m

Every read mints a new token. It is revoked when the lease ends, is revoked, or
when the Vault token that read it is; expires_at is the moment it dies at the
latest. What was asked for and could not be granted is explained in a warning.
`,
	}
}

func (b *backend) credsRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	requested := time.Duration(d.Get("ttl").(int)) * time.Second
	if requested < 0 || requested > longestTTL {
		return fail(badRequest("ttl must be between 1s and 100 years"))
	}
	r, err := loadRole(ctx, req.Storage, d.Get("role").(string))
	if err != nil {
		return fail(err)
	}
	c, err := loadConfig(ctx, req.Storage)
	if err != nil {
		return fail(err)
	}
	t, err := newTerms(r, requested, b.System().MaxLeaseTTL(), b.now())
	if err != nil {
		return nil, err
	}
	text, err := descriptionData{r.Name, req.DisplayName, req.EntityID, req.MountPoint}.render(r.Description)
	if err != nil {
		return fail(badRequest("description of role %s: %v", r.Name, err))
	}
	m, err := b.mint(ctx, req.Storage, c, order{r, t, text, req.DisplayName, req.EntityID})
	if err != nil {
		return fail(fmt.Errorf("mint for role %s: %w", r.Name, err))
	}
	resp := b.Secret(secretType).Response(map[string]any{
		"token": m.token.Secret.Reveal(), "token_id": m.token.ID,
		"description": m.record.Description, "expires_at": timestamp(t.ExpiresAt),
		"product": c.Product, "account_id": c.AccountID, "cluster_id": c.ClusterID, "host": c.Host, "port": c.Port, "token_type": r.Kind,
	}, lease{r.Name, m.record.Nonce}.internalData())
	resp.Secret.TTL, resp.Secret.MaxTTL = m.ttl, m.maxTTL
	resp.Secret.Renewable = t.renewable() && m.ttl < m.maxTTL
	resp.Warnings = t.warnings(r, requested, m.ttl)
	return resp, nil
}
