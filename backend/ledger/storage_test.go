package ledger

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	testRole    = "automation"
	testCluster = "dedicated/account/cluster"
)

// start is the time at which the tests begin.
var start = time.Unix(1_800_000_000, 0).UTC()

func testAccessor(i int) string { return fmt.Sprintf("ABCDEFGHIJKLMNOPQR%08d", i) }

// newRecord returns the ith record of testRole on testCluster. Its deadline is i
// seconds after start.
func newRecord(i int, state State) Record {
	r := Record{
		Version: recordVersion, TokenType: "management", Role: testRole, Accessor: testAccessor(i), State: state,
		Description: "a token", Fingerprint: testCluster, IssuedAt: start, Deadline: start.Add(time.Duration(i) * time.Second),
	}
	if state != Issuing {
		r.TokenID = fmt.Sprint("id-", i)
	}
	return r
}

var errStorage = errors.New("the storage failed")

// A failure says whether an operation of the storage fails, and how.
type failure int

const (
	works    failure = iota
	notDone          // the operation has no effect and fails
	doneOnly         // the operation has its effect and is reported as failed
)

// A testStorage is a storage in memory that counts its operations. A test may
// make them fail.
type testStorage struct {
	logical.InmemStorage

	mu    sync.Mutex // guards the following
	count map[logical.Operation]int
	fail  func(op logical.Operation, key string) failure // nil: every operation works
}

// setFail makes fail decide how operations fail from now on.
func (s *testStorage) setFail(fail func(op logical.Operation, key string) failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

// failAll makes all operations of one kind fail in the same way.
func (s *testStorage) failAll(op logical.Operation, how failure) {
	s.setFail(func(operation logical.Operation, _ string) failure {
		if operation == op {
			return how
		}
		return works
	})
}

// operations returns how many operations of one kind there were.
func (s *testStorage) operations(op logical.Operation) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count[op]
}

func (s *testStorage) run(ctx context.Context, op logical.Operation, key string, do func() error) error {
	s.mu.Lock()
	if s.count == nil {
		s.count = map[logical.Operation]int{}
	}
	s.count[op]++
	fail := s.fail
	s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	how := works
	if fail != nil {
		how = fail(op, key)
	}
	if how == notDone {
		return errStorage
	}
	if err := do(); err != nil {
		return err
	}
	if how == doneOnly {
		return errStorage
	}
	return nil
}

func (s *testStorage) Get(ctx context.Context, key string) (entry *logical.StorageEntry, err error) {
	err = s.run(ctx, logical.ReadOperation, key, func() (err error) {
		entry, err = s.InmemStorage.Get(ctx, key)
		return err
	})
	return entry, err
}

func (s *testStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return s.run(ctx, logical.UpdateOperation, entry.Key, func() error { return s.InmemStorage.Put(ctx, entry) })
}

func (s *testStorage) Delete(ctx context.Context, key string) error {
	return s.run(ctx, logical.DeleteOperation, key, func() error { return s.InmemStorage.Delete(ctx, key) })
}

func (s *testStorage) List(ctx context.Context, prefix string) (keys []string, err error) {
	err = s.run(ctx, logical.ListOperation, prefix, func() (err error) {
		keys, err = s.InmemStorage.List(ctx, prefix)
		return err
	})
	return keys, err
}

// keep stores records, as another process would.
func (s *testStorage) keep(t testing.TB, records ...Record) {
	t.Helper()
	for _, r := range records {
		if err := write(t.Context(), &s.InmemStorage, r); err != nil {
			t.Fatal(err)
		}
	}
}

// forget deletes a record, as another process would.
func (s *testStorage) forget(t testing.TB, r Record) {
	t.Helper()
	if err := s.InmemStorage.Delete(t.Context(), r.key()); err != nil {
		t.Fatal(err)
	}
}

// mustStore checks that the storage holds these records and no others.
func (s *testStorage) mustStore(t testing.TB, want ...Record) {
	t.Helper()
	keys, err := logical.CollectKeysWithPrefix(t.Context(), &s.InmemStorage, Prefix)
	if err != nil {
		t.Fatal(err)
	}
	got, expected := map[string]Record{}, map[string]Record{}
	for _, key := range keys {
		entry, err := s.InmemStorage.Get(t.Context(), key)
		if err != nil || entry == nil {
			t.Fatalf("read %s: %v", key, err)
		}
		if got[key], err = recordFrom(entry); err != nil {
			t.Fatalf("read %s: %v", key, err)
		}
	}
	for _, r := range want {
		expected[r.key()] = r
	}
	if diff := cmp.Diff(expected, got); diff != "" {
		t.Errorf("stored records (-want +got):\n%s", diff)
	}
}

// mustIndex checks that the index holds these records, in these states, and no
// others.
func (l *Ledger) mustIndex(t testing.TB, want ...Record) {
	t.Helper()
	got, expected := map[string]State{}, map[string]State{}
	for _, e := range l.All() {
		got[e.Accessor] = e.State
	}
	for _, r := range want {
		expected[r.Accessor] = r.State
	}
	if diff := cmp.Diff(expected, got); diff != "" {
		t.Errorf("index (-want +got):\n%s", diff)
	}
}

// newLoaded returns a storage with these records and a ledger that has loaded
// them.
func newLoaded(t testing.TB, records ...Record) (*Ledger, *testStorage) {
	t.Helper()
	l, s := New(), &testStorage{}
	s.keep(t, records...)
	if err := l.Load(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return l, s
}
