package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
)

func (b *backend) pathCreds() *framework.Path {
	credential := answers(http.StatusOK, map[string]*framework.FieldSchema{
		"token": {Type: framework.TypeString, Required: true}, "token_id": {Type: framework.TypeString, Required: true},
		"description": {Type: framework.TypeString, Required: true}, "expires_at": {Type: framework.TypeString, Required: true},
		"product": {Type: framework.TypeString, Required: true}, "account_id": {Type: framework.TypeString},
		"cluster_id": {Type: framework.TypeString}, "host": {Type: framework.TypeString, Required: true},
		"port": {Type: framework.TypeString, Required: true}, "url": {Type: framework.TypeString}, "token_type": {Type: framework.TypeString, Required: true},
		"accessor": {Type: framework.TypeString, Required: true}, "metadata": {Type: framework.TypeMap},
	})
	return &framework.Path{
		Pattern:      "creds/" + framework.GenericNameRegex("role"),
		DisplayAttrs: display("generate", "credentials"),
		Fields: map[string]*framework.FieldSchema{
			"role": {Type: framework.TypeString, Required: true, Description: "Name of the role."},
			"ttl":  {Type: framework.TypeDurationSecond, Query: true, Description: "Length of the lease. It is limited by the max_ttl of the role, or by its ttl if it has none. Default: the ttl of the role, or its max_ttl if revoke_on of the role is expiry."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   operation(b.credsRead, "generate", credential),
			logical.UpdateOperation: operation(b.credsRead, "generate", credential),
		},
		HelpSynopsis: "Issue a token under a lease.",
		HelpDescription: `
    vault read influxdb/creds/automation
    vault read influxdb/creds/automation ttl=10m

Every read issues a new token. The token is revoked when its lease ends, when the
lease is revoked, and when the Vault token that read it ends. If revoke_on of the
role is expiry, the token stays valid until expires_at instead, and a warning says
so. A warning explains why a lease is shorter than requested.

The answer says where the token can be used: url is the origin for reading and
writing data, if config has a host.
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
	resp, err := b.credential(ctx, req, r, requested)
	if errors.Is(err, errConfigChanged) { // for example by a rotation of the root credential
		resp, err = b.credential(ctx, req, r, requested)
	}
	if err != nil {
		return fail(fmt.Errorf("issue a token for role %s: %w", r.Name, err))
	}
	return resp, nil
}

// credential issues a token of the role and returns the answer with its lease.
func (b *backend) credential(ctx context.Context, req *logical.Request, r role, requested time.Duration) (*logical.Response, error) {
	c, err := loadConfig(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	t, err := newTerms(r, requested, b.System().MaxLeaseTTL(), b.now())
	if err != nil {
		return nil, err
	}
	text, err := descriptionData{r.Name, req.DisplayName, req.EntityID, req.MountPoint}.render(r.Description)
	if err != nil {
		return nil, badRequest("description of the role: %v", err)
	}
	l, err := b.issueLeased(ctx, req.Storage, c, t, order{
		role: r.Name, tokenType: r.tokenType(), read: r.Read, write: r.Write, maxActive: r.MaxActive,
		expiresAt: t.ExpiresAt, text: text, displayName: req.DisplayName, entityID: req.EntityID, revokeOn: r.storedRevokeOn(), mount: req.MountPoint,
	})
	if err != nil {
		return nil, err
	}
	data := map[string]any{
		"token": l.token.Secret.Reveal(), "token_id": l.token.ID, "accessor": l.record.Accessor,
		"description": l.record.Description, "expires_at": timestamp(t.ExpiresAt), "token_type": r.tokenType(),
	}
	c.address().add(data)
	if len(r.Metadata) > 0 {
		data["metadata"] = r.Metadata
	}
	resp := b.Secret(secretType).Response(data, lease{r.Name, l.record.Accessor}.internalData())
	resp.Secret.TTL, resp.Secret.MaxTTL = l.ttl, l.maxTTL
	resp.Secret.Renewable = t.renewable() && l.ttl < l.maxTTL
	resp.Warnings = t.warnings(r, requested, l.ttl)
	if l.record.RevokeOn == ledger.RevokeOnExpiry {
		resp.AddWarning(fmt.Sprintf("The token stays valid until %s, also if its lease or the Vault token that read it ends earlier. Only `vault delete %stokens/%s` revokes it early.",
			timestamp(t.ExpiresAt), req.MountPoint, l.record.Accessor))
	}
	return resp, nil
}
