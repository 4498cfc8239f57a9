package ledger

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
)

// Prefix is the storage folder of the ledger. Nothing outside this package uses
// it to read or write records.
const Prefix = "ledger/"

// Limits on tokens with an unknown outcome. They apply to one role on one
// cluster, so that a role whose requests fail blocks no other.
const (
	// MaxUnsettled bounds the issuing records that the engine has not looked for
	// yet.
	MaxUnsettled = 100

	// MaxAbsent bounds those and the ones that were looked for and not found,
	// which are kept until it is certain that the token does not exist.
	MaxAbsent = 10 * MaxUnsettled
)

// storeTime bounds a storage operation that must happen although the request
// that caused it has ended.
const storeTime = 10 * time.Second

// A Ledger stores the records and keeps an index of them in memory. It is safe
// for concurrent use.
type Ledger struct {
	locks []*locksutil.LockEntry // striped by accessor

	mu       sync.Mutex // guards the following
	index    *index
	roles    map[string]bool // whose records are all in the index
	loaded   bool            // all records are in the index
	loading  bool            // a Load is running
	newer    error           // some records can be read by a newer version only
	damaged  map[string]bool // keys of records that cannot be decoded
	resets   int             // counts resets, so that a load notices one
	inFlight map[string]bool // accessors of tokens being issued by this process
	quiet    chan struct{}   // closed when inFlight is empty; nil if nobody waits for that
}

// New returns a ledger with an empty index.
func New() *Ledger {
	l := &Ledger{locks: locksutil.CreateLocks(), inFlight: map[string]bool{}}
	l.reset()
	return l
}

func (l *Ledger) reset() {
	l.index, l.roles, l.loaded, l.newer, l.damaged = newIndex(), map[string]bool{}, false, nil, map[string]bool{}
	l.resets++
}

// Invalidate discards the index because another node has changed the storage.
// The next Load reads it again. Tokens that this process is issuing stay.
func (l *Ledger) Invalidate() {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.index
	l.reset()
	for accessor := range l.inFlight {
		if e := old.byAccessor[accessor]; e != nil {
			l.index.add(e)
		}
	}
}

// lock locks a record and returns the function that unlocks it.
func (l *Ledger) lock(accessor string) (unlock func()) {
	entry := locksutil.LockForKey(l.locks, accessor)
	entry.Lock()
	return entry.Unlock
}

// Open stores a new issuing record and marks its token as being issued by this
// process, until Close. If it fails, nothing is left behind: with ErrMaxActive
// or ErrUnsettled where a limit forbids another token of the role. maxActive
// limits the tokens of the record's role on the record's cluster; 0 means no
// limit.
func (l *Ledger) Open(ctx context.Context, s logical.Storage, r Record, maxActive int) error {
	err := untilValid(func() error {
		if maxActive > 0 { // which must be exact; the other limits need not be
			if err := l.loadRole(ctx, s, r.Role); err != nil {
				return fmt.Errorf("count the tokens of role %s: %w", r.Role, err)
			}
		}
		return l.reserve(r, maxActive)
	})
	if err != nil {
		return err
	}
	if err := write(ctx, s, r); err != nil {
		l.Close(r.Accessor)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTime)
		defer cancel()
		// The record may have been stored. If it cannot be deleted now, it stays
		// in the index and the engine acts on it after its deadline.
		_ = l.Drop(ctx, s, r.Role, r.Accessor)
		return fmt.Errorf("store the record of a new token: %w", err)
	}
	return nil
}

func (l *Ledger) reserve(r Record, maxActive int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.newer != nil:
		return l.newer
	case maxActive > 0 && !l.loaded && !l.roles[r.Role]:
		return errInvalidated
	}
	counted, unsettled, absent := l.index.tally(group{r.Role, r.Fingerprint})
	if maxActive > 0 && counted >= maxActive {
		return ErrMaxActive
	}
	for accessor := range l.inFlight {
		if e := l.index.byAccessor[accessor]; e != nil && e.Role == r.Role && e.Fingerprint == r.Fingerprint && e.State == Issuing {
			unsettled--
		}
	}
	if unsettled >= MaxUnsettled || unsettled+absent >= MaxAbsent {
		return ErrUnsettled
	}
	l.index.set(r)
	l.inFlight[r.Accessor] = true
	return nil
}

// Close marks that this process is not issuing the token any more, whatever the
// outcome.
func (l *Ledger) Close(accessor string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.inFlight, accessor)
	l.noteQuiet()
}

// Get reads a record, or returns ErrNotFound. If the index does not agree with
// what is stored, Get repairs it.
func (l *Ledger) Get(ctx context.Context, s logical.Storage, role, accessor string) (Record, error) {
	r, err := get(ctx, s, role, accessor)
	if l.agrees(accessor, r, err) {
		return r, err
	}
	defer l.lock(accessor)()
	r, err = l.getLocked(ctx, s, role, accessor)
	if err == nil {
		l.note(r)
	}
	return r, err
}

// agrees reports whether the index agrees with a record that was read without
// its lock.
func (l *Ledger) agrees(accessor string, r Record, err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.index.byAccessor[accessor]
	switch {
	case e == nil:
		return err != nil || !l.loaded // an index that is not loaded may lack any record
	case errors.Is(err, ErrNotFound):
		return false
	}
	return err != nil || e.State == r.State
}

// getLocked reads a record and removes an index entry without a record, unless
// the token is being issued. The caller holds the lock of the record.
func (l *Ledger) getLocked(ctx context.Context, s logical.Storage, role, accessor string) (Record, error) {
	r, err := get(ctx, s, role, accessor)
	if errors.Is(err, ErrNotFound) && !l.InFlight(accessor) {
		l.remove(accessor)
	}
	return r, err
}

func get(ctx context.Context, s logical.Storage, role, accessor string) (Record, error) {
	entry, err := s.Get(ctx, recordKey(role, accessor))
	if err != nil {
		return Record{}, fmt.Errorf("read the record of token %s: %w", accessor, err)
	}
	if entry == nil {
		return Record{}, ErrNotFound
	}
	return recordFrom(entry)
}

// Change reads a record, lets edit check and change it, and stores the result.
// If edit returns an error, nothing is stored and Change returns that error.
// Change returns ErrNotFound if there is no record.
func (l *Ledger) Change(ctx context.Context, s logical.Storage, role, accessor string, edit func(*Record) error) (Record, error) {
	defer l.lock(accessor)()
	r, err := l.getLocked(ctx, s, role, accessor)
	if err != nil {
		return r, err
	}
	stored := r
	if err := edit(&r); err != nil {
		l.note(stored)
		return stored, err
	}
	return r, l.store(ctx, s, r)
}

// Put stores a record and replaces any record that is there.
func (l *Ledger) Put(ctx context.Context, s logical.Storage, r Record) error {
	defer l.lock(r.Accessor)()
	return l.store(ctx, s, r)
}

// store writes a record and updates the index. The caller holds the lock of the
// record.
func (l *Ledger) store(ctx context.Context, s logical.Storage, r Record) error {
	if err := write(ctx, s, r); err != nil {
		l.suspect(r)
		return fmt.Errorf("store the record of token %s: %w", r.Accessor, err)
	}
	l.note(r)
	return nil
}

// suspect makes the index agree with a record that may have been stored: the record
// is due at the earlier of the two deadlines, and is read then.
func (l *Ledger) suspect(r Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch e := l.index.byAccessor[r.Accessor]; {
	case e == nil:
		l.index.set(r)
	case r.Deadline.Before(e.Deadline):
		l.index.postpone(r.Accessor, r.Deadline)
	}
}

// Drop deletes a record, because its token is known not to be accepted by the
// cluster. It is not an error if there is no record.
func (l *Ledger) Drop(ctx context.Context, s logical.Storage, role, accessor string) error {
	defer l.lock(accessor)()
	if err := s.Delete(ctx, recordKey(role, accessor)); err != nil {
		return fmt.Errorf("delete the record of token %s: %w", accessor, err)
	}
	l.remove(accessor)
	return nil
}

// DropIf deletes a record if check, called with the stored record under its
// lock, returns nil. It returns the error of check otherwise.
func (l *Ledger) DropIf(ctx context.Context, s logical.Storage, role, accessor string, check func(Record) error) error {
	defer l.lock(accessor)()
	r, err := l.getLocked(ctx, s, role, accessor)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err == nil {
		err = check(r)
	}
	if err != nil {
		return err
	}
	if err := s.Delete(ctx, r.key()); err != nil {
		return fmt.Errorf("delete the record of token %s: %w", accessor, err)
	}
	l.remove(accessor)
	return nil
}

// Postpone sets the time at which Due returns a record again, in the index only.
// It is for records that nothing can be done about, so that they cost no writes.
func (l *Ledger) Postpone(accessor string, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.index.postpone(accessor, until)
}

// note makes the index agree with a record that was just read under its lock, or
// just written.
func (l *Ledger) note(r Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.index.set(r)
}

func (l *Ledger) remove(accessor string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.index.remove(accessor)
}

// MayHold reports whether there is a record of a token, or may be one because the index
// is not loaded.
func (l *Ledger) MayHold(accessor string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.loaded || l.index.byAccessor[accessor] != nil
}

// InFlight reports whether this process is issuing the token.
func (l *Ledger) InFlight(accessor string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.inFlight[accessor]
}

// Quiet returns a channel that is closed when this process issues no token.
func (l *Ledger) Quiet() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.quiet == nil {
		l.quiet = make(chan struct{})
	}
	quiet := l.quiet
	l.noteQuiet()
	return quiet
}

// noteQuiet closes the channel of Quiet if nothing is in flight.
func (l *Ledger) noteQuiet() {
	if len(l.inFlight) == 0 && l.quiet != nil {
		close(l.quiet)
		l.quiet = nil
	}
}

// Due returns the records whose deadline is not after now, except those being
// issued by this process. It reads no storage.
func (l *Ledger) Due(now time.Time) []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settled(l.index.due(now))
}

// IsDue reports whether the deadline of a record is not after now.
func (l *Ledger) IsDue(accessor string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.index.byAccessor[accessor]
	return e != nil && !e.Deadline.After(now)
}

// Settled returns all records except those being issued by this process.
func (l *Ledger) Settled() []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.settled(l.index.all())
}

// OfRole returns the records of one role, sorted by accessor.
func (l *Ledger) OfRole(role string) (entries []Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.index.byAccessor {
		if e.Role == role {
			entries = append(entries, *e)
		}
	}
	slices.SortFunc(entries, func(x, y Entry) int { return strings.Compare(x.Accessor, y.Accessor) })
	return entries
}

// All returns all records.
func (l *Ledger) All() []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.index.all()
}

func (l *Ledger) settled(entries []Entry) []Entry {
	return slices.DeleteFunc(entries, func(e Entry) bool { return l.inFlight[e.Accessor] })
}

// Find returns the record with an accessor, whatever its role, or ErrNotFound.
// It works before the index is loaded.
func (l *Ledger) Find(ctx context.Context, s logical.Storage, accessor string) (Record, error) {
	l.mu.Lock()
	e, loaded := l.index.byAccessor[accessor], l.loaded && l.newer == nil && len(l.damaged) == 0
	l.mu.Unlock()
	switch {
	case e != nil:
		return l.Get(ctx, s, e.Role, accessor)
	case loaded:
		return Record{}, ErrNotFound
	}
	roles, err := s.List(ctx, Prefix)
	if err != nil {
		return Record{}, fmt.Errorf("list the ledger: %w", err)
	}
	for _, role := range roles {
		r, err := get(ctx, s, strings.TrimSuffix(role, "/"), accessor)
		if !errors.Is(err, ErrNotFound) {
			return r, err
		}
	}
	return Record{}, ErrNotFound
}

func write(ctx context.Context, s logical.Storage, r Record) error {
	entry, err := r.entry()
	if err != nil {
		return err
	}
	return s.Put(ctx, entry)
}
