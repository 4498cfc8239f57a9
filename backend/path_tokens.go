package backend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
)

func (b *backend) pathTokens() *framework.Path {
	return &framework.Path{
		Pattern:      "tokens/?$",
		DisplayAttrs: display("list", "tokens"),
		Fields:       pageFields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: operation(b.tokensList, "list", answers(http.StatusOK, map[string]*framework.FieldSchema{
				"keys": {Type: framework.TypeStringSlice},
			})),
		},
		HelpSynopsis:    "List the accessors of the tokens in the ledger.",
		HelpDescription: "Lists, by accessor, every token that this mount has issued and that is not known to be revoked or expired. The accessor is also in the description of the token on the cluster. See tokens/detailed for more about each token.",
	}
}

func (b *backend) pathTokensDetailed() *framework.Path {
	return &framework.Path{
		Pattern:      "tokens/detailed/?$",
		DisplayAttrs: display("list", "tokens-detailed"),
		Fields:       pageFields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: operation(b.tokensListDetailed, "list", answers(http.StatusOK, map[string]*framework.FieldSchema{
				"keys": {Type: framework.TypeStringSlice}, "key_info": {Type: framework.TypeMap},
			})),
		},
		HelpSynopsis: "List the tokens in the ledger, with what is known about each.",
		HelpDescription: `
    vault list -detailed influxdb/tokens/detailed

Like tokens/, with the type, role, state, ID, expiry and cluster of each token.
`,
	}
}

func (b *backend) pathToken() *framework.Path {
	return &framework.Path{
		Pattern:      "tokens/" + framework.GenericNameRegex("accessor"),
		DisplayAttrs: display("", "token"),
		Fields: map[string]*framework.FieldSchema{
			"accessor": {Type: framework.TypeString, Required: true, Description: "Accessor of the token: the last part of the tag in its description. The ID of the token is accepted too."},
			"forget":   {Type: framework.TypeBool, Description: "Delete the record of a token without revoking it. Only for tokens of a cluster that is not the configured one. Default: false."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: operation(b.tokenRead, "read", answers(http.StatusOK, map[string]*framework.FieldSchema{
				"accessor":   {Type: framework.TypeString, Required: true},
				"token_type": {Type: framework.TypeString, Required: true}, "role": {Type: framework.TypeString, Required: true}, "state": {Type: framework.TypeString, Required: true},
				"token_id": {Type: framework.TypeString}, "description": {Type: framework.TypeString, Required: true},
				"cluster": {Type: framework.TypeString, Required: true}, "display_name": {Type: framework.TypeString}, "entity_id": {Type: framework.TypeString},
				"issued_at": {Type: framework.TypeString, Required: true}, "lease_end": {Type: framework.TypeString}, "expires_at": {Type: framework.TypeString},
				"deadline": {Type: framework.TypeString, Required: true}, "attempts": {Type: framework.TypeInt},
				"failed_at": {Type: framework.TypeString}, "last_failure": {Type: framework.TypeString},
				"revoke_on": {Type: framework.TypeString, Required: true}, "detached_at": {Type: framework.TypeString},
			})),
			logical.UpdateOperation: operation(b.tokenForget, "forget", noContent),
			logical.DeleteOperation: operation(b.tokenDelete, "revoke", noContent),
		},
		HelpSynopsis: "Read the record of a token, revoke the token now, or delete its record.",
		HelpDescription: `
The states of a token:

  issuing   its creation is not confirmed
  active    a lease, a static role or revoke_on=expiry holds it
  revoking  it must be revoked and has not been revoked yet; the engine keeps trying

When a token is known to be revoked or expired, its record is deleted.

A delete revokes the token at once, also under a valid lease. A later revocation of
the lease succeeds without a request to the cluster.

If the cluster of a token is gone for good, nothing can revoke the token. Its
record stays until the token has expired; with InfluxDB 3 Core, Enterprise and
Cloud it stays longer. To delete the record earlier:

    vault write influxdb/tokens/<accessor> forget=true

This is refused for tokens of the configured cluster.
`,
	}
}

// listTokens returns the records that a list request asks for, and their accessors.
func (b *backend) listTokens(ctx context.Context, s logical.Storage, d *framework.FieldData) ([]string, map[string]ledger.Entry, error) {
	if err := b.ledger.Load(ctx, s); err != nil {
		return nil, nil, err
	}
	entries := map[string]ledger.Entry{}
	for _, e := range b.ledger.All() {
		entries[e.Accessor] = e
	}
	return pageOf(slices.Collect(maps.Keys(entries)), d), entries, nil
}

func (b *backend) tokensList(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	keys, _, err := b.listTokens(ctx, req.Storage, d)
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(keys), nil
}

func (b *backend) tokensListDetailed(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	keys, entries, err := b.listTokens(ctx, req.Storage, d)
	if err != nil {
		return nil, err
	}
	info := map[string]any{}
	for _, accessor := range keys {
		e := entries[accessor]
		info[accessor] = map[string]any{
			"token_type": e.TokenType, "role": e.Role, "state": string(e.State), "token_id": e.TokenID,
			"cluster": e.Fingerprint, "expires_at": timestampOrNever(e.ExpiresAt),
		}
	}
	return logical.ListResponseWithInfo(keys, info), nil
}

// findToken returns the record with an accessor or a token ID, or
// ledger.ErrNotFound.
func (b *backend) findToken(ctx context.Context, s logical.Storage, name string) (ledger.Record, error) {
	r, err := b.ledger.Find(ctx, s, name)
	if !errors.Is(err, ledger.ErrNotFound) {
		return r, err
	}
	if err := b.ledger.Load(ctx, s); err != nil {
		return r, err
	}
	for _, e := range b.ledger.All() {
		if e.TokenID == name {
			return b.ledger.Get(ctx, s, e.Role, e.Accessor)
		}
	}
	return r, err
}

func (b *backend) tokenRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r, err := b.findToken(ctx, req.Storage, d.Get("accessor").(string))
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return fail(err)
	}
	data := map[string]any{
		"accessor": r.Accessor, "token_type": r.TokenType, "role": r.Role, "state": string(r.State), "token_id": r.TokenID,
		"description": r.Description, "cluster": r.Fingerprint, "display_name": r.DisplayName, "entity_id": r.EntityID,
		"attempts": r.Attempts, "last_failure": r.LastFailure, "revoke_on": cmp.Or(r.RevokeOn, revokeOnLease),
	}
	for field, t := range map[string]time.Time{
		"issued_at": r.IssuedAt, "lease_end": r.LeaseEnd, "expires_at": r.ExpiresAt, "deadline": r.Deadline, "failed_at": r.FailedAt, "detached_at": r.DetachedAt,
	} {
		if !t.IsZero() {
			data[field] = timestamp(t)
		}
	}
	return &logical.Response{Data: data}, nil
}

func (b *backend) tokenDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r, err := b.findToken(ctx, req.Storage, d.Get("accessor").(string))
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return fail(err)
	}
	if b.ledger.InFlight(r.Accessor) {
		return fail(conflict("the token is being issued at this moment; try again"))
	}
	if err := b.mayRevoke(ctx, req.Storage, r); err != nil {
		return fail(err)
	}
	if name, ok := strings.CutPrefix(r.Role, staticPrefix); ok {
		if err := b.releaseStatic(ctx, req.Storage, r, name); err != nil {
			return fail(err)
		}
	}
	r, err = b.ledger.Change(ctx, req.Storage, r.Role, r.Accessor, func(r *ledger.Record) error {
		b.revokeNow(r)
		return nil
	})
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return fail(err)
	}
	if err := b.settle(ctx, req.Storage, r)[r.Accessor]; err != nil {
		b.event(ctx, "revoke-fail", "tokens/"+r.Accessor, "role", r.Role, "token_id", r.TokenID)
		return fail(upstream("the token could not be revoked yet; the engine keeps trying", err))
	}
	b.event(ctx, "revoke", "tokens/"+r.Accessor, "role", r.Role, "token_id", r.TokenID)
	return nil, nil
}

// revokeNow makes a record due for revocation. An issuing record stays issuing: its
// token may not exist, and the limits on the tokens of a role know that.
func (b *backend) revokeNow(r *ledger.Record) {
	r.Deadline = b.now()
	if r.State != ledger.Issuing {
		r.State = ledger.Revoking
	}
}

// tokenForget deletes the record of a token that no one can revoke, because its
// cluster is not the configured one.
func (b *backend) tokenForget(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("accessor").(string)
	if !d.Get("forget").(bool) {
		return fail(badRequest("a write needs forget=true, which deletes the record of a token whose cluster is gone for good. To revoke a token, delete this path"))
	}
	r, err := b.findToken(ctx, req.Storage, name)
	if errors.Is(err, ledger.ErrNotFound) {
		return fail(badRequest("the ledger holds no record of token %q; list them with `vault list` of tokens/detailed", shorten(name)))
	}
	if err != nil {
		return fail(err)
	}
	if err := b.forget(ctx, req.Storage, r); err != nil {
		return fail(err)
	}
	b.Logger().Info("record deleted on request, the token was not revoked", "role", r.Role, "accessor", r.Accessor, "token_id", r.TokenID,
		"cluster", r.Fingerprint, "expires_at", timestampOrNever(r.ExpiresAt))
	return nil, nil
}

// forget deletes a record. Under the lock of the config, the cluster cannot become
// the configured one again meanwhile.
func (b *backend) forget(ctx context.Context, s logical.Storage, r ledger.Record) error {
	b.configMu.Lock()
	defer b.configMu.Unlock()
	c, err := loadConfig(ctx, s)
	if err != nil && !errors.Is(err, errNoConfig) {
		return err
	}
	if c.Fingerprint == r.Fingerprint {
		return conflict("the token was issued on the configured cluster, which can revoke it: delete this path instead")
	}
	if b.ledger.InFlight(r.Accessor) {
		return conflict("the token is being issued at this moment; try again")
	}
	return b.ledger.Drop(ctx, s, r.Role, r.Accessor)
}

// mayRevoke refuses to revoke the root credential and the one that a rotation is
// about to install.
func (b *backend) mayRevoke(ctx context.Context, s logical.Storage, r ledger.Record) error {
	c, err := loadConfig(ctx, s)
	if err != nil && !errors.Is(err, errNoConfig) {
		return err
	}
	next, underWay, err := findRotation(ctx, s)
	switch {
	case err != nil && r.Role == rootRole: // the rotation may name it
		return err
	case r.TokenID != "" && r.TokenID == c.RootID:
		return errIsRoot
	case underWay && !next.Cancelled && next.Accessor == r.Accessor:
		return fmt.Errorf("%w; to stop it, write a new root credential to config", errIsNextRoot)
	}
	return nil
}
