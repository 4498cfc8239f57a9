package backend_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// fails returns a hook that fails at the given steps.
func fails(err error, steps ...issuertest.Step) issuertest.Hook {
	return func(_ context.Context, step issuertest.Step) error {
		if slices.Contains(steps, step) {
			return err
		}
		return nil
	}
}

var errDown = errors.New("out of reach")

// down is the hook of a cluster that cannot be reached.
var down = fails(errDown, issuertest.BeforeIssue, issuertest.BeforeRevoke, issuertest.BeforeList)

// A failureMode says how one step fails. A step is an operation of the storage,
// or the time before or after the cluster does what is asked.
type failureMode string

const (
	crash      failureMode = "crash"                  // this step and all later ones have no effect, until a restart
	notDone    failureMode = "not done"               // the step has no effect and fails
	doneButErr failureMode = "done, but not reported" // the step has its effect and fails
)

var failureModes = []failureMode{crash, notDone, doneButErr}

var errInjected = errors.New("injected failure")

// A stepFailure makes the nth step fail.
type stepFailure struct {
	mode failureMode
	n    int

	mu       sync.Mutex // guards the following
	step     int
	happened bool
}

// at returns an error if the step that begins ("before") or ends ("after") now
// fails.
func (f *stepFailure) at(when string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if when == "before" {
		f.step++
	}
	if f.step == f.n && (f.mode == doneButErr) == (when == "after") || f.mode == crash && f.step > f.n {
		f.happened = true
		return errInjected
	}
	return nil
}

// hasHappened reports whether the step was reached.
func (f *stepFailure) hasHappened() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.happened
}

// failStep makes the nth step from now on fail.
func (e *engine) failStep(mode failureMode, n int) *stepFailure {
	f := &stepFailure{mode: mode, n: n}
	e.storage.setFault(func(when string, _ logical.Operation, _ string) error { return f.at(when) })
	for _, fake := range []*issuertest.Fake{e.cluster, e.data} {
		fake.SetHook(func(context.Context, issuertest.Step) error {
			if err := f.at("before"); err != nil {
				return err
			}
			return f.at("after")
		})
	}
	return f
}

// failNoMore makes storage and cluster work again.
func (e *engine) failNoMore() {
	e.storage.setFault(nil)
	e.cluster.SetHook(nil)
	e.data.SetHook(nil)
}

// A storage counts its operations and fails where a test says so.
type storage struct {
	logical.Storage // the one in memory

	mu    sync.Mutex // guards the following
	fault fault
	ops   int
}

// A fault is called before each operation of a storage (when is "before") and
// after it ("after"). If it returns an error, the operation fails: without its
// effect before, although it had its effect after.
type fault func(when string, op logical.Operation, key string) error

// failOn returns a fault that makes every operation op on keys with a prefix fail.
func failOn(when string, op logical.Operation, prefix string) fault {
	return func(w string, o logical.Operation, key string) error {
		if w == when && o == op && strings.HasPrefix(key, prefix) {
			return errInjected
		}
		return nil
	}
}

// setFault sets the fault; nil removes it.
func (s *storage) setFault(f fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// count returns the number of operations so far.
func (s *storage) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ops
}

// run does an operation between the two calls of the fault.
func (s *storage) run(op logical.Operation, key string, do func() error) error {
	s.mu.Lock()
	s.ops++
	fault := s.fault
	s.mu.Unlock()
	if fault == nil {
		return do()
	}
	if err := fault("before", op, key); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return fault("after", op, key)
}

func (s *storage) Get(ctx context.Context, key string) (entry *logical.StorageEntry, err error) {
	err = s.run(logical.ReadOperation, key, func() (err error) {
		entry, err = s.Storage.Get(ctx, key)
		return err
	})
	return entry, err
}

func (s *storage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return s.run(logical.UpdateOperation, entry.Key, func() error { return s.Storage.Put(ctx, entry) })
}

func (s *storage) Delete(ctx context.Context, key string) error {
	return s.run(logical.DeleteOperation, key, func() error { return s.Storage.Delete(ctx, key) })
}

func (s *storage) List(ctx context.Context, prefix string) (keys []string, err error) {
	err = s.run(logical.ListOperation, prefix, func() (err error) {
		keys, err = s.Storage.List(ctx, prefix)
		return err
	})
	return keys, err
}

// dump returns all entries, one a line. It contains secrets: never print it.
func (s *storage) dump(t *testing.T) string { return s.dumpUnder(t, "") }

// dumpUnder returns the entries whose keys have the prefix.
func (s *storage) dumpUnder(t *testing.T, prefix string) string {
	keys, err := logical.CollectKeysWithPrefix(context.Background(), s.Storage, prefix)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, key := range keys {
		if key == "leadership" {
			continue // written before every revocation, and says nothing about the mount
		}
		entry, err := s.Storage.Get(context.Background(), key)
		if err != nil || entry == nil {
			t.Fatalf("%s: %v", key, err)
		}
		all.WriteString(key + " " + string(entry.Value) + "\n")
	}
	return all.String()
}
