//go:build !race

package simulation

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend"
)

// An instance is one process of the plugin on a node: an engine and what it sees.
type instance struct {
	world   *world
	name    string // for traces
	node    int
	backend logical.Backend
	view    *view
	standby bool    // the node is a standby that answers reads
	deposed bool    // the node has lost the leadership
	paused  bool    // the process is stopped and may continue
	retired bool    // the process was told to end
	leases  []lease // that Vault had when the process lost the leadership
	ended   bool    // the process has crashed: nothing that it does has an effect
}

// start starts an instance on a node.
func (w *world) start(node int, standby bool) *instance {
	w.instances++
	i := &instance{world: w, node: node, standby: standby, name: fmt.Sprintf("node %d plugin %d", node+1, w.instances)}
	i.view = &view{instance: i}
	if standby {
		i.view.freeze()
	}
	factory := backend.Factory(backend.Options{Version: "v1.2.3", Drivers: w.drivers(i), Now: i.now})
	b, err := factory(context.Background(), &logical.BackendConfig{
		Logger:       hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: &w.log, DisableTime: true}),
		System:       &systemView{instance: i, StaticSystemView: logical.StaticSystemView{DefaultLeaseTTLVal: time.Hour}},
		StorageView:  i.view,
		BackendUUID:  "simulated-mount",
		EventsSender: w.events,
	})
	if err != nil {
		panic(err)
	}
	i.backend = b
	return i
}

func (w *world) drivers(i *instance) backend.Drivers {
	types := backend.Drivers{w.product: {}}
	types[w.product][backend.Management] = driver{i, backend.Management}
	types[w.product][backend.Database] = driver{i, backend.Database}
	return types
}

// now is the clock of the instance's node.
func (i *instance) now() time.Time {
	i.world.mu.Lock()
	defer i.world.mu.Unlock()
	return i.world.timeLocked().Add(i.world.skew[i.node])
}

// crash ends an instance. Calls to the cluster that it has begun may still have
// their effect.
func (w *world) crash(i *instance) {
	i.ended, i.paused = true, false
	w.mu.Lock()
	gates := append([]*gate{}, w.gates...)
	w.mu.Unlock()
	for _, g := range gates {
		if g.from != i {
			continue
		}
		v := verdict{before: errCrashed, after: errCrashed}
		if g.remote() && !g.after && g.notBefore.IsZero() { // otherwise its effect is decided already
			switch w.choice.n(3) {
			case 1:
				v.before = nil // it has its effect now
			case 2:
				v.late = w.choice.between(time.Second, time.Minute)
			}
		}
		w.let(g, v)
	}
}

// retire ends an instance in good order, as a seal, a reload or a step-down does.
func (w *world) retire(i *instance) {
	i.retired = true
	w.do("clean "+i.name, func() { i.backend.Cleanup(context.Background()) })
	i.deposed = true
	i.view.freeze()
}

// A systemView is what Vault tells an instance about itself.
type systemView struct {
	logical.StaticSystemView
	instance *instance
}

// Tainted implements logical.SystemView.
func (s *systemView) Tainted() bool { return s.instance.world.tainted.Load() }

// MaxLeaseTTL implements logical.SystemView.
func (s *systemView) MaxLeaseTTL() time.Duration {
	return time.Duration(s.instance.world.mountMax.Load())
}

// ReplicationState implements logical.SystemView.
func (s *systemView) ReplicationState() consts.ReplicationState {
	if s.instance.standby {
		return consts.ReplicationPerformanceStandby
	}
	return consts.ReplicationDRDisabled | consts.ReplicationPerformanceDisabled
}

// A syncLog is the log of all instances.
type syncLog struct {
	mu sync.Mutex // guards b
	b  strings.Builder
}

// Write implements io.Writer.
func (l *syncLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *syncLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A task is a request to an instance, or something else that runs beside the walk.
type task struct {
	name    string
	from    *instance
	data    map[string]any // of a request
	cancel  context.CancelFunc
	begun   time.Time // of the world
	done    bool
	hungUp  bool // nobody waits for the answer any more
	resp    *logical.Response
	err     error
	finish  func(*task)
	resend  func() // after the process has crashed; nil: the request is lost
	highest int    // of the tokens that count in the limit of the role, while it ran
}

// requestTime is how long Vault waits for the answer to a request.
const requestTime = 90 * time.Second

// request sends a request to an instance. finish is called by the walk when the
// answer has arrived, unless the process was lost before.
func (w *world) request(i *instance, op logical.Operation, path string, data map[string]any, finish func(*task)) *task {
	t := &task{from: i, finish: finish}
	w.launch(t, &logical.Request{Operation: op, Path: path, Data: data})
	return t
}

// launch sends the request of a task.
func (w *world) launch(t *task, req *logical.Request) {
	ctx, cancel := context.WithTimeout(context.Background(), requestTime)
	t.name, t.data, t.cancel, t.begun = fmt.Sprintf("%s %s", req.Operation, req.Path), req.Data, cancel, w.time()
	req.Storage = t.from.view
	req.MountPoint, req.DisplayName, req.EntityID = "influxdb/", "token-caller", "entity"
	w.tasks = append(w.tasks, t)
	go func() {
		defer cancel()
		resp, err := t.from.send(ctx, req)
		w.mu.Lock()
		t.resp, t.err, t.done, t.hungUp = resp, err, true, errors.Is(ctx.Err(), context.Canceled)
		w.activity++
		w.mu.Unlock()
		w.wake()
	}()
	w.turn()
}

// send sends a request as Vault's core does.
func (i *instance) send(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	if req.Operation == logical.UpdateOperation {
		checked, exists, err := i.backend.HandleExistenceCheck(ctx, req)
		if err != nil {
			return nil, err
		}
		if checked && !exists {
			req.Operation = logical.CreateOperation
		}
	}
	resp, err := i.backend.HandleRequest(ctx, req)
	if err == nil && resp.IsError() {
		err = resp.Error()
	}
	return resp, err
}

// do runs something beside the walk that nobody waits for.
func (w *world) do(name string, act func()) *task {
	t := &task{name: name, begun: w.time()}
	w.tasks = append(w.tasks, t)
	go func() {
		act()
		w.mu.Lock()
		t.done = true
		w.activity++
		w.mu.Unlock()
		w.wake()
	}()
	w.turn()
	return t
}

// collect handles the answers that have arrived.
func (w *world) collect() {
	w.mu.Lock()
	var arrived, open []*task
	for _, t := range w.tasks {
		if t.done {
			arrived = append(arrived, t)
		} else {
			open = append(open, t)
		}
	}
	w.tasks = open
	w.mu.Unlock()
	for _, t := range arrived {
		if t.finish == nil || t.from != nil && t.from.ended {
			continue
		}
		w.tracef("answer %s: %s", t.name, outcome(t))
		t.finish(t)
	}
}

func outcome(t *task) string {
	switch {
	case t.err != nil:
		return "error: " + t.err.Error()
	case t.resp != nil && len(t.resp.Warnings) > 0:
		return "ok, with a warning: " + t.resp.Warnings[0]
	}
	return "ok"
}
