package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/errgroup"
)

// loadAtOnce is the number of records that are read at the same time while the
// index is loaded. Every read is a call to the Vault process and back.
const loadAtOnce = 32

// loadAttempts is how often Load begins again because another node has changed the
// ledger meanwhile.
const loadAttempts = 3

var errInvalidated = errors.New("the ledger was changed by another node while it was loaded; try again")

// Load brings all stored records into the index. It does nothing after a
// success, and may be called again after an error.
func (l *Ledger) Load(ctx context.Context, s logical.Storage) error {
	return untilValid(func() error { return l.loadOnce(ctx, s) })
}

// untilValid calls load again, up to loadAttempts times in all, if the index was
// discarded meanwhile.
func untilValid(load func() error) (err error) {
	for range loadAttempts {
		if err = load(); !errors.Is(err, errInvalidated) {
			return err
		}
	}
	return err
}

func (l *Ledger) loadOnce(ctx context.Context, s logical.Storage) error {
	l.mu.Lock()
	loaded, resets := l.loaded, l.resets
	l.mu.Unlock()
	if loaded {
		return nil
	}
	roles, err := s.List(ctx, Prefix)
	if err != nil {
		return fmt.Errorf("list the ledger: %w", err)
	}
	for _, role := range roles {
		if err := l.loadRole(ctx, s, strings.TrimSuffix(role, "/")); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.resets != resets {
		return errInvalidated
	}
	l.loaded, l.roles = true, nil
	return nil
}

// TryLoad is Load, unless another TryLoad is running.
func (l *Ledger) TryLoad(ctx context.Context, s logical.Storage) error {
	l.mu.Lock()
	busy := l.loading
	l.loading = true
	l.mu.Unlock()
	if busy {
		return nil
	}
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.loading = false
	}()
	return l.Load(ctx, s)
}

// LoadRole brings the stored records of one role into the index, once.
func (l *Ledger) LoadRole(ctx context.Context, s logical.Storage, role string) error {
	return untilValid(func() error { return l.loadRole(ctx, s, role) })
}

func (l *Ledger) loadRole(ctx context.Context, s logical.Storage, role string) error {
	l.mu.Lock()
	done, resets := l.loaded || l.roles[role], l.resets
	l.mu.Unlock()
	if done {
		return nil
	}
	accessors, err := s.List(ctx, Prefix+role+"/")
	if err != nil {
		return fmt.Errorf("list the ledger of role %s: %w", role, err)
	}
	reads, ctx := errgroup.WithContext(ctx)
	reads.SetLimit(loadAtOnce)
	for _, accessor := range accessors {
		reads.Go(func() error { return l.loadRecord(ctx, s, role, accessor) })
	}
	if err := reads.Wait(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.resets != resets {
		return errInvalidated
	}
	if !l.loaded {
		l.roles[role] = true
	}
	return nil
}

// loadRecord brings one record into the index. A record that cannot be decoded
// is counted and skipped, so that it does not stop the others.
func (l *Ledger) loadRecord(ctx context.Context, s logical.Storage, role, accessor string) error {
	defer l.lock(accessor)()
	r, err := get(ctx, s, role, accessor)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case errors.Is(err, ErrNotFound):
		return nil
	case errors.Is(err, ErrNewer):
		l.newer = err
		return nil
	case errors.Is(err, ErrDamaged):
		l.damaged[recordKey(role, accessor)] = true
		return nil
	case err != nil:
		return err
	}
	if r.State == Revoking && r.Attempts > 0 {
		r.Deadline = time.Time{} // try again at once after a start
	}
	l.index.set(r)
	return nil
}

// Loaded reports whether the index holds all stored records.
func (l *Ledger) Loaded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.loaded
}

// HasUnreadable reports whether there are records that this version cannot
// read. It says nothing before Load has succeeded.
func (l *Ledger) HasUnreadable() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.newer != nil || len(l.damaged) > 0
}

// A Summary describes the ledger at one moment.
type Summary struct {
	Newer        error // not nil: some records were stored by a newer version
	Damaged      int   // records that cannot be decoded
	Counts       []Count
	NextDeadline time.Time // zero if there is no record
}

// A Count is the number of records of one kind.
type Count struct {
	TokenType, Role, Fingerprint string
	State                        State
	Absent                       bool // issuing, and at least one list did not show the token
	N                            int
}

// Summary returns what is known about all records. It returns false, and no
// counts, as long as the index is not loaded.
func (l *Ledger) Summary() (Summary, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.loaded {
		return Summary{}, false
	}
	summary := Summary{Newer: l.newer, Damaged: len(l.damaged)}
	for g, classes := range l.index.counts {
		for c, n := range classes {
			summary.Counts = append(summary.Counts, Count{c.tokenType, g.role, g.fingerprint, c.state, c.absent, n})
		}
	}
	if first := l.index.next(); first != nil {
		summary.NextDeadline = first.Deadline
	}
	return summary, true
}

// Holds reports whether there is a record of a cluster. The index must be
// loaded; unreadable records count as records of every cluster.
func (l *Ledger) Holds(fingerprint string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.loaded || l.newer != nil || len(l.damaged) > 0 {
		return true
	}
	for g := range l.index.counts {
		if g.fingerprint == fingerprint {
			return true
		}
	}
	return false
}
