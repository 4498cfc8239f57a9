package influxctl

import (
	"context"
	"slices"
	"sync"
)

// A gate bounds how many are inside at once, in the order in which they came.
// Each who comes brings the limit that holds for them: whoever stands first
// enters when fewer than that are inside, and those behind wait for them.
type gate struct {
	mu     sync.Mutex // guards what follows
	inside int
	queue  []*waiter
}

type waiter struct {
	limit int
	open  chan struct{} // closed when the waiter is inside
}

// enter waits for admission. Without error the caller is inside and must call
// leave; with ctx done it is not.
func (g *gate) enter(ctx context.Context, limit int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w := &waiter{limit: max(limit, 1), open: make(chan struct{})}
	g.mu.Lock()
	g.queue = append(g.queue, w)
	g.admit()
	g.mu.Unlock()
	select {
	case <-w.open:
		return nil
	case <-ctx.Done():
		g.withdraw(w)
		return ctx.Err()
	}
}

// leave makes room.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	g.admit()
}

// withdraw takes w out, who may have been let in meanwhile.
func (g *gate) withdraw(w *waiter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.queue, w); i >= 0 {
		g.queue = slices.Delete(g.queue, i, i+1)
	} else {
		g.inside--
	}
	g.admit()
}

// admit lets in whom there is room for. Its caller holds mu.
func (g *gate) admit() {
	for len(g.queue) > 0 && g.inside < g.queue[0].limit {
		g.inside++
		close(g.queue[0].open)
		g.queue = slices.Delete(g.queue, 0, 1)
	}
}
