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

// errClockMoved means that a lease would end after the deadline of its record, because
// the clock was changed, or the process was stopped for minutes, after the record was
// stored. The engine would revoke the token under a valid lease.
var errClockMoved = errors.New("the clock of this node was changed meanwhile; try again")

// issueLeased issues a token under a lease.
func (b *backend) issueLeased(ctx context.Context, s logical.Storage, c config, t terms, o order) (leasedToken, error) {
	began := b.now()
	var l leasedToken
	var deadline time.Time // of the stored record
	o.answer = func() (err error) {
		if l.ttl, l.maxTTL, err = t.settle(b.now()); err != nil {
			return upstream("issue a token", err)
		}
		if !deadline.IsZero() && b.now().Add(l.ttl).After(deadline) {
			return errClockMoved
		}
		return nil
	}
	o.hold = func(_ context.Context, _ issuer.Token, r *ledger.Record) error {
		if err := o.answer(); err != nil {
			return err
		}
		r.LeaseEnd = b.now().Add(l.ttl)
		r.Deadline = r.LeaseEnd.Add(activeMargin)
		deadline = r.Deadline
		return nil
	}
	var err error
	l.token, l.record, err = b.issue(ctx, s, c, o)
	took := logDuration(b.now().Sub(began))
	if err != nil {
		b.Logger().Warn("token not issued", "mount", o.mount, "role", o.role, "accessor", l.record.Accessor, "duration", took, "error", err)
		b.event(ctx, "issue-fail", "creds/"+o.role, "role", o.role, "token_id", l.record.TokenID)
		return leasedToken{}, err
	}
	b.Logger().Info("token issued", "mount", o.mount, "role", o.role, "accessor", l.record.Accessor, "token_id", l.token.ID,
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
	resp, err := b.renewLease(ctx, req)
	b.metrics.count(opRenew, err)
	return resp, err
}

func (b *backend) renewLease(ctx context.Context, req *logical.Request) (*logical.Response, error) {
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
		return nil, refusal{fmt.Errorf("role %s was deleted: its leases can be revoked, but not renewed", l.role)}
	}
	grantNow := func(r ledger.Record) (g grant, err error) {
		if g, err = renewal(role, req.Secret.Increment, req.Secret.IssueTime, r.ExpiresAt, b.now()); err != nil {
			return g, refusal{err}
		}
		return g, nil
	}
	var g grant
	r, err := b.ledger.Change(ctx, req.Storage, l.role, l.accessor, func(r *ledger.Record) (err error) {
		switch {
		case r.State != ledger.Active:
			return refusal{fmt.Errorf("the token is %s", r.State)}
		case r.RevokeOn == ledger.RevokeOnExpiry:
			return refusal{errors.New("the lease lasts as long as the token, because revoke_on of the role was expiry when it was issued; read a new credential")}
		}
		if g, err = grantNow(*r); err != nil {
			return err
		}
		r.LeaseEnd = g.latestEnd
		if deadline := r.LeaseEnd.Add(activeMargin); deadline.After(r.Deadline) {
			r.Deadline = deadline
		}
		return nil
	})
	if err == nil { // again, because Vault starts the renewed lease now, and storing took time
		if g, err = grantNow(r); err == nil && g.latestEnd.After(r.Deadline) {
			err = errClockMoved
		}
	}
	if err != nil {
		b.event(ctx, "renew-fail", "creds/"+l.role, "role", l.role, "token_id", r.TokenID)
		return nil, fmt.Errorf("renew a lease of role %s: %w", l.role, err)
	}
	resp := &logical.Response{Secret: req.Secret, Warnings: g.warnings(role, req.Secret.Increment, r.ExpiresAt)}
	resp.Secret.TTL, resp.Secret.MaxTTL = g.ttl, g.maxTTL
	b.Logger().Info("lease renewed", "role", l.role, "accessor", l.accessor, "token_id", r.TokenID, "ttl", logDuration(resp.Secret.TTL))
	b.event(ctx, "renew", "creds/"+l.role, "role", l.role, "token_id", r.TokenID)
	return resp, nil
}

// revoke revokes the token of a lease, unless the token may outlive the lease. It
// succeeds when the token is proved to be
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
	if r.State == ledger.Active && r.RevokeOn == ledger.RevokeOnExpiry && b.now().Before(r.LeaseEnd) {
		return nil, b.detach(ctx, req.Storage, r)
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

// detach records that the lease of a token has ended early and that the token
// stays valid until its expiry. The worker revokes it then.
func (b *backend) detach(ctx context.Context, s logical.Storage, r ledger.Record) error {
	ctx, cancel := storeContext(ctx)
	defer cancel()
	changed, err := b.changeIf(ctx, s, r.Role, r.Accessor, func(r *ledger.Record) bool {
		if r.State != ledger.Active || !r.DetachedAt.IsZero() {
			return false // it is being revoked already, or this is a repetition
		}
		r.DetachedAt, r.Deadline = b.now(), r.ExpiresAt
		return true
	})
	if err != nil {
		return fmt.Errorf("end a lease of role %s: %w", r.Role, err)
	}
	if !changed {
		return nil
	}
	b.Logger().Info("lease ended, the token stays valid until its expiry", "role", r.Role, "accessor", r.Accessor, "token_id", r.TokenID, "expires_at", timestamp(r.ExpiresAt))
	b.event(ctx, "detach", "tokens/"+r.Accessor, "role", r.Role, "token_id", r.TokenID)
	return nil
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
	b.metrics.count(opDefer, nil)
	b.event(ctx, "revoke-deferred", "tokens/"+r.Accessor, "role", r.Role, "token_id", r.TokenID)
	return true
}
