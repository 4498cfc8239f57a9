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

// A recorder is what a queue runs: each batch takes a second.
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

var here, there = issuer.Cluster{Host: "here"}, issuer.Cluster{Host: "there"}

// begin starts a call and returns where its result will be.
func (r *recorder) begin(ctx context.Context, c issuer.Cluster, ids ...string) chan map[string]error {
	result := make(chan map[string]error, 1)
	go func() { result <- r.revoke(ctx, c, ids) }()
	synctest.Wait()
	return result
}

func TestRevocationsGatherWhileOneRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := errors.New("bad")
		r := newRecorder(map[string]error{"2": bad})
		var results []chan map[string]error
		for i := range 4 {
			results = append(results, r.begin(t.Context(), here, fmt.Sprint(i)))
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
		if len(r.of) > 0 {
			t.Errorf("queues without work: %v", r.of)
		}
	})
}

func TestABatchIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(nil)
		ids := make([]string, 2*maxBatch+1)
		for i := range ids {
			ids[i] = fmt.Sprint(i)
		}
		if failed := r.revoke(t.Context(), here, ids); len(failed) > 0 {
			t.Error(failed)
		}
		if diff := cmp.Diff(slices.Collect(slices.Chunk(ids, maxBatch)), r.batches); diff != "" {
			t.Error(diff)
		}
	})
}

func TestAnIDInFlightIsJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := errors.New("bad")
		r := newRecorder(map[string]error{"a": bad})
		first, second, both := r.begin(t.Context(), here, "a", "a"), r.begin(t.Context(), here, "a"), r.begin(t.Context(), here, "b", "a")
		for _, result := range []chan map[string]error{first, second, both} {
			if failed := <-result; len(failed) != 1 || failed["a"] != bad {
				t.Error(failed)
			}
		}
		if diff := cmp.Diff([][]string{{"a"}, {"b"}}, r.batches); diff != "" {
			t.Error(diff)
		}
		<-r.begin(t.Context(), here, "a")
		if len(r.batches) != 3 {
			t.Errorf("what is over was joined: %v", r.batches)
		}
	})
}

func TestClustersDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(nil)
		begun := time.Now()
		one, two := r.begin(t.Context(), here, "a"), r.begin(t.Context(), there, "a")
		<-one
		<-two
		if took := time.Since(begun); took != time.Second || len(r.batches) != 2 {
			t.Errorf("took %v, batches %v", took, r.batches)
		}
	})
}

func TestACallerWhoLeavesTakesTheIDAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(nil)
		ctx, cancel := context.WithCancel(t.Context())
		first := r.begin(t.Context(), here, "first")
		leaver := r.begin(ctx, here, "alone", "shared")
		stayer := r.begin(t.Context(), here, "shared")
		cancel()
		if failed := <-leaver; len(failed) != 2 || !errors.Is(failed["alone"], context.Canceled) || !errors.Is(failed["shared"], context.Canceled) {
			t.Error(failed)
		}
		if failed := <-stayer; len(failed) > 0 {
			t.Error(failed)
		}
		<-first
		if diff := cmp.Diff([][]string{{"first"}, {"shared"}}, r.batches); diff != "" {
			t.Error(diff)
		}
		if failed := r.revoke(ctx, here, []string{"late"}); !errors.Is(failed["late"], context.Canceled) || len(r.batches) != 2 {
			t.Errorf("a context that was done: %v, %v", failed, r.batches)
		}
	})
}

func TestABatchOutlivesItsFirstCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(nil)
		ctx, cancel := context.WithCancel(t.Context())
		first, second := r.begin(ctx, here, "a"), r.begin(t.Context(), here, "a")
		cancel()
		if failed := <-first; !errors.Is(failed["a"], context.Canceled) {
			t.Error(failed)
		}
		if failed := <-second; len(failed) > 0 {
			t.Error(failed)
		}
	})
}

func TestABatchEndsWithItsLastCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(nil)
		// A run that takes its time to die, in which somebody new comes.
		dying, over := make(chan struct{}), make(chan struct{})
		run := r.run
		r.run = func(ctx context.Context, c issuer.Cluster, ids []string) map[string]error {
			defer func() {
				if ctx.Err() != nil {
					close(dying)
					<-over
				}
			}()
			return run(ctx, c, ids)
		}
		ctx, cancel := context.WithCancel(t.Context())
		leaver := r.begin(ctx, here, "a", "b")
		cancel()
		<-dying
		newcomer := r.begin(t.Context(), here, "a")
		select {
		case failed := <-leaver:
			t.Errorf("left behind a run, with %v", failed)
		default:
		}
		close(over)
		if failed := <-leaver; len(failed) != 2 {
			t.Error(failed)
		}
		if failed := <-newcomer; len(failed) > 0 {
			t.Errorf("joined what was being killed: %v", failed)
		}
		if diff := cmp.Diff([][]string{{"a", "b"}, {"a"}}, r.batches); diff != "" {
			t.Error(diff)
		}
	})
}
