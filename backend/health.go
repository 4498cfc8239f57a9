package backend

import (
	"sync"
	"time"
)

// took is how long something took, as the log shows it: the logger would print
// a bare number.
func took(d time.Duration) string { return d.Round(time.Millisecond).String() }

// A health remembers how the cluster answered last. It lives as long as the
// process.
type health struct {
	mu          sync.Mutex // guards what follows
	successAt   time.Time
	failureAt   time.Time
	failureIn   string
	lastFailure string
}

// saw notes the outcome of one request to the cluster.
func (h *health) saw(doing string, err error, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		h.successAt = at
		return
	}
	h.failureAt, h.failureIn, h.lastFailure = at, doing, err.Error()
}

// describe adds to data what an operator sees of it.
func (h *health) describe(data map[string]any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.successAt.IsZero() {
		data["last_success_at"] = timestamp(h.successAt)
	}
	if !h.failureAt.IsZero() {
		data["last_failure_at"] = timestamp(h.failureAt)
		data["last_failure"] = h.failureIn + ": " + h.lastFailure
	}
}
