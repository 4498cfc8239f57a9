package backend_test

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// yields is how often meanwhile lets other goroutines run before it concludes
// that act waits for a lock.
const yields = 200_000

// meanwhile runs act while its caller stands still, and returns when act has
// ended, or when act seems to wait for a lock that the caller holds.
func meanwhile(act func()) {
	var ended atomic.Bool
	go func() {
		defer ended.Store(true)
		act()
	}()
	for range yields {
		if ended.Load() {
			return
		}
		runtime.Gosched()
	}
}

// An interleaving runs an act in the middle of what the engine does.
type interleaving struct {
	engine *engine
	act    func()
	ended  chan struct{} // closed when act has ended

	mu    sync.Mutex // guards what follows
	n     int        // the step to run act at
	begun bool
}

// interleave makes act run once, at the nth step of what the engine does from
// now on. Steps are the beginnings and ends of the operations of the storage
// and of the calls to all clusters.
func (e *engine) interleave(n int, act func()) *interleaving {
	i := &interleaving{engine: e, act: act, n: n, ended: make(chan struct{})}
	e.storage.setFault(func(string, logical.Operation, string) error {
		i.step()
		return nil
	})
	i.setHooks(func(context.Context, issuertest.Step) error {
		i.step()
		return nil
	})
	return i
}

func (i *interleaving) setHooks(hook issuertest.Hook) {
	i.engine.cluster.SetHook(hook)
	i.engine.data.SetHook(hook)
	for _, other := range i.engine.others {
		other.SetHook(hook)
	}
}

func (i *interleaving) step() {
	i.mu.Lock()
	hit := !i.begun && i.n == 1
	i.begun = i.begun || hit
	i.n--
	i.mu.Unlock()
	if hit {
		meanwhile(func() {
			defer close(i.ended)
			i.act()
		})
	}
}

// end ends the interleaving. It waits for act and reports whether there were
// enough steps for act to run at all.
func (i *interleaving) end() bool {
	i.engine.storage.setFault(nil)
	i.setHooks(nil)
	i.mu.Lock()
	begun := i.begun
	i.mu.Unlock()
	if begun {
		<-i.ended
	}
	return begun
}
