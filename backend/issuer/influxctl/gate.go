package influxctl

import (
	"context"
	"slices"
	"sync"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// A gate limits the number of processes that run at the same time and shares
// them fairly between clusters. A cluster has at most its own MaxParallel. All
// clusters together have at most the largest MaxParallel of those that have a
// process or a waiter, but every cluster may always have one process. So a
// cluster that hangs with all slots does not stop the others.
//
// A free slot goes to the cluster with the fewest processes. Of equals, it goes
// to the one that has waited longest since it came, got a slot or gave one
// back. Within a cluster the order is first in, first out.
type gate struct {
	mu     sync.Mutex // guards all fields
	inside int        // processes of all clusters
	turn   uint64     // counts turns
	shares map[issuer.Cluster]*share
}

// A share is the part of one cluster. It exists while the cluster has a process
// or a waiter.
type share struct {
	limit   int
	inside  int    // processes
	turn    uint64 // when it last came, got a slot or gave one back
	waiting []*waiter
}

type waiter struct {
	admitted chan struct{} // closed when the waiter has a slot
}

// shareKey identifies a cluster. Configs that differ only in the root
// credential or the timeout have one share.
func shareKey(c issuer.Cluster) issuer.Cluster {
	c.Root, c.Timeout = issuer.Secret{}, 0
	return c
}

// enter waits for a slot. If it returns nil the caller must call leave. If ctx
// is done before there is a slot, it returns the error of ctx.
func (g *gate) enter(ctx context.Context, c issuer.Cluster) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w := &waiter{admitted: make(chan struct{})}
	g.mu.Lock()
	s := g.share(c)
	s.waiting = append(s.waiting, w)
	g.admit()
	g.mu.Unlock()
	select {
	case <-w.admitted:
		return nil
	case <-ctx.Done():
		g.withdraw(c, w)
		return ctx.Err()
	}
}

// leave gives a slot of the cluster back.
func (g *gate) leave(c issuer.Cluster) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.release(c)
}

// withdraw removes w, which may have got a slot in the meantime.
func (g *gate) withdraw(c issuer.Cluster, w *waiter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.share(c)
	i := slices.Index(s.waiting, w)
	if i < 0 {
		g.release(c)
		return
	}
	s.waiting = slices.Delete(s.waiting, i, i+1)
	g.drop(c)
}

// share returns the share of a cluster, and makes one if there is none. The
// caller holds mu.
func (g *gate) share(c issuer.Cluster) *share {
	key := shareKey(c)
	if s := g.shares[key]; s != nil {
		return s
	}
	if g.shares == nil {
		g.shares = map[issuer.Cluster]*share{}
	}
	s := &share{limit: max(c.MaxParallel, 1)}
	g.moveBack(s)
	g.shares[key] = s
	return s
}

// moveBack puts s behind all others of its number of processes.
func (g *gate) moveBack(s *share) {
	g.turn++
	s.turn = g.turn
}

// release frees a slot and admits the next waiter. The caller holds mu.
func (g *gate) release(c issuer.Cluster) {
	s := g.share(c)
	g.inside--
	s.inside--
	g.moveBack(s)
	g.drop(c)
	g.admit()
}

// drop deletes a share that has neither a process nor a waiter. The caller
// holds mu.
func (g *gate) drop(c issuer.Cluster) {
	if s := g.share(c); s.inside == 0 && len(s.waiting) == 0 {
		delete(g.shares, shareKey(c))
	}
}

// admit gives free slots to waiters. The caller holds mu.
func (g *gate) admit() {
	for {
		s := g.next()
		if s == nil {
			return
		}
		g.inside++
		s.inside++
		g.moveBack(s)
		close(s.waiting[0].admitted)
		s.waiting = slices.Delete(s.waiting, 0, 1)
	}
}

// next returns the share that gets the next slot, or nil if there is no free
// slot or no waiter that may have it. A cluster without a process needs no free
// slot. The caller holds mu.
func (g *gate) next() *share {
	var best *share
	total := 1
	for _, s := range g.shares {
		total = max(total, s.limit)
		if len(s.waiting) == 0 || s.inside >= s.limit {
			continue
		}
		if best == nil || s.inside < best.inside || s.inside == best.inside && s.turn < best.turn {
			best = s
		}
	}
	if best != nil && best.inside > 0 && g.inside >= total {
		return nil
	}
	return best
}
