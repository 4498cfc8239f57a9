package backend_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend"
)

// A slowVault is a Vault that takes long to answer one call of the plugin: an
// event, or a question about the mount.
type slowVault struct {
	logical.SystemView
	events logical.EventSender

	slow    atomic.Bool // the next call is the slow one
	entered chan struct{}
	release chan struct{}
}

func (v *slowVault) wait() {
	if v.slow.CompareAndSwap(true, false) {
		close(v.entered)
		<-v.release
	}
}

func (v *slowVault) SendEvent(ctx context.Context, kind logical.EventType, event *logical.EventData) error {
	v.wait()
	return v.events.SendEvent(ctx, kind, event)
}

func (v *slowVault) MaxLeaseTTL() time.Duration {
	v.wait()
	return v.SystemView.MaxLeaseTTL()
}

// on restarts the engine on a slow Vault.
func (e *engine) on(v *slowVault) {
	e.t.Helper()
	e.Cleanup(context.Background())
	b, err := backend.Factory(backend.Options{
		Drivers: e.drivers(),
		Now:     e.clock.Now,
	})(context.Background(), &logical.BackendConfig{
		Logger: hclog.NewNullLogger(), System: v, EventsSender: v, StorageView: e.storage, BackendUUID: "backend-uuid",
	})
	if err != nil {
		e.t.Fatal(err)
	}
	e.Backend = b
	e.t.Cleanup(func() { b.Cleanup(context.Background()) })
}

// While Vault is slow to take an event or to answer a question, another request
// is handled. No lock is held over a call to Vault.
func TestLocks_NotHeldOverCallsToVault(t *testing.T) {
	type request func(e *engine)
	writeRole := func(name string) request {
		return func(e *engine) { e.tryWrite("roles/"+name, map[string]any{"ttl": "1h"}) }
	}
	writeConfig := func(e *engine) { e.tryWrite("config", e.config(map[string]any{"max_parallel": 6})) }
	for name, c := range map[string]struct{ slow, other request }{
		"write role":    {writeRole("a"), writeRole("b")},
		"delete role":   {func(e *engine) { e.try(deleteOp, "roles/automation", nil) }, writeRole("b")},
		"write config":  {writeConfig, writeConfig},
		"delete config": {func(e *engine) { e.try(deleteOp, "config", nil) }, writeConfig},
		"issue":         {func(e *engine) { e.try(readOp, "creds/automation", nil) }, writeRole("automation")},
		"read role":     {func(e *engine) { e.try(readOp, "roles/automation", nil) }, writeRole("automation")},
	} {
		t.Run(name, func(t *testing.T) {
			e := ready(t, nil)
			v := &slowVault{SystemView: e.system, events: e.events, entered: make(chan struct{}), release: make(chan struct{})}
			e.on(v)
			v.slow.Store(true)
			var all sync.WaitGroup
			all.Go(func() { c.slow(e) })
			<-v.entered
			done := make(chan struct{})
			all.Go(func() {
				defer close(done)
				c.other(e)
			})
			select {
			case <-done:
			case <-time.After(5 * time.Second): // it takes microseconds
				t.Error("another request waits for a call to Vault to end")
			}
			close(v.release)
			all.Wait()
		})
	}
}
