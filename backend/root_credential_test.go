package backend_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// ownRoot rotates the root credential, lets the overlap pass, and returns the
// ID of the root credential that the engine has issued itself.
func (e *engine) ownRoot() string {
	e.t.Helper()
	e.write("config/rotate-root", nil)
	e.pass(5 * time.Minute)
	if len(e.records()) != 0 || len(e.roots()) != 1 {
		e.t.Fatalf("after a rotation: %d root credentials, records %v", len(e.roots()), e.ledger())
	}
	return e.rootID()
}

// revokedOrOwed checks that the credential is dead, or in the ledger as one
// that must be revoked.
func (e *engine) revokedOrOwed(when, id string) {
	e.t.Helper()
	if r, recorded := e.recordOf(id); e.accepted(id) && (!recorded || r.State != stateRevoking) {
		e.t.Errorf("%s: root credential %s works, and its record is %+v", when, id, r)
	}
}

// The plugin stops right after the new root credential was put into config, and
// an operator writes one of their own before the rotation is closed. Both
// earlier ones are revoked.
func TestRootCredential_ReplacedAfterACrashInARotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		stopped := false
		e.storage.setFault(func(when string, op logical.Operation, key string) error {
			if when == "before" && stopped {
				return errInjected
			}
			stopped = stopped || when == "after" && op == updateOp && key == "config"
			return nil
		})
		e.tryWrite("config/rotate-root", nil)
		e.storage.setFault(nil)
		if !stopped {
			t.Fatal("the new root credential was not put into config")
		}
		e.restart()
		next := e.rootID()
		theirs := e.operatorsRoot()
		e.write("config", map[string]any{"mgmt_token": theirs.Secret.Reveal()})
		e.pass(10 * time.Minute)
		if e.cluster.Alive(e.root.Secret) {
			t.Error("the credential that the rotation replaced still works, and is in no record")
		}
		if e.accepted(next) || !e.cluster.Alive(theirs.Secret) || e.rootID() != theirs.ID {
			t.Errorf("the engine's credential works: %v; the operator's works: %v", e.accepted(next), e.cluster.Alive(theirs.Secret))
		}
		if len(e.records()) != 0 {
			t.Errorf("records %v", e.ledger())
		}
	})
}

// An operator who replaces a root credential that the engine issued knows
// nothing of the old one. The engine revokes it.
func TestRootCredential_OwnOneIsRevokedWhenReplaced(t *testing.T) {
	for _, verify := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			e := ready(t, nil)
			own := e.ownRoot()
			e.write("config", map[string]any{"max_parallel": 5}) // changes nothing about it
			e.pass(5 * time.Minute)
			if !e.accepted(own) {
				t.Fatal("another change of config revoked the root credential")
			}
			theirs := e.operatorsRoot()
			e.write("config", map[string]any{"mgmt_token": theirs.Secret.Reveal(), "mgmt_token_id": theirs.ID, "verify": verify})
			e.revokedOrOwed("replaced", own)
			e.pass(10 * time.Minute)
			if e.accepted(own) || len(e.records()) != 0 {
				t.Errorf("verify=%v: it works: %v; records %v", verify, e.accepted(own), e.ledger())
			}
			e.rootWorks()
		})
	}
}

// The same, by a move to another cluster: the record stays until the mount is
// back.
func TestRootCredential_OwnOneIsOnRecordAfterAMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		own := e.ownRoot()
		_, move := e.otherCluster()
		e.write("config", with(move, "force", true))
		e.revokedOrOwed("moved away", own)
		e.pass(time.Hour)
		e.revokedOrOwed("an hour later", own)
		theirs := e.operatorsRoot()
		e.write("config", with(with(e.home(), "force", true), "mgmt_token", theirs.Secret.Reveal()))
		e.passInSteps(5*time.Minute, 2*time.Hour)
		if e.accepted(own) || len(e.records()) != 0 {
			t.Errorf("back home: it works: %v; records %v", e.accepted(own), e.ledger())
		}
	})
}

// The same, by deleting the config.
func TestRootCredential_OwnOneIsNotForgottenWithTheConfig(t *testing.T) {
	for _, force := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e := ready(t, nil)
			own := e.ownRoot()
			status, text := e.try(deleteOp, "config", map[string]any{"force": force})
			if force && status >= 400 {
				t.Errorf("force=true: %d %s", status, text)
			}
			if status < 400 {
				e.revokedOrOwed(fmt.Sprintf("deleted, force=%v", force), own)
			}
			theirs := e.operatorsRoot()
			e.configure(map[string]any{"mgmt_token": theirs.Secret.Reveal()})
			e.passInSteps(5*time.Minute, 2*time.Hour)
			if e.accepted(own) || len(e.records()) != 0 {
				t.Errorf("force=%v, configured again: it works: %v; records %v", force, e.accepted(own), e.ledger())
			}
		})
	}
}

// Disabling the mount deletes the ledger. The root credential that the engine
// issued, and the one of a rotation under way, are revoked before that; one that
// an operator wrote is not. A reload of the plugin revokes nothing.
func TestRootCredential_OwnOneIsRevokedWhenTheMountIsDisabled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		own := e.ownRoot()
		e.restart()
		if !e.accepted(own) {
			t.Fatal("a reload of the plugin revoked the root credential")
		}
		e.system.TaintedVal = true
		e.tick() // as core does before it revokes the leases
		e.Cleanup(context.Background())
		if e.accepted(own) {
			t.Error("the root credential that the engine issued works after the mount was disabled")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		next := e.proving()
		e.clock.advance(5 * time.Minute)
		e.system.TaintedVal = true
		e.Cleanup(context.Background())
		if e.accepted(next) {
			t.Error("the new credential of a rotation works after the mount was disabled")
		}
		if !e.cluster.Alive(e.root.Secret) {
			t.Error("the operator's own root credential was revoked")
		}
	})
}

// A cluster that hangs does not keep Vault from disabling the mount.
func TestRootCredential_DisablingTheMountIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.ownRoot()
		e.cluster.SetHook(hangsFor(time.Hour))
		e.system.TaintedVal = true
		began := time.Now()
		e.Cleanup(context.Background())
		if took := time.Since(began); took > 2*time.Minute {
			t.Errorf("it took %s", took)
		}
	})
}

// What is not known about the root credential is not shown as "never".
func TestRootCredential_UnknownExpiryIsNotShownAsNever(t *testing.T) {
	e := newEngine(t)
	root := e.cluster.Add("root", e.clock.Now().Add(10*24*time.Hour))
	e.configure(map[string]any{"mgmt_token": root.Secret.Reveal(), "mgmt_token_id": root.ID, "verify": false})
	for _, path := range []string{"config", "status"} {
		if got := e.read(path).Data["mgmt_token_expires_at"]; got == "never" {
			t.Errorf("%s shows %v; the credential expires in ten days", path, got)
		}
	}
	e.write("config", map[string]any{"max_parallel": 3}) // verifies
	want := e.clock.Now().Add(10 * 24 * time.Hour).UTC().Format(time.RFC3339)
	if got := e.read("config").Data["mgmt_token_expires_at"]; got != want {
		t.Errorf("after a write that verifies, config shows %v, want %s", got, want)
	}
}

// An ID that is not the root credential's is found out before a rotation begins,
// or the token of a stranger would be revoked after it.
func TestRotation_RefusesAWrongID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		stranger := e.cluster.Add("a stranger's", time.Time{})
		for _, id := range []string{stranger.ID, "12345678-1234-4234-8234-123456789012"} {
			e.write("config", map[string]any{"mgmt_token": e.root.Secret.Reveal(), "mgmt_token_id": id, "verify": false})
			status, text := e.tryWrite("config/rotate-root", nil)
			if status != 400 || !strings.Contains(text, "mgmt_token_id") {
				t.Errorf("mgmt_token_id=%s: %d %s", id, status, text)
			}
			e.pass(10 * time.Minute)
			if !e.cluster.Alive(stranger.Secret) {
				t.Fatal("the token of a stranger was revoked")
			}
			if !e.cluster.Alive(e.root.Secret) || len(e.roots()) != 1 || len(e.records()) != 0 {
				t.Errorf("%d root credentials, records %v", len(e.roots()), e.ledger())
			}
		}
		e.write("config", map[string]any{"mgmt_token_id": e.root.ID, "verify": false})
		e.write("config/rotate-root", nil)
	})
}

// A credential from creds/ ends with its lease. As a root credential it would
// take the mount with it.
func TestConfig_RefusesACredentialOfItsOwnLeases(t *testing.T) {
	e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "24h"})
	h := e.creds()
	e.refuseWith4xx(updateOp, "config", map[string]any{"mgmt_token": h.secret().Reveal()}, "lease")
	e.refuseWith4xx(updateOp, "config", map[string]any{"mgmt_token": h.secret().Reveal(), "mgmt_token_id": h.id()}, "lease")
	if err := e.revoke(h); err != nil || e.cluster.Alive(h.secret()) {
		t.Errorf("its revocation: %v", err)
	}
	e.rootWorks()
}

// A rotation turns a root credential that never expires into one that does.
// Nothing rotates that one unless rotation_period is set, so the answer warns.
func TestRotation_WarnsThatTheNewCredentialExpires(t *testing.T) {
	e := ready(t, nil)
	resp := e.write("config/rotate-root", nil)
	if resp.Data["mgmt_token_expires_at"] == "never" {
		return // nothing to warn of
	}
	if warning := strings.Join(resp.Warnings, " "); !strings.Contains(warning, "expire") || !strings.Contains(warning, "rotation_period") {
		t.Errorf("the new credential expires at %v; warnings: %q", resp.Data["mgmt_token_expires_at"], warning)
	}
	e = ready(t, nil)
	e.write("config", map[string]any{"rotation_period": "720h"})
	if resp := e.write("config/rotate-root", nil); len(resp.Warnings) > 0 {
		t.Errorf("with a rotation_period: %v", resp.Warnings)
	}
}

// Vault is sealed, or steps down, while a mount is moved: it closes the tainted mount,
// which is not being disabled. The root credential and the static tokens stay valid,
// also if this node has lost the leadership and cannot write any more.
func TestClean_OfAMountThatIsBeingMovedRevokesNothingElse(t *testing.T) {
	for name, f := range map[string]fault{
		"leader": nil,
		"former leader": func(when string, op logical.Operation, _ string) error {
			if when == "before" && op != readOp && op != listOp {
				return errInjected
			}
			return nil
		},
	} {
		for _, leases := range []int{0, 1} {
			if leases == 0 && f == nil {
				continue // as when the mount is disabled
			}
			t.Run(fmt.Sprintf("%s, %d leases", name, leases), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := shared(t, nil)
					e.write("roles/automation", nil)
					e.write("config/rotate-root", nil)
					e.pass(5 * time.Minute)
					root := e.rootID()
					for range leases {
						e.creds()
					}
					e.system.TaintedVal = true
					e.tick()
					e.storage.setFault(f)
					e.Cleanup(t.Context())
					e.storage.setFault(nil)
					e.system.TaintedVal, e.Backend = false, nil
					e.restart()
					if !e.accepted(root) {
						t.Error("the root credential in config is revoked")
					}
					if e.validStatic() == 0 {
						t.Error("the token of the static role is revoked")
					}
					e.creds()
				})
			})
		}
	}
}

// A root credential that lives shorter than expiry_warning is not rotated again as
// soon as it is issued.
func TestRotation_ShortLifeIsNotRotatedAtEveryTick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.write("config", map[string]any{"rotation_ttl": "24h"})
		e.write("config/rotate-root", nil)
		first := e.rootID()
		e.pass(11 * time.Hour)
		if e.rootID() != first {
			t.Error("rotated in the first half of its life")
		}
		e.pass(2 * time.Hour)
		if e.rootID() == first {
			t.Error("not rotated before it expires")
		}
	})
}
