package influxctl

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/failure"
)

const (
	// maxBatch is the largest number of tokens that one run revokes.
	maxBatch = 50

	// batchesAtOnce is the number of batches of one cluster at the same time. A
	// second one begins only when it is full, so that the number of runs does not
	// grow.
	batchesAtOnce = 2
)

// queues revoke tokens in batches: while batches of a cluster are revoked, other
// IDs wait, and the next batch takes them. A queue exists only while its cluster
// has IDs to revoke, and holds only IDs that a caller waits for.
type queues struct {
	// run revokes a batch and returns an error for each token that may still be
	// active. Its context ends when no caller waits for any of the IDs.
	run func(context.Context, issuer.Cluster, []string) map[string]error

	mu        sync.Mutex // guards byCluster and everything in it
	byCluster map[issuer.Cluster]*queue
}

// A queue holds the IDs to revoke on one cluster. At least one goroutine works on
// it until it is empty.
type queue struct {
	workers int // goroutines
	waiting []*revocation
	byID    map[string]*revocation // that a caller can join: waiting, or in a batch
}

// A revocation is one ID and the callers that wait for it.
type revocation struct {
	id      string
	callers int
	batch   *batch        // nil while it waits
	done    chan struct{} // closed when err is set
	err     error
}

// A batch holds the revocations of one run.
type batch struct {
	members []*revocation
	cancel  context.CancelFunc
}

// revoke adds ids to the queue, or joins revocations of the same IDs, and waits
// for them or for ctx. If ctx is done and no other caller waits for a batch, its
// run is ended, and revoke returns after that.
func (q *queues) revoke(ctx context.Context, c issuer.Cluster, ids []string) map[string]error {
	failed := map[string]error{}
	if err := ctx.Err(); err != nil {
		for _, id := range ids {
			failed[id] = failure.NotSentf("revoke %s: %w", id, err)
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
		failed[r.id] = fmt.Errorf("wait for the revocation of %s: %w", r.id, ctx.Err())
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

// join returns the revocation of each ID, a new one if there was none.
func (q *queues) join(c issuer.Cluster, ids []string) []*revocation {
	q.mu.Lock()
	defer q.mu.Unlock()
	var joined []*revocation
	if len(ids) == 0 {
		return nil
	}
	work := q.queue(c)
	for _, id := range ids {
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
	for work.workers == 0 || work.workers < batchesAtOnce && len(work.waiting) >= maxBatch*(work.workers+1) {
		work.workers++
		go q.work(c, work)
	}
	return joined
}

// queue returns the queue of a cluster, a new one if there is none. The caller
// holds mu.
func (q *queues) queue(c issuer.Cluster) *queue {
	if work := q.byCluster[c]; work != nil {
		return work
	}
	if q.byCluster == nil {
		q.byCluster = map[issuer.Cluster]*queue{}
	}
	work := &queue{byID: map[string]*revocation{}}
	q.byCluster[c] = work
	return work
}

// leave ends the wait of one caller for r. A revocation without callers is not
// started. A batch without callers is ended, and then leave returns true.
func (q *queues) leave(c issuer.Cluster, r *revocation) (ending bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	r.callers--
	work := q.byCluster[c]
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
	for _, m := range r.batch.members { // new callers must not join a run that is being killed
		work.forget(m)
	}
	r.batch.cancel()
	return true
}

// forget makes sure that no caller joins r. Another revocation of the same ID
// stays.
func (w *queue) forget(r *revocation) {
	if w.byID[r.id] == r {
		delete(w.byID, r.id)
	}
}

// work revokes batches until the queue is empty, or until another goroutine can
// take what is left in one batch.
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

// take makes a batch of the IDs that have waited longest. It returns nil if the
// goroutine must end, and deletes the queue with the last one.
func (q *queues) take(c issuer.Cluster, work *queue) (context.Context, *batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(work.waiting) == 0 || work.workers > 1 && len(work.waiting) < maxBatch {
		if work.workers--; work.workers == 0 {
			delete(q.byCluster, c)
		}
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

// finish gives the callers of a batch its results.
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
