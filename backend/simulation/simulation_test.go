package simulation

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
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
	debug.SetGCPercent(-1) // a collection in the middle of a walk changes its order
	debug.SetMemoryLimit(1 << 30)
	os.Exit(m.Run())
}

// A result is how a walk ended.
type result struct {
	*world
	virtual time.Duration
}

// walk makes one walk.
func walk(t *testing.T, name string, seed uint64, choice *chooser, tracing bool) (r result) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, seed)
			w := newWorld(choice, tracing)
			r.world = w
			defer w.stop()
			w.run()
			r.virtual = time.Since(w.facts.began) + w.shift
		})
	})
	return r
}

// run makes the walk.
func (w *world) run() {
	w.home, _ = newCluster(w, "home")
	w.away, _ = newCluster(w, "away")
	w.active = w.start(0, false)
	w.nextTick = w.time().Add(tickInterval)
	w.setUp()
	for w.step() {
		continue
	}
	if w.failure == nil && w.void == "" {
		w.choice.end()
		w.end()
	}
}

func TestWalks(t *testing.T) {
	seed, n := uint64(1), 20
	if s := os.Getenv("SIMULATE_N"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("SIMULATE_SEED"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed, n = v, 1
	}
	reached := map[string]int{}
	for range n {
		began := time.Now()
		r := walk(t, fmt.Sprint("seed ", seed), seed, seeded(seed), os.Getenv("SIMULATE_SEED") != "")
		for k, v := range r.reached {
			reached[k] += v
		}
		t.Logf("seed %d: %s, %d steps, %d acts, %s virtual, %s real, hash %x: %v", seed, r.product, r.steps, r.acts, r.virtual.Round(time.Second), time.Since(began).Round(time.Millisecond), r.hash, r.failure)
		if r.failure != nil {
			t.Errorf("seed %d: %v\n%s", seed, r.failure, strings.Join(r.trace, "\n"))
			lines := strings.Split(r.log.String(), "\n")
			t.Log(strings.Join(lines[max(0, len(lines)-12):], "\n"))
		}
		seed++
		runtime.GC()
	}
	t.Log(reached)
}
