package ledger

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

func accessorsOf(entries []Entry) []string {
	accessors := []string{}
	for _, e := range entries {
		accessors = append(accessors, e.Accessor)
	}
	slices.Sort(accessors)
	return accessors
}

// An indexModel is the plainest index: a map that is searched.
type indexModel map[string]Record

func (m indexModel) due(now time.Time) []string {
	accessors := []string{}
	for _, r := range m {
		if !r.Deadline.After(now) {
			accessors = append(accessors, r.Accessor)
		}
	}
	slices.Sort(accessors)
	return accessors
}

func (m indexModel) tally(g group) (counted, unsettled, absent int) {
	for _, r := range m {
		switch {
		case r.Role != g.role || r.Fingerprint != g.fingerprint:
			continue
		case r.State == Issuing && r.Absences > 0:
			absent++
			continue
		case r.State == Issuing:
			unsettled++
		}
		counted++
	}
	return counted, unsettled, absent
}

func (m indexModel) next() time.Time {
	first := time.Time{}
	for _, r := range m {
		if first.IsZero() || r.Deadline.Before(first) {
			first = r.Deadline
		}
	}
	return first
}

// Random changes of an index and of the model have the same result.
func TestIndex_AgreesWithAModel(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same numbers in every run
	x, model := newIndex(), indexModel{}
	roles, clusters := []string{"a", "b"}, []string{"c1", "c2"}
	for step := range 5_000 {
		accessor := testAccessor(random.IntN(60))
		deadline := start.Add(time.Duration(random.IntN(100)) * time.Second)
		switch random.IntN(4) {
		case 0:
			x.remove(accessor)
			delete(model, accessor)
		case 1:
			x.postpone(accessor, deadline)
			if r, ok := model[accessor]; ok {
				r.Deadline = deadline
				model[accessor] = r
			}
		default:
			r := Record{
				TokenType: "management", Role: roles[random.IntN(2)], Fingerprint: clusters[random.IntN(2)], Accessor: accessor,
				State: States[random.IntN(len(States))], Absences: random.IntN(2), Deadline: deadline,
			}
			x.set(r)
			model[accessor] = r
		}
		mustAgree(t, x, model, start.Add(time.Duration(random.IntN(100))*time.Second))
		if t.Failed() {
			t.Fatalf("at step %d", step)
		}
	}
}

func mustAgree(t *testing.T, x *index, model indexModel, now time.Time) {
	t.Helper()
	if diff := gocmp.Diff(model.due(now), accessorsOf(x.due(now))); diff != "" {
		t.Errorf("due (-model +index):\n%s", diff)
	}
	if len(x.all()) != len(model) || len(x.byAccessor) != len(model) {
		t.Errorf("the index holds %d entries, the model %d", len(x.all()), len(model))
	}
	if first := x.next(); (first == nil) != (len(model) == 0) || first != nil && !first.Deadline.Equal(model.next()) {
		t.Errorf("the next entry is %+v, the next deadline %s", first, model.next())
	}
	for _, role := range []string{"a", "b"} {
		for _, cluster := range []string{"c1", "c2"} {
			g := group{role, cluster}
			counted, unsettled, absent := x.tally(g)
			c, u, a := model.tally(g)
			if counted != c || unsettled != u || absent != a {
				t.Errorf("%v: the index counts %d, %d, %d; the model %d, %d, %d", g, counted, unsettled, absent, c, u, a)
			}
		}
	}
}

// An index of no records holds no counts, so that Holds and Summary know it.
func TestIndex_ForgetsGroupsWithoutRecords(t *testing.T) {
	x := newIndex()
	r := newRecord(1, Active)
	x.set(r)
	x.remove(r.Accessor)
	if len(x.counts) != 0 {
		t.Errorf("counts %v", x.counts)
	}
}

// due returns all records that are due, in no particular order.
func TestIndex_DueIsComplete(t *testing.T) {
	x, nth := filled(1000)
	due := x.due(nth(299).Deadline)
	if len(due) != 300 {
		t.Fatalf("%d records are due, want 300", len(due))
	}
	slices.SortFunc(due, func(a, b Entry) int { return cmp.Compare(a.Accessor, b.Accessor) })
	for i, e := range due {
		if e.Accessor != testAccessor(i) {
			t.Fatalf("record %d is %s", i, e.Accessor)
		}
	}
}

// filled returns an index of n records whose deadlines follow each other, and the
// function that returns the ith.
func filled(n int) (*index, func(i int) Record) {
	x := newIndex()
	nth := func(i int) Record { return newRecord(i, Active) }
	for i := range n {
		x.set(nth(i))
	}
	return x, nth
}

// BenchmarkIndex measures an index of 100,000 records.
func BenchmarkIndex(b *testing.B) {
	const n = 100_000
	x, nth := filled(n)
	b.Run("issue and revoke", func(b *testing.B) {
		b.ReportAllocs()
		r := nth(n)
		for b.Loop() {
			r.State, r.Deadline = Issuing, nth(n/2).Deadline
			x.set(r)
			r.State, r.Deadline = Active, nth(n).Deadline
			x.set(r)
			x.remove(r.Accessor)
		}
	})
	for _, due := range []int{0, 1000} {
		b.Run(fmt.Sprintf("due/%d", due), func(b *testing.B) {
			b.ReportAllocs()
			now := nth(due - 1).Deadline
			for b.Loop() {
				if got := len(x.due(now)); got != due {
					b.Fatalf("%d records are due, want %d", got, due)
				}
			}
		})
	}
}
