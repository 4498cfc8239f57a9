package backend

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// A rootKeeper holds what this process knows about the rotation of the root
// credential.
type rootKeeper struct {
	rotating sync.Mutex // held while a rotation is worked on; only TryLock is used

	mu          sync.Mutex // guards the following
	checkAt     time.Time  // the root credential needs no check before
	woken       int        // calls of checkSoon
	failures    int        // consecutive
	lastFailure string
	failedAt    time.Time
}

// checkSoon makes the root credential be checked at the next tick.
func (k *rootKeeper) checkSoon() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.checkAt = time.Time{}
	k.woken++
}

// rest sets the time of the next check, unless checkSoon was called since due.
func (k *rootKeeper) rest(at time.Time, woken int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.woken == woken {
		k.checkAt = at
	}
}

// due reports whether the root credential must be checked, and what rest must be told.
func (k *rootKeeper) due(now time.Time) (due bool, woken int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !now.Before(k.checkAt), k.woken
}

// failed records a failure and schedules the next attempt.
func (k *rootKeeper) failed(err error, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.checkAt = now.Add(backoff(time.Minute, time.Hour, k.failures))
	k.failures++
	k.lastFailure, k.failedAt = shortFailure(err), now
}

// succeeded clears the failures.
func (k *rootKeeper) succeeded() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.checkAt, k.failures, k.lastFailure, k.failedAt = time.Time{}, 0, "", time.Time{}
}

// describe adds the latest failure to the data of an answer. automatic says
// whether the worker will try again.
func (k *rootKeeper) describe(data map[string]any, automatic bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.failures == 0 {
		return
	}
	data["rotation_last_failure"], data["rotation_failed_at"] = k.lastFailure, timestamp(k.failedAt)
	if automatic {
		data["rotation_next_try_at"] = timestamp(k.checkAt)
	}
}

// keepRoot continues a rotation that is under way, starts one that is due, or
// logs that the root credential expires. It runs in a lane of the worker. A
// failure does not stop the mount from using the root credential it has.
func (b *backend) keepRoot(ctx context.Context, s logical.Storage) {
	now := b.now()
	due, woken := b.root.due(now)
	if !due || !b.root.rotating.TryLock() {
		return
	}
	defer b.root.rotating.Unlock()
	r, underWay, err := findRotation(ctx, s)
	if err != nil {
		b.Logger().Error("the rotation under way cannot be read", "error", err)
		return
	}
	c, err := loadConfig(ctx, s)
	if err == nil && isFuture(c.RootSince, now) {
		c, err = b.correctRootSince(ctx, s, now)
	}
	switch {
	case errors.Is(err, errNoConfig) && underWay:
		b.noteRotation(ctx, b.cancelRotation(ctx, s, r))
		return
	case errors.Is(err, errNoConfig):
		b.root.rest(now.Add(rootCheckInterval), woken)
		return
	case err != nil:
		return
	}
	if warning := c.expiryWarning(now); warning != "" {
		b.Logger().Warn("root credential expires", "warning", warning)
	}
	switch {
	case !underWay && !c.rotationDue(now):
		b.root.rest(c.nextRootCheck(now), woken)
		return
	case !underWay:
		r, err = b.startRotation(ctx, s, c)
	}
	if err == nil {
		err = b.continueRotation(ctx, s, r)
	}
	b.noteRotation(ctx, err)
}

// correctRootSince stores that the root credential is new now, because the clock was
// ahead when it was written or rotated. The next rotation is planned from that time.
func (b *backend) correctRootSince(ctx context.Context, s logical.Storage, now time.Time) (config, error) {
	b.configMu.Lock()
	defer b.configMu.Unlock()
	c, err := loadConfig(ctx, s)
	if err != nil || !c.RootSince.After(now) {
		return c, err
	}
	c.RootSince = now
	return c, putConfig(ctx, s, c)
}

// noteRotation records how an attempt at a rotation ended. It is not a failure
// that the cluster does not accept the new root credential yet.
func (b *backend) noteRotation(ctx context.Context, err error) {
	switch {
	case err == nil:
		b.root.succeeded()
	case errors.Is(err, errNotProved) && !errors.Is(err, errCancelled):
		b.root.checkSoon()
		b.Logger().Info("new root credential not accepted yet", "error", err)
	default:
		b.root.failed(err, b.now())
		b.metrics.count(opRotateRoot, err)
		b.Logger().Warn("root credential not rotated", "error", err)
		b.event(ctx, "root-rotate-fail", "config/rotate-root")
	}
}
