package influxctl

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAGateLetsInAsManyAsAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		var mu sync.Mutex
		var all sync.WaitGroup
		inside, most := 0, 0
		for range 20 {
			all.Go(func() {
				if err := g.enter(t.Context(), 3); err != nil {
					t.Error(err)
				}
				mu.Lock()
				inside++
				most = max(most, inside)
				mu.Unlock()
				<-time.After(time.Second) // of the bubble's clock
				mu.Lock()
				inside--
				mu.Unlock()
				g.leave()
			})
		}
		all.Wait()
		if most != 3 || g.inside != 0 {
			t.Errorf("%d at once, %d in the end", most, g.inside)
		}
	})
}

func TestAGateIsFirstComeFirstServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		var mu sync.Mutex
		var order []int // guarded by mu
		mustEnter(t, &g, 1)
		for i := range 5 {
			go func() {
				if g.enter(t.Context(), 1) == nil {
					mu.Lock()
					order = append(order, i)
					mu.Unlock()
					g.leave()
				}
			}()
			synctest.Wait()
		}
		g.leave()
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if diff := cmp.Diff([]int{0, 1, 2, 3, 4}, order); diff != "" {
			t.Error(diff)
		}
	})
}

func TestEachWaiterBringsALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		mustEnter(t, &g, 0) // stands for 1
		var entered atomic.Int32
		for _, limit := range []int{2, 1, 4} {
			go func() {
				if g.enter(t.Context(), limit) == nil {
					entered.Add(1)
				}
			}()
			synctest.Wait()
		}
		for _, want := range []int32{1, 1, 3} { // 1 waits until it is alone, 4 behind it
			if got := entered.Load(); got != want {
				t.Errorf("%d entered, want %d", got, want)
			}
			g.leave()
			synctest.Wait()
		}
	})
}

func TestAWaiterLeavesWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		mustEnter(t, &g, 1)
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() { left <- g.enter(ctx, 1) }()
		synctest.Wait()
		entered := make(chan error, 1)
		go func() { entered <- g.enter(t.Context(), 2) }()
		synctest.Wait()
		cancel() // the second stands first now, and has room
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := <-entered; err != nil || len(g.queue) != 0 || g.inside != 2 {
			t.Errorf("%v, %d inside", err, g.inside)
		}
		if err := g.enter(ctx, 9); !errors.Is(err, context.Canceled) || g.inside != 2 {
			t.Errorf("entered with a context that was done: %v", err)
		}
	})
}

func TestAWaiterLetInWhileLeavingGivesTheRoomBack(t *testing.T) {
	var g gate
	mustEnter(t, &g, 1)
	w := &waiter{limit: 1, open: make(chan struct{})}
	g.queue = append(g.queue, w)
	g.leave() // lets w in
	g.withdraw(w)
	if g.inside != 0 {
		t.Errorf("%d inside", g.inside)
	}
}

func mustEnter(t *testing.T, g *gate, limit int) {
	t.Helper()
	if err := g.enter(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
}
