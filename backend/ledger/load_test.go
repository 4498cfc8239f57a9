package ledger

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// A Load that fails at any step says so, claims nothing about the number of
// records, and succeeds when it is repeated.
func TestLoad_FailsAtAnyStep(t *testing.T) {
	a, b, c := newRecord(1, Active), newRecord(2, Issuing), newRecord(3, Revoking)
	b.Role = "other"
	for n, more := 1, true; more; n++ {
		s := &testStorage{}
		s.keep(t, a, b, c)
		step := 0
		s.setFail(func(logical.Operation, string) failure {
			s.mu.Lock()
			defer s.mu.Unlock()
			if step++; step == n {
				return notDone
			}
			return works
		})
		l := New()
		err := l.Load(t.Context(), s)
		if more = step >= n; !more {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		if !errors.Is(err, errStorage) {
			t.Fatalf("step %d: error %v", n, err)
		}
		if summary, known := l.Summary(); l.Loaded() || known || summary.Counts != nil {
			t.Errorf("step %d: loaded %v, summary %v", n, l.Loaded(), summary)
		}
		s.setFail(nil)
		if err := l.Load(t.Context(), s); err != nil {
			t.Errorf("step %d, repeated: %v", n, err)
		}
		l.mustIndex(t, a, b, c)
	}
}

// A ledger that is loaded reads nothing again.
func TestLoad_ReadsEachRecordOnce(t *testing.T) {
	s := &testStorage{}
	s.keep(t, newRecord(1, Active), newRecord(2, Active))
	l := New()
	for range 3 {
		if err := l.LoadRole(t.Context(), s, testRole); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if err := l.Load(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.LoadRole(t.Context(), s, testRole); err != nil {
		t.Fatal(err)
	}
	if reads, lists := s.operations(logical.ReadOperation), s.operations(logical.ListOperation); reads != 2 || lists != 2 {
		t.Errorf("%d reads, %d lists; want 2 and 2", reads, lists)
	}
}

// Records that cannot be read stop neither the others nor the process. They are
// counted, never changed, and may belong to any cluster.
func TestLoad_SkipsRecordsThatCannotBeRead(t *testing.T) {
	for name, c := range map[string]struct{ from, to string }{
		"newer":   {`"version":1`, `"version":2`},
		"damaged": {`{`, `[`},
	} {
		t.Run(name, func(t *testing.T) {
			good, bad := newRecord(1, Active), newRecord(2, Active)
			s := &testStorage{}
			s.keep(t, good, bad)
			s.rewrite(t, bad, c.from, c.to)
			l := New()
			if err := l.Load(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			l.mustIndex(t, good)
			summary, known := l.Summary()
			if newer := name == "newer"; !known || (summary.Newer != nil) != newer || (summary.Damaged == 1) == newer {
				t.Errorf("summary %+v, known %v", summary, known)
			}
			if !l.HasUnreadable() || !l.Holds("dedicated/account/unknown") {
				t.Error("a record that cannot be read belongs to no cluster")
			}
			unreadable := func(err error) bool { return errors.Is(err, ErrNewer) || errors.Is(err, ErrDamaged) }
			if _, err := l.Get(t.Context(), s, bad.Role, bad.Accessor); !unreadable(err) {
				t.Errorf("Get: %v", err)
			}
			if _, err := l.Change(t.Context(), s, bad.Role, bad.Accessor, revoking); !unreadable(err) {
				t.Errorf("Change: %v", err)
			}
			if n := s.operations(logical.UpdateOperation) + s.operations(logical.DeleteOperation); n != 0 {
				t.Errorf("%d writes", n)
			}
		})
	}
}

// A damaged record is counted once, also if it is read again because another read
// failed.
func TestLoad_CountsADamagedRecordOnce(t *testing.T) {
	bad := newRecord(1, Active)
	s := &testStorage{}
	s.keep(t, bad)
	s.rewrite(t, bad, `{`, `[`)
	l := New()
	if err := l.loadRecord(t.Context(), s, bad.Role, bad.Accessor); err != nil { // as in a Load that failed
		t.Fatal(err)
	}
	if err := l.Load(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if summary, _ := l.Summary(); summary.Damaged != 1 {
		t.Errorf("%d damaged records, want 1", summary.Damaged)
	}
}

// A revocation that has failed before is tried again at once after a start: the
// plugin may have been started to mend it.
func TestLoad_FailedRevocationIsDueAtOnce(t *testing.T) {
	r := newRecord(1, Revoking)
	r.Attempts, r.FailedAt, r.Deadline = 3, start, start.Add(time.Hour)
	l, _ := newLoaded(t, r)
	if len(l.Due(start)) != 1 {
		t.Error("not due")
	}
}

// A revocation whose time has not come is not due earlier because of a start: the
// previous root credential is valid until rotation_overlap is over.
func TestLoad_RevocationThatWasNotTriedYetKeepsItsDeadline(t *testing.T) {
	r := newRecord(1, Revoking)
	r.Deadline = start.Add(10 * time.Minute)
	l, _ := newLoaded(t, r)
	if len(l.Due(start)) != 0 || len(l.Due(r.Deadline)) != 1 {
		t.Errorf("due at the start: %d; at its deadline: %d", len(l.Due(start)), len(l.Due(r.Deadline)))
	}
}

// A record that is deleted or stored while the index is loaded is in the index as
// it is stored in the end.
func TestLoad_RecordsThatChangeMeanwhile(t *testing.T) {
	gone, stays, fresh := newRecord(1, Active), newRecord(2, Active), newRecord(3, Active)
	s := &testStorage{}
	s.keep(t, gone, stays)
	l := New()
	listed := false
	s.setFail(func(op logical.Operation, key string) failure {
		s.mu.Lock()
		now := op == logical.ReadOperation && !listed
		listed = listed || now
		s.mu.Unlock()
		if now {
			s.forget(t, gone)
			if err := l.Put(t.Context(), s, fresh); err != nil {
				t.Error(err)
			}
		}
		return works
	})
	if err := l.Load(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	for _, e := range l.All() { // whichever was read first
		if _, err := l.Get(t.Context(), s, e.Role, e.Accessor); err != nil && !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	}
	l.mustIndex(t, stays, fresh)
}

// An index that is invalidated while it is loaded is not complete afterwards.
func TestLoad_InvalidatedMeanwhile(t *testing.T) {
	first, second := newRecord(1, Active), newRecord(2, Active)
	first.Role, second.Role = "a", "b"
	for _, step := range []string{Prefix + "b/", second.key()} {
		s := &testStorage{}
		s.keep(t, first, second)
		l, invalidated := New(), false
		s.setFail(func(_ logical.Operation, key string) failure {
			if key == step && !invalidated {
				invalidated = true
				l.Invalidate()
			}
			return works
		})
		if err := l.Load(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if err := l.Load(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		l.mustIndex(t, first, second)
	}
}

// TryLoad does not wait for another one.
func TestTryLoad_DoesNotWait(t *testing.T) {
	s := &testStorage{}
	s.keep(t, newRecord(1, Active))
	l := New()
	entered, release := make(chan struct{}), make(chan struct{})
	s.setFail(func(op logical.Operation, _ string) failure {
		if op == logical.ReadOperation {
			close(entered)
			<-release
		}
		return works
	})
	done := make(chan error)
	go func() { done <- l.TryLoad(t.Context(), s) }()
	<-entered
	if err := l.TryLoad(t.Context(), s); err != nil || l.Loaded() {
		t.Errorf("loaded %v, %v", l.Loaded(), err)
	}
	close(release)
	if err := <-done; err != nil || !l.Loaded() {
		t.Errorf("loaded %v, %v", l.Loaded(), err)
	}
}

// Summary counts by kind, role, cluster and state.
func TestSummary_CountsAndNextDeadline(t *testing.T) {
	absent, other := newRecord(3, Issuing), newRecord(4, Active)
	absent.Absences, other.Fingerprint = 2, "dedicated/account/other"
	l, _ := newLoaded(t, newRecord(1, Active), newRecord(2, Active), absent, newRecord(5, Issuing), other)
	summary, known := l.Summary()
	counts := map[string]int{}
	for _, c := range summary.Counts {
		counts[string(c.State)+" "+c.Fingerprint] += c.N
	}
	want := map[string]int{"active " + testCluster: 2, "issuing " + testCluster: 2, "active dedicated/account/other": 1}
	if fmt.Sprint(counts) != fmt.Sprint(want) || !known || !summary.NextDeadline.Equal(newRecord(1, Active).Deadline) {
		t.Errorf("counts %v, next deadline %s, known %v", counts, summary.NextDeadline, known)
	}
	if !l.Holds(testCluster) || !l.Holds("dedicated/account/other") || l.Holds("dedicated/account/unknown") {
		t.Error("Holds is wrong")
	}
}

// loadMany loads the records of a storage, and returns the memory that the ledger
// takes.
func loadMany(t testing.TB, s *testStorage) (*Ledger, uint64) {
	t.Helper()
	l, before := New(), heapInUse()
	if err := l.Load(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	after := heapInUse()
	return l, after - min(before, after)
}

// storageOf returns a storage of n records.
func storageOf(t testing.TB, n int) *testStorage {
	t.Helper()
	s := &testStorage{}
	for i := range n {
		r := newRecord(i, Active)
		r.TokenID = "0b0e5c7e-7a0b-4a53-9d0e-" + r.Accessor[14:26]
		s.keep(t, r)
	}
	return s
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// The index takes at most 600 bytes for a record: 60 MB for 100,000, which
// BenchmarkLoad measures.
func TestLoad_RecordsTakeLittleMemory(t *testing.T) {
	const n, most = 20_000, 600
	s := storageOf(t, n)
	l, bytes := loadMany(t, s)
	if got := len(l.All()); got != n {
		t.Errorf("%d records, want %d", got, n)
	}
	if bytes > n*most {
		t.Errorf("the index takes %d bytes for a record", bytes/n)
	}
	runtime.KeepAlive(s)
	runtime.KeepAlive(l)
}

// BenchmarkLoad loads ledgers of growing size and reports the memory they take.
func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := storageOf(b, n)
			var bytes uint64
			for b.Loop() {
				_, bytes = loadMany(b, s)
			}
			b.ReportMetric(float64(bytes)/(1<<20), "MB")
			b.ReportMetric(float64(bytes)/float64(n), "B/record")
		})
	}
}

// The index is discarded while the records of a role are loaded. A limit is exact all
// the same.
func TestOpen_LimitIsExactDuringAnInvalidation(t *testing.T) {
	s, l := &testStorage{}, New()
	const n = 2 * loadAtOnce // the last reads begin when the first records are in the index
	for i := range n {
		s.keep(t, newRecord(i, Active))
	}
	var invalidations atomic.Int32
	s.setFail(func(op logical.Operation, _ string) failure {
		if op == logical.ReadOperation && len(l.All()) > 0 && invalidations.Add(-1) >= 0 {
			l.Invalidate()
		}
		return works
	})
	invalidations.Store(1)
	if err := l.Open(t.Context(), s, newRecord(n, Issuing), n); !errors.Is(err, ErrMaxActive) {
		t.Errorf("one token more than max_active: %v", err)
	}
	invalidations.Store(1000)
	l.Invalidate()
	if err := l.Open(t.Context(), s, newRecord(n, Issuing), n); !errors.Is(err, errInvalidated) {
		t.Errorf("while the index is discarded again and again: %v", err)
	}
}
