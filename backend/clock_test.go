package backend_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// withClusterClock returns an engine whose cluster has a clock of its own, which does
// not jump with that of Vault.
func withClusterClock(t *testing.T) (e *engine, clusterClock *clock) {
	t.Helper()
	e = newEngine(t)
	clusterClock = &clock{now: e.clock.Now()}
	e.cluster, e.root = issuertest.NewFake(clusterClock.Now)
	e.data = issuertest.NewFakeOf(e.cluster)
	e.restart()
	e.configure()
	return e, clusterClock
}

// passOnBoth is pass for the engine and for its cluster.
func (e *engine) passOnBoth(clusterClock *clock, d time.Duration) {
	e.t.Helper()
	for range d / time.Minute {
		e.pass(time.Minute)
		clusterClock.advance(time.Minute)
	}
}

// The answer to an issue is lost, and the clock is ahead for one tick. The list shows
// the token with an expiry in the past, which does not prove that it has expired.
func TestClockJump_LostTokenIsRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, clusterClock := withClusterClock(t)
		e.write("roles/automation", map[string]any{"ttl": "1h"})
		e.cluster.SetHook(fails(errDown, issuertest.AfterIssue))
		e.try(readOp, "creds/automation", nil)
		e.cluster.SetHook(nil)
		e.clock.advance(3 * time.Hour)
		e.tick()
		e.clock.advance(-3 * time.Hour)
		e.passOnBoth(clusterClock, 10*time.Minute)
		if e.alive() > 0 {
			t.Errorf("a token without a lease is valid, records %v", e.records())
		}
	})
}

// The answer to an issue is lost, no list shows the token yet, and the clock is ahead
// for one tick. By that clock the token is old enough for an absence to prove something.
func TestClockJump_AbsenceOfANewTokenProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, clusterClock := withClusterClock(t)
		e.write("roles/automation", map[string]any{"ttl": "1h"})
		e.cluster.SetLag(5 * time.Minute)
		e.cluster.SetHook(fails(errDown, issuertest.AfterIssue))
		e.mustNotIssue()
		e.cluster.SetHook(nil)
		e.clock.advance(72 * time.Hour)
		e.tick()
		e.clock.advance(-72 * time.Hour)
		e.passOnBoth(clusterClock, 15*time.Minute)
		if e.alive() > 0 {
			t.Errorf("a token without a lease is valid, records %v", e.records())
		}
	})
}

// A revocation fails while the clock is ahead. It is tried again soon after the clock
// has been set right.
func TestClockJump_RevocationIsTriedAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "720h"})
		h := e.creds()
		e.cluster.SetHook(func(context.Context, issuertest.Step) error { return issuer.ErrUnreachable })
		if err := e.revoke(h); err == nil {
			t.Fatal("revoked without a cluster")
		}
		e.clock.advance(72 * time.Hour)
		e.tick()
		e.clock.advance(-72 * time.Hour)
		e.cluster.SetHook(nil)
		e.pass(5 * time.Minute)
		if e.cluster.Alive(h.secret()) {
			t.Errorf("the token of an ended lease is valid five minutes after the cluster came back: %v", e.ledger())
		}
	})
}

// A revocation fails for the first time while the clock is ahead. Once the clock has been
// set right, it is deferred before Vault gives up on the lease.
func TestClockJump_RevocationIsDeferred(t *testing.T) {
	const ahead = 3 * time.Hour
	for name, fail := range map[string]func(e *engine){
		"out of reach": func(e *engine) { e.cluster.SetHook(down) },
		"no config":    func(e *engine) { e.must(deleteOp, "config", map[string]any{"force": true}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := ready(t, map[string]any{"ttl": "8h", "max_ttl": "24h"})
				h := e.creds()
				fail(e)
				e.clock.advance(ahead)
				if err := e.revoke(h); err == nil {
					t.Fatal("revoked")
				}
				e.clock.advance(-ahead)
				if err := e.revoke(h); err == nil {
					t.Fatal("deferred at once")
				}
				e.clock.advance(100 * time.Second)
				if err := e.revoke(h); err != nil {
					t.Errorf("not deferred: %v", err)
				}
			})
		})
	}
}

// What is done while the clock is ahead has a deadline far in the future. Once the clock
// has been set right, the deadline is not waited for: of a token whose creation was not
// confirmed, and of a root credential that a rotation has replaced.
func TestClockJump_DeadlinesOfTheWrongClock(t *testing.T) {
	const ahead = 240 * time.Hour
	for name, act := range map[string]func(*engine){
		"a lost answer": func(e *engine) {
			e.cluster.SetHook(fails(errDown, issuertest.AfterIssue))
			e.mustNotIssue()
			e.cluster.SetHook(nil)
		},
		"a rotation": func(e *engine) { e.write("config/rotate-root", nil) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, clusterClock := withClusterClock(t)
				e.write("roles/automation", map[string]any{"ttl": "1h"})
				root := e.rootID()
				e.clock.advance(ahead)
				e.tick()
				act(e)
				valid := len(e.records())
				e.clock.advance(-ahead)
				e.storage.setFault(func(_ string, op logical.Operation, key string) error {
					if op == listOp && key == "ledger/" { // the first round cannot load the ledger
						return errInjected
					}
					return nil
				})
				e.tick()
				e.storage.setFault(nil)
				e.passOnBoth(clusterClock, 5*time.Minute)
				if left := e.records(); valid != 1 || len(left) > 0 {
					t.Errorf("%d records before, %v five minutes after the clock was set right", valid, left)
				}
				if name == "a rotation" && e.accepted(root) {
					t.Error("the previous root credential is accepted")
				}
			})
		})
	}
}

// The root credential is rotated while the clock is ahead. It is rotated again one
// period after the clock has been set right.
func TestClockJump_RootRotationIsPlannedAgain(t *testing.T) {
	for _, restart := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e, clusterClock := withClusterClock(t)
			e.write("config", map[string]any{"rotation_period": "24h"})
			e.clock.advance(240 * time.Hour)
			e.tick()
			e.clock.advance(-240 * time.Hour)
			if restart {
				e.restart()
			}
			e.tick()
			root := e.rootID()
			for range 25 {
				e.passInSteps(10*time.Minute, time.Hour)
				clusterClock.advance(time.Hour)
			}
			if e.rootID() == root {
				t.Errorf("rotation_period is 24h, it is %v, and the next rotation is at %v", e.clock.Now(), e.read("config").Data["next_vault_rotation"])
			}
		})
	}
}

// A static role changes while the clock is ahead. It changes again one period after
// the clock has been set right.
func TestClockJump_StaticRoleIsPlannedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, nil)
		e.clock.advance(72 * time.Hour)
		for range 3 {
			e.tick()
		}
		e.clock.advance(-72 * time.Hour)
		before := e.staticSecret()
		e.pass(2 * time.Hour)
		if e.staticSecret() == before {
			t.Errorf("rotation_period is 1h, and the token did not change in 2 hours: ttl %v", e.readStatic().Data["ttl"])
		}
	})
}

// The next token of a static role is issued while the clock is ahead, and is accepted
// after the clock has been set right. The change happens when it was planned before.
func TestClockJump_StagedTokenIsPlannedAgain(t *testing.T) {
	for name, role := range map[string]map[string]any{
		"a later token":   {"token_ttl": "20h"},
		"the first token": {"token_ttl": "20h", "defer_initial_creds": true},
		"on request":      {"token_ttl": "20h", "disable_automated_rotation": true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, clusterClock := withClusterClock(t)
				e.write("static-roles/fleet", with(with(role, "write_databases", "metrics"), "rotation_period", "1h"))
				e.tick()
				var before any
				if name != "the first token" {
					before = e.readStatic().Data["accessor"]
				}
				e.clock.advance(18 * time.Hour)
				e.data.SetHook(fails(errDown, issuertest.BeforeList))
				e.tick()
				if name != "a later token" {
					e.tryWrite("rotate-role/fleet", nil)
				}
				e.data.SetHook(nil)
				e.clock.advance(-18 * time.Hour)
				e.passOnBoth(clusterClock, 66*time.Minute)
				if answer := e.readStatic().Data; answer["accessor"] == before || answer["ttl"].(int) > 2*3600 && name != "on request" {
					t.Errorf("rotation_period is 1h, and the token did not change in 66 minutes: ttl %v", answer["ttl"])
				}
			})
		})
	}
}

// The clock is set back by 5 s while the token of a static role is issued. The old
// token is not kept in place of the new one, which is not revoked either.
func TestClockSetBack_DuringAForcedRotation(t *testing.T) {
	for name, first := range map[string]bool{"the first token": true, "a later token": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, _ := withClusterClock(t)
				e.write("static-roles/fleet", map[string]any{"write_databases": "metrics", "rotation_period": "1h", "defer_initial_creds": first})
				done := false
				e.data.SetHook(func(_ context.Context, step issuertest.Step) error {
					if step == issuertest.AfterIssue && !done {
						done = true
						e.clock.advance(-5 * time.Second)
					}
					return nil
				})
				if status, text := e.tryWrite("rotate-role/fleet", map[string]any{"force": true}); status < 400 {
					t.Errorf("status %d %s: the new token is not the current one yet", status, text)
				}
				e.clock.advance(5 * time.Second)
				for range 12 {
					e.clock.advance(time.Second)
					if !e.data.Alive(e.staticSecret()) {
						t.Fatal("a read returns a revoked token")
					}
				}
			})
		})
	}
}
