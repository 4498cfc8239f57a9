package backend_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/anishathalye/porcupine"
	"github.com/hashicorp/vault/sdk/logical"
)

// A history is what concurrent clients have asked for and been answered. It is
// linearizable if there is one order of the operations that explains all answers, in
// which each operation has its effect between its request and its answer.
type history struct {
	time atomic.Int64 // counts requests and answers
	mu   sync.Mutex   // guards ops
	ops  []porcupine.Operation
}

// do records one operation. An output of nil means that nothing is known about it, so
// the operation must have had no effect.
func (h *history) do(client int, input any, act func() any) {
	op := porcupine.Operation{ClientId: client, Input: input, Call: h.time.Add(1)}
	if op.Output = act(); op.Output == nil {
		return
	}
	op.Return = h.time.Add(1)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, op)
}

// runClients runs clients at the same time and waits for all of them. Others continue
// before and after every operation of the storage.
func (e *engine) runClients(n int, run func(client int)) {
	e.storage.setFault(func(string, logical.Operation, string) error {
		for range rand.IntN(20) { //nolint:gosec // not a secret
			runtime.Gosched()
		}
		return nil
	})
	defer e.storage.setFault(nil)
	var wg sync.WaitGroup
	for client := range n {
		wg.Go(func() { run(client) })
	}
	wg.Wait()
}

const (
	historyClients = 6
	historyRounds  = 60
)

// For max_active, there is one order of the reads and revocations in which a read is
// refused if and only if max_active tokens are valid.
func TestHistory_MaxActive(t *testing.T) {
	const maxActive = 3
	e := ready(t, map[string]any{"max_active": maxActive})
	h := &history{}
	e.runClients(historyClients, func(client int) {
		var held []*credential
		for range historyRounds {
			if len(held) > 0 && rand.IntN(2) == 0 { //nolint:gosec // not a secret
				h.do(client, "revoke", func() any {
					if err := e.revoke(held[0]); err != nil {
						t.Errorf("revoke: %v", err)
					}
					return "revoked"
				})
				held = held[1:]
				continue
			}
			h.do(client, "read", func() any {
				resp, err := e.do(t.Context(), readOp, "creds/automation", nil)
				switch {
				case err == nil && !resp.IsError():
					held = append(held, &credential{Response: resp})
					return "issued"
				case strings.Contains(fmt.Sprint(resp, err), "max_active"):
					return "refused"
				}
				t.Errorf("read: %v %v", resp, err)
				return nil
			})
		}
	})
	mustLinearize(t, h, porcupine.Model{
		Init: func() any { return 0 },
		Step: func(state, _, output any) (bool, any) {
			switch used := state.(int); output {
			case "issued":
				return used < maxActive, used + 1
			case "refused":
				return used == maxActive, used
			default:
				return true, used - 1
			}
		},
	}, "refused", "issued")
}

// Rotations of the root credential, and of a static role, happen in one order: a read
// that begins after a rotation was answered returns its result or a later one.
func TestHistory_Rotations(t *testing.T) {
	for name, r := range map[string]struct{ rotate, read, field string }{
		"root credential": {"config/rotate-root", "config", "mgmt_token_id"},
		"static role":     {"rotate-role/fleet", "static-creds/fleet", "token_id"},
	} {
		t.Run(name, func(t *testing.T) {
			e := ready(t, nil)
			e.write("static-roles/fleet", map[string]any{"token_type": "management", "rotation_period": "24h"})
			before := e.read(r.read).Data[r.field]
			h := &history{}
			e.runClients(historyClients, func(client int) {
				for round := range historyRounds {
					op, path := logical.Operation(readOp), r.read
					if client == 0 && round%5 == 0 || client == 1 && round%7 == 0 {
						op, path = updateOp, r.rotate
					}
					h.do(client, string(op), func() any {
						resp, err := e.do(t.Context(), op, path, nil)
						switch {
						case err != nil && strings.Contains(err.Error(), "already"), resp.IsError() && strings.Contains(resp.Error().Error(), "already"):
							return nil // another rotation is running
						case err != nil || resp.IsError():
							t.Errorf("%s %s: %v %v", op, path, resp, err)
							return nil
						}
						return resp.Data[r.field]
					})
				}
			})
			mustLinearize(t, h, porcupine.Model{
				Init: func() any { return before },
				Step: func(state, input, output any) (bool, any) {
					return input == string(updateOp) || output == state, output
				},
			})
		})
	}
}

// mustLinearize fails the test if no order explains the history, or if none of the
// outputs that must occur does.
func mustLinearize(t *testing.T, h *history, model porcupine.Model, outputs ...any) {
	t.Helper()
	seen := map[any]int{}
	for _, op := range h.ops {
		seen[op.Output]++
	}
	for _, output := range outputs {
		if seen[output] == 0 {
			t.Errorf("no operation was answered with %v", output)
		}
	}
	if !porcupine.CheckOperations(model, h.ops) {
		for _, op := range h.ops {
			t.Logf("client %d: %v from %d to %d: %v", op.ClientId, op.Input, op.Call, op.Return, op.Output)
		}
		t.Errorf("no order of the %d operations explains their answers", len(h.ops))
	}
}
