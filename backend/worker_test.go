package backend_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// A tick with nothing due reads no storage and asks no cluster, however many
// records there are.
func TestWorker_NothingDueCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		for range 1000 {
			e.creds()
		}
		e.tick() // loads the index
		operations, lists := e.storage.count(), e.cluster.Calls(issuertest.BeforeList)
		e.pass(30 * time.Minute)
		if n := e.storage.count() - operations; n != 0 {
			t.Errorf("%d storage operations in thirty ticks", n)
		}
		if n := e.cluster.Calls(issuertest.BeforeList) - lists; n != 0 {
			t.Errorf("%d lists in thirty ticks", n)
		}
	})
}

// A token whose lease Vault has lost is revoked two minutes after the end of the
// lease.
func TestWorker_RevokesTheTokenOfALostLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "24h"})
		h := e.creds()
		e.passInSteps(30*time.Second, 61*time.Minute+30*time.Second) // a lease may begin 90 s after the answer
		if !e.cluster.Alive(h.secret()) {
			t.Error("revoked before Vault had the time to revoke the lease")
		}
		e.pass(time.Minute)
		if e.alive() != 0 || len(e.records()) != 0 {
			t.Errorf("%d valid tokens, records %v", e.alive(), e.records())
		}
		if events := strings.Join(e.eventTypes(), " "); !strings.Contains(events, "orphan-revoke") {
			t.Errorf("events: %s", events)
		}
	})
}

// A node that may not write does nothing, not even a read. When it becomes active,
// it revokes what is due.
func TestWorker_DoesNothingOnAStandby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "10m", "max_ttl": "1h"})
		h := e.creds()
		e.system.ReplicationStateVal = consts.ReplicationPerformanceStandby
		operations := e.storage.count()
		e.pass(20 * time.Minute)
		if n := e.storage.count() - operations; n != 0 || !e.cluster.Alive(h.secret()) {
			t.Errorf("%d storage operations; the token is valid: %v", n, e.cluster.Alive(h.secret()))
		}
		e.system.ReplicationStateVal = consts.ReplicationPerformancePrimary
		e.tick()
		if e.alive() != 0 {
			t.Error("the active node does not revoke what is due")
		}
	})
}

// A node whose index is older than the storage does not revoke the token of a
// lease that another node has renewed.
func TestWorker_StaleIndexRevokesNoValidLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "10m", "max_ttl": "1h"})
		h := e.creds()
		e.tick()
		stale := e.Backend
		e.Backend = nil
		e.restart() // another node
		e.clock.advance(9 * time.Minute)
		if _, err := e.renew(h, 0); err != nil {
			t.Fatal(err)
		}
		e.clock.advance(5 * time.Minute)
		e.Backend = stale
		e.tick()
		if !e.cluster.Alive(h.secret()) {
			t.Error("a token under a valid lease was revoked")
		}
	})
}

// A token whose answer was lost is looked for after the request is certain to have
// ended, and revoked.
func TestWorker_RevokesTheTokenOfALostAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.failReads("automation", issuertest.AfterIssue, 1)
		if e.alive() != 1 {
			t.Fatal("the token was not issued: the test proves nothing")
		}
		e.pass(time.Minute)
		if e.alive() != 1 {
			t.Error("the token was revoked while the request could still run")
		}
		e.pass(time.Minute)
		if e.alive() != 0 || len(e.records()) != 0 {
			t.Errorf("%d valid tokens, records %v", e.alive(), e.records())
		}
	})
}

// A token that the list does not show is looked for during a day, because a list
// may lag. Its record is kept until then.
func TestWorker_KeepsLookingForATokenForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "72h"})
		e.cluster.SetLag(23 * time.Hour)
		e.failReads("automation", issuertest.AfterIssue, 1)
		e.failReads("automation", issuertest.BeforeIssue, 1)
		lists := e.cluster.Calls(issuertest.BeforeList)
		e.pass(20 * time.Hour)
		if len(e.records()) != 2 || e.alive() != 1 {
			t.Fatalf("%d valid tokens, records %v", e.alive(), e.records())
		}
		if n := e.cluster.Calls(issuertest.BeforeList) - lists; n > 30 {
			t.Errorf("%d lists in twenty hours", n)
		}
		e.pass(6 * time.Hour)
		if len(e.records()) != 0 || e.alive() != 0 {
			t.Errorf("%d valid tokens, records %v", e.alive(), e.records())
		}
	})
}

// A revocation that has failed is tried again at once after a start.
func TestWorker_RetriesRevocationsAfterAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "24h"})
		h := e.creds()
		e.cluster.SetHook(down)
		for range 10 {
			if err := e.revoke(h); err == nil {
				t.Fatal("revoked without the cluster")
			}
		}
		e.cluster.SetHook(nil)
		e.restart()
		e.tick()
		if e.alive() != 0 || len(e.records()) != 0 {
			t.Errorf("%d valid tokens, records %v", e.alive(), e.records())
		}
	})
}

// After an outage of a day, no lease is irrevocable in Vault, and every token is
// revoked within minutes. During the outage the cluster is asked rarely.
func TestWorker_OutageOfADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "10m", "max_ttl": "72h"})
		var leases []*credential
		for range 500 {
			leases = append(leases, e.creds())
		}
		e.failReads("automation", issuertest.AfterIssue, 10)
		e.cluster.SetHook(down)
		for range 1000 {
			if status, _ := e.try(readOp, "creds/automation", nil); status < 400 {
				t.Fatal("a token was issued by a cluster out of reach")
			}
		}
		if got := e.states(); got[stateIssuing] != 100 || got[stateActive] != 500 {
			t.Errorf("records %v, want 100 issuing and 500 active", got)
		}
		e.pass(10 * time.Minute)
		if left := e.revokeAsVaultDoes(leases); left != 0 {
			t.Errorf("%d leases are irrevocable", left)
		}
		lists := e.cluster.Calls(issuertest.BeforeList)
		e.passInSteps(15*time.Minute, 24*time.Hour)
		if n := e.cluster.Calls(issuertest.BeforeList) - lists; n > 24*4+10 {
			t.Errorf("%d lists in a day of outage", n)
		}
		if e.alive() != 510 {
			t.Fatalf("%d valid tokens, want 510: the test proves nothing", e.alive())
		}
		e.cluster.SetHook(nil)
		e.pass(5 * time.Minute)
		if e.alive() != 0 {
			t.Errorf("%d valid tokens minutes after the outage", e.alive())
		}
		e.passInSteps(15*time.Minute, 25*time.Hour)
		if len(e.records()) != 0 {
			t.Errorf("records %v", e.ledger())
		}
	})
}

// revokeAsVaultDoes revokes leases in six attempts over ten minutes, and returns
// how many are left. Vault marks those as irrevocable.
func (e *engine) revokeAsVaultDoes(leases []*credential) (left int) {
	e.t.Helper()
	for _, pause := range []time.Duration{0, 20, 40, 80, 160, 320} {
		e.pass(pause * time.Second)
		var rest []*credential
		for _, h := range leases {
			if e.revoke(h) != nil {
				rest = append(rest, h)
			}
		}
		leases = rest
	}
	return len(leases)
}

// A revocation by the worker that hangs holds up no request and no restart.
func TestWorker_HungRevocationHoldsUpNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "24h"})
		e.creds()
		e.clock.advance(62*time.Minute + time.Second)
		hangs := make(chan struct{})
		e.cluster.SetHook(func(ctx context.Context, step issuertest.Step) error {
			if step == issuertest.BeforeRevoke {
				close(hangs)
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		e.tick()
		<-hangs
		e.tick()
		e.creds()
		e.read("status")
		e.restart() // stops the worker at once
		e.cluster.SetHook(nil)
		e.tick()
		if e.alive() != 1 {
			t.Errorf("%d valid tokens, want 1", e.alive())
		}
	})
}

// Records that this version cannot read are never changed. Beside records of a
// newer version no token is issued.
func TestLedger_RecordsOfANewerVersionAreNotChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.creds()
		e.creds()
		key := e.records()[0]
		e.edit(key, ofANewerVersion)
		unreadable := e.storage.dumpUnder(t, key)
		if err := e.storage.Put(t.Context(), &logical.StorageEntry{Key: "ledger/automation/damaged", Value: []byte("{")}); err != nil {
			t.Fatal(err)
		}
		e.restart()
		e.pass(2 * time.Hour)
		if got := e.storage.dumpUnder(t, "ledger/"); got != unreadable+"ledger/automation/damaged {\n" {
			t.Errorf("the ledger: %s", got)
		}
		if got, _ := e.read("status").Data["ledger_error"].(string); !strings.Contains(got, "newer version") {
			t.Errorf("ledger_error: %q", got)
		}
		if _, text := e.try(readOp, "creds/automation", nil); !strings.Contains(text, "newer version") {
			t.Errorf("a read: %s", text)
		}
	})
}
