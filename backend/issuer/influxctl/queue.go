package influxctl

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// maxBatch bounds the ids that one run revokes.
const maxBatch = 50

// queues commit revocations in groups: while one batch of a cluster is revoked,
// further ids gather, and the next batch takes them. There is a queue for each
// cluster with work to do and no other, and it holds no more than what its
// callers wait for.
type queues struct {
	// run revokes a batch and returns an error for each id that may still be
	// alive. Its context ends when no caller waits for any of the ids any more.
	run func(context.Context, issuer.Cluster, []string) map[string]error

	mu sync.Mutex // guards of, and what is in it
	of map[issuer.Cluster]*queue
}

// A queue is what is to be revoked on one cluster. One goroutine works on it
// until it is empty.
type queue struct {
	waiting []*revocation
	byID    map[string]*revocation // what can be joined: waiting, or in a batch
}

// A revocation is one id, and those who wait for it.
type revocation struct {
	id      string
	callers int
	batch   *batch        // nil while it waits
	done    chan struct{} // closed when err is set
	err     error
}

// A batch is what one run revokes.
type batch struct {
	members []*revocation
	cancel  context.CancelFunc
}

// revoke queues ids, joining those that are queued or under way, and waits for
// them or for ctx. The caller whose leaving ends a run waits for its end, too.
func (q *queues) revoke(ctx context.Context, c issuer.Cluster, ids []string) map[string]error {
	failed := map[string]error{}
	if err := ctx.Err(); err != nil {
		for _, id := range ids {
			failed[id] = notRunf("revoke %s: %w", id, err)
		}
		return failed
	}
	var ending []*revocation
	for _, r := range q.join(c, ids) {
		if wait(ctx, r.done) {
			if r.err != nil {
				failed[r.id] = r.err
			}
			continue
		}
		failed[r.id] = fmt.Errorf("wait for %s to be revoked: %w", r.id, ctx.Err())
		if q.leave(c, r) {
			ending = append(ending, r)
		}
	}
	for _, r := range ending {
		<-r.done
	}
	return failed
}

// wait reports whether done was closed before ctx was done.
func wait(ctx context.Context, done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

// join returns the revocation of each id, queued now if there was none.
func (q *queues) join(c issuer.Cluster, ids []string) []*revocation {
	q.mu.Lock()
	defer q.mu.Unlock()
	var joined []*revocation
	for _, id := range ids {
		work := q.queue(c)
		r := work.byID[id]
		if r == nil {
			r = &revocation{id: id, done: make(chan struct{})}
			work.byID[id] = r
			work.waiting = append(work.waiting, r)
		}
		if !slices.Contains(joined, r) {
			r.callers++
			joined = append(joined, r)
		}
	}
	return joined
}

// queue returns the queue of a cluster, with somebody at work on it. Its caller
// holds mu.
func (q *queues) queue(c issuer.Cluster) *queue {
	if work := q.of[c]; work != nil {
		return work
	}
	if q.of == nil {
		q.of = map[issuer.Cluster]*queue{}
	}
	work := &queue{byID: map[string]*revocation{}}
	q.of[c] = work
	go q.work(c, work)
	return work
}

// leave ends the wait for r. What nobody waits for is not begun; what has begun
// ends when nobody waits for any of its batch, and then leave returns true.
func (q *queues) leave(c issuer.Cluster, r *revocation) (ending bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	r.callers--
	work := q.of[c]
	switch {
	case r.callers > 0 || work == nil:
		return false
	case r.batch == nil:
		delete(work.byID, r.id)
		work.waiting = slices.DeleteFunc(work.waiting, func(other *revocation) bool { return other == r })
		return false
	case slices.ContainsFunc(r.batch.members, func(m *revocation) bool { return m.callers > 0 }):
		return false
	}
	for _, m := range r.batch.members { // whoever comes now does not join what is being killed
		work.forget(m)
	}
	r.batch.cancel()
	return true
}

// forget takes r out of what can be joined, unless its place is taken.
func (w *queue) forget(r *revocation) {
	if w.byID[r.id] == r {
		delete(w.byID, r.id)
	}
}

// work revokes batch after batch until there is nothing left to do.
func (q *queues) work(c issuer.Cluster, work *queue) {
	for {
		ctx, b := q.take(c, work)
		if b == nil {
			return
		}
		ids := make([]string, len(b.members))
		for i, r := range b.members {
			ids[i] = r.id
		}
		q.finish(work, b, q.run(ctx, c, ids))
	}
}

// take makes a batch of what has waited longest, or gives the queue up.
func (q *queues) take(c issuer.Cluster, work *queue) (context.Context, *batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(work.waiting) == 0 {
		delete(q.of, c)
		return nil, nil
	}
	n := min(len(work.waiting), maxBatch)
	ctx, cancel := context.WithCancel(context.Background())
	b := &batch{slices.Clone(work.waiting[:n]), cancel}
	work.waiting = slices.Delete(work.waiting, 0, n)
	for _, r := range b.members {
		r.batch = b
	}
	return ctx, b
}

// finish tells the callers of a batch how it went.
func (q *queues) finish(work *queue, b *batch, failed map[string]error) {
	b.cancel()
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, r := range b.members {
		work.forget(r)
		r.err = failed[r.id]
		close(r.done)
	}
}
