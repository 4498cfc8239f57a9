package backend_test

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"
)

// statusTellsTheTruth reads status and checks that the counts are right, or are
// left out and ledger_loaded is false.
func (e *engine) statusTellsTheTruth(when string) {
	e.t.Helper()
	resp, err := e.do(e.t.Context(), readOp, "status", nil)
	if err != nil {
		return // no counts at all
	}
	got := map[string]int{}
	for state, field := range countFields {
		n, known := resp.Data[field]
		switch {
		case !known:
		case resp.Data["ledger_loaded"] != true:
			e.t.Errorf("%s: status shows %s=%v although the ledger is not loaded", when, field, n)
		case n != 0:
			got[state] = n.(int)
		}
	}
	if resp.Data["ledger_loaded"] != true {
		return
	}
	if diff := cmp.Diff(e.states(), got); diff != "" {
		e.t.Errorf("%s: status does not show what is stored: %s", when, diff)
	}
}

// Counts of zero right after a restart would end the loop that waits until a
// mount can be disabled, while the ledger still holds tokens.
func TestStatus_RightAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "24h"})
		e.statusTellsTheTruth("before anything was issued")
		for range 3 {
			e.creds()
		}
		h := e.creds()
		e.cluster.SetHook(down)
		_ = e.revoke(h)
		e.try(readOp, "creds/automation", nil)
		e.statusTellsTheTruth("before the restart")
		e.restart()
		e.statusTellsTheTruth("right after the restart")
		e.try(readOp, "creds/automation", nil) // an index that is not empty is not complete either
		e.statusTellsTheTruth("after a read")
		e.write("roles/automation", map[string]any{"max_active": 100})
		e.restart()
		e.try(readOp, "creds/automation", nil) // loads the records of the role
		e.statusTellsTheTruth("after a read that counts")
		e.tick()
		e.statusTellsTheTruth("after a tick")
		e.pass(10 * time.Minute)
		e.statusTellsTheTruth("ten minutes later")
	})
}

// The storage may fail while the ledger is loaded.
func TestStatus_LedgerThatCannotBeLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		for range 3 {
			e.creds()
		}
		for n := 1; n <= 6; n++ {
			e.restart()
			var steps atomic.Int64
			e.storage.setFault(func(when string, op logical.Operation, key string) error {
				if when == "before" && len(key) >= 7 && key[:7] == "ledger/" {
					if steps.Add(1) == int64(n) {
						return errInjected
					}
				}
				return nil
			})
			e.statusTellsTheTruth("while the storage fails")
			e.tick()
			e.statusTellsTheTruth("after a tick on a storage that fails")
			e.storage.setFault(nil)
			e.pass(2 * time.Minute)
			e.statusTellsTheTruth("when the storage works again")
			if e.read("status").Data["ledger_loaded"] != true {
				t.Error("the ledger was never loaded")
			}
		}
	})
}

// The documented way to disable a mount: revoke the leases, wait until status
// shows that nothing is left, disable. It must not end early when the plugin is
// reloaded in an outage.
func TestStatus_DrainThroughAReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "8h", "max_ttl": "8h"})
		h := e.creds()
		e.cluster.SetHook(down)
		_ = e.revoke(h)
		e.pass(2 * time.Minute)
		if err := e.revoke(h); err != nil {
			t.Fatalf("not deferred: %v", err)
		}
		for _, reload := range []bool{false, true} {
			if reload {
				e.restart()
			}
			if e.drained() {
				t.Errorf("reload %v: drained while a token is alive", reload)
			}
		}
		e.cluster.SetHook(nil)
		for range 30 {
			if e.pass(time.Minute); e.drained() {
				break
			}
		}
		if !e.drained() || e.alive() != 0 {
			t.Errorf("drained: %v; %d tokens alive", e.drained(), e.alive())
		}
	})
}

// drained is the condition that a script may wait for: every count is known and
// zero.
func (e *engine) drained() bool {
	e.t.Helper()
	data := e.read("status").Data
	for _, field := range countFields {
		if n, known := data[field]; !known || n != 0 {
			return false
		}
	}
	return true
}
