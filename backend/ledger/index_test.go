package ledger

import (
	"fmt"
	"testing"
	"time"
)

const testRole = "automation"

func testAccessor(i int) string { return fmt.Sprintf("ABCDEFGHIJKLMNOPQR%08d", i) }

// filled returns an index of n records whose deadlines follow each other.
func filled(n int) (*index, func(i int) Record) {
	x, start := newIndex(), time.Unix(1_800_000_000, 0)
	nth := func(i int) Record {
		return Record{TokenType: "management", Role: testRole, Accessor: testAccessor(i), State: Active, TokenID: "id", Deadline: start.Add(time.Duration(i) * time.Second)}
	}
	for i := range n {
		x.set(nth(i))
	}
	return x, nth
}

// BenchmarkIndex measures an index of 100,000 records.
func BenchmarkIndex(b *testing.B) {
	const n = 100_000
	x, nth := filled(n)
	b.Run("a life", func(b *testing.B) {
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
		b.Run("due of "+map[int]string{0: "none", 1000: "a thousand"}[due], func(b *testing.B) {
			b.ReportAllocs()
			now := nth(due - 1).Deadline
			for b.Loop() {
				if got := len(x.due(now)); got != due {
					b.Fatalf("%d are due, not %d", got, due)
				}
			}
		})
	}
}
