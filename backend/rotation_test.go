package backend_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// roots returns the IDs of the valid root credentials: those that an operator or
// the engine has created.
func (e *engine) roots() (ids []string) {
	for _, info := range e.cluster.Tokens() {
		byEngine := strings.HasPrefix(info.Description, "[vault:"+e.tag) && strings.HasSuffix(info.Description, "] root credential")
		if (info.Description == "root" || byEngine) && !info.Dead(e.clock.Now()) {
			ids = append(ids, info.ID)
		}
	}
	return ids
}

// rootWorks issues and revokes a token with the configured root credential.
func (e *engine) rootWorks() {
	e.t.Helper()
	h := e.creds()
	if err := e.revoke(h); err != nil || e.cluster.Alive(h.secret()) {
		e.t.Errorf("revocation: %v", err)
	}
}

// A rotation installs a new root credential and revokes the old one after the
// overlap. Leases are not affected.
func TestRotation_ReplacesTheRootCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		h := e.creds()
		answer := e.write("config/rotate-root", nil).Data
		next := answer["mgmt_token_id"]
		if answer["state"] != "rotated" || answer["previous_mgmt_token_id"] != e.root.ID || next == e.root.ID {
			t.Fatalf("answer: %v", answer)
		}
		config := e.read("config").Data
		if config["mgmt_token_id"] != next || config["mgmt_token_expires_at"] != answer["mgmt_token_expires_at"] {
			t.Errorf("config: %v", config)
		}
		if !e.cluster.Alive(e.root.Secret) {
			t.Error("the previous root credential was revoked before the overlap was over")
		}
		e.rootWorks()
		e.pass(2 * time.Minute)
		if e.cluster.Alive(e.root.Secret) || len(e.roots()) != 1 || len(e.records()) != 1 {
			t.Errorf("after the overlap: root credentials %v, records %v", e.roots(), e.records())
		}
		if err := e.revoke(h); err != nil || e.cluster.Alive(h.secret()) {
			t.Errorf("a token that the previous root credential issued: %v", err)
		}
		e.write("config/rotate-root", nil)
		e.rootWorks()
	})
}

// The previous root credential is valid until the overlap is over, also if the
// plugin is started again meanwhile: others may still use it.
func TestRotation_PreviousRootIsValidForTheOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.write("config", map[string]any{"rotation_overlap": "10m"})
		e.write("config/rotate-root", nil)
		e.pass(5 * time.Minute)
		e.restart()
		e.pass(4 * time.Minute)
		if !e.cluster.Alive(e.root.Secret) {
			t.Error("the previous root credential was revoked before the overlap was over")
		}
		e.pass(2 * time.Minute)
		if e.cluster.Alive(e.root.Secret) {
			t.Error("the previous root credential was not revoked after the overlap")
		}
	})
}

// By default the previous root credential is valid for longer than any request that
// began with it may wait for its turn.
func TestRotation_OverlapIsLongerThanARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		var first atomic.Bool
		e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
			if step == issuertest.BeforeIssue && first.CompareAndSwap(false, true) {
				<-time.After(80 * time.Second)
			}
			return nil
		})
		read := make(chan error)
		go func() {
			_, err := e.do(t.Context(), readOp, "creds/automation", nil)
			read <- err
		}()
		synctest.Wait()
		e.write("config/rotate-root", nil)
		for range 4 {
			e.pass(20 * time.Second)
		}
		if err := <-read; err != nil {
			t.Error(err)
		}
	})
}

// A rotation is reported once, also if the process that made the swap could not finish
// it.
func TestRotation_IsReportedWhenItIsFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.storage.setFault(func(when string, op logical.Operation, key string) error {
			if when == "after" && op == updateOp && key == "config" {
				return errors.New("storage failed")
			}
			return nil
		})
		if status, text := e.tryWrite("config/rotate-root", nil); status != 500 || !strings.Contains(text, "storage failed") {
			t.Errorf("status %d: %s", status, text)
		}
		e.restart()
		e.storage.setFault(nil)
		e.pass(5 * time.Minute)
		reported := slices.DeleteFunc(e.eventTypes(), func(event string) bool { return event != "root-rotate" })
		if e.rootWorks(); len(reported) != 1 {
			t.Errorf("%d events", len(reported))
		}
	})
}

// A root credential whose ID is unknown could not be revoked, so it is not
// rotated.
func TestRotation_NeedsTheIDOfTheRootCredential(t *testing.T) {
	e := ready(t, nil)
	e.cluster.SetLag(time.Hour) // the list does not show the root credential
	e.write("config", map[string]any{"mgmt_token": e.root.Secret.Reveal(), "mgmt_token_id": "", "verify": false})
	e.refuse(400, updateOp, "config/rotate-root", nil, "mgmt_token_id")
	if len(e.roots()) != 1 {
		t.Errorf("root credentials: %v", e.roots())
	}
}

// A new root credential that the cluster does not accept at once is installed when
// it does, also after a restart.
func TestRotation_WaitsUntilTheNewRootIsAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.cluster.SetSpread(4 * time.Minute)
		e.clock.advance(5 * time.Minute) // the present root credential is accepted everywhere
		resp := e.write("config/rotate-root", nil)
		if resp.Data["state"] != "proving" || len(resp.Warnings) == 0 {
			t.Fatalf("answer: %v", resp)
		}
		if got := e.read("config").Data["mgmt_token_id"]; got != e.root.ID {
			t.Errorf("a credential that the cluster does not accept was installed: %v", got)
		}
		if got := e.read("status").Data["rotation_to"]; got != resp.Data["mgmt_token_id"] {
			t.Errorf("status: %v", got)
		}
		e.pass(3 * time.Minute)
		e.restart()
		e.pass(2 * time.Minute)
		if got := e.read("config").Data["mgmt_token_id"]; got != resp.Data["mgmt_token_id"] {
			t.Errorf("the rotation was not finished: the root credential is %v", got)
		}
		e.pass(3 * time.Minute)
		if len(e.roots()) != 1 || len(e.records()) != 0 {
			t.Errorf("root credentials %v, records %v", e.roots(), e.records())
		}
		e.rootWorks()
	})
}

// A new root credential that the cluster never accepts is revoked, and the old one
// stays.
func TestRotation_IsCancelledIfTheNewRootIsNeverAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		issued := false
		e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
			if step == issuertest.AfterIssue {
				issued = true
			}
			if step == issuertest.BeforeList && issued {
				return errDown
			}
			return nil
		})
		e.write("config/rotate-root", nil)
		e.pass(70 * time.Minute)
		if e.read("config").Data["mgmt_token_id"] != e.root.ID || len(e.roots()) != 1 || len(e.records()) != 0 {
			t.Errorf("root credentials %v, records %v", e.roots(), e.records())
		}
		status := e.read("status").Data
		if status["rotation_last_failure"] == nil || status["rotation_to"] != nil {
			t.Errorf("status: %v", status)
		}
		e.cluster.SetHook(nil)
		e.rootWorks()
	})
}

// With rotation_period the root credential is rotated without a request.
func TestRotation_Periodic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "1h"})
		e.write("config", map[string]any{"rotation_period": "24h"})
		ids := map[any]bool{}
		for range 5 {
			ids[e.read("config").Data["mgmt_token_id"]] = true
			e.passInSteps(30*time.Minute, 24*time.Hour+30*time.Minute)
			if len(e.roots()) != 1 {
				t.Fatalf("root credentials %v", e.roots())
			}
		}
		if len(ids) != 5 {
			t.Errorf("%d different root credentials in five days, want 5", len(ids))
		}
		expires, _ := time.Parse(time.RFC3339, e.read("config").Data["mgmt_token_expires_at"].(string))
		if left := expires.Sub(e.clock.Now()); left < 69*time.Hour || left > 73*time.Hour {
			t.Errorf("a new root credential lives for %s, want three periods", left)
		}
		e.rootWorks()
	})
}

// A root credential that expires before its period is over is rotated early.
func TestRotation_PeriodicBeforeExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		old := e.cluster.Add("root", e.clock.Now().Add(10*24*time.Hour))
		e.configure(map[string]any{"mgmt_token": old.Secret.Reveal(), "rotation_period": "720h"})
		e.cluster.Kill(e.root.ID)
		e.passInSteps(time.Hour, 2*24*time.Hour)
		if got := e.read("config").Data["mgmt_token_id"]; got != old.ID {
			t.Fatalf("rotated too early: %v", got)
		}
		e.passInSteps(time.Hour, 2*24*time.Hour)
		if got := e.read("config").Data["mgmt_token_id"]; got == old.ID {
			t.Error("not rotated before it expires")
		}
	})
}

// A rotation that fails is repeated with growing pauses. Meanwhile the mount works.
func TestRotation_FailureIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.write("config", map[string]any{"rotation_period": "24h"})
		e.passInSteps(time.Hour, 23*time.Hour)
		e.cluster.SetHook(fails(issuer.ErrRefused, issuertest.BeforeIssue))
		requests := e.cluster.Calls(issuertest.BeforeIssue)
		e.pass(6 * time.Hour)
		if n := e.cluster.Calls(issuertest.BeforeIssue) - requests; n < 4 || n > 15 {
			t.Errorf("%d attempts in five hours", n)
		}
		if got := e.read("status").Data["rotation_last_failure"]; got == nil {
			t.Error("status does not show the failure")
		}
		e.cluster.SetHook(nil)
		e.rootWorks()
		e.pass(time.Hour)
		if got := e.read("config").Data["mgmt_token_id"]; got == e.root.ID {
			t.Error("not rotated although the cluster works again")
		}
		if !strings.Contains(fmt.Sprint(e.events.Events), "root-rotate-fail") {
			t.Error("no event about the failure")
		}
	})
}

// If nothing rotates a root credential that expires, config, status and log warn.
func TestRootCredential_ExpiryWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		old := e.cluster.Add("root", e.clock.Now().Add(10*24*time.Hour))
		e.configure(map[string]any{"mgmt_token": old.Secret.Reveal()})
		e.passInSteps(time.Hour, 2*24*time.Hour)
		if w := e.read("config").Warnings; len(w) > 0 || strings.Contains(e.log.String(), "root credential expires:") {
			t.Errorf("warned too early: %v", w)
		}
		operations := e.storage.count()
		e.passInSteps(time.Hour, 4*24*time.Hour)
		for _, path := range []string{"config", "status"} {
			if w := strings.Join(e.read(path).Warnings, " "); !strings.Contains(w, "rotate-root") {
				t.Errorf("%s: warnings %q", path, w)
			}
		}
		if n := strings.Count(e.log.String(), "root credential expires:"); n < 2 || n > 5 {
			t.Errorf("%d warnings in the log in three days", n)
		}
		if n := e.storage.count() - operations; n > 20 {
			t.Errorf("%d storage operations in four days without work", n)
		}
		e.passInSteps(time.Hour, 5*24*time.Hour)
		if w := strings.Join(e.read("status").Warnings, " "); !strings.Contains(w, "root credential expired") {
			t.Errorf("warnings %q", w)
		}
	})
}

// An operator writes another root credential while the new one is proved. The
// operator's is used, and the new one is revoked.
func TestRotation_OperatorsWriteCancelsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		theirs := e.overtakenRotation()
		if got := e.rootID(); got != theirs.ID {
			t.Errorf("the root credential is %v, want the operator's", got)
		}
		e.pass(5 * time.Minute)
		if !e.cluster.Alive(theirs.Secret) || e.alive() != 0 || len(e.records()) != 0 {
			t.Errorf("root credentials %v, records %v", e.roots(), e.ledger())
		}
		e.rootWorks()
	})
}

// The same. A rotation that did not happen revokes nothing but the credential that
// it has issued: the previous root credential belongs to the operator.
func TestRotation_CancelledOneKeepsTheOperatorsPreviousRoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.overtakenRotation()
		e.pass(5 * time.Minute)
		if !e.cluster.Alive(e.root.Secret) {
			t.Error("the previous root credential, which an operator created, was revoked")
		}
	})
}

// overtakenRotation starts a rotation. While it proves the new root credential, an
// operator writes another one, which is returned.
func (e *engine) overtakenRotation() issuer.Token {
	e.t.Helper()
	theirs := e.operatorsRoot()
	issued := false
	e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
		switch {
		case step == issuertest.AfterIssue:
			issued = true
		case step == issuertest.BeforeList && issued:
			issued = false
			e.write("config", map[string]any{"mgmt_token": theirs.Secret.Reveal()})
		}
		return nil
	})
	if status, _ := e.tryWrite("config/rotate-root", nil); status < 400 {
		e.t.Error("the rotation succeeded")
	}
	e.cluster.SetHook(nil)
	return theirs
}

// A root credential that the engine has issued is rotated before it expires, also
// without rotation_period, because no one else knows it. config and status say
// when.
func TestRotation_OwnRootIsRotatedBeforeItExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.write("config", map[string]any{"rotation_ttl": "720h", "expiry_warning": "48h"})
		if data := e.read("config").Data; data["last_vault_rotation"] != nil || data["next_vault_rotation"] != nil {
			t.Errorf("before a rotation: last %v, next %v", data["last_vault_rotation"], data["next_vault_rotation"])
		}
		rotated := e.clock.Now()
		answer := e.write("config/rotate-root", nil).Data
		first := e.rootID()
		next := rotated.Add(28 * 24 * time.Hour).UTC().Format(time.RFC3339)
		for _, path := range []string{"config", "status"} {
			data := e.read(path).Data
			if data["last_vault_rotation"] != rotated.UTC().Format(time.RFC3339) || data["next_vault_rotation"] != next || answer["next_vault_rotation"] != next {
				t.Errorf("%s: last %v, next %v; the rotation answered %v; want %s", path, data["last_vault_rotation"], data["next_vault_rotation"], answer["next_vault_rotation"], next)
			}
		}
		e.passInSteps(30*time.Minute, 28*24*time.Hour-time.Hour)
		if e.rootID() != first {
			t.Error("rotated too early")
		}
		e.passInSteps(30*time.Minute, 2*time.Hour)
		if e.rootID() == first {
			t.Error("not rotated before it expires")
		}
		e.passInSteps(30*time.Minute, 60*24*time.Hour) // two more lives
		if len(e.roots()) != 1 || len(e.records()) != 0 {
			t.Errorf("root credentials %v, records %v", e.roots(), e.ledger())
		}
		e.rootWorks()
	})
}

// With disable_automated_rotation nothing is rotated without a request, and a
// warning says when the root credential expires.
func TestRotation_DisabledAutomatedRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.write("config", map[string]any{"rotation_period": "24h", "disable_automated_rotation": true})
		e.passInSteps(time.Hour, 3*24*time.Hour)
		if got := e.rootID(); got != e.root.ID {
			t.Errorf("the operator's root credential was rotated to %s", got)
		}
		e.write("config/rotate-root", nil)
		first := e.rootID()
		if data := e.read("config").Data; first == e.root.ID || data["next_vault_rotation"] != nil || data["last_vault_rotation"] == nil {
			t.Errorf("after a rotation on request: %s, last %v, next %v", first, data["last_vault_rotation"], data["next_vault_rotation"])
		}
		e.passInSteps(time.Hour, 2*24*time.Hour)
		if e.rootID() != first {
			t.Error("rotated without a request")
		}
		if warnings := strings.Join(e.read("status").Warnings, " "); !strings.Contains(warnings, "rotate-root") {
			t.Errorf("a day before the root credential expires, status warns: %q", warnings)
		}
	})
}

// A second rotation at the same time is a conflict.
func TestRotation_SecondOneIsAConflict(t *testing.T) {
	e := ready(t, nil)
	e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
		if step == issuertest.BeforeIssue {
			if status, text := e.tryWrite("config/rotate-root", nil); status != 409 {
				t.Errorf("a second rotation: %d %s", status, text)
			}
		}
		return nil
	})
	e.write("config/rotate-root", nil)
	e.cluster.SetHook(nil)
	if len(e.roots()) != 2 { // the new one, and the previous one during the overlap
		t.Errorf("root credentials %v", e.roots())
	}
}

// Every step of a rotation fails, in every way. The root credential works at once
// and at any time afterwards, and in the end there is one.
func TestCrash_RotationAtAnyStep(t *testing.T) {
	for _, mode := range failureModes {
		t.Run(string(mode), func(t *testing.T) {
			for n, more := 1, true; more; n++ {
				synctest.Test(t, func(t *testing.T) { more = rotateWithFailure(t, issuer.Dedicated, mode, n) })
				if t.Failed() {
					t.Fatalf("at step %d", n)
				}
			}
		})
	}
}

// rotateWithFailure rotates the root credential of a product with a failure of the
// nth step, and reports whether it happened.
func rotateWithFailure(t *testing.T, product string, mode failureMode, n int) (happened bool) {
	e := readyOf(t, product, nil)
	if e.named() {
		e.at(uuidA) // is learned during the rotation
	}
	e.tick()
	h := e.creds()
	injected := e.failStep(mode, n)
	e.tryWrite("config/rotate-root", nil)
	e.pass(2 * time.Minute) // the revocation after the overlap may fail, too
	e.failNoMore()
	if mode == crash {
		e.restart()
	}
	e.rootWorks()
	if len(e.roots()) > 2 {
		t.Errorf("root credentials %v: more than one spare", e.roots())
	}
	if !e.cluster.Alive(h.secret()) {
		t.Error("a token under a valid lease was revoked")
	}
	e.pass(10 * time.Minute)
	e.rootWorks()
	if len(e.roots()) != 1 {
		t.Errorf("ten minutes later: root credentials %v", e.roots())
	}
	e.passInSteps(time.Hour, 27*time.Hour)
	if len(e.roots()) != 1 || len(e.records()) != 0 {
		t.Errorf("a day later: root credentials %v, records %v", e.roots(), e.ledger())
	}
	if e.named() {
		e.wantEmptyCatalog()
	}
	return injected.hasHappened()
}
