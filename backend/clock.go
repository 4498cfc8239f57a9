package backend

import (
	"sync"
	"time"
)

// clockTolerance is how far the clock may go back before times that were
// calculated with it are not believed any more. NTP corrects a clock by less in
// ordinary operation.
const clockTolerance = time.Minute

// A clock is the clock of the node. It gives times without a monotonic reading: stored
// times have none, it does not show that the clock was set back, and it stands still
// while the machine is suspended. A clock is safe for concurrent use.
type clock struct {
	read func() time.Time // nil is time.Now

	mu      sync.Mutex // guards the following
	latest  time.Time  // that now has returned since the clock was last set back
	setBack bool       // since the last call of wasSetBack
}

func (c *clock) now() time.Time {
	read := c.read
	if read == nil {
		read = time.Now
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := read().Round(0) // under the lock, so that readings are compared in their order
	if now.Before(c.latest.Add(-clockTolerance)) {
		c.setBack, c.latest = true, now
	}
	c.latest = later(c.latest, now)
	return now
}

// wasSetBack reports whether the clock has been set back since the last call.
func (c *clock) wasSetBack() bool {
	c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.setBack
	c.setBack = false
	return was
}

func (b *backend) now() time.Time { return b.clock.now() }

// isFuture reports whether a stored time of the past is in the future: the clock was ahead
// when it was stored, or is behind now.
func isFuture(stored, now time.Time) bool { return stored.After(now.Add(clockTolerance)) }

// isFresh reports whether what was read at a time may be used for so long. It may not if
// the clock was set back since.
func isFresh(at time.Time, long time.Duration, now time.Time) bool {
	return !now.Before(at) && now.Before(at.Add(long))
}
