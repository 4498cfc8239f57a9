package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/errgroup"
)

const ledgerPrefix = "ledger/"

const (
	// maxPending bounds the mints of a mount whose tokens have not been looked
	// for yet. Beyond it something is wrong with the cluster, and more tries
	// only make more debts.
	maxPending = 100

	// maxAbsent bounds those and the ones that were looked for in vain, which
	// are kept until their absence is certain.
	maxAbsent = 10 * maxPending
)

var (
	errGone       = errors.New("the token is in no record any more")
	errNotPending = errors.New("the mint's record was taken over meanwhile")
	errTooMany    = errors.New("the role's max_active is reached")
	errUnsettled  = errors.New("too many mints with an unknown outcome")
)

// A ledger keeps one stored record of every token, from before the token exists
// until it is known to be dead, and an index of the records in memory.
//
// Every change of a record happens under that record's lock: read, check,
// write. No lock is held over a call to the cluster. It is safe for concurrent
// use.
type ledger struct {
	locks []*locksutil.LockEntry // striped by nonce: never two at once

	mu      sync.Mutex // guards what follows
	index   *index
	roles   map[string]bool // whose records are all in the index
	loaded  bool            // all records are
	newer   error           // there are records that only a newer version understands
	damaged int             // records that nobody understands
	minting map[string]bool // by nonce: mints in flight in this process
}

func newLedger() *ledger {
	return &ledger{locks: locksutil.CreateLocks(), index: newIndex(), roles: map[string]bool{}, minting: map[string]bool{}}
}

// lock takes the record's lock and returns what gives it back.
func (l *ledger) lock(nonce string) (unlock func()) {
	entry := locksutil.LockForKey(l.locks, nonce)
	entry.Lock()
	return entry.Unlock
}

// open stores a new pending record and marks its mint as in flight, until
// close. It fails without a trace where limits forbid another token: maxActive
// (0: none) for the role, maxPending for the mount.
func (l *ledger) open(ctx context.Context, s logical.Storage, r record, maxActive int) error {
	if err := l.reserve(ctx, s, r, maxActive); err != nil {
		return err
	}
	if err := write(ctx, s, r); err != nil {
		l.close(r.Nonce)
		ctx, cancel := own(ctx)
		defer cancel()
		// Perhaps it was stored all the same. What cannot be deleted now stays
		// in the index, and is looked at again when it is due.
		_ = l.drop(ctx, s, r.Role, r.Nonce)
		return fmt.Errorf("record the intent to mint: %w", err)
	}
	return nil
}

func (l *ledger) reserve(ctx context.Context, s logical.Storage, r record, maxActive int) error {
	if maxActive > 0 {
		if err := l.loadRole(ctx, s, r.Role); err != nil {
			return fmt.Errorf("count the tokens of role %s: %w", r.Role, err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.newer != nil {
		return l.newer
	}
	if maxActive > 0 && l.index.active[r.Role] >= maxActive {
		return errTooMany
	}
	lost := l.index.states[pending] - len(l.minting)
	if lost-l.index.absent >= maxPending || lost >= maxAbsent {
		return errUnsettled
	}
	l.index.set(r)
	l.minting[r.Nonce] = true
	return nil
}

// close says that the mint has ended, however it did.
func (l *ledger) close(nonce string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.minting, nonce)
}

// get reads a record. It returns errGone if there is none.
func (l *ledger) get(ctx context.Context, s logical.Storage, role, nonce string) (record, error) {
	entry, err := s.Get(ctx, recordKey(role, nonce))
	if err != nil {
		return record{}, fmt.Errorf("read the record of %s: %w", nonce, err)
	}
	if entry == nil {
		l.forget(nonce)
		return record{}, errGone
	}
	return recordFrom(entry)
}

// change reads a record, lets edit judge and alter it, and stores it. When edit
// returns an error nothing is stored and the error returned. There is no record
// any more: errGone.
func (l *ledger) change(ctx context.Context, s logical.Storage, role, nonce string, edit func(*record) error) (record, error) {
	defer l.lock(nonce)()
	r, err := l.get(ctx, s, role, nonce)
	if err != nil {
		return r, err
	}
	if err := edit(&r); err != nil {
		return r, err
	}
	return r, l.store(ctx, s, r)
}

// put stores a record whatever is stored in its place.
func (l *ledger) put(ctx context.Context, s logical.Storage, r record) error {
	defer l.lock(r.Nonce)()
	return l.store(ctx, s, r)
}

// store writes a record and notes it in the index. Its caller holds the record's
// lock.
func (l *ledger) store(ctx context.Context, s logical.Storage, r record) error {
	if err := write(ctx, s, r); err != nil {
		return fmt.Errorf("write the record of %s: %w", r.Nonce, err)
	}
	l.note(r)
	return nil
}

// drop deletes a record: its token is known to be dead.
func (l *ledger) drop(ctx context.Context, s logical.Storage, role, nonce string) error {
	defer l.lock(nonce)()
	if err := s.Delete(ctx, recordKey(role, nonce)); err != nil {
		return fmt.Errorf("delete the record of %s: %w", nonce, err)
	}
	l.forget(nonce)
	return nil
}

func (l *ledger) forget(nonce string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.index.remove(nonce)
}

// loadAtOnce is how many records are read at a time while the index is loaded.
// Every read is a call to Vault's process and back; when many are under way they
// share the cost of waking each other up.
const loadAtOnce = 32

// load brings every stored record into the index. It may be called again after
// an error, and does nothing after a success.
func (l *ledger) load(ctx context.Context, s logical.Storage) error {
	if l.isLoaded() {
		return nil
	}
	roles, err := s.List(ctx, ledgerPrefix)
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
	l.loaded, l.roles = true, nil
	return nil
}

// loadRole brings every stored record of a role into the index, once.
func (l *ledger) loadRole(ctx context.Context, s logical.Storage, role string) error {
	l.mu.Lock()
	done := l.loaded || l.roles[role]
	l.mu.Unlock()
	if done {
		return nil
	}
	nonces, err := s.List(ctx, ledgerPrefix+role+"/")
	if err != nil {
		return fmt.Errorf("list the ledger of role %s: %w", role, err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(loadAtOnce)
	for _, nonce := range nonces {
		group.Go(func() error { return l.loadRecord(ctx, s, role, nonce) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.loaded {
		l.roles[role] = true
	}
	return nil
}

// loadRecord brings one record into the index. One that cannot be understood is
// left where it is, and keeps no other from being acted on.
func (l *ledger) loadRecord(ctx context.Context, s logical.Storage, role, nonce string) error {
	defer l.lock(nonce)()
	r, err := l.get(ctx, s, role, nonce)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case errors.Is(err, errGone):
		return nil
	case errors.Is(err, errNewer):
		l.newer = err
		return nil
	case errors.Is(err, errDamaged):
		l.damaged++
		return nil
	case err != nil:
		return err
	}
	if r.State == owed {
		r.Due = time.Time{} // a start is as good a moment to try again as any
	}
	l.index.set(r)
	return nil
}

// note brings the index up to date with a record just read or written.
func (l *ledger) note(r record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.index.set(r)
}

// due returns what is due at now, but for mints in flight in this process.
func (l *ledger) due(now time.Time) []indexed {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settled(l.index.due(now))
}

// all returns everything there is, but for mints in flight in this process.
func (l *ledger) all() []indexed {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settled(l.index.all())
}

// everything returns all there is.
func (l *ledger) everything() []indexed {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.index.all()
}

// roleOf returns the role of a record that is in the index.
func (l *ledger) roleOf(nonce string) (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.index.byNonce[nonce]
	if e == nil {
		return "", false
	}
	return e.role, true
}

// isMinting reports whether the record's mint is in flight in this process.
func (l *ledger) isMinting(nonce string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.minting[nonce]
}

func (l *ledger) settled(entries []indexed) []indexed {
	return slices.DeleteFunc(entries, func(e indexed) bool { return l.minting[e.nonce] })
}

func (l *ledger) isLoaded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.loaded
}

// isEmpty asks the storage, which is always complete, whether there is any
// record.
func (l *ledger) isEmpty(ctx context.Context, s logical.Storage) (bool, error) {
	roles, err := s.List(ctx, ledgerPrefix)
	if err != nil {
		return false, fmt.Errorf("list the ledger: %w", err)
	}
	return len(roles) == 0, nil
}

// A ledgerState is what status tells of the ledger.
type ledgerState struct {
	loaded    bool
	newer     error
	damaged   int
	states    map[state]int
	oldestDue time.Time
}

func (l *ledger) state() ledgerState {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := ledgerState{loaded: l.loaded, newer: l.newer, damaged: l.damaged, states: map[state]int{}}
	for s, n := range l.index.states {
		now.states[s] = n
	}
	if first := l.index.next(); first != nil {
		now.oldestDue = first.due
	}
	return now
}

func write(ctx context.Context, s logical.Storage, r record) error {
	entry, err := r.entry()
	if err != nil {
		return err
	}
	return s.Put(ctx, entry)
}
