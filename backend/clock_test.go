package backend_test

import (
	"context"
	"strings"
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

// passHoursOnBoth is passInSteps for the engine and for its cluster, for a number of hours.
func (e *engine) passHoursOnBoth(clusterClock *clock, step time.Duration, hours int) {
	e.t.Helper()
	for range hours {
		e.passInSteps(step, time.Hour)
		clusterClock.advance(time.Hour)
	}
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

// withDeadlines are acts that leave one record with a deadline.
var withDeadlines = map[string]func(*engine){
	"a lost answer": func(e *engine) {
		e.cluster.SetHook(fails(errDown, issuertest.AfterIssue))
		e.mustNotIssue()
		e.cluster.SetHook(nil)
	},
	"a rotation": func(e *engine) { e.write("config/rotate-root", nil) },
}

// What is done while the clock is ahead has a deadline far in the future. Once the clock
// has been set right, the deadline is not waited for: of a token whose creation was not
// confirmed, and of a root credential that a rotation has replaced.
func TestClockJump_DeadlinesOfTheWrongClock(t *testing.T) {
	const ahead = 240 * time.Hour
	for name, act := range withDeadlines {
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
			e.passHoursOnBoth(clusterClock, 10*time.Minute, 25)
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

// Something is done while the clock is ahead, and the process or node that goes on has
// never seen the wrong clock in a tick.
func TestClockJump_IsCorrectedByAnotherProcess(t *testing.T) {
	const ahead = 240 * time.Hour
	for name, act := range withDeadlines {
		for _, how := range []string{"restart", "no tick while ahead"} {
			t.Run(name+"/"+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e, clusterClock := withClusterClock(t)
					e.write("roles/automation", map[string]any{"ttl": "1h"})
					e.tick()
					root := e.rootID()
					e.clock.advance(ahead)
					if how == "restart" {
						e.tick()
					}
					act(e)
					e.clock.advance(-ahead)
					if how == "restart" {
						e.restart() // or another node, whose clock is right
					}
					e.passOnBoth(clusterClock, 60*time.Minute)
					if left := e.records(); len(left) > 0 {
						t.Errorf("%v an hour after the clock was set right; valid tokens without a lease: %d, old root accepted: %v", left, e.alive(), e.accepted(root))
					}
				})
			})
		}
	}
}

// A rotation fails between two ticks, while the clock is ahead. The root credential is
// rotated again soon after the clock has been set right.
func TestClockJump_RotationIsTriedAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ahead = 240 * time.Hour
		e, clusterClock := withClusterClock(t)
		e.write("config", map[string]any{"rotation_period": "24h"})
		e.tick()
		e.clock.advance(ahead)
		e.cluster.SetHook(down)
		e.tryWrite("config/rotate-root", nil)
		e.cluster.SetHook(nil)
		e.clock.advance(-ahead)
		root := e.rootID()
		e.passHoursOnBoth(clusterClock, 10*time.Minute, 96)
		if e.rootID() == root {
			t.Errorf("rotation_period is 24h, no rotation in 4 days; next try %v", e.read("status").Data["rotation_next_try_at"])
		}
	})
}

// The clock is ahead for one tick of an outage, later than the expiry of a token that
// could not be revoked.
func TestClockJump_ExpiryIsNotBelievedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, clusterClock := withClusterClock(t)
		e.write("roles/automation", map[string]any{"ttl": "1h", "max_ttl": "8h"})
		h := e.creds()
		e.cluster.SetHook(down)
		if err := e.revoke(h); err == nil {
			t.Fatal("revoked without a cluster")
		}
		e.passOnBoth(clusterClock, 2*time.Minute)
		e.clock.advance(10 * time.Hour)
		e.tick() // one
		e.clock.advance(-10 * time.Hour)
		e.cluster.SetHook(nil)
		e.passOnBoth(clusterClock, 60*time.Minute)
		if e.cluster.Alive(h.secret()) {
			t.Errorf("the token of an ended lease is valid an hour after the cluster came back; records %v", e.records())
		}
	})
}

// The clock is ahead for one tick, in which a rotation window seems to have been missed.
func TestClockJump_MissedWindowIsPlannedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, clusterClock := withClusterClock(t)
		e.write("static-roles/fleet", map[string]any{"write_databases": "metrics", "rotation_schedule": "0 3 * * *", "rotation_window": "1h", "token_ttl": "720h"})
		e.tick()
		before := e.staticSecret()
		e.clock.advance(240*time.Hour + 8*time.Hour) // outside of the window
		e.tick()
		e.clock.advance(-248 * time.Hour)
		e.tick()
		e.passHoursOnBoth(clusterClock, 10*time.Minute, 72)
		if e.staticSecret() == before {
			t.Errorf("daily schedule, no change in 3 days: %v", e.readStatic().Data["next_vault_rotation"])
		}
	})
}

// A schedule is written while the clock is ahead.
func TestClockJump_ScheduleIsPlannedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, clusterClock := withClusterClock(t)
		e.write("static-roles/fleet", map[string]any{"write_databases": "metrics", "rotation_period": "24h", "token_ttl": "720h"})
		e.tick()
		before := e.staticSecret()
		e.clock.advance(240 * time.Hour)
		e.write("static-roles/fleet", map[string]any{"rotation_period": "1h", "rotation_grace_period": "5m"})
		e.clock.advance(-240 * time.Hour)
		e.restart()
		e.tick()
		e.passHoursOnBoth(clusterClock, 10*time.Minute, 72)
		if e.staticSecret() == before {
			t.Errorf("rotation_period 1h, no change in 3 days: %v", e.readStatic().Data["next_vault_rotation"])
		}
	})
}

// The answer to an issue is lost while the clock is behind, and the list does not show
// the token at once. The age of the record does not prove that there is no token.
func TestClockJump_AgeAloneProvesNoAbsence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, clusterClock := withClusterClock(t)
		e.write("roles/automation", map[string]any{"ttl": "24h", "max_ttl": "96h"})
		e.cluster.SetLag(5 * time.Minute)
		e.clock.advance(-30 * time.Hour) // a machine that was resumed from a snapshot
		e.tick()
		e.cluster.SetHook(fails(errDown, issuertest.AfterIssue))
		e.mustNotIssue()
		e.cluster.SetHook(nil)
		e.clock.advance(30 * time.Hour) // right
		e.passOnBoth(clusterClock, 60*time.Minute)
		valid := 0
		for _, info := range e.cluster.Tokens() {
			if !info.Dead(clusterClock.Now()) && info.Description != "root" && info.Description != "another program" {
				valid++
			}
		}
		if valid > 0 {
			t.Errorf("%d token without a lease is valid, records %v", valid, e.records())
		}
	})
}

// namedWithClusterClock is like withClusterClock, for a product whose clients choose the
// names of the tokens.
func namedWithClusterClock(t *testing.T, product string) (e *engine, clusterClock *clock) {
	e = newEngineOf(t, product)
	clusterClock = &clock{now: e.clock.Now()}
	e.cluster, e.root = issuertest.NewNamedFake(clusterClock.Now, traitsOf(product))
	e.data = issuertest.NewFakeOf(e.cluster)
	e.restart()
	e.configure()
	return e, clusterClock
}

// The answer to an issue is lost, and a node of the cluster does not know the token yet.
// The clock is wrong for one tick, or was when the token was issued.
func TestClockJump_OneAnswerProvesNoAbsence(t *testing.T) {
	for _, how := range []string{"ahead for one tick", "behind when issued"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, clusterClock := namedWithClusterClock(t, issuer.Enterprise)
				e.write("roles/automation", map[string]any{"ttl": "24h"})
				e.cluster.SetUnknown(func(info issuer.Info) bool { return clusterClock.Now().Before(info.CreatedAt.Add(5 * time.Minute)) })
				if how == "behind when issued" {
					e.clock.advance(-time.Hour)
				}
				e.cluster.SetHook(fails(errDown, issuertest.AfterIssue))
				e.mustNotIssue()
				e.cluster.SetHook(nil)
				e.clock.advance(time.Hour)
				e.tick()
				if how != "behind when issued" {
					e.clock.advance(-time.Hour)
				}
				e.passOnBoth(clusterClock, 70*time.Minute)
				if names := e.catalog(); len(names) > 0 {
					t.Errorf("tokens without a lease: %v, records %v", names, e.records())
				}
			})
		})
	}
}

// A token is issued while the clock is ahead. It is deleted, the answer is lost, and the
// cluster does not know it any more.
func TestClockJump_DeletedTokenIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, clusterClock := withClusterClock(t)
		e.write("roles/automation", map[string]any{"token_type": "database", "write_databases": "metrics", "ttl": "1h", "max_ttl": "240h", "max_active": 1})
		e.clock.advance(72 * time.Hour)
		e.tick()
		h := e.creds()
		e.clock.advance(-72 * time.Hour)
		e.passOnBoth(clusterClock, time.Hour)
		e.data.SetHook(fails(errDown, issuertest.AfterRevoke)) // deleted, and the answer is lost
		_ = e.revoke(h)
		e.data.SetHook(nil)
		e.data.SetUnknown(func(issuer.Info) bool { return true }) // a deleted token is a 404
		e.passOnBoth(clusterClock, 24*time.Hour)
		e.data.SetUnknown(nil)
		if status, text := e.try(readOp, "creds/automation", nil); status != 200 {
			t.Errorf("24 h after the token was deleted: records %v, issue: %d %s", e.records(), status, text)
		}
	})
}

// A token is revoked while a node does not know it, and the clock is behind for one tick.
func TestClockJump_ClockBehindDoesNotMakeATokenOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, clusterClock := namedWithClusterClock(t, issuer.Enterprise)
		e.write("roles/automation", map[string]any{"ttl": "24h"})
		e.cluster.SetUnknown(func(i issuer.Info) bool { return clusterClock.Now().Before(i.CreatedAt.Add(5 * time.Minute)) })
		h := e.creds()
		if err := e.revoke(h); err == nil {
			t.Fatal("the answer of a node that does not know the token was taken as a proof")
		}
		e.passOnBoth(clusterClock, time.Minute)
		e.clock.advance(-time.Hour)
		e.tick()
		e.clock.advance(time.Hour)
		e.passOnBoth(clusterClock, 70*time.Minute)
		if e.cluster.Alive(h.secret()) {
			t.Errorf("the token of an ended lease is valid, records %v", e.records())
		}
	})
}

// The previous root credential is accepted as long as the answer to its rotation said.
func TestRotation_OverlapOutlastsARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, clusterClock := withClusterClock(t)
		root := e.rootID()
		e.write("config", map[string]any{"rotation_overlap": "168h"})
		e.write("config/rotate-root", nil)
		e.write("config", map[string]any{"rotation_overlap": "100s"})
		e.passOnBoth(clusterClock, time.Hour)
		e.restart()
		e.passOnBoth(clusterClock, 5*time.Minute)
		if !e.accepted(root) {
			t.Error("the previous root credential was revoked 167 hours too early")
		}
	})
}

// The root credential is rotated while the clock is ahead. The overlap is counted from the
// first tick with the right clock, whatever happens in it, and not from every start.
func TestClockJump_OverlapIsCountedOnce(t *testing.T) {
	const ahead = 10 * 365 * 24 * time.Hour
	for _, how := range []string{"many starts", "a storage that fails"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, clusterClock := withClusterClock(t)
				e.write("config", map[string]any{"rotation_overlap": "24h"})
				root := e.rootID()
				e.clock.advance(ahead)
				e.write("config/rotate-root", nil)
				e.clock.advance(-ahead)
				e.restart()
				if how == "a storage that fails" {
					e.storage.setFault(func(_ string, _ logical.Operation, key string) error {
						if strings.HasPrefix(key, "ledger/-root/") || key == "config" {
							return errInjected
						}
						return nil
					})
				}
				for range 3 {
					e.tick()
					e.storage.setFault(nil)
					e.passHoursOnBoth(clusterClock, 30*time.Minute, 23)
					e.restart()
				}
				if e.accepted(root) {
					t.Errorf("the previous root credential is accepted after three days: %v", e.ledger())
				}
			})
		})
	}
}

// The answer to an issue is lost while the clock is ahead, and no token was created.
func TestClockJump_TokenThatWasNotIssuedIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ahead = 10 * 365 * 24 * time.Hour
		e, clusterClock := withClusterClock(t)
		e.write("roles/automation", map[string]any{"ttl": "1h"})
		e.clock.advance(ahead)
		e.cluster.SetHook(fails(errDown, issuertest.BeforeIssue))
		e.mustNotIssue()
		e.cluster.SetHook(nil)
		e.clock.advance(-ahead)
		e.restart()
		e.passHoursOnBoth(clusterClock, 10*time.Minute, 2*24)
		if len(e.records()) > 0 {
			t.Errorf("after two days: %v", e.ledger())
		}
	})
}

// A list that lags does not show a young static token, and the clock is ahead for one
// tick. The role replaces the token, which is revoked by its name.
func TestClockJump_StaticTokenThatIsNotListedIsRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, clusterClock := namedWithClusterClock(t, issuer.Enterprise)
		e.write("static-roles/fleet", map[string]any{"write_databases": "metrics", "rotation_period": "24h"})
		e.tick()
		secret := e.staticSecret()
		e.data.SetLag(5 * time.Minute)
		e.cluster.SetLag(5 * time.Minute)
		e.clock.advance(61 * time.Minute)
		e.tick()
		e.clock.advance(-61 * time.Minute)
		e.passOnBoth(clusterClock, 2*time.Hour)
		if e.data.Alive(secret) && e.staticSecret() != secret {
			t.Errorf("a token that was replaced is valid: records %v", e.records())
		}
	})
}

// The clock is ahead, so Vault ends a lease, and tries again soon after the first failure.
func TestClockJump_ExpiryIsNotBelievedSoonAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, clusterClock := withClusterClock(t)
		e.write("roles/automation", map[string]any{"ttl": "1h", "max_ttl": "8h"})
		h := e.creds()
		e.cluster.SetHook(down)
		e.clock.advance(10 * time.Hour)
		for range 2 {
			if err := e.revoke(h); err == nil {
				t.Fatal("revoked without a cluster")
			}
			e.clock.advance(10 * time.Second)
		}
		e.clock.advance(-10*time.Hour - 20*time.Second)
		e.cluster.SetHook(nil)
		e.passOnBoth(clusterClock, time.Hour)
		if e.cluster.Alive(h.secret()) {
			t.Errorf("the token of an ended lease is valid, records %v", e.records())
		}
	})
}

// The clock is set right while the tokens of static roles are compared with the cluster.
func TestClockJump_StaticTokensAreComparedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ahead = 240 * time.Hour
		e, clusterClock := withClusterClock(t)
		e.write("static-roles/fleet", map[string]any{"write_databases": "metrics", "rotation_period": "720h"})
		e.tick()
		e.clock.advance(ahead)
		release, held := make(chan struct{}), false
		e.data.SetHook(func(_ context.Context, step issuertest.Step) error {
			if step == issuertest.BeforeList && !held {
				held = true
				<-release
			}
			return nil
		})
		e.tick()
		e.clock.advance(-ahead)
		e.tick()
		close(release)
		synctest.Wait()
		e.data.SetHook(nil)
		for _, info := range e.data.Tokens() {
			e.data.Kill(info.ID)
		}
		e.passOnBoth(clusterClock, 5*time.Hour)
		if !e.data.Alive(e.staticSecret()) {
			t.Error("a read returns a token that was revoked on the cluster hours ago")
		}
	})
}
