package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/errgroup"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
)

// The token of a static role changes in these steps. A crash after any of them
// leaves a current token that works.
//
//  1. stage:   stageLead before the planned change, the next token is issued. The
//     entry of the role holds it before its record becomes active (stage).
//  2. prove:   the cluster accepts it. Only then can it become current (prove).
//  3. switch:  at its SwitchAt, reads return it. Nothing is written for this.
//  4. promote: the worker sets the deadline of the previous token to the end of the
//     grace period, in the ledger, and then removes it from the entry (promote).
//  5. revoke:  after the deadline, the worker revokes the previous token like any
//     other token whose deadline has passed.
//
// A token of the role that is not in its entry is never returned again, so its
// record gets a deadline (retireOthers).

const (
	// stageLead is how long before a change the next token is issued: two ticks of
	// the worker and the time to issue a token, and some reserve.
	stageLead = 5 * time.Minute

	// staticAtOnce is the number of static roles that the worker handles at the
	// same time.
	staticAtOnce = 8

	// proofGiveUp is how long a staged token may take until the cluster accepts it,
	// before it is replaced.
	proofGiveUp = 30 * time.Minute

	// dropLead is how long before its time a proved token is not dropped any more:
	// reads could return it before that is stored.
	dropLead = time.Minute

	// verifyInterval is how often the worker looks for current tokens that were
	// revoked on the cluster.
	verifyInterval = time.Hour
)

// keepStatic handles the static roles that are due. It runs in a lane of the
// worker.
func (b *backend) keepStatic(ctx context.Context, s logical.Storage) {
	if err := b.loadStatic(ctx, s); err != nil {
		b.Logger().Error("the static roles cannot be read; trying again in a minute", "error", err)
		return
	}
	b.verifyStatic(ctx, s)
	due := b.static.due(b.now())
	slices.Sort(due)
	var roles errgroup.Group
	roles.SetLimit(staticAtOnce)
	for _, name := range due {
		if ctx.Err() != nil {
			break
		}
		roles.Go(func() error {
			b.noteStatic(ctx, name, b.advanceStatic(ctx, s, name))
			return nil
		})
	}
	_ = roles.Wait() // never fails
}

// loadStatic makes every stored static role, and every entry that a deleted role
// has left behind, due. It does nothing after a success.
func (b *backend) loadStatic(ctx context.Context, s logical.Storage) error {
	b.static.mu.Lock()
	loaded := b.static.loaded
	b.static.loaded = true // a change that happens from here on sets it to false again
	b.static.mu.Unlock()
	if loaded {
		return nil
	}
	for _, prefix := range []string{staticRolePrefix, staticCredsPrefix} {
		names, err := s.List(ctx, prefix)
		if err != nil {
			b.static.checkAll()
			return err
		}
		for _, name := range names {
			b.static.checkNext(name, time.Time{})
		}
	}
	for _, e := range b.ledger.All() { // tokens without either
		if name, ok := strings.CutPrefix(e.Role, staticPrefix); ok {
			b.static.checkNext(name, time.Time{})
		}
	}
	return nil
}

// noteStatic records how the worker's attempt ended.
func (b *backend) noteStatic(ctx context.Context, name string, err error) {
	if err == nil {
		b.static.succeeded(name)
		return
	}
	first := b.static.failed(name, err, b.now())
	b.metrics.count(opRotateStatic, err)
	b.static.checkNext(name, b.now().Add(time.Minute))
	b.Logger().Warn("static role: next token not ready", "role", name, "error", err)
	if first {
		b.event(ctx, "static-rotate-fail", "static-roles/"+name, "role", name)
	}
}

// advanceStatic does what is due for a static role.
func (b *backend) advanceStatic(ctx context.Context, s logical.Storage, name string) error {
	unlock, err := b.static.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	r, ok, err := findStaticRole(ctx, s, name)
	if err != nil {
		return err
	}
	if !ok {
		_, err := b.removeStatic(ctx, s, name)
		return err
	}
	creds, err := b.reconcile(ctx, s, r)
	if err != nil {
		return err
	}
	if creds.Current == nil && creds.Next == nil { // the first token is issued on request
		b.static.checkNext(name, creds.nextCheck(b.now()))
		return nil
	}
	c, err := loadConfig(ctx, s)
	if errors.Is(err, errNoConfig) {
		b.static.checkNext(name, b.now().Add(rootCheckInterval)) // a config write makes all roles due
		return nil
	}
	if err != nil {
		return err
	}
	if creds, err = b.nextStatic(ctx, s, c, r, creds); err != nil {
		return err
	}
	b.static.checkNext(name, creds.nextCheck(b.now()))
	return nil
}

// nextStatic stages, proves or replaces tokens, as far as it is time to.
func (b *backend) nextStatic(ctx context.Context, s logical.Storage, c config, r staticRole, creds staticCreds) (staticCreds, error) {
	now := b.now()
	creds, err := b.withoutUseless(ctx, s, c, r, creds)
	if err != nil {
		return creds, err
	}
	problem, err := b.problemOf(ctx, s, c, creds.Current)
	if err != nil {
		return creds, err
	}
	urgent := problem != ""
	if !urgent && (creds.Next == nil || !creds.Next.Proved) && r.missedWindow(creds.Current.NextAt, now) {
		if at := b.plan(r, now, creds.Current.ExpiresAt); at.After(now) { // otherwise the token expires before the next activation
			creds.Current.NextAt, creds.Next = at, nil
			if err := b.putStaticCreds(ctx, s, r.Name, creds); err != nil {
				return creds, err
			}
			return creds, b.retireOthers(ctx, s, r, creds)
		}
	}
	switch {
	case urgent && r.Disabled && creds.Current != nil && creds.Next == nil:
		return creds, fmt.Errorf("the current token %s, and disable_automated_rotation is set: change it with rotate-role/%s", problem, r.Name)
	case urgent && creds.Next == nil:
		creds, err = b.stage(ctx, s, c, r, creds, floorSecond(now))
	case urgent && creds.Next.SwitchAt.After(now):
		creds, err = b.switchNow(ctx, s, r, creds)
	case !urgent && creds.Next == nil && r.stagesNow(creds.Current.NextAt, now):
		creds, err = b.stage(ctx, s, c, r, creds, creds.Current.NextAt)
	}
	if err != nil || creds.Next == nil || creds.Next.Proved {
		return creds, err
	}
	return b.proveStatic(ctx, s, c, r, creds)
}

// stagesNow reports whether it is time to issue the token for a change planned for
// at.
func (r staticRole) stagesNow(at, now time.Time) bool {
	return !at.IsZero() && !now.Before(at.Add(-stageLead))
}

// missedWindow reports whether a change that was planned for at cannot happen any
// more in the window of the schedule. The window begins at the activation, which may
// be up to maxJitter before at.
func (r staticRole) missedWindow(at, now time.Time) bool {
	if at.IsZero() || r.Schedule.Window == 0 {
		return false
	}
	activation := r.Schedule.next(at.Add(-r.maxJitter() - time.Second))
	if activation.After(at) { // at was limited by the expiry of the token
		activation = at
	}
	return now.After(r.Schedule.windowEnd(activation))
}

// problemOf returns why the current token must be replaced at once, or nothing.
func (b *backend) problemOf(ctx context.Context, s logical.Storage, c config, t *staticToken) (string, error) {
	switch {
	case t == nil:
		return "does not exist", nil
	case t.Fingerprint != c.Fingerprint:
		return "is on another cluster", nil
	case !b.now().Before(t.servedUntil()):
		return "has expired or is about to", nil
	}
	gone, err := b.isGone(ctx, s, t.Accessor)
	if gone {
		return "was revoked", err
	}
	return "", err
}

// isGone reports whether the ledger has no active record of a token.
func (b *backend) isGone(ctx context.Context, s logical.Storage, accessor string) (bool, error) {
	r, err := b.ledger.Find(ctx, s, accessor)
	if errors.Is(err, ledger.ErrNotFound) {
		return true, nil
	}
	return err == nil && r.State != ledger.Active, err
}

// reconcile makes the entry of a static role agree with the time, the role and the
// ledger, and returns it. The caller holds the lock of the role.
func (b *backend) reconcile(ctx context.Context, s logical.Storage, r staticRole) (staticCreds, error) {
	if err := b.ledger.LoadRole(ctx, s, r.ledgerRole()); err != nil {
		return staticCreds{}, err
	}
	creds, err := loadStaticCreds(ctx, s, r.Name)
	if err != nil {
		return creds, err
	}
	if creds, err = b.promote(ctx, s, r, creds); err != nil {
		return creds, err
	}
	now := floorSecond(b.now())
	if current := creds.Current; current != nil && r.mustReplan(current, now) {
		planned := *current
		planned.SwitchAt = earlier(planned.SwitchAt, now)
		planned.NextAt = b.planFrom(r, planned)
		creds.Current = &planned
		if err := b.putStaticCreds(ctx, s, r.Name, creds); err != nil {
			return creds, err
		}
	}
	if next := creds.Next; next != nil {
		latest := now
		if creds.Current != nil {
			latest = later(now, creds.Current.NextAt)
		}
		if isFuture(next.SwitchAt, latest) && !(r.Disabled && next.Proved) {
			// The clock was ahead when the token was issued.
			planned := *next
			planned.SwitchAt, planned.NextAt = latest, b.plan(r, latest, next.ExpiresAt)
			creds.Next, next = &planned, &planned
			if err := b.putStaticCreds(ctx, s, r.Name, creds); err != nil {
				return creds, err
			}
		}
		useless, err := b.isUseless(ctx, s, r, next)
		if err != nil {
			return creds, err
		}
		if useless && creds.Current != nil { // the first token stays until it is replaced: without an entry, none is issued
			creds.Next = nil
			if err := b.putStaticCreds(ctx, s, r.Name, creds); err != nil {
				return creds, err
			}
		}
	}
	return creds, b.retireOthers(ctx, s, r, creds)
}

// isUseless reports whether a staged token must be replaced: it is not valid any more,
// the role has other rights, or the cluster does not accept it for too long.
func (b *backend) isUseless(ctx context.Context, s logical.Storage, r staticRole, next *staticToken) (bool, error) {
	gone, err := b.isGone(ctx, s, next.Accessor)
	stale := next.TokenType != r.tokenType() || !slices.Equal(next.Read, r.Read) || !slices.Equal(next.Write, r.Write)
	abandoned := !next.Proved && b.now().After(next.SwitchAt.Add(proofGiveUp))
	return gone || stale || abandoned, err
}

// withoutUseless returns creds without a staged token that cannot be used with c or
// must be replaced. Nothing is stored: another token takes its place.
func (b *backend) withoutUseless(ctx context.Context, s logical.Storage, c config, r staticRole, creds staticCreds) (staticCreds, error) {
	if creds.Next == nil {
		return creds, nil
	}
	useless, err := b.isUseless(ctx, s, r, creds.Next)
	if useless || !creds.Next.usableWith(c) {
		creds.Next = nil
	}
	return creds, err
}

// switchNow makes now the time of the change to the next token, which becomes the
// current one if it is proved.
func (b *backend) switchNow(ctx context.Context, s logical.Storage, r staticRole, creds staticCreds) (staticCreds, error) {
	next, now := *creds.Next, floorSecond(b.now())
	next.SwitchAt, next.NextAt = now, b.plan(r, now, next.ExpiresAt)
	creds.Next = &next
	if err := b.putStaticCreds(ctx, s, r.Name, creds); err != nil {
		return creds, err
	}
	return b.promote(ctx, s, r, creds)
}

// promote makes the next token the current one in the entry, if its time has come.
// The deadline of the previous token is stored first: afterwards, only the ledger
// knows it.
func (b *backend) promote(ctx context.Context, s logical.Storage, r staticRole, creds staticCreds) (staticCreds, error) {
	next := creds.at(b.now())
	if next == nil || next != creds.Next {
		return creds, nil
	}
	previous := creds.Current
	for _, e := range b.ledger.OfRole(r.ledgerRole()) {
		at := b.now() // a token that was previous before: no token is kept for more than one change
		switch {
		case e.Accessor == next.Accessor:
			continue
		case previous != nil && e.Accessor == previous.Accessor:
			at = next.SwitchAt.Add(r.grace())
			if !at.Before(e.ExpiresAt) { // a deadline before the expiry marks a token that was retired
				at = e.ExpiresAt.Add(-time.Second)
			}
		}
		if err := b.retire(ctx, s, r.ledgerRole(), e.Accessor, at); err != nil {
			return creds, err
		}
	}
	creds.Current, creds.Next = next, nil
	if err := b.putStaticCreds(ctx, s, r.Name, creds); err != nil {
		return creds, err
	}
	b.metrics.count(opRotateStatic, nil)
	b.Logger().Info("static role: token changed", "role", r.Name, "accessor", next.Accessor, "token_id", next.TokenID)
	b.event(ctx, "static-rotate", "static-roles/"+r.Name, "role", r.Name, "token_id", next.TokenID)
	return creds, nil
}

// retireOthers gives a deadline to the active tokens of the role that its entry
// does not hold and that have none yet.
func (b *backend) retireOthers(ctx context.Context, s logical.Storage, r staticRole, creds staticCreds) error {
	for _, e := range b.ledger.OfRole(r.ledgerRole()) {
		if e.State != ledger.Active || creds.holds(e.Accessor) || e.Deadline.Before(e.ExpiresAt) || b.ledger.InFlight(e.Accessor) {
			continue
		}
		if err := b.retire(ctx, s, e.Role, e.Accessor, b.now()); err != nil {
			return err
		}
	}
	return nil
}

func (c staticCreds) holds(accessor string) bool {
	return c.Current != nil && c.Current.Accessor == accessor || c.Next != nil && c.Next.Accessor == accessor
}

// retire sets the deadline of an active token. An earlier deadline stays.
func (b *backend) retire(ctx context.Context, s logical.Storage, role, accessor string, at time.Time) error {
	_, err := b.changeIf(ctx, s, role, accessor, func(r *ledger.Record) bool {
		if r.State != ledger.Active || r.Deadline.Before(at) {
			return false
		}
		r.LeaseEnd, r.Deadline = at, at
		return true
	})
	return err
}

// floorSecond rounds down to a whole second in UTC, as SwitchAt is.
func floorSecond(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// plan returns when the token that becomes current at t is replaced, or zero if it
// never is.
func (b *backend) plan(r staticRole, t, expires time.Time) time.Time {
	if r.Disabled {
		return time.Time{}
	}
	at := r.Schedule.next(t).Add(jitter(r.maxJitter()))
	if latest := expires.Add(-r.grace()); at.After(latest) {
		at = latest
	}
	return floorSecond(at)
}

// mustReplan reports whether the plan of the next change is wrong: a write of the role
// was not completed, or the clock was ahead when the token became the current one or
// when the change was planned.
func (r staticRole) mustReplan(current *staticToken, now time.Time) bool {
	if current.NextAt.IsZero() != r.Disabled || isFuture(current.SwitchAt, now) {
		return true
	}
	if r.Disabled {
		return false
	}
	latest := r.Schedule.next(later(current.SwitchAt, now.Add(stageLead))).Add(r.maxJitter())
	return isFuture(current.NextAt, latest)
}

// stage issues the next token, which is to become current at switchAt.
func (b *backend) stage(ctx context.Context, s logical.Storage, c config, r staticRole, creds staticCreds, switchAt time.Time) (staticCreds, error) {
	return b.stageWith(ctx, s, c, r, creds, switchAt, func(context.Context) error { return nil })
}

// stageWith is stage, with an act that must succeed too before the token is held.
func (b *backend) stageWith(ctx context.Context, s logical.Storage, c config, r staticRole, creds staticCreds, switchAt time.Time, also func(context.Context) error) (staticCreds, error) {
	if n := b.validAtMost(r, c.Fingerprint); n >= maxStaticTokens {
		return creds, fmt.Errorf("%s of the role may still be valid; the next one is issued when one of them is revoked", plural(n, "token"))
	}
	switchAt = later(switchAt, floorSecond(b.now()))
	expires := switchAt.Add(r.tokenTTL())
	text, err := descriptionData{RoleName: r.Name}.render(r.Description)
	if err != nil {
		return creds, badRequest("description of the role: %v", err)
	}
	_, _, err = b.issue(ctx, s, c, order{
		role: r.ledgerRole(), tokenType: r.tokenType(), read: r.Read, write: r.Write, expiresAt: expires, text: text,
		hold: func(ctx context.Context, token issuer.Token, record *ledger.Record) error {
			record.Deadline = expires
			creds.Next = &staticToken{
				Accessor: record.Accessor, TokenID: token.ID, Token: token.Secret, TokenType: r.tokenType(), Read: r.Read, Write: r.Write,
				Description: record.Description, Fingerprint: c.Fingerprint, Address: c.address(), Place: c.placeDigest(),
				SwitchAt: switchAt, NextAt: b.plan(r, switchAt, expires), ExpiresAt: expires,
			}
			if err := b.putStaticCreds(ctx, s, r.Name, creds); err != nil {
				return err
			}
			return also(ctx)
		},
	})
	if err != nil {
		creds.Next = nil
		return creds, err
	}
	b.Logger().Info("static role: next token issued", "role", r.Name, "accessor", creds.Next.Accessor, "token_id", creds.Next.TokenID, "switch_at", timestamp(switchAt))
	return creds, nil
}

// maxStaticTokens is the largest number of valid tokens of a static role.
const maxStaticTokens = 3

// validAtMost returns how many tokens of the role may be valid on a cluster. Those
// that a list did not show, and those that have expired, are not counted.
func (b *backend) validAtMost(r staticRole, fingerprint string) (n int) {
	for _, e := range b.ledger.OfRole(r.ledgerRole()) {
		if e.Fingerprint == fingerprint && !e.Absent && b.now().Before(e.ExpiresAt.Add(expiryMargin)) {
			n++
		}
	}
	return n
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// proveStatic proves that the cluster accepts the staged token, and stores that.
// If its time has passed, it becomes current at once.
func (b *backend) proveStatic(ctx context.Context, s logical.Storage, c config, r staticRole, creds staticCreds) (staticCreds, error) {
	if err := b.accepts(ctx, c, creds.Next); err != nil {
		return creds, fmt.Errorf("%w: %w", errTokenNotProved, err)
	}
	if gone, err := b.isGone(ctx, s, creds.Next.Accessor); err != nil || gone {
		return creds, errors.Join(err, errTokenNotProved)
	}
	next := *creds.Next
	next.Proved, next.SwitchAt = true, later(next.SwitchAt, floorSecond(b.now()))
	next.NextAt = b.plan(r, next.SwitchAt, next.ExpiresAt)
	creds.Next = &next
	if err := b.putStaticCreds(ctx, s, r.Name, creds); err != nil {
		return creds, err
	}
	return b.promote(ctx, s, r, creds)
}

var errTokenNotProved = errors.New("the cluster does not accept the new token yet")

// accepts asks the cluster whether it accepts a token. A management token is used
// for a list. A database token cannot be used for any call of an issuer, so the
// list must show it.
func (b *backend) accepts(ctx context.Context, c config, t *staticToken) error {
	listed := false
	if t.TokenType == Management {
		c.Root = t.Token
	}
	client, now := b.issuerOf(c, t.TokenType), b.now()
	err := client.List(ctx, func(info issuer.Info) error {
		if t.TokenType == Management {
			return errProved
		}
		if info.ID == t.TokenID && !info.Dead(now) {
			listed = true
			return errProved
		}
		return nil
	})
	switch {
	case errors.Is(err, errProved):
		return nil
	case err != nil:
		return err
	case !listed && t.TokenType != Management:
		return errNotListed
	}
	return nil
}

// nextCheck returns when the worker must look at the role again.
func (c staticCreds) nextCheck(now time.Time) time.Time {
	switch {
	case c.Next != nil && c.Next.Proved:
		return c.Next.SwitchAt
	case c.Next != nil:
		return now.Add(time.Minute)
	case c.Current == nil:
		return now.Add(rootCheckInterval)
	case c.Current.NextAt.IsZero():
		return c.Current.servedUntil()
	}
	return c.Current.NextAt.Add(-stageLead)
}

// verifyStatic looks for current and staged tokens that were revoked on the
// cluster, and lets the worker settle their records. The role then replaces them.
func (b *backend) verifyStatic(ctx context.Context, s logical.Storage) {
	now := b.now()
	b.static.mu.Lock()
	due := !now.Before(b.static.verifyAt) && len(b.static.checkAt) > 0
	b.static.mu.Unlock()
	if !due {
		return
	}
	c, err := loadConfig(ctx, s)
	if err != nil {
		return
	}
	held := map[string][]ledger.Entry{} // by token type
	for _, e := range b.ledger.Settled() {
		if strings.HasPrefix(e.Role, staticPrefix) && e.State == ledger.Active && e.Fingerprint == c.Fingerprint {
			held[e.TokenType] = append(held[e.TokenType], e)
		}
	}
	for _, tokenType := range slices.Sorted(maps.Keys(held)) {
		if err := b.verifyType(ctx, s, c, tokenType, held[tokenType]); err != nil {
			b.Logger().Warn("static roles: the tokens could not be compared with the cluster", "error", err)
			return
		}
	}
	b.static.mu.Lock()
	defer b.static.mu.Unlock()
	b.static.verifyAt = b.now().Add(verifyInterval)
}

func (b *backend) verifyType(ctx context.Context, s logical.Storage, c config, tokenType string, entries []ledger.Entry) error {
	client, now := b.issuerOf(c, tokenType), b.now()
	traits := client.traits()
	listed, revoked := map[string]bool{}, map[string]bool{}
	err := client.List(ctx, func(info issuer.Info) error {
		listed[info.ID] = true
		revoked[info.ID] = !info.RevokedAt.IsZero() // an expiry is no proof: our clock may have jumped
		return nil
	})
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !revoked[e.TokenID] && (listed[e.TokenID] || !traits.KeepsExpired) {
			continue
		}
		changed, err := b.changeIf(ctx, s, e.Role, e.Accessor, func(r *ledger.Record) bool {
			young := !listed[r.TokenID] && now.Before(r.ConfirmedAt.Add(traits.UnknownAge))
			if r.State != ledger.Active || r.TokenID != e.TokenID || young {
				return false
			}
			b.revokeNow(r) // which proves that it is gone: the list may lag, and our clock may have jumped
			return true
		})
		if err != nil {
			return err
		}
		if !changed {
			continue
		}
		name := strings.TrimPrefix(e.Role, staticPrefix)
		b.Logger().Warn("static role: token was revoked on the cluster; replacing it", "role", name, "accessor", e.Accessor, "token_id", e.TokenID)
		b.event(ctx, "static-rotate-fail", "static-roles/"+name, "role", name, "token_id", e.TokenID, "reason", "revoked-on-cluster")
		b.static.checkNext(name, time.Time{})
	}
	return nil
}

// removeStatic revokes the tokens of a static role that is deleted. It returns an
// error, by accessor, for those that could not be revoked yet.
func (b *backend) removeStatic(ctx context.Context, s logical.Storage, name string) (map[string]error, error) {
	role := staticPrefix + name
	var records []ledger.Record
	for _, e := range b.ledger.OfRole(role) {
		if b.ledger.InFlight(e.Accessor) {
			continue
		}
		if err := b.retire(ctx, s, role, e.Accessor, b.now()); err != nil {
			return nil, err
		}
		r, err := b.ledger.Get(ctx, s, role, e.Accessor)
		if errors.Is(err, ledger.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		records = append(records, r)
	}
	if err := b.putStaticCreds(ctx, s, name, staticCreds{}); err != nil {
		return nil, err
	}
	b.static.drop(name)
	return b.settle(ctx, s, records...), nil
}

// removeLeftovers revokes and deletes what an incomplete deletion of a static role has
// left, so that a new role with its name does not use it.
func (b *backend) removeLeftovers(ctx context.Context, s logical.Storage, name string) error {
	if err := b.ledger.Load(ctx, s); err != nil {
		return err
	}
	_, err := b.removeStatic(ctx, s, name)
	return err
}

// rotateStatic changes a static role to the staged token, or to one that it
// issues. The caller holds the lock of the role. If the new token is not accepted
// yet, it becomes current as soon as it is, and the error is errTokenNotProved.
func (b *backend) rotateStatic(ctx context.Context, s logical.Storage, r staticRole) (staticCreds, error) {
	creds, err := b.reconcile(ctx, s, r)
	if err != nil {
		return creds, err
	}
	c, err := loadConfig(ctx, s)
	if err != nil {
		return creds, err
	}
	if creds, err = b.withoutUseless(ctx, s, c, r, creds); err != nil {
		return creds, err
	}
	if creds.Next == nil {
		creds, err = b.stage(ctx, s, c, r, creds, floorSecond(b.now()))
	} else {
		creds, err = b.switchNow(ctx, s, r, creds)
	}
	if err != nil || creds.Next == nil || creds.Next.Proved { // a staged token is enough, also while the cluster is out of reach
		return creds, err
	}
	return b.proveSoon(ctx, s, c, r, creds)
}

// proveSoon proves the staged token and waits a while for the cluster to accept
// it.
func (b *backend) proveSoon(ctx context.Context, s logical.Storage, c config, r staticRole, creds staticCreds) (after staticCreds, err error) {
	_ = retry(ctx, proofWait, func() bool { // err says more than the end of the wait
		after, err = b.proveStatic(ctx, s, c, r, creds)
		return !errors.Is(err, errTokenNotProved)
	})
	return after, err
}
