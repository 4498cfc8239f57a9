package ledger

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// Open stores the record before it returns. While its token is being issued, the
// record is never due.
func TestOpen_StoresTheRecordAndMarksItInFlight(t *testing.T) {
	l, s := newLoaded(t)
	r := newRecord(1, Issuing)
	if err := l.Open(t.Context(), s, r, 0); err != nil {
		t.Fatal(err)
	}
	s.mustStore(t, r)
	l.mustIndex(t, r)
	late := r.Deadline.Add(time.Hour)
	if !l.InFlight(r.Accessor) || len(l.Due(late)) != 0 || len(l.Settled()) != 0 || !l.has(r.Accessor) {
		t.Errorf("in flight: %v, due %v, settled %v", l.InFlight(r.Accessor), l.Due(late), l.Settled())
	}
	l.Close(r.Accessor)
	if l.InFlight(r.Accessor) || len(l.Due(late)) != 1 || len(l.Settled()) != 1 {
		t.Errorf("after Close: in flight %v, due %v, settled %v", l.InFlight(r.Accessor), l.Due(late), l.Settled())
	}
	if len(l.Due(r.Deadline.Add(-time.Nanosecond))) != 0 {
		t.Error("due before the deadline")
	}
}

// A failed Open leaves nothing behind where the storage allows it, and otherwise
// a record that is due after its deadline. Each row is a write that fails and a
// delete after it.
func TestOpen_FailedWrite(t *testing.T) {
	for name, c := range map[string]struct {
		put, remove failure
		inStorage   bool // the record is still stored
		inIndex     bool // the engine will act on it
	}{
		"the write is not done":                    {notDone, works, false, false},
		"the write is done":                        {doneOnly, works, false, false},
		"the write is done, the delete is not":     {doneOnly, notDone, true, true},
		"the write is done, the delete is":         {doneOnly, doneOnly, false, true},
		"the write is not done, nor is the delete": {notDone, notDone, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			l, s := newLoaded(t)
			s.setFail(func(op logical.Operation, _ string) failure {
				return map[logical.Operation]failure{logical.UpdateOperation: c.put, logical.DeleteOperation: c.remove}[op]
			})
			r := newRecord(1, Issuing)
			if err := l.Open(t.Context(), s, r, 0); !errors.Is(err, errStorage) {
				t.Fatalf("error %v", err)
			}
			s.setFail(nil)
			var stored, indexed []Record
			if c.inStorage {
				stored = append(stored, r)
			}
			if c.inIndex {
				indexed = append(indexed, r)
			}
			s.mustStore(t, stored...)
			l.mustIndex(t, indexed...)
			if l.InFlight(r.Accessor) {
				t.Error("still in flight")
			}
			if got := len(l.Due(r.Deadline)); got != len(indexed) {
				t.Errorf("%d records are due, want %d", got, len(indexed))
			}
			if _, err := New().Find(t.Context(), s, r.Accessor); errors.Is(err, ErrNotFound) == c.inStorage {
				t.Errorf("after a restart: %v", err)
			}
		})
	}
}

// The record of a caller that has disconnected is deleted all the same.
func TestOpen_FailedWriteAfterTheCallerDisconnected(t *testing.T) {
	l, s := newLoaded(t)
	ctx, disconnect := context.WithCancel(t.Context())
	s.setFail(func(op logical.Operation, _ string) failure {
		if op == logical.UpdateOperation {
			disconnect()
			return doneOnly
		}
		return works
	})
	if err := l.Open(ctx, s, newRecord(1, Issuing), 0); err == nil {
		t.Fatal("no error")
	}
	s.mustStore(t)
	l.mustIndex(t)
}

// maxActive counts issuing, active and revoking records of the role on the
// cluster, also those that only the storage knows, and no others.
func TestOpen_MaxActive(t *testing.T) {
	otherRole, otherCluster, absent := newRecord(4, Active), newRecord(5, Active), newRecord(6, Issuing)
	otherRole.Role, otherCluster.Fingerprint, absent.Absences = "other", "dedicated/account/other", 1
	s := &testStorage{}
	s.keep(t, newRecord(1, Issuing), newRecord(2, Active), newRecord(3, Revoking), otherRole, otherCluster, absent)

	l := New() // which has loaded nothing
	before := s.operations(logical.UpdateOperation)
	if err := l.Open(t.Context(), s, newRecord(7, Issuing), 3); !errors.Is(err, ErrMaxActive) {
		t.Fatalf("a fourth token: %v", err)
	}
	if s.operations(logical.UpdateOperation) != before || l.InFlight(testAccessor(7)) || l.has(testAccessor(7)) {
		t.Error("a refused token left something behind")
	}
	if err := l.Open(t.Context(), s, newRecord(7, Issuing), 4); err != nil {
		t.Errorf("one more is allowed: %v", err)
	}
	if err := l.Open(t.Context(), s, newRecord(8, Issuing), 4); !errors.Is(err, ErrMaxActive) {
		t.Errorf("a token that is being issued counts: %v", err)
	}
	if err := l.Drop(t.Context(), s, testRole, testAccessor(2)); err != nil {
		t.Fatal(err)
	}
	if err := l.Open(t.Context(), s, newRecord(8, Issuing), 4); err != nil {
		t.Errorf("after a token was revoked: %v", err)
	}
}

// A count that cannot be made exact refuses the token.
func TestOpen_MaxActiveIsNotGuessed(t *testing.T) {
	for _, op := range []logical.Operation{logical.ListOperation, logical.ReadOperation} {
		s := &testStorage{}
		s.keep(t, newRecord(1, Active))
		s.failAll(op, notDone)
		if err := New().Open(t.Context(), s, newRecord(2, Issuing), 5); !errors.Is(err, errStorage) {
			t.Errorf("%s fails: %v", op, err)
		}
		s.setFail(nil)
		s.mustStore(t, newRecord(1, Active))
	}
}

func TestOpen_MaxActiveIsExactUnderConcurrency(t *testing.T) {
	s := &testStorage{}
	s.keep(t, newRecord(0, Active))
	l := New()
	var opened, refused int
	var mu sync.Mutex // guards opened and refused
	var all sync.WaitGroup
	for i := 1; i <= 50; i++ {
		all.Go(func() {
			err := l.Open(t.Context(), s, newRecord(i, Issuing), 10)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				opened++
			case errors.Is(err, ErrMaxActive):
				refused++
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if opened != 9 || refused != 41 {
		t.Errorf("%d opened, %d refused; want 9 and 41", opened, refused)
	}
}

// A role with MaxUnsettled unknown outcomes on a cluster gets no further token
// there. Tokens that are being issued do not count, and nothing else is limited.
func TestOpen_Unsettled(t *testing.T) {
	l, s := newLoaded(t)
	open := func(i int, role, cluster string) error {
		r := newRecord(i, Issuing)
		r.Role, r.Fingerprint = role, cluster
		return l.Open(t.Context(), s, r, 0)
	}
	for i := range 2 * MaxUnsettled {
		if err := open(i, testRole, testCluster); err != nil {
			t.Fatalf("token %d, while the others are being issued: %v", i, err)
		}
	}
	for i := range MaxUnsettled {
		l.Close(testAccessor(i)) // the outcome is unknown
	}
	const next = 2 * MaxUnsettled
	if err := open(next+1, "other", testCluster); err != nil {
		t.Errorf("another role: %v", err)
	}
	if err := open(next+2, testRole, "dedicated/account/other"); err != nil {
		t.Errorf("another cluster: %v", err)
	}
	if err := open(next, testRole, testCluster); !errors.Is(err, ErrUnsettled) {
		t.Errorf("beyond the limit, while others are being issued: %v", err)
	}
	_, err := l.Change(t.Context(), s, testRole, testAccessor(0), func(r *Record) error {
		r.State = Active
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := open(next, testRole, testCluster); err != nil {
		t.Errorf("after one outcome is known: %v", err)
	}
}

// Records that were looked for and not found have a limit of their own.
func TestOpen_Absent(t *testing.T) {
	var records []Record
	for i := range MaxAbsent - 1 {
		r := newRecord(i, Issuing)
		r.Absences = 1
		records = append(records, r)
	}
	l, s := newLoaded(t, records...)
	if err := l.Open(t.Context(), s, newRecord(MaxAbsent, Issuing), 1); err != nil {
		t.Fatalf("below the limit; records of absent tokens do not count in max_active: %v", err)
	}
	l.Close(testAccessor(MaxAbsent))
	if err := l.Open(t.Context(), s, newRecord(MaxAbsent+1, Issuing), 0); !errors.Is(err, ErrUnsettled) {
		t.Errorf("at the limit: %v", err)
	}
}

// Beside records of a newer version nothing is issued: the limits could not be
// kept.
func TestOpen_RefusedBesideNewerRecords(t *testing.T) {
	l, s := newLoaded(t, newRecord(1, Active))
	s.rewrite(t, newRecord(1, Active), `"version":1`, `"version":2`)
	l.Invalidate()
	if err := l.Load(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := l.Open(t.Context(), s, newRecord(2, Issuing), 0); !errors.Is(err, ErrNewer) {
		t.Errorf("error %v", err)
	}
}

// rewrite changes the stored JSON of a record.
func (s *testStorage) rewrite(t testing.TB, r Record, from, to string) {
	t.Helper()
	entry, err := s.InmemStorage.Get(t.Context(), r.key())
	if err != nil || entry == nil {
		t.Fatalf("read %s: %v", r.key(), err)
	}
	changed := strings.Replace(string(entry.Value), from, to, 1)
	if changed == string(entry.Value) {
		t.Fatalf("%s has no %s", r.key(), from)
	}
	if err := s.InmemStorage.Put(t.Context(), &logical.StorageEntry{Key: r.key(), Value: []byte(changed)}); err != nil {
		t.Fatal(err)
	}
}

// Change stores what edit returns, and stores nothing if edit refuses.
func TestChange_StoresOrRefuses(t *testing.T) {
	r := newRecord(1, Active)
	l, s := newLoaded(t, r)
	refused := errors.New("refused")
	got, err := l.Change(t.Context(), s, r.Role, r.Accessor, func(r *Record) error {
		r.State = Revoking
		return refused
	})
	if !errors.Is(err, refused) || got.State != Active {
		t.Errorf("refused: state %s, %v", got.State, err)
	}
	s.mustStore(t, r)
	l.mustIndex(t, r)
	changed, err := l.Change(t.Context(), s, r.Role, r.Accessor, revoking)
	if err != nil || changed.State != Revoking {
		t.Errorf("changed: state %s, %v", changed.State, err)
	}
	s.mustStore(t, changed)
	l.mustIndex(t, changed)
}

func revoking(r *Record) error {
	r.State = Revoking
	return nil
}

// If edit refuses because the index was wrong, the index is repaired.
func TestChange_RefusalRepairsTheIndex(t *testing.T) {
	r := newRecord(1, Active)
	l, s := newLoaded(t, r)
	renewed := r
	renewed.Deadline = r.Deadline.Add(time.Hour)
	s.keep(t, renewed) // by another process
	notDue := errors.New("not due")
	if _, err := l.Change(t.Context(), s, r.Role, r.Accessor, func(*Record) error { return notDue }); !errors.Is(err, notDue) {
		t.Fatal(err)
	}
	if len(l.Due(r.Deadline)) != 0 || len(l.Due(renewed.Deadline)) != 1 {
		t.Errorf("due %v", l.Due(r.Deadline))
	}
}

// A change that fails leaves an index that agrees with the storage, or that Get
// repairs.
func TestChange_FailedWrite(t *testing.T) {
	for _, how := range []failure{notDone, doneOnly} {
		r := newRecord(1, Active)
		l, s := newLoaded(t, r)
		s.failAll(logical.UpdateOperation, how)
		if _, err := l.Change(t.Context(), s, r.Role, r.Accessor, revoking); !errors.Is(err, errStorage) {
			t.Fatalf("error %v", err)
		}
		s.setFail(nil)
		want := r
		if how == doneOnly {
			want.State = Revoking
		}
		s.mustStore(t, want)
		if got, err := l.Get(t.Context(), s, r.Role, r.Accessor); err != nil || got.State != want.State {
			t.Errorf("state %s, want %s, %v", got.State, want.State, err)
		}
		l.mustIndex(t, want)
	}
}

// A record whose write failed may have been stored. It is due at its deadline, and a
// read then shows whether it exists.
func TestPut_FailedWriteIsLookedAt(t *testing.T) {
	for how, exists := range map[failure]bool{notDone: false, doneOnly: true} {
		l, s := newLoaded(t)
		s.failAll(logical.UpdateOperation, how)
		r := newRecord(1, Revoking)
		if err := l.Put(t.Context(), s, r); !errors.Is(err, errStorage) {
			t.Fatalf("error %v", err)
		}
		s.setFail(nil)
		if n := len(l.Due(r.Deadline)); n != 1 {
			t.Errorf("%d records are due", n)
		}
		if _, err := l.Get(t.Context(), s, r.Role, r.Accessor); (err == nil) != exists || l.has(r.Accessor) != exists {
			t.Errorf("exists %v: error %v, in the index %v", exists, err, l.has(r.Accessor))
		}
	}
}

// If the write of an earlier deadline failed, the record is read at that deadline.
func TestChange_FailedWriteOfAnEarlierDeadline(t *testing.T) {
	r := newRecord(100, Active)
	l, s := newLoaded(t, r)
	s.failAll(logical.UpdateOperation, doneOnly)
	earlier := start.Add(time.Second)
	_, err := l.Change(t.Context(), s, r.Role, r.Accessor, func(r *Record) error { r.Deadline = earlier; return nil })
	if !errors.Is(err, errStorage) {
		t.Fatalf("error %v", err)
	}
	if n := len(l.Due(earlier)); n != 1 {
		t.Errorf("%d records are due", n)
	}
}

// A read that fails changes nothing: the record may exist.
func TestChange_FailedRead(t *testing.T) {
	r := newRecord(1, Active)
	l, s := newLoaded(t, r)
	s.failAll(logical.ReadOperation, notDone)
	edit := func(*Record) error { t.Error("edit was called"); return nil }
	if _, err := l.Change(t.Context(), s, r.Role, r.Accessor, edit); !errors.Is(err, errStorage) {
		t.Errorf("error %v", err)
	}
	l.mustIndex(t, r)
}

// A record that is gone leaves the index, unless this process is issuing its
// token and has not stored the record yet.
func TestChange_NotFound(t *testing.T) {
	gone, inFlight := newRecord(1, Active), newRecord(2, Issuing)
	l, s := newLoaded(t, gone)
	if err := l.Open(t.Context(), s, inFlight, 0); err != nil {
		t.Fatal(err)
	}
	s.forget(t, gone)
	s.forget(t, inFlight)
	for _, r := range []Record{gone, inFlight} {
		if _, err := l.Change(t.Context(), s, r.Role, r.Accessor, revoking); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", r.Accessor, err)
		}
	}
	l.mustIndex(t, inFlight)
}

// Concurrent changes of one record do not lose each other.
func TestChange_ConcurrentChangesAreSerial(t *testing.T) {
	r := newRecord(1, Active)
	l, s := newLoaded(t, r)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			_, err := l.Change(t.Context(), s, r.Role, r.Accessor, func(r *Record) error {
				r.Attempts++
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got, err := l.Get(t.Context(), s, r.Role, r.Accessor); err != nil || got.Attempts != 50 {
		t.Errorf("%d of 50 changes, %v", got.Attempts, err)
	}
}

// Get makes the index agree with what another process has stored.
func TestGet_RepairsTheIndex(t *testing.T) {
	known := newRecord(1, Active)
	changed := known
	changed.State = Revoking
	other := newRecord(2, Active)
	for name, c := range map[string]struct {
		store func(s *testStorage)
		read  Record
		want  []Record
	}{
		"nothing has changed":                {func(*testStorage) {}, known, []Record{known}},
		"the state has changed":              {func(s *testStorage) { s.keep(t, changed) }, known, []Record{changed}},
		"the record is gone":                 {func(s *testStorage) { s.forget(t, known) }, known, nil},
		"the record is missing in the index": {func(s *testStorage) { s.keep(t, other) }, other, []Record{known, other}},
	} {
		t.Run(name, func(t *testing.T) {
			l, s := newLoaded(t, known)
			c.store(s)
			_, err := l.Get(t.Context(), s, c.read.Role, c.read.Accessor)
			if gone := name == "the record is gone"; errors.Is(err, ErrNotFound) != gone || !gone && err != nil {
				t.Errorf("error %v", err)
			}
			l.mustIndex(t, c.want...)
		})
	}
}

// Get does not remove the entry of a token that is being issued, whose record is
// not stored yet, nor one whose record cannot be read.
func TestGet_KeepsWhatItMustNotForget(t *testing.T) {
	readable, inFlight := newRecord(1, Active), newRecord(2, Issuing)
	l, s := newLoaded(t, readable)
	s.setFail(func(op logical.Operation, _ string) failure {
		if op == logical.UpdateOperation {
			if _, err := l.Get(t.Context(), s, inFlight.Role, inFlight.Accessor); !errors.Is(err, ErrNotFound) {
				t.Errorf("before the record is stored: %v", err)
			}
		}
		return works
	})
	if err := l.Open(t.Context(), s, inFlight, 0); err != nil {
		t.Fatal(err)
	}
	l.mustIndex(t, readable, inFlight)
	s.failAll(logical.ReadOperation, notDone)
	if _, err := l.Get(t.Context(), s, readable.Role, readable.Accessor); !errors.Is(err, errStorage) {
		t.Errorf("error %v", err)
	}
	l.mustIndex(t, readable, inFlight)
}

// A record leaves the index only when it is known to be deleted. A delete that
// may have been done is repeated later, because the record stays due.
func TestDrop_FailedDelete(t *testing.T) {
	drops := map[string]func(l *Ledger, s *testStorage, r Record) error{
		"Drop": func(l *Ledger, s *testStorage, r Record) error { return l.Drop(t.Context(), s, r.Role, r.Accessor) },
		"DropIf": func(l *Ledger, s *testStorage, r Record) error {
			return l.DropIf(t.Context(), s, r.Role, r.Accessor, func(Record) error { return nil })
		},
	}
	for name, drop := range drops {
		for _, how := range []failure{notDone, doneOnly} {
			t.Run(name, func(t *testing.T) {
				r := newRecord(1, Revoking)
				l, s := newLoaded(t, r)
				s.failAll(logical.DeleteOperation, how)
				if err := drop(l, s, r); !errors.Is(err, errStorage) {
					t.Fatalf("error %v", err)
				}
				l.mustIndex(t, r)
				s.setFail(nil)
				for range 2 { // it is not an error if there is no record
					if err := drop(l, s, r); err != nil {
						t.Fatal(err)
					}
					s.mustStore(t)
					l.mustIndex(t)
				}
			})
		}
	}
}

func TestDropIf_ChecksTheStoredRecord(t *testing.T) {
	r := newRecord(1, Active)
	l, s := newLoaded(t, r)
	refused := errors.New("refused")
	err := l.DropIf(t.Context(), s, r.Role, r.Accessor, func(stored Record) error {
		if stored.TokenID != r.TokenID {
			t.Errorf("checked %+v", stored)
		}
		return refused
	})
	if !errors.Is(err, refused) {
		t.Errorf("error %v", err)
	}
	s.mustStore(t, r)
	l.mustIndex(t, r)
	s.failAll(logical.ReadOperation, notDone)
	if err := l.DropIf(t.Context(), s, r.Role, r.Accessor, func(Record) error { return nil }); !errors.Is(err, errStorage) {
		t.Errorf("a record that cannot be read: %v", err)
	}
	l.mustIndex(t, r)
}

// Postpone changes no record: after a restart the record is due again.
func TestPostpone_ChangesTheIndexOnly(t *testing.T) {
	r := newRecord(1, Issuing)
	l, s := newLoaded(t, r)
	until := r.Deadline.Add(time.Hour)
	l.Postpone(r.Accessor, until)
	l.Postpone("unknown", until)
	if len(l.Due(until.Add(-time.Second))) != 0 || len(l.Due(until)) != 1 {
		t.Errorf("due at %v", l.Due(until))
	}
	s.mustStore(t, r)
	if n := s.operations(logical.UpdateOperation); n != 0 {
		t.Errorf("%d writes", n)
	}
	after, _ := newLoaded(t, r)
	if len(after.Due(r.Deadline)) != 1 {
		t.Error("not due after a restart")
	}
}

// After Invalidate, Load reads what another node has stored.
func TestInvalidate_LoadsAgain(t *testing.T) {
	old, other := newRecord(1, Active), newRecord(2, Active)
	l, s := newLoaded(t, old)
	s.forget(t, old)
	s.keep(t, other)
	l.Invalidate()
	if l.Loaded() {
		t.Error("still loaded")
	}
	if err := l.Load(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	l.mustIndex(t, other)
}

// The same, while this process is issuing a token: that token stays in the index,
// and what another node has stored is read.
func TestInvalidate_WhileATokenIsIssued(t *testing.T) {
	l, s := newLoaded(t)
	inFlight, other := newRecord(1, Issuing), newRecord(2, Active)
	if err := l.Open(t.Context(), s, inFlight, 0); err != nil {
		t.Fatal(err)
	}
	s.keep(t, other)
	l.Invalidate()
	if !l.has(inFlight.Accessor) || !l.InFlight(inFlight.Accessor) {
		t.Error("the token that is being issued left the index")
	}
	if err := l.Load(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	l.mustIndex(t, inFlight, other)
}

// Find works before the index is loaded, and finds nothing that is not stored.
func TestFind_BeforeAndAfterLoad(t *testing.T) {
	r := newRecord(1, Active)
	r.Role = "zeta"
	s := &testStorage{}
	s.keep(t, newRecord(2, Active), r)
	l := New()
	for _, load := range []bool{false, true} {
		if load {
			if err := l.Load(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := l.Find(t.Context(), s, r.Accessor); err != nil || got.Role != r.Role {
			t.Errorf("loaded %v: %+v, %v", load, got, err)
		}
		if _, err := l.Find(t.Context(), s, testAccessor(9)); !errors.Is(err, ErrNotFound) {
			t.Errorf("loaded %v: %v", load, err)
		}
	}
	s.failAll(logical.ListOperation, notDone)
	if _, err := New().Find(t.Context(), s, r.Accessor); !errors.Is(err, errStorage) {
		t.Errorf("error %v", err)
	}
}

// A record that cannot be read is not one that does not exist: its token may be
// accepted by the cluster.
func TestFind_RecordThatCannotBeRead(t *testing.T) {
	r := newRecord(1, Active)
	s := &testStorage{}
	s.keep(t, r)
	s.rewrite(t, r, `"version":1`, `"version":2`)
	l := New()
	for _, load := range []bool{false, true} {
		if load {
			if err := l.Load(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := l.Find(t.Context(), s, r.Accessor); !errors.Is(err, ErrNewer) {
			t.Errorf("loaded %v: %v", load, err)
		}
	}
}

// has reports whether the index has a record.
func (l *Ledger) has(accessor string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.index.byAccessor[accessor] != nil
}
