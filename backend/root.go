package backend

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// A rootKeeper remembers how keeping the root token goes. It lives as long as
// the process.
type rootKeeper struct {
	working sync.Mutex // held by whoever works at a rotation; only ever tried

	mu          sync.Mutex // guards what follows
	lookAt      time.Time  // until then, nothing about the root token needs a look
	failures    int        // in a row
	lastFailure string
	failedAt    time.Time
}

// look sets the moment of the next look at the root token.
func (k *rootKeeper) look(at time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lookAt = at
}

func (k *rootKeeper) mayRest(now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return now.Before(k.lookAt)
}

// failed notes a failure and when to try again.
func (k *rootKeeper) failed(err error, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lookAt = now.Add(backoff(time.Minute, time.Hour, k.failures))
	k.failures++
	k.lastFailure, k.failedAt = abridgeFailure(err), now
}

// succeeded forgets the failures.
func (k *rootKeeper) succeeded() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lookAt, k.failures, k.lastFailure, k.failedAt = time.Time{}, 0, "", time.Time{}
}

// describe adds to data what an operator sees of it.
func (k *rootKeeper) describe(data map[string]any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.failures > 0 {
		data["rotation_last_failure"], data["rotation_failed_at"] = k.lastFailure, timestamp(k.failedAt)
		data["rotation_next_try_at"] = timestamp(k.lookAt)
	}
}

// keepRoot does what the root token needs: it finishes a rotation that is under
// way, begins one that is due, or warns. The worker calls it before it acts on
// the ledger. A failure never stops the mount from working with the root token
// it has.
func (b *backend) keepRoot(ctx context.Context, s logical.Storage) {
	now := b.now()
	if b.root.mayRest(now) || !b.root.working.TryLock() {
		return
	}
	defer b.root.working.Unlock()
	c, err := loadConfig(ctx, s)
	if errors.Is(err, errNoConfig) {
		b.root.look(now.Add(rootLook))
	}
	if err != nil {
		return
	}
	if warning := c.expiryWarning(now); warning != "" {
		b.Logger().Warn("the root token expires", "warning", warning)
	}
	r, under, err := findRotation(ctx, s)
	switch {
	case err != nil:
		b.Logger().Error("the rotation under way cannot be read", "error", err)
		return
	case !under && !c.rotationDue(now):
		b.root.look(c.nextLook(now))
		return
	case !under:
		r, err = b.startRotation(ctx, s, c)
	}
	if err == nil {
		err = b.finishRotation(ctx, s, r)
	}
	b.noteRotation(ctx, err)
}

// noteRotation notes how an attempt at a rotation ended. That the cluster does
// not accept the new token yet is no failure until patience is over.
func (b *backend) noteRotation(ctx context.Context, err error) {
	switch {
	case err == nil:
		b.root.succeeded()
	case errors.Is(err, errUnproven) && !errors.Is(err, errGivenUp):
		b.root.look(time.Time{})
		b.Logger().Info("the new root token is not accepted yet", "error", err)
	default:
		b.root.failed(err, b.now())
		b.Logger().Warn("the root token could not be rotated", "error", err)
		b.event(ctx, "root-rotate-fail", "config/rotate-root")
	}
}

// rootLook is how often the root token is looked at when nothing is known to
// happen to it, and how often its expiry is warned of in the log.
const rootLook = 24 * time.Hour

// nextLook is when the root token needs a look again.
func (c config) nextLook(now time.Time) time.Time {
	next := now.Add(rootLook)
	moments := []time.Time{c.RootExpiresAt, c.RootExpiresAt.Add(-c.Rotation.Warning), c.rotatesAt()}
	for _, moment := range moments {
		if moment.After(now) && moment.Before(next) {
			next = moment
		}
	}
	return next
}

// rotatesAt is when the root token is rotated unattended: when its period is
// over, or its expiry is near. It is zero for never.
func (c config) rotatesAt() time.Time {
	p := c.Rotation.Period
	if p == 0 {
		return time.Time{}
	}
	at := c.RootSince.Add(p)
	if early := c.RootExpiresAt.Add(-min(p, c.Rotation.Warning)); !c.RootExpiresAt.IsZero() && early.Before(at) {
		at = early
	}
	return at
}

func (c config) rotationDue(now time.Time) bool {
	at := c.rotatesAt()
	return !at.IsZero() && !now.Before(at)
}

// expiryWarning says that the root token expires soon and nothing will rotate
// it; else it is empty.
func (c config) expiryWarning(now time.Time) string {
	expires := timestamp(c.RootExpiresAt)
	switch {
	case c.RootExpiresAt.IsZero() || now.Before(c.RootExpiresAt.Add(-c.Rotation.Warning)):
		return ""
	case !now.Before(c.RootExpiresAt):
		return fmt.Sprintf("The root token has expired at %s: nothing can be minted or revoked. Write a new mgmt_token to config.", expires)
	case c.RootID == "":
		return fmt.Sprintf("The root token expires at %s and cannot be rotated: %v.", expires, errNoRootID)
	case c.Rotation.Period > 0:
		return ""
	}
	return fmt.Sprintf("The root token expires at %s. Rotate it (`vault write -f` this mount's config/rotate-root), set rotation_period in config, or write a new mgmt_token.", expires)
}
