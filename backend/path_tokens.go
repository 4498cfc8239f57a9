package backend

import (
	"context"
	"errors"
	"fmt"
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
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: operation(b.tokensList, "list", answers(http.StatusOK, map[string]*framework.FieldSchema{
				"keys": {Type: framework.TypeStringSlice}, "key_info": {Type: framework.TypeMap},
			})),
		},
		HelpSynopsis:    "List the tokens in the ledger.",
		HelpDescription: "Lists, by accessor, every token that this mount has issued and that is not known to be revoked or expired. The accessor is also in the description of the token on the cluster.",
	}
}

func (b *backend) pathToken() *framework.Path {
	return &framework.Path{
		Pattern:      "tokens/" + framework.GenericNameRegex("accessor"),
		DisplayAttrs: display("", "token"),
		Fields: map[string]*framework.FieldSchema{
			"accessor": {Type: framework.TypeString, Required: true, Description: "Accessor of the token: the last part of the tag in its description. The ID of the token is accepted too."},
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
			})),
			logical.DeleteOperation: operation(b.tokenDelete, "revoke", noContent),
		},
		HelpSynopsis: "Read the record of a token, or revoke the token now.",
		HelpDescription: `
A token is issuing while its creation is not confirmed, active while a lease holds
it, and revoking when it must be revoked and has not been revoked yet; the engine
keeps trying. When a token is known to be revoked or expired, its record is
deleted.

Deleting revokes the token at once, also under a valid lease. The revocation of
the lease then has nothing left to do.
`,
	}
}

func (b *backend) tokensList(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	if err := b.ledger.Load(ctx, req.Storage); err != nil {
		return nil, err
	}
	keys, info := []string{}, map[string]any{}
	for _, e := range b.ledger.All() {
		keys = append(keys, e.Accessor)
		info[e.Accessor] = map[string]any{
			"token_type": e.TokenType, "role": e.Role, "state": string(e.State), "token_id": e.TokenID, "expires_at": timestampOrNever(e.ExpiresAt),
		}
	}
	slices.Sort(keys)
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
		"attempts": r.Attempts, "last_failure": r.LastFailure,
	}
	for field, t := range map[string]time.Time{
		"issued_at": r.IssuedAt, "lease_end": r.LeaseEnd, "expires_at": r.ExpiresAt, "deadline": r.Deadline, "failed_at": r.FailedAt,
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
		r.State, r.Deadline = ledger.Revoking, b.now()
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

// mayRevoke refuses to revoke the root credential and the one that a rotation is
// about to install.
func (b *backend) mayRevoke(ctx context.Context, s logical.Storage, r ledger.Record) error {
	c, err := loadConfig(ctx, s)
	if err != nil && !errors.Is(err, errNoConfig) {
		return err
	}
	next, underWay, err := findRotation(ctx, s)
	switch {
	case err != nil:
		return err
	case r.TokenID != "" && r.TokenID == c.RootID:
		return errIsRoot
	case underWay && !next.Cancelled && next.Accessor == r.Accessor:
		return fmt.Errorf("%w; to stop it, write a new root credential to config", errIsNextRoot)
	}
	return nil
}
