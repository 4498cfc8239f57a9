package backend

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const secretType = "influxdb_token"

// secret is what every credential is leased as. Vault keeps the answer that
// minted it, token and all, and hands it back in the data of every renewal and
// revocation: it is never logged, and renewals are answered without data.
func (b *backend) secret() *framework.Secret {
	return &framework.Secret{
		Type: secretType,
		Fields: map[string]*framework.FieldSchema{
			"token":    {Type: framework.TypeString, Description: "The token."},
			"token_id": {Type: framework.TypeString, Description: "The token's id at the cluster."},
		},
		Renew:  b.renew,
		Revoke: b.revoke,
	}
}

// A lease is what is kept inside a Vault lease: where the token's record is.
type lease struct{ role, nonce string }

func (l lease) internalData() map[string]any {
	return map[string]any{"role": l.role, "nonce": l.nonce}
}

func leaseFrom(s *logical.Secret) (lease, error) {
	role, _ := s.InternalData["role"].(string)
	nonce, _ := s.InternalData["nonce"].(string)
	if role == "" || nonce == "" {
		return lease{}, errors.New("the lease does not name a token's record; it was not made by this engine")
	}
	return lease{role, nonce}, nil
}

// renew asks nothing of the cluster: a token cannot be extended, and was made
// to last for all the renewals its role allows.
//
// Its errors are plain ones. Core takes some others for final.
func (b *backend) renew(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	l, err := leaseFrom(req.Secret)
	if err != nil {
		return nil, err
	}
	role, ok, err := findRole(ctx, req.Storage, l.role)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("role %s is deleted: its leases can be revoked, not renewed", l.role)
	}
	resp := &logical.Response{Secret: req.Secret}
	r, err := b.ledger.change(ctx, req.Storage, l.role, l.nonce, func(r *record) error {
		if r.State != live {
			return fmt.Errorf("the token is being revoked (%s)", r.State)
		}
		now := b.now()
		ttl, maxTTL, err := renewal(role, req.Secret.Increment, req.Secret.IssueTime, r.ExpiresAt, now)
		if err != nil {
			return err
		}
		resp.Secret.TTL, resp.Secret.MaxTTL = ttl, maxTTL
		r.LeaseEnd = now.Add(ttl)
		if due := r.LeaseEnd.Add(liveDue); due.After(r.Due) {
			r.Due = due
		}
		return nil
	})
	if err != nil {
		b.event(ctx, "renew-fail", "creds/"+l.role, "role", l.role, "token_id", r.TokenID)
		return nil, fmt.Errorf("renew a lease of role %s: %w", l.role, err)
	}
	b.Logger().Info("lease renewed", "role", l.role, "token_id", r.TokenID, "ttl", resp.Secret.TTL)
	b.event(ctx, "renew", "creds/"+l.role, "role", l.role, "token_id", r.TokenID)
	return resp, nil
}

// revoke kills the lease's token. It succeeds only when the token is known to
// be dead; until then Vault tries again. Its errors are plain ones: an invalid
// request would make the lease irrevocable at the first failure.
func (b *backend) revoke(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	l, err := leaseFrom(req.Secret)
	if err != nil {
		return nil, err
	}
	r, err := b.ledger.get(ctx, req.Storage, l.role, l.nonce)
	if errors.Is(err, errGone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := b.kill(ctx, req.Storage, r); err != nil {
		b.Logger().Warn("revocation failed", "role", r.Role, "token_id", r.TokenID, "error", err)
		b.event(context.WithoutCancel(ctx), "revoke-fail", "creds/"+l.role, "role", l.role, "token_id", r.TokenID)
		return nil, errors.Join(fmt.Errorf("revoke a lease of role %s: %w", l.role, err), b.owe(ctx, req.Storage, r, err))
	}
	if err := b.ledger.drop(ctx, req.Storage, l.role, l.nonce); err != nil {
		return nil, err
	}
	b.event(ctx, "revoke", "creds/"+l.role, "role", l.role, "token_id", r.TokenID)
	return nil, nil
}

// owe notes a failed attempt to kill the record's token, which is owed from
// then on.
func (b *backend) owe(ctx context.Context, s logical.Storage, r record, cause error) error {
	ctx, cancel := own(ctx)
	defer cancel()
	_, err := b.ledger.change(ctx, s, r.Role, r.Nonce, func(r *record) error {
		now := b.now()
		if r.FailedAt.IsZero() {
			r.FailedAt = now
		}
		r.State, r.Due = owed, now
		r.Attempts++
		r.LastFailure = abridgeFailure(cause)
		return nil
	})
	if errors.Is(err, errGone) {
		return nil
	}
	return err
}

// abridgeFailure keeps a record small whatever an upstream says.
func abridgeFailure(err error) string {
	const most = 300
	text := printable(err.Error())
	return text[:min(len(text), most)]
}
