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

// A mount is disabled while a request waits for the cluster. Nothing that it issues is
// left.
func TestClean_RequestInFlight(t *testing.T) {
	for _, request := range []string{"config/rotate-root", "creds/automation", "config/check"} {
		t.Run(request, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := ready(t, nil)
				e.tick()
				e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
					if step == issuertest.AfterIssue {
						e.cluster.SetHook(nil)
						e.system.TaintedVal = true
						meanwhile(func() { // as Vault disables a mount
							e.Cleanup(context.Background())
							keys, _ := logical.CollectKeys(context.Background(), e.storage.Storage)
							for _, key := range keys {
								_ = e.storage.Storage.Delete(context.Background(), key)
							}
						})
					}
					return nil
				})
				e.tryWrite(request, nil)
				<-time.After(time.Minute)
				for _, info := range e.tagged() {
					if e.accepted(info.ID) {
						t.Errorf("valid after the mount was disabled, in no record: %q, expires in %s", info.Description, info.ExpiresAt.Sub(e.clock.Now()))
					}
				}
			})
		})
	}
}

// Vault has revoked the leases of a mount that it disables, and then a read ends. The rest
// of the mount is revoked all the same.
func TestClean_AfterARequestThatWasInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, nil)
		e.write("roles/automation", nil)
		e.write("config/rotate-root", nil)
		e.pass(5 * time.Minute)
		h, root := e.creds(), e.rootID()
		e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
			if step == issuertest.AfterIssue { // Vault taints the mount and revokes its leases meanwhile
				e.cluster.SetHook(nil)
				e.system.TaintedVal = true
				e.tick()
				if err := e.revoke(h); err != nil {
					t.Error(err)
				}
			}
			return nil
		})
		e.try(readOp, "creds/automation", nil)
		e.Cleanup(t.Context())
		if e.accepted(root) || e.validStatic() > 0 {
			t.Errorf("after the mount was disabled: root credential valid %v, %d static tokens", e.accepted(root), e.validStatic())
		}
	})
}

// A leader is paused when it has stored the next token of a static role. The next leader
// serves that token, so the former one must not revoke it.
func TestStatic_PausedLeaderRevokesNoTokenThatTheNextOneServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, nil)
		e.tick()
		e.clock.advance(time.Minute)
		first, old := e.staticSecret(), e.Backend
		var served issuer.Secret
		e.storage.setFault(func(when string, op logical.Operation, key string) error {
			if when != "after" || op != updateOp || !strings.HasPrefix(key, "ledger/-static-fleet/") {
				return nil
			}
			entry, _ := e.storage.Storage.Get(t.Context(), key)
			if !strings.Contains(string(entry.Value), `"state":"active"`) {
				return nil
			}
			e.storage.setFault(nil) // stored; this node is paused before it learns of it
			e.Backend = nil
			e.restart() // the next leader
			e.pass(2 * time.Minute)
			served = e.staticSecret()
			e.Backend = old
			e.storage.setFault(func(when string, op logical.Operation, _ string) error {
				if when == "before" && (op == updateOp || op == deleteOp) {
					return logical.ErrReadOnly
				}
				return nil
			})
			return logical.ErrReadOnly
		})
		e.tryWrite("rotate-role/fleet", nil)
		if served.IsZero() || served == first {
			t.Fatal("the next leader does not serve the new token")
		}
		if !e.data.Alive(served) {
			t.Error("the current token of the static role was revoked")
		}
	})
}

// resetIndex lets the clock go back, so that the index is discarded. It cannot be loaded
// again before the next tick.
func (e *engine) resetIndex() {
	e.clock.advance(5 * time.Minute)
	e.tick()
	e.clock.advance(-4 * time.Minute)
	e.storage.setFault(failOn("before", listOp, "ledger/"))
	e.tick()
	e.storage.setFault(nil)
}

// A mount does not leave a cluster while it is not known which tokens the ledger holds.
func TestIndex_ResetDuringAMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "24h"})
		e.tick()
		other, move := e.otherCluster()
		e.clock.advance(10 * time.Minute)
		var h *credential
		other.SetHook(func(_ context.Context, step issuertest.Step) error {
			if step == issuertest.BeforeList && h == nil {
				h = e.creds()
				e.resetIndex()
			}
			return nil
		})
		if status, _ := e.tryWrite("config", move); status < 400 && e.cluster.Alive(h.secret()) {
			t.Error("the mount left the cluster of a token under a lease without force")
		}
	})
}

// Tidy takes no token for unknown while it is not known which tokens the ledger holds.
func TestIndex_ResetDuringTidy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "24h"})
		e.tick()
		e.clock.advance(10 * time.Minute)
		var h *credential
		e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
			if step == issuertest.BeforeList {
				e.cluster.SetHook(nil)
				h = e.creds()
				e.resetIndex()
			}
			return nil
		})
		e.tryWrite("tidy", map[string]any{"dry_run": false, "revoke_unknown": e.tag})
		if !e.cluster.Alive(h.secret()) {
			t.Error("tidy revoked a token under a valid lease")
		}
	})
}

// The config is written at any moment of a tick. The root credential is rotated when the
// new config asks for it.
func TestRoot_ConfigWrittenAtAnyMomentOfATick(t *testing.T) {
	for n, more := 1, true; more && !t.Failed(); n++ {
		synctest.Test(t, func(t *testing.T) {
			e := newEngine(t)
			e.write("roles/automation", map[string]any{"ttl": "24h"})
			theirs := e.cluster.Add("root", e.clock.Now().Add(10*time.Hour))
			i := e.interleave(n, func() {
				e.tryWrite("config", e.config(map[string]any{"mgmt_token": theirs.Secret.Reveal(), "rotation_period": "1h"}))
			})
			e.tick()
			if more = i.end(); !more {
				return
			}
			h := e.creds()
			e.passInSteps(10*time.Minute, 11*time.Hour)
			if err := e.revoke(h); err != nil {
				t.Errorf("at step %d: the root credential was never rotated and has expired: %v", n, err)
			}
		})
	}
}

// The cluster of an ended lease is configured again at any moment of a tick. The token is
// revoked soon.
func TestRevoke_ClusterConfiguredAgainAtAnyMomentOfATick(t *testing.T) {
	for n, more := 1, true; more && !t.Failed(); n++ {
		synctest.Test(t, func(t *testing.T) {
			e := ready(t, map[string]any{"ttl": "24h"})
			h := e.creds()
			_, move := e.otherCluster()
			e.write("config", with(move, "force", true))
			for range 4 {
				_ = e.revoke(h)
				e.pass(time.Minute)
			}
			e.clock.advance(2 * time.Hour)
			i := e.interleave(n, func() { e.tryWrite("config", with(e.home(), "force", true)) })
			e.tick()
			if more = i.end(); !more {
				return
			}
			e.pass(10 * time.Minute)
			if e.cluster.Alive(h.secret()) {
				t.Errorf("at step %d: valid ten minutes after the cluster is configured again", n)
			}
		})
	}
}

// Changes that were stored and reported as failed have all their consequences.
func TestConfig_DeletionStoredAndReportedAsFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		own := e.ownRoot()
		e.storage.setFault(failOn("after", deleteOp, "config"))
		e.try(deleteOp, "config", nil)
		e.storage.setFault(nil)
		status, text := e.try(deleteOp, "config", nil)
		e.passInSteps(10*time.Minute, 5*time.Hour)
		if e.accepted(own) {
			t.Errorf("the repetition answers %d %q; the root credential that the engine issued is valid", status, text)
		}
	})
}

func TestConfig_WriteStoredAndReportedAsFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, nil)
		e.must(deleteOp, "config", map[string]any{"force": true})
		e.tick()
		e.storage.setFault(failOn("after", updateOp, "config"))
		e.tryWrite("config", e.config())
		e.storage.setFault(nil)
		e.passInSteps(10*time.Minute, 4*time.Hour)
		if status, text := e.try(readOp, "static-creds/fleet", nil); status >= 400 {
			t.Errorf("four hours after the cluster is configured: %d %s", status, text)
		}
	})
}

func TestStaticRole_WriteStoredAndReportedAsFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, map[string]any{"disable_automated_rotation": true})
		e.tick()
		first := e.staticSecret()
		e.storage.setFault(failOn("after", updateOp, "static-role/"))
		e.tryWrite("static-roles/fleet", map[string]any{"disable_automated_rotation": false})
		e.storage.setFault(nil)
		e.pass(100 * time.Minute)
		if e.staticSecret() == first {
			t.Error("rotation_period is 1h; the token is the same after 100 minutes")
		}
	})
}

// A static role is deleted, which fails halfway, and is created again with fewer rights. It
// does not serve the token of the deleted one.
func TestStaticRole_DeferredAfterAnIncompleteDeletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, map[string]any{"write_databases": "*", "rotation_period": "720h"})
		e.tick()
		old := e.staticSecret()
		e.storage.setFault(failOn("before", updateOp, "ledger/-static-fleet/"))
		e.try(deleteOp, "static-roles/fleet", nil)
		e.storage.setFault(nil)
		e.write("static-roles/fleet", map[string]any{"write_databases": "metrics", "rotation_period": "720h", "defer_initial_creds": true})
		e.pass(time.Hour)
		if status, _ := e.try(readOp, "static-creds/fleet", nil); status < 400 && e.staticSecret() == old || e.data.Alive(old) {
			t.Error("the new role serves the token of the deleted one, which may write all databases")
		}
	})
}

// The worker claims the record of a new root credential whose swap was not stored. The
// credential of the operator, which was never replaced, is not revoked.
func TestRotation_RecordClaimedBeforeTheCancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.storage.setFault(failOn("before", updateOp, "config"))
		e.tryWrite("config/rotate-root", nil) // the swap is not stored
		e.storage.setFault(nil)
		e.clock.advance(3 * time.Hour)
		e.restart()
		theirs := e.operatorsRoot()
		e.write("config", map[string]any{"mgmt_token": theirs.Secret.Reveal()})
		e.storage.setFault(failOn("before", readOp, "rotation")) // so that the lane of the records comes first
		e.tick()
		e.storage.setFault(nil)
		e.pass(15 * time.Minute)
		if !e.cluster.Alive(e.root.Secret) {
			t.Error("a credential of the operator that the engine never replaced was revoked")
		}
	})
}

// The worker has read a record of a root credential that is due, and a rotation then stores
// it again. The overlap of the rotation counts.
func TestRotation_AtAnyMomentOfATickWithAStaleRecord(t *testing.T) {
	for n, more := 1, true; more && !t.Failed(); n++ {
		synctest.Test(t, func(t *testing.T) {
			e := ready(t, nil)
			e.write("config", map[string]any{"rotation_overlap": "1h"})
			e.write("config/rotate-root", nil)
			e.passInSteps(10*time.Minute, 80*time.Minute)
			old := e.rootID()
			e.storage.setFault(failOn("before", updateOp, "config")) // leaves a record of the root credential
			e.tryWrite("config", map[string]any{"mgmt_token": e.operatorsRoot().Secret.Reveal()})
			e.storage.setFault(nil)
			e.clock.advance(2 * time.Hour)
			i := e.interleave(n, func() { e.tryWrite("config/rotate-root", nil) })
			e.tick()
			more = i.end()
			if e.rootID() != old && !e.accepted(old) {
				t.Errorf("at step %d: the previous root credential was revoked at once; rotation_overlap is 1h", n)
			}
		})
	}
}
