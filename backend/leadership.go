package backend

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// leadershipKey is the storage key of the entry that proves the leadership.
const leadershipKey = "leadership"

// A leadership proves that this node is still the leader, by a write to storage. A
// node that was paused does not know that it has lost the leadership: only the
// storage does, and refuses its writes. Callers that come at the same time share
// one write. It is safe for concurrent use.
type leadership struct {
	mu   sync.Mutex // guards the following
	next *proof     // that the next write will give; nil if no one waits
	busy bool       // a write is running
}

// A proof is the result of one write.
type proof struct {
	done chan struct{} // closed when err is set
	err  error
}

// prove returns nil if a write that began after the call succeeded. Otherwise this
// node must not revoke anything: the leases of another leader may be valid.
func (l *leadership) prove(ctx context.Context, s logical.Storage, now time.Time) error {
	l.mu.Lock()
	if l.next == nil {
		l.next = &proof{done: make(chan struct{})}
	}
	mine := l.next
	if !l.busy {
		l.busy = true
		go l.work(context.WithoutCancel(ctx), s, now)
	}
	l.mu.Unlock()
	select {
	case <-mine.done:
		return mine.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// work writes until no one waits.
func (l *leadership) work(ctx context.Context, s logical.Storage, now time.Time) {
	for {
		l.mu.Lock()
		mine := l.next
		l.next = nil
		if mine == nil {
			l.busy = false
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		mine.err = writeLeadership(ctx, s, now)
		close(mine.done)
	}
}

func writeLeadership(ctx context.Context, s logical.Storage, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	entry, err := logical.StorageEntryJSON(leadershipKey, map[string]string{"proved_at": timestamp(now)})
	if err != nil {
		return err
	}
	if err := s.Put(ctx, entry); err != nil {
		return fmt.Errorf("this node cannot write to storage, so it may not be the leader any more: %w", err)
	}
	return nil
}
