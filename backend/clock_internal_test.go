package backend

import (
	"testing"
	"time"
)

// The clock gives times without a monotonic reading, and notices that it was set back.
func TestClock(t *testing.T) {
	var c clock
	if now := c.now(); now != now.Round(0) { //nolint:staticcheck // compares the monotonic readings, too
		t.Errorf("%v has a monotonic reading", now)
	}
	at := time.Now()
	c = clock{read: func() time.Time { return at }}
	for _, step := range []struct {
		by   time.Duration
		back bool
	}{{0, false}, {time.Hour, false}, {-clockTolerance, false}, {-time.Second, true}, {0, false}, {-time.Minute, false}, {-time.Minute, true}} {
		at = at.Add(step.by)
		c.now()
		if back := c.wasSetBack(); back != step.back {
			t.Errorf("moved by %s: set back %v", step.by, back)
		}
	}
}
