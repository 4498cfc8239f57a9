package backend_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// fails returns a hook that fails at the given steps.
func fails(err error, steps ...issuertest.Step) issuertest.Hook {
	return func(_ context.Context, step issuertest.Step) error {
		for _, s := range steps {
			if s == step {
				return err
			}
		}
		return nil
	}
}

var errDown = errors.New("out of reach")

// down is a cluster that cannot be reached.
var down = fails(errDown, issuertest.BeforeIssue, issuertest.BeforeRevoke, issuertest.BeforeList)

func TestNothingDueCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.creds()
		e.tick() // loads the index
		ops, lists := e.storage.count(), e.cluster.Calls(issuertest.BeforeList)
		e.pass(30 * time.Minute)
		if n := e.storage.count() - ops; n != 0 {
			t.Errorf("%d storage operations in thirty ticks with nothing due", n)
		}
		if n := e.cluster.Calls(issuertest.BeforeList) - lists; n != 0 {
			t.Errorf("%d lists", n)
		}
	})
}

func TestATokenWhoseLeaseVaultLostIsRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.creds()
		e.pass(61 * time.Minute)
		if e.alive() != 0 || len(e.records()) != 0 {
			t.Errorf("%d alive, records %v", e.alive(), e.records())
		}
	})
}

func TestANodeThatMayNotWriteActsOnNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "10m", "max_ttl": "1h"})
		h := e.creds()
		e.system.ReplicationStateVal = consts.ReplicationPerformanceStandby
		ops := e.storage.count()
		e.pass(20 * time.Minute)
		if n := e.storage.count() - ops; n != 0 || !e.cluster.Alive(h.secret()) {
			t.Errorf("a standby has made %d storage operations; the token lives: %v", n, e.cluster.Alive(h.secret()))
		}
		e.system.ReplicationStateVal = consts.ReplicationPerformancePrimary
		e.tick()
		if e.alive() != 0 {
			t.Error("once active it has not revoked what was due")
		}
	})
}

func TestARenewedLeaseIsNotTakenForLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "10m", "max_ttl": "1h"})
		h := e.creds()
		for range 5 {
			e.pass(9 * time.Minute)
			if _, err := e.renew(h, 0); err != nil {
				t.Fatal(err)
			}
			if !e.cluster.Alive(h.secret()) {
				t.Fatal("a token under a living lease was killed")
			}
		}
	})
}

func TestALeaseIsNotRenewedWhileItsTokenIsBeingKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "10m", "max_ttl": "1h"})
		h := e.creds()
		renewed := errors.New("not tried")
		e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
			if step == issuertest.BeforeRevoke {
				_, renewed = e.renew(h, 0)
			}
			return nil
		})
		e.pass(12 * time.Minute)
		if renewed == nil || e.alive() != 0 {
			t.Errorf("renewed while the worker was at it: %v; %d alive", renewed, e.alive())
		}
	})
}

func TestAStaleIndexKillsNoLivingLease(t *testing.T) {
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
			t.Error("a node with a stale index killed a token under a living lease")
		}
	})
}

func TestAMintWithALostAnswerIsFoundAndRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.cluster.SetHook(fails(errDown, issuertest.AfterIssue))
		if _, err := e.do(t.Context(), readOp, "creds/automation", nil); err == nil {
			t.Fatal("no answer, no error")
		}
		e.cluster.SetHook(nil)
		if e.alive() != 1 {
			t.Fatal("the token must exist for this test")
		}
		e.pass(time.Minute)
		if e.alive() != 1 {
			t.Error("a mint was judged before it was certain to have ended")
		}
		e.pass(2 * time.Minute)
		if e.alive() != 0 || len(e.records()) != 0 {
			t.Errorf("%d alive, records %v", e.alive(), e.records())
		}
	})
}

func TestAnAbsentTokenIsForgottenOnlyWhenAbsenceIsCertain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "72h"})
		e.cluster.SetLag(23 * time.Hour)
		e.cluster.SetHook(fails(errDown, issuertest.AfterIssue))
		_, _ = e.do(t.Context(), readOp, "creds/automation", nil)
		e.cluster.SetHook(fails(errDown, issuertest.BeforeIssue))
		_, _ = e.do(t.Context(), readOp, "creds/automation", nil)
		e.cluster.SetHook(nil)
		lists := e.cluster.Calls(issuertest.BeforeList)
		e.pass(20 * time.Hour)
		if len(e.records()) != 2 || e.alive() != 1 {
			t.Fatalf("%d alive, records %v", e.alive(), e.records())
		}
		if n := e.cluster.Calls(issuertest.BeforeList) - lists; n > 30 {
			t.Errorf("%d lists in twenty hours", n)
		}
		e.pass(6 * time.Hour)
		if len(e.records()) != 0 || e.alive() != 0 {
			t.Errorf("%d alive, records %v", e.alive(), e.records())
		}
	})
}

func TestADebtIsTakenOverOnlyAfterATimeAndNeverForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "24h"})
		h := e.creds()
		e.cluster.SetHook(down)
		for range 50 {
			if err := e.revoke(h); err == nil {
				t.Fatal("quick repetition was told that the token is revoked")
			}
		}
		e.clock.advance(99 * time.Second)
		if err := e.revoke(h); err == nil {
			t.Fatal("taken over too early")
		}
		e.clock.advance(time.Second)
		e.system.TaintedVal = true
		if err := e.revoke(h); err == nil {
			t.Fatal("taken over although the mount, and the ledger with it, is about to end")
		}
		e.system.TaintedVal = false
		if err := e.revoke(h); err != nil {
			t.Fatalf("not taken over: %v", err)
		}
		status := e.read("status").Data
		if status["tokens_revoking"] != 1 || !strings.Contains(fmt.Sprint(status["revoking"]), "out of reach") {
			t.Errorf("status: %v", status)
		}
		nonce := e.nonces()[0]
		token := e.read("tokens/" + nonce).Data
		if token["state"] != "revoking" || token["token_id"] != h.id() || !strings.Contains(token["last_failure"].(string), "out of reach") {
			t.Errorf("token: %v", token)
		}
		e.pass(time.Hour)
		e.cluster.SetHook(nil)
		e.pass(5 * time.Minute)
		if e.alive() != 0 || len(e.records()) != 0 {
			t.Errorf("%d alive, records %v", e.alive(), e.records())
		}
	})
}

// nonces returns those of the tokens in the ledger.
func (e *engine) nonces() []string {
	e.t.Helper()
	resp, err := e.do(e.t.Context(), listOp, "tokens/", nil)
	if err != nil || resp.Data["keys"] == nil {
		e.t.Fatal(resp, err)
	}
	return resp.Data["keys"].([]string)
}

func TestADebtIsTriedAgainAtOnceAfterAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "24h"})
		h := e.creds()
		e.cluster.SetHook(down)
		for range 10 {
			_ = e.revoke(h)
		}
		e.cluster.SetHook(nil)
		e.restart()
		e.tick()
		if e.alive() != 0 || len(e.records()) != 0 {
			t.Errorf("%d alive, records %v", e.alive(), e.records())
		}
	})
}

func TestAnOutageOfADayLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "10m", "max_ttl": "72h"})
		var leases []*held
		for range 500 {
			leases = append(leases, e.creds())
		}
		e.cluster.SetHook(fails(errDown, issuertest.AfterIssue))
		for range 10 {
			_, _ = e.do(t.Context(), readOp, "creds/automation", nil)
		}
		e.cluster.SetHook(down)
		for range 1000 {
			if _, err := e.do(t.Context(), readOp, "creds/automation", nil); err == nil {
				t.Fatal("minted by a cluster out of reach")
			}
		}
		if n := len(e.records()); n != 600 {
			t.Errorf("a thousand failed reads left %d records, want the bound of 100 and the 500 leases", n-500)
		}
		e.pass(10 * time.Minute)
		irrevocable := 0
		for _, wait := range []time.Duration{0, 20, 40, 80, 160, 320} { // core's six attempts
			e.pass(wait * time.Second)
			var still []*held
			for _, h := range leases {
				if e.revoke(h) != nil {
					still = append(still, h)
				}
			}
			leases, irrevocable = still, len(still)
		}
		if irrevocable != 0 {
			t.Errorf("%d leases are irrevocable", irrevocable)
		}
		calls := e.cluster.Calls(issuertest.BeforeList)
		e.passBy(15*time.Minute, 24*time.Hour)
		if n := e.cluster.Calls(issuertest.BeforeList) - calls; n > 24*4+10 {
			t.Errorf("%d lists in a day of outage", n)
		}
		if e.alive() != 510 {
			t.Fatalf("%d alive; the tokens must outlast the outage for this test", e.alive())
		}
		e.cluster.SetHook(nil)
		e.pass(5 * time.Minute)
		if e.alive() != 0 {
			t.Errorf("%d alive minutes after the outage", e.alive())
		}
		e.passBy(15*time.Minute, 25*time.Hour)
		if len(e.records()) != 0 {
			t.Errorf("records %v", e.records())
		}
	})
}

func TestDisablingAMountRevokesTogether(t *testing.T) {
	e := ready(t, nil)
	var leases []*held
	for range 200 {
		leases = append(leases, e.creds())
	}
	e.cluster.SetHook(fails(errDown, issuertest.AfterIssue))
	_, _ = e.do(t.Context(), readOp, "creds/automation", nil)
	e.cluster.SetHook(nil)
	e.system.TaintedVal = true
	for _, h := range leases {
		if err := e.revoke(h); err != nil {
			t.Fatal(err)
		}
	}
	if n := e.cluster.Calls(issuertest.BeforeRevoke); n > 2 {
		t.Errorf("%d requests to revoke 201 tokens", n)
	}
	if e.alive() != 0 {
		t.Errorf("%d alive", e.alive())
	}
}

func TestMaxActiveIsExactUnderConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"max_active": 10, "ttl": "72h"})
		first := e.creds()
		e.restart() // the index of a fresh start knows nothing yet
		statuses := map[int]int{}
		var mu sync.Mutex
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				_, err := e.do(t.Context(), readOp, "creds/automation", nil)
				status := http.StatusOK
				if err != nil {
					status, _ = statusOf(readOp, nil, err)
				}
				mu.Lock()
				defer mu.Unlock()
				statuses[status]++
			})
		}
		all.Wait()
		if diff := cmp.Diff(map[int]int{200: 9, 429: 41}, statuses); diff != "" || e.alive() != 10 {
			t.Errorf("%d alive: %s", e.alive(), diff)
		}
		e.refuse(429, readOp, "creds/automation", nil, "max_active")
		if err := e.revoke(first); err != nil {
			t.Fatal(err)
		}
		e.creds()
		e.refuse(429, readOp, "creds/automation", nil, "max_active")
	})
}

func TestAPendingTokenCountsUntilItIsFoundAbsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"max_active": 1, "ttl": "72h"})
		e.cluster.SetHook(fails(errDown, issuertest.BeforeIssue))
		_, _ = e.do(t.Context(), readOp, "creds/automation", nil)
		e.cluster.SetHook(down)
		e.pass(5 * time.Minute)
		e.refuse(429, readOp, "creds/automation", nil)
		e.cluster.SetHook(nil)
		e.pass(5 * time.Minute)
		e.creds()
	})
}

func TestLostMintsBlockOthersOnlyUntilTheyAreLookedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "72h"})
		e.cluster.SetHook(fails(errDown, issuertest.BeforeIssue))
		for range 101 {
			_, _ = e.do(t.Context(), readOp, "creds/automation", nil)
		}
		e.cluster.SetHook(nil)
		e.refuse(429, readOp, "creds/automation", nil, "unknown outcome")
		if n := len(e.records()); n != 100 {
			t.Errorf("%d records", n)
		}
		e.pass(3 * time.Minute)
		e.creds()
	})
}

func TestTheLedgerCanBeReadAndATokenRevoked(t *testing.T) {
	e := ready(t, nil)
	h := e.creds()
	e.creds()
	nonces := e.nonces()
	if len(nonces) != 2 {
		t.Fatalf("tokens: %v", nonces)
	}
	for _, nonce := range nonces {
		token := e.read("tokens/" + nonce).Data
		if token["state"] != "active" || token["role"] != "automation" || token["display_name"] != "token-tester" || token["entity_id"] != "entity-1" {
			t.Errorf("token: %v", token)
		}
		if token["token_id"] == h.id() {
			e.must(deleteOp, "tokens/"+nonce, nil)
		}
	}
	if e.cluster.Alive(h.secret()) || e.alive() != 1 || len(e.nonces()) != 1 {
		t.Errorf("%d alive, %v", e.alive(), e.nonces())
	}
	if err := e.revoke(h); err != nil {
		t.Errorf("the lease of a token revoked by hand: %v", err)
	}
	e.cluster.SetHook(down)
	_, err := e.do(t.Context(), deleteOp, "tokens/"+e.nonces()[0], nil)
	if status, text := statusOf(deleteOp, nil, err); status != 502 || !strings.Contains(text, "the engine keeps trying") {
		t.Errorf("status %d, %s", status, text)
	}
}

func TestTidyComparesBothWays(t *testing.T) {
	e := ready(t, nil)
	h, dead := e.creds(), e.creds()
	e.cluster.Kill(dead.id())
	unknown := e.cluster.Add("[vault:"+e.tag+":AAAAAAAAAAAAAAAAAAAAAAAAAA] lost", time.Time{})
	stranger := e.cluster.Add("[vault:0123456789ab:AAAAAAAAAAAAAAAAAAAAAAAAAA] another mount's", time.Time{})
	forged := e.cluster.Add("me [vault:"+e.tag+":AAAAAAAAAAAAAAAAAAAAAAAAAA]", time.Time{})

	for _, request := range []map[string]any{nil, {"dry_run": true, "revoke_unknown": e.tag}} {
		got := e.write("tidy", request).Data
		want := map[string]any{
			"dry_run": true, "listed": 7, "foreign": 4, "in_ledger": 2, "unknown": 1, "unknown_ids": []string{unknown.ID},
			"dead": 1, "dead_ids": []string{dead.id()}, "not_listed": 0, "not_listed_ids": []string{}, "revoked": 0, "forgotten": 0,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	if len(e.records()) != 2 || !e.cluster.Alive(unknown.Secret) {
		t.Error("a dry run changed something")
	}
	e.refuse(400, updateOp, "tidy", map[string]any{"dry_run": false, "revoke_unknown": "yes"}, "as a confirmation")
	if got := e.write("tidy", map[string]any{"dry_run": false}).Data; got["forgotten"] != 1 || got["revoked"] != 0 || !e.cluster.Alive(unknown.Secret) {
		t.Errorf("tidy: %v", got)
	}
	if got := e.write("tidy", map[string]any{"dry_run": false, "revoke_unknown": e.tag}).Data; got["revoked"] != 1 || e.cluster.Alive(unknown.Secret) {
		t.Errorf("tidy: %v", got)
	}
	for name, token := range map[string]issuer.Token{"root": e.root, "stranger": stranger, "forged": forged} {
		if !e.cluster.Alive(token.Secret) {
			t.Errorf("the %s's token was touched", name)
		}
	}
	if !e.cluster.Alive(h.secret()) {
		t.Error("a token under a living lease was killed")
	}
}

func TestTidyKnowsThePreviousRootToken(t *testing.T) {
	e := ready(t, nil)
	e.write("config/rotate-root", nil)
	got := e.write("tidy", nil).Data
	if got["in_ledger"] != 1 || got["not_listed"] != 0 || got["foreign"] != 1 || got["unknown"] != 0 {
		t.Errorf("tidy: %v", got)
	}
}

func TestTheRootTokenIsNeverRevoked(t *testing.T) {
	e := ready(t, nil)
	h := e.creds()
	e.edit("config", func(text string) string { // no request can do this
		text = strings.Replace(text, e.root.ID, h.id(), 1)
		return strings.Replace(text, e.root.Secret.Reveal(), h.secret().Reveal(), 1)
	})
	if err := e.revoke(h); err == nil || !e.cluster.Alive(h.secret()) {
		t.Errorf("the root token was revoked: %v", err)
	}
	if got := e.write("tidy", map[string]any{"dry_run": false, "revoke_unknown": e.tag}).Data; got["revoked"] != 0 || !e.cluster.Alive(h.secret()) {
		t.Errorf("tidy: %v", got)
	}
}

func TestRecordsOfANewerVersionAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		h := e.creds()
		e.creds()
		key := e.records()[0]
		entry, _ := e.storage.Get(t.Context(), key)
		newer := strings.Replace(string(entry.Value), `"version":1`, `"version":2`, 1)
		if err := e.storage.Put(t.Context(), &logical.StorageEntry{Key: key, Value: []byte(newer)}); err != nil {
			t.Fatal(err)
		}
		if err := e.storage.Put(t.Context(), &logical.StorageEntry{Key: "ledger/automation/damaged", Value: []byte("{")}); err != nil {
			t.Fatal(err)
		}
		e.restart()
		e.pass(2 * time.Hour)
		if got := e.storage.dumpUnder(t, "ledger/"); got != key+" "+newer+"\nledger/automation/damaged {\n" {
			t.Errorf("the ledger: %s", got)
		}
		if got := e.read("status").Data["ledger_error"]; got == nil || !strings.Contains(got.(string), "newer version") {
			t.Errorf("status: %v", got)
		}
		_, err := e.do(t.Context(), readOp, "creds/automation", nil)
		if err == nil || !strings.Contains(err.Error(), "newer version") {
			t.Errorf("minting beside records of a newer version: %v", err)
		}
		_ = h
	})
}

func TestNobodyWaitsForTheWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.creds()
		e.clock.advance(61*time.Minute + time.Second)
		hung := make(chan struct{})
		e.cluster.SetHook(func(ctx context.Context, step issuertest.Step) error {
			if step == issuertest.BeforeRevoke {
				close(hung)
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		e.tick()
		<-hung
		e.tick()
		e.creds()
		e.read("status")
		e.restart() // cleans up, and the worker stops at once
		e.cluster.SetHook(nil)
		e.tick()
		if e.alive() != 1 {
			t.Errorf("%d alive", e.alive())
		}
	})
}
