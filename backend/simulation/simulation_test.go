//go:build !race

package simulation

import (
	"cmp"
	"flag"
	"maps"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"
)

func TestMain(m *testing.M) {
	flag.Parse()
	runtime.GOMAXPROCS(1)  // see settle
	debug.SetGCPercent(-1) // a collection in the middle of a walk changes the order of its goroutines
	debug.SetMemoryLimit(1 << 30)
	os.Exit(m.Run())
}

const (
	// corpus is the number of seeds that every test run repeats, from 1.
	corpus = 80

	// corpusTime bounds that time, on a slow machine or with the race detector.
	corpusTime = 25 * time.Second

	// shortenTime is how long a walk that failed is shortened.
	shortenTime = time.Minute
)

// TestWalk_Seeds repeats the walks of a fixed set of seeds, or that of
// $SIMULATE_SEED.
func TestWalk_Seeds(t *testing.T) {
	if s := os.Getenv("SIMULATE_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("SIMULATE_SEED: %v", err)
		}
		newCampaign(t).walk(seed)
		return
	}
	c := newCampaign(t)
	for seed := uint64(1); seed <= corpus && !t.Failed() && time.Since(c.began) < corpusTime; seed++ {
		c.walk(seed)
	}
	c.report()
}

// TestWalk_FreshSeeds walks for the time $SIMULATE_FRESH, from the seed
// $SIMULATE_FIRST or one that no run has used before.
func TestWalk_FreshSeeds(t *testing.T) {
	within, err := time.ParseDuration(cmp.Or(os.Getenv("SIMULATE_FRESH"), "0s"))
	if err != nil {
		t.Fatalf("SIMULATE_FRESH: %v", err)
	}
	if within == 0 {
		t.Skip("SIMULATE_FRESH is not set: no fresh seeds")
	}
	seed, err := strconv.ParseUint(cmp.Or(os.Getenv("SIMULATE_FIRST"), strconv.FormatInt(time.Now().UnixMilli(), 10)), 10, 64)
	if err != nil {
		t.Fatalf("SIMULATE_FIRST: %v", err)
	}
	c := newCampaign(t)
	for ; time.Since(c.began) < within && !t.Failed(); seed++ {
		c.walk(seed)
	}
	c.report()
}

// TestWalk_RepeatsExactly walks twice from the same seed: everything that happens is
// the same, to the order of the operations.
func TestWalk_RepeatsExactly(t *testing.T) {
	for seed := uint64(1); seed <= 10; seed++ {
		first, second := walk(t, seed, seeded(seed), false), walk(t, seed, seeded(seed), false)
		if first.hash != second.hash || first.steps != second.steps {
			t.Errorf("seed %d: %d steps with hash %x, then %d steps with hash %x\n%s", seed, first.steps, first.hash, second.steps, second.hash,
				firstDifference(walk(t, seed, seeded(seed), true).trace, walk(t, seed, seeded(seed), true).trace))
		}
		again := walk(t, seed, recorded(first.choice.steps), false)
		if again.hash != first.hash {
			t.Errorf("seed %d: the record of the choices gives hash %x, the seed gave %x", seed, again.hash, first.hash)
		}
	}
}

// firstDifference returns the first lines in which two traces differ.
func firstDifference(x, y []string) string {
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return strings.Join(slices.Concat(x[max(0, i-10):i+1], []string{"and then:"}, y[i:i+1]), "\n")
		}
	}
	return "no difference"
}

// walk makes one walk.
func walk(t *testing.T, seed uint64, choice *chooser, tracing bool) (w *world) {
	synctest.Test(t, func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, seed)
		w = newWorld(choice, tracing)
		defer w.stop()
		w.run()
		w.lasted = w.time().Sub(w.facts.began)
	})
	runtime.GC()
	return w
}

// begin makes the clusters and the first engine, and configures it.
func (w *world) begin() {
	w.home, _ = newCluster(w, "home")
	w.away, _ = newCluster(w, "away")
	w.active = w.start(0, false)
	w.nextTick = w.time().Add(tickInterval)
	w.setUp()
}

// run makes the walk.
func (w *world) run() {
	w.begin()
	for w.step() {
		continue
	}
	if w.failure == nil && w.void == "" {
		w.choice.end()
		w.end()
	}
}

// A campaign is a number of walks.
type campaign struct {
	t       *testing.T
	began   time.Time
	walks   int
	steps   int
	virtual time.Duration
	reached map[string]int // the number of walks, by state
}

func newCampaign(t *testing.T) *campaign {
	return &campaign{t: t, began: time.Now(), reached: map[string]int{}}
}

// walk makes the walk of a seed. If it fails, the trace of a shorter one is printed.
func (c *campaign) walk(seed uint64) {
	c.t.Helper()
	w := walk(c.t, seed, seeded(seed), false)
	c.walks++
	c.steps += w.opened
	c.virtual += w.lasted
	for state := range w.reached {
		c.reached[state]++
	}
	if w.failure == nil {
		return
	}
	c.t.Errorf("seed %d, product %s, step %d of the walk, after %d walks with %d steps in %s: %v",
		seed, w.product, w.failure.step, c.walks, c.steps, time.Since(c.began).Round(time.Second), w.failure)
	if os.Getenv("SIMULATE_SHORTEN") != "no" {
		c.explain(seed, w)
	}
}

// explain prints a short walk in which the same check fails.
func (c *campaign) explain(seed uint64, failed *world) {
	steps := shorten(failed.choice.steps, shortenTime, func(steps [][]int) bool {
		w := walk(c.t, seed, recorded(steps), false)
		return w.failure != nil && w.failure.check == failed.failure.check
	})
	w := walk(c.t, seed, recorded(steps), true)
	c.t.Logf("the shortest walk that was found has %d of %d steps:\n%s", len(steps), len(failed.choice.steps), strings.Join(w.trace, "\n"))
	log := strings.Split(strings.TrimSpace(w.log.String()), "\n")
	c.t.Logf("the end of the log of the engines:\n%s", strings.Join(log[max(0, len(log)-20):], "\n"))
	c.t.Logf("repeat the whole walk with: SIMULATE_SEED=%d go test -run TestWalk_Seeds ./backend/simulation", seed)
}

// report says what the walks have reached.
func (c *campaign) report() {
	c.t.Logf("%d walks with %d steps, %s of virtual time, in %s", c.walks, c.steps, c.virtual.Round(time.Minute), time.Since(c.began).Round(time.Second))
	var missed []string
	for _, state := range rareStates {
		if c.reached[state] == 0 {
			missed = append(missed, state)
		}
	}
	for _, state := range slices.Sorted(maps.Keys(c.reached)) {
		c.t.Logf("%5d walks reached %s", c.reached[state], state)
	}
	if len(missed) > 0 {
		c.t.Logf("no walk reached: %s", strings.Join(missed, "; "))
	}
}
