package backend_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// When a mount is disabled while the worker issues a token, the token is revoked
// before the engine says that it is closed: Vault then ends the process and deletes
// the ledger.
func TestClean_WaitsForATokenThatIsBeingIssued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, nil)
		e.tick()
		e.clock.advance(59 * time.Minute) // the next token is due, jitter included
		killed := false
		e.data.SetHook(func(_ context.Context, step issuertest.Step) error {
			switch {
			case killed:
				return errDown
			case step == issuertest.AfterIssue:
				e.system.TaintedVal = true
				meanwhile(func() {
					e.Cleanup(context.Background())
					killed = true
				})
			}
			return nil
		})
		e.tick()
		if n := e.validStatic(); n != 0 {
			t.Errorf("%d valid tokens of a disabled mount", n)
		}
	})
}

// A mount is disabled after its config was deleted during a rotation. The new root
// credential is revoked.
func TestClean_RevokesTheNewRootOfARotationWithoutAConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		next := e.proving()
		e.clock.advance(5 * time.Minute)
		e.must(deleteOp, "config", map[string]any{"force": true})
		e.system.TaintedVal = true
		e.Cleanup(context.Background())
		if e.accepted(next) {
			t.Error("a root credential of a disabled mount is valid")
		}
	})
}

// A node that was paused while it compared the ledger with the cluster has lost the
// leadership when it continues. It does not revoke the tokens that the new leader
// has issued meanwhile.
func TestTidy_PausedLeaderDoesNotRevokeTokensOfTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.tick()
		old := e.Backend
		var h *credential
		e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
			if step != issuertest.BeforeList {
				return nil
			}
			e.cluster.SetHook(nil)
			e.Backend = nil
			e.restart() // the new leader
			h = e.creds()
			e.Backend = old
			e.storage.setFault(func(when string, op logical.Operation, _ string) error {
				if when == "before" && (op == updateOp || op == deleteOp) {
					return logical.ErrReadOnly
				}
				return nil
			})
			return nil
		})
		e.tryWrite("tidy", map[string]any{"dry_run": false, "revoke_unknown": e.tag})
		if h == nil {
			t.Fatal("no token was issued meanwhile")
		}
		if !e.cluster.Alive(h.secret()) {
			t.Error("a token under a valid lease was revoked")
		}
	})
}

// A token that could not be revoked while its cluster was not configured is revoked
// soon after the cluster is configured again.
func TestRevoke_SoonAfterTheClusterIsConfiguredAgain(t *testing.T) {
	for _, deleted := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e := ready(t, map[string]any{"ttl": "24h"})
			h := e.creds()
			_, move := e.otherCluster()
			if deleted {
				e.must(deleteOp, "config", map[string]any{"force": true})
			} else {
				e.write("config", with(move, "force", true))
			}
			for range 4 {
				_ = e.revoke(h)
				e.pass(time.Minute)
			}
			if deleted {
				e.configure()
			} else {
				e.write("config", with(e.home(), "force", true))
			}
			e.pass(5 * time.Minute)
			if e.cluster.Alive(h.secret()) {
				t.Errorf("config deleted %v: the token of a lease that ended is valid five minutes after its cluster is configured again", deleted)
			}
		})
	}
}

// A record that cannot be read any more delays no other record.
func TestWorker_DamagedRecordDelaysNoOther(t *testing.T) {
	for name, change := range map[string]func(string) string{"damaged": damaged, "of a newer version": ofANewerVersion} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := ready(t, map[string]any{"ttl": "10m", "max_ttl": "3h"})
				e.creds()
				e.clock.advance(time.Second)
				h := e.creds()
				e.tick()
				first := e.ledger()[0]
				for _, r := range e.ledger() {
					if r.TokenID != h.id() {
						first = r
					}
				}
				e.edit(first.Key, change)
				e.pass(20 * time.Minute)
				if e.cluster.Alive(h.secret()) {
					t.Error("another token outlived its lease")
				}
			})
		})
	}
}

// The answer to a rotation is lost. The operator can replace the root credential
// although nothing is known about it.
func TestConfig_RootReplacedAfterARotationWithALostAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.cluster.SetHook(fails(errDown, issuertest.AfterIssue))
		e.tryWrite("config/rotate-root", nil)
		e.cluster.SetHook(nil)
		theirs := e.operatorsRoot()
		status, text := e.tryWrite("config", map[string]any{"mgmt_token": theirs.Secret.Reveal(), "verify": false})
		if status >= 400 {
			t.Errorf("status %d: %s", status, text)
		}
	})
}

// A stale record of the root credential is dropped while a rotation stores the same
// record. The replaced credential is revoked in the end, whatever comes first.
func TestRotation_StaleRecordOfTheRootIsDroppedMeanwhile(t *testing.T) {
	for n, more := 1, true; more && !t.Failed(); n++ {
		synctest.Test(t, func(t *testing.T) {
			e := ready(t, nil)
			e.write("config/rotate-root", nil)
			e.pass(5 * time.Minute)
			old := e.rootID()
			// A write of another root credential stores the record of the old one, and
			// fails to store the config.
			e.storage.setFault(failOn("before", updateOp, "config"))
			theirs := e.operatorsRoot()
			e.tryWrite("config", map[string]any{"mgmt_token": theirs.Secret.Reveal()})
			e.storage.setFault(nil)
			e.cluster.Kill(theirs.ID)
			if e.rootID() != old || len(e.records()) == 0 {
				t.Fatal("there is no stale record")
			}
			e.clock.advance(5 * time.Minute)
			goOn, rotated := make(chan struct{}), make(chan struct{})
			e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
				if step == issuertest.AfterIssue {
					<-goOn
				}
				return nil
			})
			go func() {
				defer close(rotated)
				e.tryWrite("config/rotate-root", nil)
			}()
			synctest.Wait() // the rotation waits for the answer of the cluster
			i := e.interleave(n, func() {
				close(goOn)
				<-rotated
			})
			e.tick()
			if more = i.end(); !more {
				close(goOn)
				<-rotated
			}
			e.pass(10 * time.Minute)
			if e.rootID() == old {
				t.Fatalf("at step %d: the root credential was not rotated", n)
			}
			if e.accepted(old) {
				t.Fatalf("at step %d: the replaced root credential works and has no record: %v", n, e.ledger())
			}
		})
	}
}

// A rotation crashes before it has swapped the root credential, and the operator
// writes another one. The operator's old credential, which the engine did not issue,
// is left alone.
func TestRotation_CrashBeforeTheSwapLeavesTheOldCredentialAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.storage.setFault(failOn("before", updateOp, "config"))
		e.tryWrite("config/rotate-root", nil)
		e.storage.setFault(nil)
		e.restart()
		theirs := e.operatorsRoot()
		e.write("config", map[string]any{"mgmt_token": theirs.Secret.Reveal()})
		e.pass(10 * time.Minute)
		if !e.cluster.Alive(e.root.Secret) {
			t.Error("a credential that was never replaced by the engine was revoked")
		}
		if len(e.records()) != 0 || e.alive() != 0 {
			t.Errorf("%d tokens, records %v", e.alive(), e.ledger())
		}
	})
}

// A rotation crashes after it has swapped the root credential, and the operator
// writes another one. Both credentials of the rotation are revoked.
func TestRotation_CrashAfterTheSwapRevokesTheOldCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.storage.setFault(failOn("after", updateOp, "config"))
		e.tryWrite("config/rotate-root", nil)
		e.storage.setFault(nil)
		e.restart()
		theirs := e.operatorsRoot()
		e.write("config", map[string]any{"mgmt_token": theirs.Secret.Reveal()})
		e.pass(10 * time.Minute)
		if e.cluster.Alive(e.root.Secret) {
			t.Error("the replaced credential is valid")
		}
		if len(e.records()) != 0 || e.alive() != 0 {
			t.Errorf("%d tokens, records %v", e.alive(), e.ledger())
		}
	})
}

// A mount is disabled after a rotation has swapped the root credential and before it
// is finished. Both credentials are revoked.
func TestClean_RevokesBothRootsOfARotationThatIsNotFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.storage.setFault(failOn("before", deleteOp, "rotation"))
		e.tryWrite("config/rotate-root", nil)
		e.storage.setFault(nil)
		e.system.TaintedVal = true
		e.Cleanup(context.Background())
		if roots := e.roots(); len(roots) != 0 {
			t.Errorf("root credentials %v are valid", roots)
		}
	})
}
