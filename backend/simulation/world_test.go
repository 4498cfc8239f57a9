//go:build !race

package simulation

import (
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// A world is one walk: the engines, the models around them, and what the checks
// remember. The walk's goroutine owns all fields, except where something else is
// said.
type world struct {
	choice  *chooser
	profile profile
	product string

	store  *store
	home   *cluster // that the mount is configured for
	away   *cluster // another one
	active *instance
	others []*instance // that have lost the leadership and still run
	reader *instance   // on a standby; nil if there is none
	log    syncLog
	events *logical.MockEventSender

	instances int
	tainted   atomic.Bool
	mountMax  atomic.Int64

	leases   []*lease
	leaseIDs int
	batch    map[int]time.Time // the ends of batch tokens, by parent
	nextTick time.Time
	tasks    []*task
	late     []lateEffect
	faults   []*fault
	backups  []backup

	mu       sync.Mutex // guards the following
	gates    []*gate
	arrivals int
	sorted   int // gates whose order is fixed
	order    int
	activity int
	shift    time.Duration // time that has passed and the bubble's clock does not show
	skew     [2]time.Duration

	awake  chan struct{}
	steps  int
	acts   int
	opened int // gates
	lasted time.Duration
	hash   uint64 // of everything that has happened

	facts   facts
	dirty   bool // the checks must be applied
	failure *violation
	void    string // why nothing is promised any more
	tracing bool
	trace   []string
	reached map[string]int
}

// A profile is what is fixed for a walk.
type profile struct {
	weights       []int // of the acts
	acts          int   // how many
	faultsAtOnce  int
	interleave    int // one step in so many does something else while operations wait
	fail          int // one operation in so many fails
	hold          int // the result of one operation in so many waits
	registerFails int // one lease in so many cannot be registered
	reader        bool
}

// A lateEffect is a call to the cluster whose effect comes after its answer.
type lateEffect struct {
	at   time.Time
	name string
	do   func()
}

// A violation is a check that failed.
type violation struct {
	check, text string
	step        int
}

func (v *violation) String() string { return fmt.Sprintf("check %s: %s", v.check, v.text) }

func newWorld(choice *chooser, tracing bool) *world {
	w := &world{
		choice: choice, tracing: tracing, store: &store{data: map[string][]byte{}}, events: logical.NewMockEventSender(),
		batch: map[int]time.Time{}, awake: make(chan struct{}, 1), reached: map[string]int{},
	}
	w.facts = newFacts()
	w.mountMax.Store(int64(32 * 24 * time.Hour))
	choice.begin()
	w.product = pick(choice, issuer.Clustered, issuer.Enterprise, issuer.Core)
	w.profile = chooseProfile(choice)
	return w
}

func chooseProfile(c *chooser) profile {
	p := profile{
		acts:          60 + c.n(120),
		faultsAtOnce:  1 + c.n(3),
		interleave:    pick(c, 0, 100, 30, 10, 4),
		fail:          pick(c, 0, 0, 300, 100, 40),
		hold:          pick(c, 0, 100, 30, 10),
		registerFails: pick(c, 0, 20, 6),
		reader:        c.n(3) == 2,
	}
	for _, a := range acts {
		p.weights = append(p.weights, a.weight*pick(c, 1, 1, 3, 0))
	}
	return p
}

// timeLocked is the time of the world. The caller holds mu.
func (w *world) timeLocked() time.Time { return time.Now().Add(w.shift).Round(0) }

func (w *world) time() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.timeLocked()
}

func (w *world) tracef(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%d %s", w.hash, line) // a hash never fails
	w.hash = h.Sum64()
	if w.tracing {
		w.trace = append(w.trace, fmt.Sprintf("%4d %s %s", w.steps, w.clockText(w.time()), line))
	}
}

// clockText is the time since the walk began.
func (w *world) clockText(t time.Time) string {
	return t.Sub(w.facts.began).Round(time.Second).String()
}

// rareStates are the situations that walks should reach.
var rareStates = []string{
	"a caller who disconnects",
	"a clock that jumps",
	"a crash of a node",
	"a crash of the plugin",
	"a deferred revocation",
	"a forced revocation",
	"a former leader that continues",
	"a former leader that ends a lease",
	"a hostile config",
	"a lease that cannot be registered",
	"a look at a record that is not stored yet",
	"a leased token as the root credential",
	"a mount that is moved",
	"a move to another cluster",
	"a move while a credential is read",
	"a pause without a change of the leader",
	"a read of a static role",
	"a renewal",
	"a request that is sent again",
	"a request that max_active refuses",
	"a restore of Vault",
	"a restore of the cluster",
	"a revocation or a renewal on a standby",
	"a rotation",
	"a rotation that is cancelled",
	"a step-down",
	"a token that outlives its lease by request",
	"a token that was not found for a day",
	"a write that is reported as failed and was stored",
	"an act in the middle of another",
	"an answer that is lost",
	"an effect after the answer",
	"an irrevocable lease",
	"records of a newer version",
	"several faults at once",
	"time that passes while somebody waits for a lock",
}

func (w *world) reach(state string) { w.reached[state]++ }

func (w *world) violate(check, format string, args ...any) {
	if w.failure == nil && w.void == "" {
		w.failure = &violation{check, fmt.Sprintf(format, args...), w.steps}
		w.tracef("VIOLATED %v", w.failure)
	}
}

// later lets a call have its effect after some time.
func (w *world) later(after time.Duration, name string, do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.late = append(w.late, lateEffect{w.timeLocked().Add(after), name, do})
}

func (w *world) fireLate(now time.Time) {
	var rest []lateEffect
	due := w.late
	w.late = nil
	for _, e := range due {
		if e.at.After(now) {
			rest = append(rest, e)
			continue
		}
		w.tracef("%s", e.name)
		w.reach("an effect after the answer")
		e.do()
		w.dirty = true
	}
	w.late = append(w.late, rest...)
}

// step does one thing: it opens a gate or begins an act. It reports false at the
// end of the walk.
func (w *world) step() bool {
	if w.acts >= w.profile.acts || w.steps > 6000 || w.failure != nil || w.void != "" || !w.choice.begin() {
		return false
	}
	w.steps++
	open := w.waiting()
	if len(open) > 0 && !w.choice.oneIn(w.profile.interleave) {
		g := open[0]
		if len(open) > 1 && w.profile.interleave > 0 && w.choice.oneIn(5) {
			g = open[w.choice.n(len(open))]
		}
		w.open(g, true)
	} else {
		if len(open) > 0 {
			w.reach("an act in the middle of another")
		}
		w.acts++
		w.act()
	}
	w.check()
	return w.failure == nil
}

// open opens a gate. faults says whether the walk may add a fault of its own.
func (w *world) open(g *gate, faults bool) {
	v := w.decide(g, faults)
	if g.notBefore.After(w.time()) {
		w.tracef("%v is delayed", g)
		return // it waits for an answer that does not come
	}
	w.dirty = w.dirty || g.kind == "put" || g.kind == "delete" || g.remote()
	switch {
	case v.before != nil:
		w.tracef("%v fails: %v", g, v.before)
	case v.after != nil:
		w.tracef("%v fails afterwards: %v", g, v.after)
	case v.hold:
		w.tracef("%v, and its result waits", g)
	default:
		w.tracef("%v", g)
	}
	w.opened++
	w.let(g, v)
}

// drain opens all gates in order until everything waits for time to pass.
func (w *world) drain() {
	for w.failure == nil {
		open := w.waiting()
		if len(open) == 0 {
			return
		}
		w.open(open[0], false)
		w.check()
	}
}

// pass lets time pass. If calm is false, it stops as soon as something has begun,
// so that the walk can interfere.
func (w *world) pass(d time.Duration, calm bool) {
	end := w.time().Add(d)
	w.fire()
	for w.failure == nil {
		if calm {
			w.drain()
		}
		now := w.time()
		if !now.Before(end) {
			return
		}
		until := end
		if next := w.nextEvent(); next.Before(until) && next.After(now) {
			until = next
		}
		w.sleep(until.Sub(now))
		w.fire()
		w.check()
		if !calm && len(w.waiting()) > 0 {
			return
		}
	}
}

// sleep lets time pass until something arrives at a gate.
//
// The clock of a bubble stands still while a goroutine waits for a lock, and locks
// are held over operations of the storage. So while one of those waits, only the
// world's own clock advances, as for a process that is stopped.
func (w *world) sleep(d time.Duration) {
	w.settle()
	w.sortArrivals()
	w.mu.Lock()
	gates := slices.Clone(w.gates)
	w.mu.Unlock()
	stopped := slices.ContainsFunc(gates, func(g *gate) bool { return !g.remote() })
	if len(gates) > 0 && blocked() {
		w.reach("time that passes while somebody waits for a lock")
		if !stopped {
			w.violate("G", "somebody waits for a lock during %v", gates[0])
		}
	}
	if stopped {
		w.mu.Lock()
		w.shift += d
		w.mu.Unlock()
		return
	}
	select {
	case <-w.awake:
	default:
	}
	timer := time.NewTimer(d)
	select {
	case <-timer.C:
	case <-w.awake:
		timer.Stop()
	}
	w.turn()
}

// changed is called after every write to the storage.
func (w *world) changed(key string) {
	w.dirty = true
	w.facts.observe(w, key)
}

// stop ends everything that runs, so that the bubble can end.
func (w *world) stop() {
	for _, i := range append(slices.Clone(w.others), w.active, w.reader) {
		if i != nil {
			i.ended, i.paused = true, false
		}
	}
	for _, t := range w.tasks {
		if t.cancel != nil {
			t.cancel()
		}
	}
	for range 1000 {
		w.mu.Lock()
		gates := slices.Clone(w.gates)
		w.gates, w.sorted = nil, 0
		w.mu.Unlock()
		if len(gates) == 0 {
			break
		}
		for _, g := range gates {
			g.open <- verdict{before: errCrashed, after: errCrashed}
		}
		w.settle()
	}
	for _, i := range append(slices.Clone(w.others), w.active, w.reader) {
		if i != nil {
			i.world.tainted.Store(false)
			go i.backend.Cleanup(nil) //nolint:staticcheck // it does nothing then
		}
	}
	w.settle()
}
