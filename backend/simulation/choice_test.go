//go:build !race

package simulation

import (
	"math/rand/v2"
	"slices"
	"time"
)

// A chooser makes the choices of a walk, and records them by step. The choices
// come from a seed, or from a record. Zero is always the most harmless choice, so
// that a record can be shortened: what it lacks is zero.
type chooser struct {
	random *rand.Rand // nil if the choices come from a record
	record [][]int    // what is left of the record
	steps  [][]int    // the choices that were made

	ending *rand.Rand // for the end of a walk, which is not recorded
}

func seeded(seed uint64) *chooser {
	return &chooser{random: rand.New(rand.NewPCG(seed, 0x51))} //nolint:gosec // repeatable on purpose
}

func recorded(steps [][]int) *chooser { return &chooser{record: steps} }

// begin begins a step. It reports false at the end of a record.
func (c *chooser) begin() bool {
	if c.random == nil && len(c.record) == len(c.steps) {
		return false
	}
	c.steps = append(c.steps, nil)
	return true
}

// end makes the further choices independent of the seed and of the record.
func (c *chooser) end() {
	c.ending = rand.New(rand.NewPCG(1, 2)) //nolint:gosec // repeatable on purpose
}

// n chooses a number from 0 to n-1.
func (c *chooser) n(n int) int {
	if n <= 1 {
		return 0
	}
	if c.ending != nil {
		return c.ending.IntN(n)
	}
	last := len(c.steps) - 1
	made, v := len(c.steps[last]), 0
	switch {
	case c.random != nil:
		v = c.random.IntN(n)
	case made < len(c.record[last]):
		v = c.record[last][made] % n
	}
	c.steps[last] = append(c.steps[last], v)
	return v
}

// oneIn chooses true once in n times. Zero means never.
func (c *chooser) oneIn(n int) bool { return n > 0 && c.n(n) == n-1 }

// between chooses a duration in whole seconds.
func (c *chooser) between(least, most time.Duration) time.Duration {
	return least + time.Duration(c.n(1+int((most-least)/time.Second)))*time.Second
}

// pick chooses one of the values.
func pick[T any](c *chooser, values ...T) T { return values[c.n(len(values))] }

// weighted chooses an index with a probability proportional to its weight.
func (c *chooser) weighted(weights []int) int {
	sum := 0
	for _, w := range weights {
		sum += w
	}
	at := c.n(sum)
	for i, w := range weights {
		if at -= w; at < 0 {
			return i
		}
	}
	return 0
}

// shorten returns a shorter record for which fails is still true. The first step,
// which sets the walk up, stays. It stops after the given time.
func shorten(steps [][]int, within time.Duration, fails func([][]int) bool) [][]int {
	end := time.Now().Add(within)
	steps = without(steps, end, fails)
	return without(zeroed(steps, end, fails), end, fails)
}

// without leaves out as many steps as possible.
func without(steps [][]int, end time.Time, fails func([][]int) bool) [][]int {
	for size := len(steps) / 2; size > 0; size /= 2 {
		for at := 1; at < len(steps); {
			if time.Now().After(end) {
				return steps
			}
			shorter := slices.Concat(steps[:at], steps[min(at+size, len(steps)):])
			if fails(shorter) {
				steps = shorter
			} else {
				at += size
			}
		}
	}
	return steps
}

// zeroed sets as many choices as possible to zero.
func zeroed(steps [][]int, end time.Time, fails func([][]int) bool) [][]int {
	for i := range steps {
		for j := len(steps[i]) - 1; j >= 0; j-- {
			if steps[i][j] == 0 || time.Now().After(end) {
				continue
			}
			attempt := slices.Clone(steps)
			attempt[i] = slices.Clone(steps[i])
			attempt[i][j] = 0
			if fails(attempt) {
				steps = attempt
			}
		}
	}
	return steps
}
