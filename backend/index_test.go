package backend

import (
	"testing"
	"time"
)

// filled is an index of n records that are due one after the other.
func filled(n int) (*index, func(i int) record) {
	x, start := newIndex(), time.Unix(1_800_000_000, 0)
	nth := func(i int) record {
		return record{Kind: Management, Role: vastRole, Nonce: vastNonce(i), State: live, TokenID: "id", Due: start.Add(time.Duration(i) * time.Second)}
	}
	for i := range n {
		x.set(nth(i))
	}
	return x, nth
}

// BenchmarkIndex works on an index of a hundred thousand records.
func BenchmarkIndex(b *testing.B) {
	const n = 100_000
	x, nth := filled(n)
	b.Run("a life", func(b *testing.B) {
		b.ReportAllocs()
		r := nth(n)
		for b.Loop() {
			r.State, r.Due = pending, nth(n/2).Due
			x.set(r)
			r.State, r.Due = live, nth(n).Due
			x.set(r)
			x.remove(r.Nonce)
		}
	})
	for _, due := range []int{0, 1000} {
		b.Run("due of "+map[int]string{0: "none", 1000: "a thousand"}[due], func(b *testing.B) {
			b.ReportAllocs()
			now := nth(due - 1).Due
			for b.Loop() {
				if got := len(x.due(now)); got != due {
					b.Fatalf("%d are due, not %d", got, due)
				}
			}
		})
	}
}
