package backend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

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
	b.Logger().Info("lease renewed", "role", l.role, "token_id", r.TokenID, "ttl", took(resp.Secret.TTL))
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
	if b.System().Tainted() {
		b.buryOthers(ctx, req.Storage, l.nonce)
	}
	if err := b.bury(ctx, req.Storage, r)[r.Nonce]; err != nil {
		b.Logger().Warn("revocation failed", "role", r.Role, "token_id", r.TokenID, "error", err)
		b.event(ctx, "revoke-fail", "creds/"+l.role, "role", l.role, "token_id", r.TokenID)
		if b.takesOver(ctx, req.Storage, l) {
			return nil, nil
		}
		return nil, fmt.Errorf("revoke a lease of role %s: %w", l.role, err)
	}
	b.event(ctx, "revoke", "creds/"+l.role, "role", l.role, "token_id", r.TokenID)
	return nil, nil
}

// patience is how long after the first failed attempt a lease's debt is taken
// over. Vault gives up on a lease after six attempts in about ten minutes, and
// never looks at it again; quick repetition must not be told "revoked".
const patience = 100 * time.Second

// takesOver reports whether Vault may forget a lease whose token could not be
// killed, because the ledger has it as owed and the worker never gives up. Not
// while the mount is being disabled: the ledger ends with it.
func (b *backend) takesOver(ctx context.Context, s logical.Storage, l lease) bool {
	ctx, cancel := own(ctx)
	defer cancel()
	r, err := b.ledger.get(ctx, s, l.role, l.nonce)
	if err != nil || r.State != owed || b.now().Before(r.FailedAt.Add(patience)) || b.System().Tainted() {
		return false
	}
	b.Logger().Warn("Vault's lease is given up, the token is not: it stays owed until it is dead",
		"role", r.Role, "token_id", r.TokenID, "attempts", r.Attempts, "expires_at", timestamp(r.ExpiresAt))
	b.event(ctx, "take-over", "tokens/"+r.Nonce, "role", r.Role, "token_id", r.TokenID)
	return true
}

// buryOthers kills all of the mount's tokens but one. A mount that is being
// disabled revokes its leases one after the other, which would take a request
// to the cluster each.
func (b *backend) buryOthers(ctx context.Context, s logical.Storage, but string) {
	if err := b.ledger.load(ctx, s); err != nil {
		b.Logger().Warn("the tokens of a mount being disabled cannot be revoked together", "error", err)
		return
	}
	others := slices.DeleteFunc(b.ledger.all(), func(e indexed) bool { return e.nonce == but })
	slices.SortFunc(others, func(x, y indexed) int { // those without an id, which a list must find, come last
		return cmp.Compare(y.tokenID, x.tokenID)
	})
	for some := range slices.Chunk(others, dueAtOnce) {
		var records []record
		for _, e := range some {
			if r, err := b.ledger.get(ctx, s, e.role, e.nonce); err == nil {
				records = append(records, r)
			}
		}
		if failed := b.bury(ctx, s, records...); len(failed) > 0 {
			return // their own revocations will say why
		}
	}
}
