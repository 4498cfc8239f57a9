package backend_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// lossesOfTheRecord are what can happen to the record of a new root credential,
// or to the credential itself, while the rotation waits for its proof.
var lossesOfTheRecord = map[string]func(e *engine, next string){
	"the token is deleted": func(e *engine, next string) {
		e.try(deleteOp, "tokens/"+e.accessorOf(next), nil)
	},
	"the token is revoked on the cluster, and tidied up": func(e *engine, next string) {
		e.cluster.Kill(next)
		e.write("tidy", map[string]any{"dry_run": false})
	},
	"the mount is moved": func(e *engine, _ string) {
		h := e.creds()
		e.system.TaintedVal = true
		e.tick()
		if err := e.revoke(h); err != nil {
			e.t.Errorf("revocation: %v", err)
		}
		e.system.TaintedVal = false
		e.restart()
	},
	"the record is lost": func(e *engine, next string) {
		r, ok := e.recordOf(next)
		if !ok {
			r.Key = "ledger/-root/" + e.accessorOf(next)
		}
		if err := e.storage.Storage.Delete(context.Background(), r.Key); err != nil {
			e.t.Fatal(err)
		}
		e.restart()
	},
}

// A rotation whose new credential has lost its record ends, in a finished
// rotation or in a cancelled one, and another one is possible.
func TestRotation_EndsAlthoughItsRecordIsGone(t *testing.T) {
	for name, lose := range lossesOfTheRecord {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := ready(t, nil)
				next := e.proving()
				lose(e, next)
				e.rotationEnds(next)
			})
		})
	}
}

// The write that stores the rotation can be reported as failed although the
// rotation was stored.
func TestRotation_EndsAlthoughItsWriteWasReportedAsFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		struck := false
		e.storage.setFault(func(when string, op logical.Operation, key string) error {
			if when == "after" && op == updateOp && key == "rotation" && !struck {
				struck = true
				return errInjected
			}
			return nil
		})
		e.tryWrite("config/rotate-root", nil)
		e.storage.setFault(nil)
		if !struck {
			t.Fatal("the rotation was never stored")
		}
		e.rotationEnds("")
	})
}

// rotationEnds checks that the rotation ends within two hours, that its new
// credential is then the root credential or dead, and that another rotation
// succeeds.
func (e *engine) rotationEnds(next string) {
	e.t.Helper()
	e.pass(2 * time.Hour)
	if to := e.read("status").Data["rotation_to"]; to != nil {
		e.t.Errorf("after two hours the rotation to %v has not ended: %v", to, e.read("status").Data["rotation_last_failure"])
	}
	if next != "" && e.accepted(next) != (e.rootID() == next) {
		e.t.Errorf("the new credential works: %v; it is the root credential: %v", e.accepted(next), e.rootID() == next)
	}
	e.rootWorks()
	e.cluster.SetSpread(0)
	if status, text := e.tryWrite("config/rotate-root", nil); status >= 400 {
		e.t.Errorf("another rotation: %d %s", status, text)
	}
	e.pass(10 * time.Minute)
	e.rootWorks()
	if len(e.roots()) != 1 || len(e.records()) != 0 {
		e.t.Errorf("after another rotation: %d root credentials, records %v", len(e.roots()), e.ledger())
	}
}

// A mount that is moved revokes its leases while it is tainted. The new root
// credential of a rotation survives that, and the rotation is finished.
func TestRotation_SurvivesAMoveOfTheMount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		next := e.proving()
		lossesOfTheRecord["the mount is moved"](e, next)
		if !e.accepted(next) {
			t.Error("the move revoked the new root credential")
		}
		e.pass(10 * time.Minute)
		if e.rootID() != next {
			t.Error("the rotation was not finished after the move")
		}
	})
}

// A credential that a rotation is about to install is never revoked.
func TestRotation_NewCredentialCannotBeDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		next := e.proving()
		status, text := e.try(deleteOp, "tokens/"+e.accessorOf(next), nil)
		if status != 409 && status != 400 {
			t.Errorf("status %d: %s", status, text)
		}
		if !e.accepted(next) {
			t.Error("the credential that the rotation is about to install was revoked")
		}
	})
}

// A request to revoke the new root credential and the end of its rotation
// happen at the same time, in every order. The root credential works in the
// end.
func TestRotation_FinishedAtAnyMomentOfADeletion(t *testing.T) {
	for n, more := 1, true; more && !t.Failed(); n++ {
		synctest.Test(t, func(t *testing.T) {
			e := ready(t, nil)
			next := e.proving()
			e.clock.advance(5 * time.Minute)
			i := e.interleave(n, func() { e.tryWrite("config/rotate-root", nil) })
			e.try(deleteOp, "tokens/"+e.accessorOf(next), nil)
			more = i.end()
			if !e.accepted(e.rootID()) {
				t.Fatalf("at step %d: the root credential was revoked; it is %s, the new one is %s", n, e.rootID(), next)
			}
			e.rootWorks()
			e.pass(2 * time.Hour)
			e.rootWorks()
		})
	}
}

// A rotation whose swap was stored and reported as failed is finished while an operator
// writes another root credential. The replaced one is revoked, whatever comes first.
func TestRotation_FinishedAtAnyMomentOfAConfigWrite(t *testing.T) {
	for n, more := 1, true; more && !t.Failed(); n++ {
		synctest.Test(t, func(t *testing.T) {
			e := ready(t, nil)
			e.storage.setFault(failOn("after", updateOp, "config"))
			if status, _ := e.tryWrite("config/rotate-root", nil); status < 400 {
				t.Fatal("the swap did not fail")
			}
			e.storage.setFault(nil)
			next, operators := e.rootID(), e.operatorsRoot()
			i := e.interleave(n, func() {
				e.tryWrite("config", map[string]any{"mgmt_token": operators.Secret.Reveal(), "mgmt_token_id": operators.ID})
			})
			e.tryWrite("config/rotate-root", nil)
			more = i.end()
			e.pass(2 * time.Hour)
			if e.rootID() != next && e.accepted(next) {
				t.Errorf("at step %d: the replaced root credential is valid, records %v", n, e.ledger())
			}
			e.rootWorks()
		})
	}
}

// The worker revokes the previous root credential while an operator writes that
// one into config again. Either the write is refused or the credential lives.
func TestRotation_PreviousRootWrittenBackAtAnyMomentOfItsRevocation(t *testing.T) {
	for n, more := 1, true; more && !t.Failed(); n++ {
		synctest.Test(t, func(t *testing.T) {
			e := ready(t, nil)
			e.tick()
			e.write("config/rotate-root", nil)
			e.clock.advance(5 * time.Minute) // the overlap is over
			i := e.interleave(n, func() {
				e.tryWrite("config", map[string]any{"mgmt_token": e.root.Secret.Reveal()})
			})
			e.tick()
			more = i.end()
			if !e.accepted(e.rootID()) {
				t.Fatalf("at step %d: the root credential that the operator wrote was revoked", n)
			}
			e.rootWorks()
			e.pass(10 * time.Minute)
			e.rootWorks()
		})
	}
}

// A read of a token's record that is not stored yet must not make the engine
// forget the token that is being issued. Its answer is lost afterwards, and the
// worker still finds and revokes the token.
func TestIndex_KeepsATokenThatIsReadBeforeItsRecordIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"max_active": 1, "ttl": "72h"})
		e.tick() // loads the index
		reads := 0
		e.storage.setFault(func(when string, op logical.Operation, key string) error {
			accessor, ok := strings.CutPrefix(key, "ledger/automation/")
			if ok && when == "before" && op == updateOp && reads == 0 {
				reads++
				meanwhile(func() { e.try(readOp, "tokens/"+accessor, nil) })
			}
			return nil
		})
		var second int
		e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
			if step == issuertest.BeforeIssue {
				e.cluster.SetHook(fails(errDown, issuertest.AfterIssue))
				second, _ = e.try(readOp, "creds/automation", nil)
			}
			return nil
		})
		e.try(readOp, "creds/automation", nil)
		e.storage.setFault(nil)
		e.cluster.SetHook(nil)
		if reads != 1 || e.alive() == 0 {
			t.Fatalf("%d reads, %d alive: the test did not do what it should", reads, e.alive())
		}
		if second != 429 {
			t.Errorf("a second token beyond max_active=1, while the first is being issued: status %d", second)
		}
		e.pass(5 * time.Minute)
		if e.alive() != 0 || len(e.records()) != 0 {
			t.Errorf("a token whose answer was lost is not looked for: %d alive, records %v", e.alive(), e.ledger())
		}
	})
}

// A rotation that cannot be read may name any root credential of the mount, and no
// other token. So leases end as usual, and replaced root credentials wait.
func TestRotation_UnreadableDelaysNoLease(t *testing.T) {
	for name, value := range map[string]string{"damaged": "{", "of a newer version": `{"version":9}`} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := ready(t, map[string]any{"ttl": "10m"})
				e.configure(map[string]any{"rotation_overlap": "10m"})
				ended, lost, deleted := e.creds(), e.creds(), e.creds()
				e.write("config/rotate-root", nil)
				e.write("config/rotate-root", nil) // whose previous root credential has a record of the engine
				if err := e.storage.Put(t.Context(), &logical.StorageEntry{Key: "rotation", Value: []byte(value)}); err != nil {
					t.Fatal(err)
				}
				if err := e.revoke(ended); err != nil {
					t.Errorf("revoke a lease: %v", err)
				}
				e.must(deleteOp, "tokens/"+deleted.Data["accessor"].(string), nil)
				e.pass(30 * time.Minute)
				for what, h := range map[string]*credential{"that was revoked": ended, "that Vault has lost": lost, "whose record was deleted": deleted} {
					if e.cluster.Alive(h.secret()) {
						t.Errorf("the token of a lease %s is valid", what)
					}
				}
				if !e.cluster.Alive(e.root.Secret) {
					t.Error("a root credential that the rotation may name was revoked")
				}
			})
		})
	}
}
