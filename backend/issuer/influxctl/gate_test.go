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

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// useSlot takes a slot for a cluster, keeps it for d and gives it back.
func useSlot(t *testing.T, g *gate, c issuer.Cluster, d time.Duration) {
	if err := g.enter(t.Context(), c); err != nil {
		t.Error(err)
		return
	}
	<-time.After(d) // of the bubble's clock
	g.leave(c)
}

// One cluster hangs and has 40 requests waiting. Requests to another cluster, one
// at a time, do not wait.
func TestGate_HangingClusterDelaysNoOther(t *testing.T) {
	const timeout = 32 * time.Second
	for _, c := range []struct {
		name             string
		hanging, healthy int // MaxParallel
	}{
		{"equal limits", 4, 4},
		{"healthy has a smaller limit", 4, 1},
		{"hanging has a smaller limit", 1, 4},
		{"one slot", 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var g gate
				hanging := issuer.Cluster{Host: "hanging", MaxParallel: c.hanging}
				healthy := issuer.Cluster{Host: "healthy", MaxParallel: c.healthy}
				var all sync.WaitGroup
				for range 40 {
					all.Go(func() { useSlot(t, &g, hanging, timeout) })
				}
				synctest.Wait()
				for range 10 {
					asked := time.Now()
					if err := g.enter(t.Context(), healthy); err != nil {
						t.Fatal(err)
					}
					if waited := time.Since(asked); waited > 0 {
						t.Errorf("waited %v", waited)
					}
					<-time.After(100 * time.Millisecond)
					g.leave(healthy)
				}
				all.Wait()
				if len(g.shares) != 0 || g.inside != 0 {
					t.Errorf("%d shares, %d inside in the end", len(g.shares), g.inside)
				}
			})
		})
	}
}

// Clients of several clusters that come back at once do not keep another
// cluster waiting for ever.
func TestGate_ReturningClustersDoNotStarveAWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for _, host := range []string{"a", "b", "c"} {
			c := issuer.Cluster{Host: host, MaxParallel: 1}
			all.Go(func() {
				for g.enter(ctx, c) == nil {
					<-time.After(time.Second)
					g.leave(c)
				}
			})
		}
		synctest.Wait()
		asked := time.Now()
		useSlot(t, &g, issuer.Cluster{Host: "d", MaxParallel: 1}, 0)
		if waited := time.Since(asked); waited > 3*time.Second {
			t.Errorf("waited %v", waited)
		}
		stop()
		all.Wait()
	})
}

func TestGate_LimitsOneCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		var mu sync.Mutex
		var all sync.WaitGroup
		inside, most := 0, 0
		c := issuer.Cluster{MaxParallel: 3}
		for range 20 {
			all.Go(func() {
				if err := g.enter(t.Context(), c); err != nil {
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
				g.leave(c)
			})
		}
		all.Wait()
		if most != 3 || g.inside != 0 {
			t.Errorf("%d at once, %d in the end", most, g.inside)
		}
	})
}

func TestGate_OneClusterIsFirstInFirstOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		var mu sync.Mutex
		var order []int // guarded by mu
		c := issuer.Cluster{MaxParallel: 1}
		mustEnter(t, &g, c)
		for i := range 5 {
			go func() {
				if g.enter(t.Context(), c) == nil {
					mu.Lock()
					order = append(order, i)
					mu.Unlock()
					g.leave(c)
				}
			}()
			synctest.Wait()
		}
		g.leave(c)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if diff := cmp.Diff([]int{0, 1, 2, 3, 4}, order); diff != "" {
			t.Error(diff)
		}
	})
}

// Each cluster has its own limit, and all together have no more than the
// largest of them.
func TestGate_TotalIsTheLargestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		var entered [3]atomic.Int32
		clusters := []issuer.Cluster{{Host: "a", MaxParallel: 2}, {Host: "b"}, {Host: "c", MaxParallel: 4}}
		for i, c := range clusters {
			for range 5 {
				go func() {
					if g.enter(t.Context(), c) == nil {
						entered[i].Add(1)
					}
				}()
				synctest.Wait()
			}
		}
		got := []int32{entered[0].Load(), entered[1].Load(), entered[2].Load()}
		// a fills its limit of 2; b has none and so 1, but the total is 2 until
		// c comes with a limit of 4.
		if diff := cmp.Diff([]int32{2, 1, 1}, got); diff != "" {
			t.Error(diff)
		}
		g.leave(clusters[0])
		synctest.Wait()
		if a, b, c := entered[0].Load(), entered[1].Load(), entered[2].Load(); a+b+c != 5 || b != 1 {
			t.Errorf("entered %d, %d, %d", a, b, c)
		}
	})
}

// Two configs of one cluster that differ only in the root credential or the
// timeout share one limit.
func TestGate_RootCredentialIsNoPartOfTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		one := issuer.Cluster{Host: "a", MaxParallel: 1, Root: issuer.NewSecret("old"), Timeout: time.Second}
		two := issuer.Cluster{Host: "a", MaxParallel: 1, Root: issuer.NewSecret("new"), Timeout: time.Minute}
		mustEnter(t, &g, one)
		mustEnter(t, &g, issuer.Cluster{Host: "large", MaxParallel: 9})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.enter(ctx, two); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

func TestGate_WaiterLeavesWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		c := issuer.Cluster{MaxParallel: 1}
		mustEnter(t, &g, c)
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() { left <- g.enter(ctx, c) }()
		synctest.Wait()
		entered := make(chan error, 1)
		go func() { entered <- g.enter(t.Context(), c) }()
		synctest.Wait()
		cancel() // the second is first now
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		g.leave(c)
		if err := <-entered; err != nil || g.inside != 1 {
			t.Errorf("%v, %d inside", err, g.inside)
		}
		if err := g.enter(ctx, c); !errors.Is(err, context.Canceled) || g.inside != 1 {
			t.Errorf("entered with a context that was done: %v", err)
		}
		g.leave(c)
		if len(g.shares) != 0 {
			t.Errorf("%d shares are left", len(g.shares))
		}
	})
}

func TestGate_WaiterAdmittedWhileLeavingGivesTheSlotBack(t *testing.T) {
	var g gate
	c := issuer.Cluster{MaxParallel: 1}
	mustEnter(t, &g, c)
	s := g.share(c)
	w := &waiter{admitted: make(chan struct{})}
	s.waiting = append(s.waiting, w)
	g.leave(c) // admits w
	g.withdraw(c, w)
	if g.inside != 0 || len(g.shares) != 0 {
		t.Errorf("%d inside, %d shares", g.inside, len(g.shares))
	}
}

func mustEnter(t *testing.T, g *gate, c issuer.Cluster) {
	t.Helper()
	if err := g.enter(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// The slot that b gives back is b's again, although a has waited longer: a has
// three of the four slots.
func TestGate_FewestProcessesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		a, b := issuer.Cluster{Host: "a", MaxParallel: 4}, issuer.Cluster{Host: "b", MaxParallel: 4}
		for _, c := range []issuer.Cluster{a, a, a, b} {
			mustEnter(t, &g, c)
		}
		got := make(chan string, 2)
		for _, c := range []issuer.Cluster{a, b} {
			go func() {
				if g.enter(t.Context(), c) == nil {
					got <- c.Host
				}
			}()
			synctest.Wait()
		}
		g.leave(b)
		if first := <-got; first != "b" {
			t.Errorf("%s got the slot", first)
		}
		g.leave(a)
		<-got
	})
}
