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
		HelpDescription: "Every token that this mount has minted and that is not known to be dead is listed under its nonce, which its description at the cluster bears too.",
	}
}

func (b *backend) pathToken() *framework.Path {
	return &framework.Path{
		Pattern:      "tokens/" + framework.GenericNameRegex("nonce"),
		DisplayAttrs: display("", "token"),
		Fields: map[string]*framework.FieldSchema{
			"nonce": {Type: framework.TypeString, Required: true, Description: "What tells the token from all others: the last part of the tag in its description."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: operation(b.tokenRead, "read", answers(http.StatusOK, map[string]*framework.FieldSchema{
				"token_type": {Type: framework.TypeString, Required: true}, "role": {Type: framework.TypeString, Required: true}, "state": {Type: framework.TypeString, Required: true},
				"token_id": {Type: framework.TypeString}, "description": {Type: framework.TypeString, Required: true},
				"cluster": {Type: framework.TypeString, Required: true}, "display_name": {Type: framework.TypeString}, "entity_id": {Type: framework.TypeString},
				"issued_at": {Type: framework.TypeString, Required: true}, "lease_end": {Type: framework.TypeString}, "expires_at": {Type: framework.TypeString},
				"due": {Type: framework.TypeString, Required: true}, "attempts": {Type: framework.TypeInt},
				"failed_at": {Type: framework.TypeString}, "last_failure": {Type: framework.TypeString},
			})),
			logical.DeleteOperation: operation(b.tokenDelete, "revoke", noContent),
		},
		HelpSynopsis: "Read a token's record, or revoke the token now.",
		HelpDescription: `
A token is pending while it is not known whether its mint succeeded, live while
a lease holds it, and owed when it must die and could not be revoked yet; what
is owed is tried again until it is dead. Once a token is known to be dead, its
record is gone.

Deleting revokes the token at once, even under a living lease, whose own
revocation then finds nothing left to do.
`,
	}
}

func (b *backend) tokensList(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	if err := b.ledger.load(ctx, req.Storage); err != nil {
		return nil, err
	}
	keys, info := []string{}, map[string]any{}
	for _, e := range b.ledger.everything() {
		keys = append(keys, e.nonce)
		info[e.nonce] = map[string]any{
			"token_type": e.kind, "role": e.role, "state": string(e.state), "token_id": e.tokenID, "expires_at": timestampOrNever(e.expiresAt, "never"),
		}
	}
	slices.Sort(keys)
	return logical.ListResponseWithInfo(keys, info), nil
}

// lookUp finds a record by its nonce alone. That there is none is the caller's
// mistake.
func (b *backend) lookUp(ctx context.Context, s logical.Storage, nonce string) (record, error) {
	if role, ok := b.ledger.roleOf(nonce); ok {
		return b.ledger.get(ctx, s, role, nonce)
	}
	roles, err := s.List(ctx, ledgerPrefix)
	if err != nil {
		return record{}, fmt.Errorf("list the ledger: %w", err)
	}
	for _, role := range roles {
		r, err := b.ledger.get(ctx, s, strings.TrimSuffix(role, "/"), nonce)
		if !errors.Is(err, errGone) {
			return r, err
		}
	}
	return record{}, errGone
}

func (b *backend) tokenRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r, err := b.lookUp(ctx, req.Storage, d.Get("nonce").(string))
	if errors.Is(err, errGone) {
		return nil, nil
	}
	if err != nil {
		return fail(err)
	}
	data := map[string]any{
		"token_type": r.Kind, "role": r.Role, "state": string(r.State), "token_id": r.TokenID, "description": r.Description, "cluster": r.Fingerprint,
		"display_name": r.DisplayName, "entity_id": r.EntityID, "attempts": r.Attempts, "last_failure": r.LastFailure,
	}
	for field, t := range map[string]time.Time{
		"issued_at": r.IssuedAt, "lease_end": r.LeaseEnd, "expires_at": r.ExpiresAt, "due": r.Due, "failed_at": r.FailedAt,
	} {
		if !t.IsZero() {
			data[field] = timestamp(t)
		}
	}
	return &logical.Response{Data: data}, nil
}

func (b *backend) tokenDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r, err := b.lookUp(ctx, req.Storage, d.Get("nonce").(string))
	if errors.Is(err, errGone) {
		return nil, nil
	}
	if err != nil {
		return fail(err)
	}
	if b.ledger.isMinting(r.Nonce) {
		return fail(logical.CodedError(http.StatusConflict, "the token is being minted at this moment; try again"))
	}
	r, err = b.ledger.change(ctx, req.Storage, r.Role, r.Nonce, func(r *record) error {
		r.State, r.Due = owed, b.now()
		return nil
	})
	if err != nil {
		return fail(err)
	}
	if err := b.bury(ctx, req.Storage, r)[r.Nonce]; err != nil {
		b.event(ctx, "revoke-fail", "tokens/"+r.Nonce, "role", r.Role, "token_id", r.TokenID)
		return fail(upstream("the token could not be revoked yet, and is owed now", err))
	}
	b.event(ctx, "revoke", "tokens/"+r.Nonce, "role", r.Role, "token_id", r.TokenID)
	return nil, nil
}
