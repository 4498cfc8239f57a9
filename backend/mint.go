package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

const (
	// mintTime is how long a mint may take, waiting for its turn included. Vault
	// ends a request after 90 s.
	mintTime = 85 * time.Second

	// pendingDue is when a mint is certain to have ended, well or not.
	pendingDue = mintTime + 15*time.Second

	// liveDue is how long after a lease's end Vault must have asked for the
	// token's revocation.
	liveDue = 60 * time.Second
)

// An order is what a mint is asked for.
type order struct {
	role        role
	terms       terms
	text        string // of the description, without the tag
	displayName string
	entityID    string
}

// A minted is a token whose record is live, and the lease it may have.
type minted struct {
	token       issuer.Token
	record      record
	ttl, maxTTL time.Duration
}

// mint asks the cluster for a token and keeps hold of it whatever happens: the
// record precedes the call, and leaves the ledger only when the token is known
// not to exist. What lies between is settled when the record is due.
//
// It goes on when the caller hangs up, for the cluster does; the token is then
// revoked.
func (b *backend) mint(ctx context.Context, s logical.Storage, c config, o order) (minted, error) {
	began := b.now()
	r := b.intent(c, o, began)
	if err := b.ledger.open(ctx, s, r, o.role.MaxActive); err != nil {
		return minted{}, err
	}
	defer b.ledger.close(r.Nonce)

	token, err := b.issue(ctx, c, r, o.role)
	b.health.saw("mint", err, b.now())
	if err != nil {
		b.Logger().Warn("mint failed", "role", r.Role, "duration", took(b.now().Sub(began)), "error", err)
		b.event(ctx, "issue-fail", "creds/"+r.Role, "role", r.Role)
		return minted{}, b.abandon(ctx, s, r, err)
	}
	m := minted{token: token}
	m.ttl, m.maxTTL, err = o.terms.settle(b.now())
	if err = errors.Join(upstream("mint a token", err), ctx.Err()); err == nil {
		m.record, err = b.hold(ctx, s, r, token.ID, m.ttl)
	}
	if err != nil {
		r.TokenID = token.ID
		b.event(ctx, "issue-fail", "creds/"+r.Role, "role", r.Role, "token_id", token.ID)
		return minted{}, b.discard(ctx, s, r, err)
	}
	b.Logger().Info("token minted", "role", r.Role, "token_id", token.ID, "ttl", took(m.ttl), "expires_at", timestamp(r.ExpiresAt), "duration", took(b.now().Sub(began)))
	b.event(ctx, "issue", "creds/"+r.Role, "role", r.Role, "token_id", token.ID)
	return m, nil
}

// intent is the record that precedes the token.
func (b *backend) intent(c config, o order, now time.Time) record {
	nonce := newNonce()
	return record{
		Kind: o.role.Kind, Role: o.role.Name, Nonce: nonce, State: pending,
		Description: b.tag.describe(nonce, o.text), Fingerprint: c.Fingerprint,
		DisplayName: printable(o.displayName), EntityID: o.entityID,
		IssuedAt: now, ExpiresAt: o.terms.ExpiresAt, Due: now.Add(pendingDue),
	}
}

// issue asks the cluster for the token, for as long as an answer can be of use.
func (b *backend) issue(ctx context.Context, c config, r record, of role) (issuer.Token, error) {
	if err := ctx.Err(); err != nil {
		return issuer.Token{}, fmt.Errorf("%w: %w", issuer.ErrRefused, err)
	}
	within := mintTime
	if deadline, ok := ctx.Deadline(); ok {
		within = min(within, time.Until(deadline))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
	defer cancel()
	return b.issuerOf(c, r.Kind).Issue(ctx, issuer.Request{
		Description: r.Description, ExpiresAt: r.ExpiresAt, Read: of.Read, Write: of.Write,
	})
}

// hold makes the record of a fresh token live, from the lease's start.
func (b *backend) hold(ctx context.Context, s logical.Storage, r record, tokenID string, ttl time.Duration) (record, error) {
	ctx, cancel := own(ctx)
	defer cancel()
	return b.ledger.change(ctx, s, r.Role, r.Nonce, func(r *record) error {
		if r.State != pending {
			return errNotPending
		}
		r.State, r.TokenID = live, tokenID
		r.LeaseEnd = b.now().Add(ttl)
		r.Due = r.LeaseEnd.Add(liveDue)
		return nil
	})
}

// abandon settles the record of a mint that failed with cause, as far as cause
// proves anything.
func (b *backend) abandon(ctx context.Context, s logical.Storage, r record, cause error) error {
	cause = upstream("mint a token", cause)
	if !errors.Is(cause, issuer.ErrRefused) {
		return fmt.Errorf("%w (whether a token was made is not known; if so, it will be found and revoked)", cause)
	}
	ctx, cancel := own(ctx)
	defer cancel()
	if err := b.ledger.drop(ctx, s, r.Role, r.Nonce); err != nil {
		b.Logger().Warn("the record of a refused mint stays until it is due", "role", r.Role, "error", err)
	}
	return cause
}

// discard kills a token that was minted and may not be handed out, for the
// reason cause. What cannot be killed is owed from now on.
func (b *backend) discard(ctx context.Context, s logical.Storage, r record, cause error) error {
	stored, cancel := own(ctx)
	defer cancel()
	r.State, r.Due = owed, b.now()
	if err := b.ledger.put(stored, s, r); err != nil {
		cause = errors.Join(cause, err)
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), maxTimeout)
	defer stop()
	if err := b.bury(ctx, s, r)[r.Nonce]; err != nil {
		return fmt.Errorf("%w (the token was not handed out, and will be revoked: %v)", cause, err)
	}
	return cause
}
