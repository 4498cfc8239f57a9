package influxctl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// A recorder records the batches that queues run. Each batch takes a second.
type recorder struct {
	queues
	mu      sync.Mutex // guards batches
	batches [][]string
	fail    map[string]error
}

func newRecorder(fail map[string]error) *recorder {
	r := &recorder{fail: fail}
	r.run = func(ctx context.Context, _ issuer.Cluster, ids []string) map[string]error {
		r.mu.Lock()
		r.batches = append(r.batches, ids)
		r.mu.Unlock()
		failed := map[string]error{}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return forAll(ids, ctx.Err())
		}
		for _, id := range ids {
			if err := r.fail[id]; err != nil {
				failed[id] = err
			}
		}
		return failed
	}
	return r
}

var clusterA, clusterB = issuer.Cluster{Host: "a"}, issuer.Cluster{Host: "b"}

// begin starts a call and returns a channel for its result.
func (r *recorder) begin(ctx context.Context, c issuer.Cluster, ids ...string) chan map[string]error {
	result := make(chan map[string]error, 1)
	go func() { result <- r.revoke(ctx, c, ids) }()
	synctest.Wait()
	return result
}

func TestQueues_CollectWhileABatchRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := errors.New("bad")
		r := newRecorder(map[string]error{"2": bad})
		var results []chan map[string]error
		for i := range 4 {
			results = append(results, r.begin(t.Context(), clusterA, fmt.Sprint(i)))
		}
		for i, result := range results {
			failed := <-result
			if i == 2 && failed["2"] != bad || i != 2 && len(failed) > 0 {
				t.Errorf("%d: %v", i, failed)
			}
		}
		if diff := cmp.Diff([][]string{{"0"}, {"1", "2", "3"}}, r.batches); diff != "" {
			t.Error(diff)
		}
		synctest.Wait()
		if len(r.byCluster) > 0 {
			t.Errorf("empty queues: %v", r.byCluster)
		}
	})
}

func TestQueues_LimitABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(nil)
		ids := make([]string, 2*maxBatch+1)
		for i := range ids {
			ids[i] = fmt.Sprint(i)
		}
		if failed := r.revoke(t.Context(), clusterA, ids); len(failed) > 0 {
			t.Error(failed)
		}
		if diff := cmp.Diff(slices.Collect(slices.Chunk(ids, maxBatch)), r.batches); diff != "" {
			t.Error(diff)
		}
	})
}

func TestQueues_JoinTheSameID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := errors.New("bad")
		r := newRecorder(map[string]error{"a": bad})
		first, second, both := r.begin(t.Context(), clusterA, "a", "a"), r.begin(t.Context(), clusterA, "a"), r.begin(t.Context(), clusterA, "b", "a")
		for _, result := range []chan map[string]error{first, second, both} {
			if failed := <-result; len(failed) != 1 || failed["a"] != bad {
				t.Error(failed)
			}
		}
		if diff := cmp.Diff([][]string{{"a"}, {"b"}}, r.batches); diff != "" {
			t.Error(diff)
		}
		<-r.begin(t.Context(), clusterA, "a")
		if len(r.batches) != 3 {
			t.Errorf("joined a batch that had ended: %v", r.batches)
		}
	})
}

func TestQueues_ClustersAreIndependent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(nil)
		start := time.Now()
		a, b := r.begin(t.Context(), clusterA, "a"), r.begin(t.Context(), clusterB, "a")
		<-a
		<-b
		if elapsed := time.Since(start); elapsed != time.Second || len(r.batches) != 2 {
			t.Errorf("%v, batches %v", elapsed, r.batches)
		}
	})
}

func TestQueues_CanceledIDIsNotRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(nil)
		ctx, cancel := context.WithCancel(t.Context())
		first := r.begin(t.Context(), clusterA, "first")
		canceled := r.begin(ctx, clusterA, "alone", "shared")
		waiting := r.begin(t.Context(), clusterA, "shared")
		cancel()
		if failed := <-canceled; len(failed) != 2 || !errors.Is(failed["alone"], context.Canceled) || !errors.Is(failed["shared"], context.Canceled) {
			t.Error(failed)
		}
		if failed := <-waiting; len(failed) > 0 {
			t.Error(failed)
		}
		<-first
		if diff := cmp.Diff([][]string{{"first"}, {"shared"}}, r.batches); diff != "" {
			t.Error(diff)
		}
		if failed := r.revoke(ctx, clusterA, []string{"late"}); !errors.Is(failed["late"], context.Canceled) || len(r.batches) != 2 {
			t.Errorf("with a context that was done: %v, %v", failed, r.batches)
		}
	})
}

func TestQueues_BatchSurvivesItsFirstCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(nil)
		ctx, cancel := context.WithCancel(t.Context())
		first, second := r.begin(ctx, clusterA, "a"), r.begin(t.Context(), clusterA, "a")
		cancel()
		if failed := <-first; !errors.Is(failed["a"], context.Canceled) {
			t.Error(failed)
		}
		if failed := <-second; len(failed) > 0 {
			t.Error(failed)
		}
	})
}

func TestQueues_BatchEndsWithItsLastCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(nil)
		// The run does not end at once, and a new caller comes before it does.
		ending, release := make(chan struct{}), make(chan struct{})
		run := r.run
		r.run = func(ctx context.Context, c issuer.Cluster, ids []string) map[string]error {
			defer func() {
				if ctx.Err() != nil {
					close(ending)
					<-release
				}
			}()
			return run(ctx, c, ids)
		}
		ctx, cancel := context.WithCancel(t.Context())
		canceled := r.begin(ctx, clusterA, "a", "b")
		cancel()
		<-ending
		later := r.begin(t.Context(), clusterA, "a")
		select {
		case failed := <-canceled:
			t.Errorf("returned before the run ended: %v", failed)
		default:
		}
		close(release)
		if failed := <-canceled; len(failed) != 2 {
			t.Error(failed)
		}
		if failed := <-later; len(failed) > 0 {
			t.Errorf("joined a run that was being killed: %v", failed)
		}
		if diff := cmp.Diff([][]string{{"a", "b"}, {"a"}}, r.batches); diff != "" {
			t.Error(diff)
		}
	})
}

// Two full batches run at the same time, and a batch that is not full waits for
// them: 220 IDs need five runs, as with one batch at a time, in half the time.
func TestQueues_RunTwoFullBatchesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(nil)
		ids := make([]string, 4*maxBatch+20)
		for i := range ids {
			ids[i] = fmt.Sprint(i)
		}
		began := time.Now()
		if failed := r.revoke(t.Context(), clusterA, ids); len(failed) > 0 {
			t.Errorf("%v", failed)
		}
		took := time.Since(began)
		synctest.Wait() // for the goroutines of the queue
		if took != 3*time.Second || len(r.batches) != 5 {
			t.Errorf("%s, %d runs", took, len(r.batches))
		}
		if len(r.byCluster) != 0 {
			t.Error("the queue was not deleted")
		}
	})
}
