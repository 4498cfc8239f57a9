package backend_test

import (
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// A staged management token has the rights of the root credential. It is not sent
// to a place that was written to config after it was issued.
func TestStaticRole_StagedTokenIsNeverSentToANewPlace(t *testing.T) {
	for name, d := range diversions {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEngine(t)
				e.configure(d.config)
				e.write("static-roles/fleet", map[string]any{"token_type": "management", "rotation_period": "1h"})
				e.tick()
				e.cluster.SetSpread(20 * time.Minute)
				e.pass(59 * time.Minute) // the next token is issued and not proved
				if e.validStatic() != 2 {
					t.Fatalf("%d tokens, want the current and the staged one", e.validStatic())
				}
				e.divert(d, e.root.ID)
				e.pass(10 * time.Minute)
				e.try(updateOp, "rotate-role/fleet", nil)
				e.stayedHome(d.place)
			})
		})
	}
}

// The tokens of a cluster that the mount has left do not count against the limit of
// a static role: the role gets a token of the new cluster at the next tick.
func TestStaticRole_TokensOfAnotherClusterDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.configure()
		e.write("static-roles/fleet", map[string]any{"token_type": "management", "rotation_period": "24h"})
		e.write("rotate-role/fleet", nil)
		e.write("rotate-role/fleet", nil)
		other, move := e.otherCluster()
		e.write("config", with(move, "force", true))
		e.pass(3 * time.Minute)
		if !other.Alive(e.staticSecret()) {
			t.Errorf("the role has no token on the new cluster: %v", e.read("static-roles/fleet").Data["last_failure"])
		}
	})
}

// A restart between the change of the token and the first tick does not shorten the
// grace period, whatever is written to the role meanwhile.
func TestStaticRole_WriteAfterARestartKeepsTheGracePeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, map[string]any{"rotation_period": "2h", "rotation_grace_period": "30m"})
		first := e.staticSecret()
		e.tick()
		switchAt := e.nextChange()
		for e.clock.Now().Before(switchAt.Add(-90 * time.Second)) {
			e.pass(time.Minute)
		}
		e.clock.advance(3 * time.Minute) // the token changes while no worker runs
		if e.staticSecret() == first {
			t.Fatal("the token did not change")
		}
		e.restart()
		e.write("static-roles/fleet", map[string]any{"description": "another text"})
		e.pass(5 * time.Minute)
		if !e.data.Alive(first) {
			t.Error("the previous token was revoked during its grace period")
		}
		e.pass(40 * time.Minute)
		if e.data.Alive(first) {
			t.Error("the previous token is valid after its grace period")
		}
	})
}

// nextChange is the time of the next change that a read announces.
func (e *engine) nextChange() time.Time {
	e.t.Helper()
	at, err := time.Parse(time.RFC3339, e.readStatic().Data["next_vault_rotation"].(string))
	if err != nil {
		e.t.Fatal(err)
	}
	return at
}

// A write that failed half-way is repeated. The repetition has the effect that the
// write would have had.
func TestStaticRole_RepeatedWriteTakesEffect(t *testing.T) {
	for name, change := range map[string]map[string]any{
		"the period":          {"rotation_period": "1h"},
		"automation is on":    {"disable_automated_rotation": false},
		"automation is off":   {"disable_automated_rotation": true},
		"the grace period":    {"rotation_grace_period": "1h"},
		"a staged token goes": {"description": "another text"},
	} {
		t.Run(name, func(t *testing.T) {
			for n, struck := 1, true; struck; n++ {
				synctest.Test(t, func(t *testing.T) {
					role := map[string]any{"rotation_period": "24h", "token_ttl": "72h"}
					if name == "automation is on" {
						role["disable_automated_rotation"] = true
					}
					e := shared(t, role)
					e.tick()
					s := &stepFailure{mode: notDone, n: n}
					e.storage.setFault(func(when string, op logical.Operation, _ string) error {
						if op != updateOp {
							return nil
						}
						return s.at(when)
					})
					e.tryWrite("static-roles/fleet", change)
					e.storage.setFault(nil)
					struck = s.hasHappened()
					e.tryWrite("static-roles/fleet", change)
					e.pass(2 * time.Minute)
					planned := e.readStatic().Data["next_vault_rotation"]
					off := name == "automation is off"
					if (planned == nil) != off {
						t.Fatalf("write %d failed: the next change is planned for %v", n, planned)
					}
					if name == "the period" && e.nextChange().After(e.clock.Now().Add(2*time.Hour)) {
						t.Fatalf("write %d failed: the next change is planned for %v", n, planned)
					}
				})
			}
		})
	}
}

// tidy drops the record of a current token that was revoked on the cluster. The
// role replaces the token all the same.
func TestStaticRole_TokenRevokedOnTheClusterIsReplacedAfterATidy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, map[string]any{"rotation_period": "720h"})
		e.tick()
		e.data.Kill(e.readStatic().Data["token_id"].(string))
		e.write("tidy", map[string]any{"token_type": "database", "dry_run": false})
		e.pass(3 * time.Minute)
		if !e.data.Alive(e.staticSecret()) {
			t.Error("readers get a revoked token")
		}
	})
}

// The first token of a role is not accepted in time, or the role is changed before, or
// the token is revoked on the cluster. The role gets another one without a request.
func TestStaticRole_FirstTokenIsReplaced(t *testing.T) {
	for name, happen := range map[string]func(*engine){
		"not accepted for long": func(e *engine) { e.pass(40 * time.Minute) },
		"the role is changed": func(e *engine) {
			e.write("static-roles/fleet", map[string]any{"write_databases": "metrics,others"})
		},
		"the token is revoked": func(e *engine) { e.data.Kill(e.ledger()[0].TokenID) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEngine(t)
				e.configure()
				e.data.SetHook(fails(errDown, issuertest.BeforeList))
				e.write("static-roles/fleet", map[string]any{"write_databases": "metrics", "rotation_period": "1h"})
				happen(e)
				e.data.SetHook(nil)
				e.pass(3 * time.Minute)
				if !e.data.Alive(e.staticSecret()) {
					t.Error("the token is refused")
				}
				if n := e.validStatic(); n != 1 {
					t.Errorf("%d valid tokens", n)
				}
			})
		})
	}
}

// A role without a token costs no reads: there is nothing to do until a request.
func TestStaticRole_WithoutATokenIsNotReadAtEveryTick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, map[string]any{"defer_initial_creds": true})
		e.pass(5 * time.Minute)
		n := e.storage.count()
		e.pass(5 * time.Minute)
		if got := e.storage.count() - n; got != 0 {
			t.Errorf("%d operations of the storage in five ticks", got)
		}
		e.write("rotate-role/fleet", nil)
		e.pass(2 * time.Hour)
		if !e.data.Alive(e.staticSecret()) {
			t.Error("the token is refused")
		}
	})
}

// After a late change, the previous token stays valid until its grace period or its
// own life is over, whichever comes first.
func TestStaticRole_LateChangeKeepsThePreviousToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, map[string]any{"rotation_period": "2h", "rotation_grace_period": "1h", "token_ttl": "3h"})
		first := e.staticSecret()
		expires, _ := time.Parse(time.RFC3339, e.readStatic().Data["expires_at"].(string))
		e.tick()
		e.data.SetHook(fails(errDown, issuertest.BeforeIssue))
		for e.clock.Now().Before(expires.Add(-20 * time.Minute)) {
			e.pass(time.Minute)
		}
		e.data.SetHook(nil)
		e.pass(3 * time.Minute)
		if e.staticSecret() == first {
			t.Fatal("the token did not change")
		}
		e.write("static-roles/fleet", map[string]any{"description": "another text"}) // the worker looks at the role again
		e.pass(3 * time.Minute)
		if !e.data.Alive(first) {
			t.Errorf("the previous token, which expires at %s, was revoked at %s", expires, e.clock.Now())
		}
	})
}

// A change that cannot happen within its window waits for the next activation, also
// if the token was issued within the window and proved after it.
func TestStaticRole_ProofAfterTheWindowDoesNotChangeTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.clock.now = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)
		e.configure()
		e.write("static-roles/fleet", map[string]any{"write_databases": "m", "rotation_schedule": "0 3 * * *", "rotation_window": "1h"})
		first := e.staticSecret()
		e.pass(14*time.Hour + 50*time.Minute)
		e.data.SetLag(24 * time.Hour) // no list shows a new token
		for e.clock.Now().Before(time.Date(2030, 1, 2, 4, 1, 0, 0, time.UTC)) {
			e.pass(time.Minute)
		}
		e.data.SetLag(0)
		for range 60 {
			e.pass(time.Minute)
			if e.staticSecret() != first {
				t.Fatalf("the token changed at %s, after the window", e.clock.Now())
			}
		}
		e.passInSteps(5*time.Minute, 24*time.Hour)
		if e.staticSecret() == first {
			t.Error("the token did not change at the next activation")
		}
	})
}

// Requests whose outcome is unknown, and that have issued no token, do not stop the
// changes of a role, also if the tokens of the role are revoked by force=true or one
// by one.
func TestStaticRole_LostRequestsDoNotStopItsChanges(t *testing.T) {
	for _, deleted := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e := shared(t, nil)
			e.tick()
			for range 2 {
				e.data.SetHook(fails(errDown, issuertest.BeforeIssue))
				e.tryWrite("rotate-role/fleet", nil)
				e.data.SetHook(nil)
				if !deleted {
					e.write("rotate-role/fleet", map[string]any{"force": true})
					continue
				}
				for _, r := range e.ledger() {
					e.try(deleteOp, "tokens/"+r.Accessor, nil)
				}
			}
			for range 5 * 60 {
				e.pass(time.Minute)
				if !e.data.Alive(e.staticSecret()) {
					t.Fatalf("deleted %v: the token is refused: %v", deleted, e.read("static-roles/fleet").Data["last_failure"])
				}
			}
		})
	}
}

// A reader of a role whose automation is switched on shortly before its token
// expires holds no expired token until it reads again.
func TestStaticRole_AutomationSwitchedOnShortlyBeforeTheExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, map[string]any{"disable_automated_rotation": true})
		expires, err := time.Parse(time.RFC3339, e.readStatic().Data["expires_at"].(string))
		if err != nil {
			t.Fatal(err)
		}
		e.clock.advance(expires.Add(-3 * time.Minute).Sub(e.clock.Now()))
		e.write("static-roles/fleet", map[string]any{"disable_automated_rotation": false})
		answer := e.readStatic().Data
		if again := e.clock.Now().Add(time.Duration(answer["ttl"].(int)) * time.Second); again.After(expires) {
			t.Errorf("the token expires at %s, and the reader reads again at %s", expires, again)
		}
		e.pass(2 * time.Minute)
		if e.readStatic().Data["accessor"] == answer["accessor"] {
			t.Error("the token was not replaced before it expired")
		}
	})
}

// A token that nothing replaces is returned until 30 seconds before it expires, and
// its ttl ends then: the clock of the cluster may be ahead.
func TestStaticCreds_NotReturnedShortlyBeforeTheExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, map[string]any{"disable_automated_rotation": true})
		expires, err := time.Parse(time.RFC3339, e.readStatic().Data["expires_at"].(string))
		if err != nil {
			t.Fatal(err)
		}
		e.clock.advance(expires.Add(-31 * time.Second).Sub(e.clock.Now()))
		if ttl := e.readStatic().Data["ttl"]; ttl != 1 {
			t.Errorf("31 seconds before the expiry: ttl %v", ttl)
		}
		e.clock.advance(time.Second)
		e.refuse(http.StatusBadGateway, logical.ReadOperation, "static-creds/fleet", nil, "was not replaced in time")
		if resp := e.write("rotate-role/fleet", nil); resp.Data["previous_revoked_after"] == nil {
			t.Errorf("while the previous token is valid: %v", resp.Data)
		}
		expires, err = time.Parse(time.RFC3339, e.readStatic().Data["expires_at"].(string))
		if err != nil {
			t.Fatal(err)
		}
		e.pass(expires.Add(5 * time.Minute).Sub(e.clock.Now()))
		e.tick()
		if resp := e.write("rotate-role/fleet", nil); resp.Data["previous_revoked_after"] != nil {
			t.Errorf("when no previous token is valid: %v", resp.Data)
		}
	})
}

// A staged token is dropped at the very time of its change. A read that has returned it
// meanwhile has not returned a token that is revoked then.
func TestStaticRole_StagedTokenIsNotDroppedWhenItsTimeIsNear(t *testing.T) {
	for name, drop := range map[string]func(e *engine, staged string){
		"by a write of the role": func(e *engine, _ string) {
			e.write("static-roles/fleet", map[string]any{"description": "another text"})
		},
		"by its accessor": func(e *engine, staged string) { e.try(deleteOp, "tokens/"+staged, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := shared(t, nil)
				current := e.readStatic().Data["accessor"]
				e.tick()
				change := e.nextChange()
				e.pass(change.Add(-2 * time.Minute).Sub(e.clock.Now()))
				e.clock.advance(change.Add(-2 * time.Second).Sub(e.clock.Now()))
				staged := slices.DeleteFunc(e.ledger(), func(r stored) bool { return r.Accessor == current })
				if len(staged) != 1 {
					t.Fatalf("staged: %v", staged)
				}
				held := e.staticSecret()
				var once sync.Once
				e.storage.setFault(func(when string, op logical.Operation, key string) error {
					if when == "before" && op == updateOp && key == "static-creds/fleet" {
						once.Do(func() {
							e.clock.advance(3 * time.Second)
							held = e.staticSecret()
						})
					}
					return nil
				})
				drop(e, staged[0].Accessor)
				e.storage.setFault(nil)
				e.pass(4 * time.Minute)
				if !e.data.Alive(held) {
					t.Error("a reader has a revoked token")
				}
			})
		})
	}
}

// The answer of rotate-role says when the previous token is revoked. A request whose
// outcome is unknown has left no previous token, and a token that expires within its
// grace period is revoked then.
func TestRotateRole_SaysWhenThePreviousTokenIsRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, map[string]any{"defer_initial_creds": true, "rotation_grace_period": "20m"})
		e.data.SetHook(fails(errDown, issuertest.BeforeIssue))
		e.tryWrite("rotate-role/fleet", nil)
		e.data.SetHook(nil)
		if at := e.write("rotate-role/fleet", nil).Data["previous_revoked_after"]; at != nil {
			t.Errorf("there is no previous token, and it is revoked after %v", at)
		}
		e.clock.advance(30 * time.Minute)
		e.write("static-roles/fleet", map[string]any{"disable_automated_rotation": true})
		first := e.staticSecret()
		expires, err := time.Parse(time.RFC3339, e.readStatic().Data["expires_at"].(string))
		if err != nil {
			t.Fatal(err)
		}
		e.clock.advance(expires.Add(-10 * time.Minute).Sub(e.clock.Now()))
		at, err := time.Parse(time.RFC3339, e.write("rotate-role/fleet", nil).Data["previous_revoked_after"].(string))
		if err != nil {
			t.Fatal(err)
		}
		if at.After(expires) || at.Before(expires.Add(-time.Second)) {
			t.Errorf("the previous token expires at %s, and is revoked after %s", expires, at)
		}
		e.pass(12 * time.Minute)
		if e.data.Alive(first) {
			t.Error("the previous token is accepted")
		}
	})
}

// A request to replace a token that has expired, or was revoked, is completed as soon
// as the cluster accepts the new token, also if nothing else replaces it.
func TestStaticRole_RequestedChangeIsCompletedWithoutAutomation(t *testing.T) {
	for _, revoked := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e := shared(t, map[string]any{"disable_automated_rotation": true})
			e.tick()
			if id := e.readStatic().Data["token_id"].(string); revoked {
				e.data.Kill(id)
			}
			e.clock.advance(4 * time.Hour)
			e.tick()
			e.data.SetLag(time.Minute)
			if status, text := e.tryWrite("rotate-role/fleet", nil); status != http.StatusBadGateway {
				t.Fatalf("revoked %v: the new token is not accepted yet: %d %s", revoked, status, text)
			}
			e.pass(3 * time.Minute)
			if !e.data.Alive(e.staticSecret()) {
				t.Errorf("revoked %v: the token is refused", revoked)
			}
		})
	}
}

// The ttl of a read that is stopped while it uses the storage counts from its answer.
func TestStaticCreds_TTLCountsFromTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, map[string]any{"disable_automated_rotation": true})
		e.storage.setFault(func(when string, op logical.Operation, key string) error {
			if when == "after" && op == readOp {
				e.clock.advance(30 * time.Second)
			}
			return nil
		})
		answer := e.readStatic().Data
		expires, err := time.Parse(time.RFC3339, answer["expires_at"].(string))
		if err != nil {
			t.Fatal(err)
		}
		if again := e.clock.Now().Add(time.Duration(answer["ttl"].(int)) * time.Second); again.After(expires.Add(-29 * time.Second)) {
			t.Errorf("the token expires at %s, and the reader reads again at %s", expires, again)
		}
	})
}

// A read at the very moment of a change that is late does not answer a ttl of 0.
func TestStaticCreds_TTLIsNeverZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, nil)
		e.data.SetHook(fails(errDown, issuertest.BeforeIssue))
		e.clock.advance(e.nextChange().Sub(e.clock.Now()))
		if ttl := e.readStatic().Data["ttl"]; ttl != 60 {
			t.Errorf("ttl %v", ttl)
		}
	})
}

// The role and its first token are stored, and then the storage fails once. The role
// exists, so the request does not say that it was not stored.
func TestStaticRole_StorageFailsAfterTheFirstToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.configure()
		stored := 0
		e.storage.setFault(func(when string, op logical.Operation, key string) error {
			if when == "before" && op == updateOp && key == "static-creds/fleet" {
				if stored++; stored == 2 {
					return errDown
				}
			}
			return nil
		})
		resp := e.write("static-roles/fleet", map[string]any{"write_databases": "metrics", "rotation_period": "1h"})
		if !strings.Contains(strings.Join(resp.Warnings, " "), "cannot be read yet") {
			t.Errorf("warnings: %v", resp.Warnings)
		}
		e.pass(2 * time.Minute)
		if !e.data.Alive(e.staticSecret()) {
			t.Error("the token of the role is not valid")
		}
	})
}

// A request about a role that does not exist leaves nothing in memory.
func TestRotateRole_UnknownNamesAreForgotten(t *testing.T) {
	e := shared(t, nil)
	before := heap()
	for i := range 20_000 {
		e.try(updateOp, fmt.Sprintf("rotate-role/%064d", i), nil)
	}
	if grown := heap() - before; grown > 1<<20 {
		t.Errorf("20,000 requests have left %d bytes", grown)
	}
}

// heap returns the number of bytes in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // far below 2^63
}
