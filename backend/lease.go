package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
)

const secretType = "influxdb_token"

// secret describes the leased secret. Vault stores the whole answer that issued
// it, including the token, and passes it to every renewal and revocation as the
// data of the request. So that data is never logged, and renewals are answered
// without data.
func (b *backend) secret() *framework.Secret {
	return &framework.Secret{
		Type: secretType,
		Fields: map[string]*framework.FieldSchema{
			"token":    {Type: framework.TypeString, Description: "The token."},
			"token_id": {Type: framework.TypeString, Description: "The ID of the token on the cluster."},
		},
		Renew:  b.renew,
		Revoke: b.revoke,
	}
}

// A lease is the internal data of a Vault lease: where the record of the token
// is.
type lease struct{ role, accessor string }

func (l lease) internalData() map[string]any {
	return map[string]any{"role": l.role, "accessor": l.accessor}
}

func leaseFrom(s *logical.Secret) (lease, error) {
	role, _ := s.InternalData["role"].(string)
	accessor, _ := s.InternalData["accessor"].(string)
	if role == "" || accessor == "" {
		return lease{}, errors.New("the lease does not name the record of a token: it was not created by this engine")
	}
	return lease{role, accessor}, nil
}

// A leased token is a token under a lease that begins now.
type leasedToken struct {
	token       issuer.Token
	record      ledger.Record
	ttl, maxTTL time.Duration
}

// issueLeased issues a token under a lease.
func (b *backend) issueLeased(ctx context.Context, s logical.Storage, c config, t terms, o order) (leasedToken, error) {
	began := b.now()
	var l leasedToken
	o.hold = func(_ context.Context, _ issuer.Token, r *ledger.Record) (err error) {
		if l.ttl, l.maxTTL, err = t.settle(b.now()); err != nil {
			return upstream("issue a token", err)
		}
		r.LeaseEnd = b.now().Add(l.ttl)
		r.Deadline = r.LeaseEnd.Add(activeMargin)
		return nil
	}
	var err error
	l.token, l.record, err = b.issue(ctx, s, c, o)
	took := logDuration(b.now().Sub(began))
	if err != nil {
		b.Logger().Warn("token not issued", "role", o.role, "accessor", l.record.Accessor, "duration", took, "error", err)
		b.event(ctx, "issue-fail", "creds/"+o.role, "role", o.role, "token_id", l.record.TokenID)
		return leasedToken{}, err
	}
	b.Logger().Info("token issued", "role", o.role, "accessor", l.record.Accessor, "token_id", l.token.ID,
		"display_name", l.record.DisplayName, "entity_id", l.record.EntityID,
		"ttl", logDuration(l.ttl), "expires_at", timestamp(o.expiresAt), "duration", took)
	b.event(ctx, "issue", "creds/"+o.role, "role", o.role, "token_id", l.token.ID)
	return l, nil
}

// renew extends a lease within the life of its token. It does not call the
// cluster: no token can be extended, and this one was issued with an expiry that
// covers all renewals its role allows.
//
// Its errors are not coded: Vault takes some coded errors as final.
func (b *backend) renew(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	if !b.WriteSafeReplicationState() {
		return nil, errStandby
	}
	l, err := leaseFrom(req.Secret)
	if err != nil {
		return nil, err
	}
	role, ok, err := findRole(ctx, req.Storage, l.role)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("role %s was deleted: its leases can be revoked, but not renewed", l.role)
	}
	resp := &logical.Response{Secret: req.Secret}
	r, err := b.ledger.Change(ctx, req.Storage, l.role, l.accessor, func(r *ledger.Record) error {
		if r.State != ledger.Active {
			return fmt.Errorf("the token is %s", r.State)
		}
		now := b.now()
		grant, err := renewal(role, req.Secret.Increment, req.Secret.IssueTime, r.ExpiresAt, now)
		if err != nil {
			return err
		}
		resp.Secret.TTL, resp.Secret.MaxTTL = grant.ttl, grant.maxTTL
		r.LeaseEnd = grant.latestEnd
		if deadline := r.LeaseEnd.Add(activeMargin); deadline.After(r.Deadline) {
			r.Deadline = deadline
		}
		return nil
	})
	if err != nil {
		b.event(ctx, "renew-fail", "creds/"+l.role, "role", l.role, "token_id", r.TokenID)
		return nil, fmt.Errorf("renew a lease of role %s: %w", l.role, err)
	}
	b.Logger().Info("lease renewed", "role", l.role, "accessor", l.accessor, "token_id", r.TokenID, "ttl", logDuration(resp.Secret.TTL))
	b.event(ctx, "renew", "creds/"+l.role, "role", l.role, "token_id", r.TokenID)
	return resp, nil
}

// revoke revokes the token of a lease. It succeeds when the token is proved to be
// gone, or when the revocation is deferred; otherwise Vault tries again. Its
// errors are not coded: after an invalid request Vault would not try again.
func (b *backend) revoke(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	if !b.WriteSafeReplicationState() {
		return nil, errStandby
	}
	l, err := leaseFrom(req.Secret)
	if err != nil {
		return nil, err
	}
	r, err := b.ledger.Get(ctx, req.Storage, l.role, l.accessor)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if b.System().Tainted() {
		b.revokeOthers(ctx, req.Storage, l.accessor)
	}
	if err := b.settle(ctx, req.Storage, r)[r.Accessor]; err != nil {
		b.Logger().Warn("token not revoked", "role", r.Role, "accessor", r.Accessor, "token_id", r.TokenID, "error", err)
		b.event(ctx, "revoke-fail", "creds/"+l.role, "role", l.role, "token_id", r.TokenID)
		if b.defers(ctx, req.Storage, l) {
			return nil, nil
		}
		return nil, fmt.Errorf("revoke a lease of role %s: %w", l.role, err)
	}
	b.event(ctx, "revoke", "creds/"+l.role, "role", l.role, "token_id", r.TokenID)
	return nil, nil
}

// deferAfter is how long after the first failure the engine defers a revocation.
// Vault gives up on a lease after six attempts in about ten minutes and does not
// look at it again for a day. A few quick attempts are not a reason to defer.
const deferAfter = 100 * time.Second

// defers reports whether Vault may forget a lease whose token could not be
// revoked, because the worker keeps trying. It never does while the mount is
// being disabled, because the ledger is then deleted.
func (b *backend) defers(ctx context.Context, s logical.Storage, l lease) bool {
	ctx, cancel := storeContext(ctx)
	defer cancel()
	r, err := b.ledger.Get(ctx, s, l.role, l.accessor)
	if err != nil || r.State != ledger.Revoking || b.now().Before(r.FailedAt.Add(deferAfter)) || b.System().Tainted() {
		return false
	}
	b.Logger().Warn("revocation deferred: Vault's lease is released, the engine keeps trying to revoke the token",
		"role", r.Role, "accessor", r.Accessor, "token_id", r.TokenID, "attempts", r.Attempts, "expires_at", timestampOrNever(r.ExpiresAt))
	b.event(ctx, "revoke-deferred", "tokens/"+r.Accessor, "role", r.Role, "token_id", r.TokenID)
	return true
}
