//go:build !race

package simulation

import (
	"bytes"
	"cmp"
	"context"
	"runtime"
	"slices"
	"strings"
	"time"
)

// A gate is an operation of the storage or a call to a cluster that waits for the
// walk.
type gate struct {
	from  *instance
	kind  string // what is asked for: get, put, delete, list, or a call to a cluster
	what  string // the key, the prefix or the tokens
	token string // of a call to a cluster: the type of the token
	host  string // of a call to a cluster
	after bool   // it had its effect, and its result waits
	ctx   context.Context

	arrived   int           // order of arrival
	arrivedAt time.Time     // on the clock of the bubble
	shift     time.Duration // of the world, at arrival
	notBefore time.Time     // of the world: the cluster is slow
	decided   verdict       // where notBefore is set
	open      chan verdict
}

// A verdict says what happens to an operation.
type verdict struct {
	before error // it fails and has no effect
	after  error // it fails although it has its effect
	late   time.Duration
	hold   bool // its result waits at another gate
}

func (g *gate) remote() bool { return g.token != "" }

func (g *gate) String() string {
	when := "before "
	if g.after {
		when = "after "
	}
	return g.from.name + " " + when + g.kind + " " + g.token + " " + g.what
}

// wait waits at a gate.
func (w *world) wait(g *gate) verdict {
	if g.from.ended {
		return verdict{before: errCrashed, after: errCrashed}
	}
	w.mu.Lock()
	g.open = make(chan verdict, 1)
	w.arrivals++
	g.arrived, g.arrivedAt, g.shift = w.arrivals, time.Now(), w.shift
	w.gates = append(w.gates, g)
	w.activity++
	w.mu.Unlock()
	w.wake()
	return <-g.open
}

// wake ends a sleep of the walk.
func (w *world) wake() {
	select {
	case w.awake <- struct{}{}:
	default:
	}
}

// quiet is how often all other goroutines get their turn without reaching a gate
// before the walk concludes that they all wait. There is one processor, so one turn
// is enough, unless a goroutine is interrupted in the middle of a calculation.
const quiet = 16

// settle returns when no goroutine of the engines can run: each waits at a gate,
// for a lock or for time to pass.
func (w *world) settle() {
	for turns, seen := 0, -1; turns < quiet; turns++ {
		w.mu.Lock()
		now := w.activity
		w.mu.Unlock()
		if now != seen {
			turns, seen = 0, now
		}
		runtime.Gosched()
	}
}

// waiting returns the gates that can be opened, in order of arrival. Those that
// arrived in the same turn are sorted: their order depends on the scheduler.
func (w *world) waiting() []*gate {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.timeLocked()
	var open []*gate
	for _, g := range w.gates {
		if !g.from.paused && !g.notBefore.After(now) {
			open = append(open, g)
		}
	}
	slices.SortFunc(open, func(x, y *gate) int { return cmp.Compare(x.arrived, y.arrived) })
	return open
}

// sortArrivals gives the gates that arrived since the last call an order that does
// not depend on the scheduler.
func (w *world) sortArrivals() {
	w.mu.Lock()
	defer w.mu.Unlock()
	fresh := w.gates[w.sorted:]
	slices.SortStableFunc(fresh, func(x, y *gate) int { return strings.Compare(x.String(), y.String()) })
	for _, g := range fresh {
		w.order++
		g.arrived = w.order
	}
	w.sorted = len(w.gates)
}

// let opens a gate.
func (w *world) let(g *gate, v verdict) {
	w.mu.Lock()
	w.gates = slices.DeleteFunc(w.gates, func(other *gate) bool { return other == g })
	w.sorted = len(w.gates)
	w.mu.Unlock()
	g.open <- v
	w.turn()
}

// turn lets the engines run until they wait again.
func (w *world) turn() {
	w.settle()
	w.sortArrivals()
	w.collect()
}

// blocked reports whether a goroutine waits for a lock. The clock of a bubble does
// not advance then.
func blocked() bool {
	buf := make([]byte, 1<<20)
	stacks := buf[:runtime.Stack(buf, true)]
	return bytes.Contains(stacks, []byte("[sync.Mutex.Lock")) || bytes.Contains(stacks, []byte("[sync.RWMutex"))
}
