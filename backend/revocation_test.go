package backend_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// A revocation succeeds only with a proof. What proves nothing makes the record
// revoking, and Vault gets a plain error, so that it tries again.
func TestRevoke_FailsWithoutAProof(t *testing.T) {
	e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "2h"})
	h := e.creds()
	for _, cause := range []error{
		issuer.ErrUnauthorized, errors.New("timeout"), context.DeadlineExceeded, issuer.ErrUnknown, errors.New("empty list"),
	} {
		e.cluster.SetHook(fails(cause, issuertest.BeforeRevoke))
		err := e.revoke(h)
		if err == nil || errors.Is(err, logical.ErrInvalidRequest) {
			t.Errorf("%v: %v", cause, err)
		}
		if _, coded := err.(logical.HTTPCodedError); coded { //nolint:errorlint // Vault sees the outermost error only
			t.Errorf("%v: Vault must get a plain error, not %T", cause, err)
		}
	}
	if _, err := e.renew(h, 0); err == nil {
		t.Error("a token that is being revoked was renewed")
	}
	if token := e.read("tokens/" + e.accessorOf(h.id())).Data; token["state"] != stateRevoking || token["attempts"] != 5 {
		t.Errorf("record: %v", token)
	}
	if !e.cluster.Alive(h.secret()) {
		t.Error("the token was revoked: the test proves nothing")
	}
}

// ErrUnknown is a proof only for a token that is old enough for the cluster to
// know it.
func TestRevoke_UnknownIDIsAProofForAnOldToken(t *testing.T) {
	for age, proof := range map[time.Duration]bool{9 * time.Minute: false, 11 * time.Minute: true} {
		e := ready(t, map[string]any{"ttl": "1h"})
		h := e.creds()
		e.clock.advance(age)
		e.cluster.SetHook(fails(issuer.ErrUnknown, issuertest.BeforeRevoke))
		if err := e.revoke(h); (err == nil) != proof || (len(e.records()) == 0) != proof {
			t.Errorf("age %s: %v, records %v", age, err, e.records())
		}
	}
}

func TestRevoke_TokenThatWasRevokedOnTheCluster(t *testing.T) {
	e := ready(t, nil)
	h := e.creds()
	e.cluster.Kill(h.id())
	if err := e.revoke(h); err != nil || len(e.records()) != 0 {
		t.Errorf("%v, records %v", err, e.records())
	}
}

func TestRevoke_AfterTheRoleWasDeleted(t *testing.T) {
	e := ready(t, nil)
	h := e.creds()
	e.must(deleteOp, "roles/automation", nil)
	if err := e.revoke(h); err != nil || e.cluster.Alive(h.secret()) {
		t.Errorf("%v", err)
	}
}

// While the cluster is out of reach, the expiry is a proof, but not for the first
// attempt, nor soon after it: the clock may have jumped.
func TestRevoke_ExpiryIsAProofForTheSecondAttempt(t *testing.T) {
	e := ready(t, nil)
	h := e.creds()
	e.clock.advance(2 * time.Hour)
	e.cluster.SetHook(down)
	for range 2 {
		if err := e.revoke(h); err == nil {
			t.Error("an attempt relied on one reading of the clock")
		}
	}
	e.clock.advance(time.Minute)
	if err := e.revoke(h); err != nil || len(e.records()) != 0 {
		t.Errorf("second attempt: %v, records %v", err, e.records())
	}
}

// Without a config nothing can be revoked, and the record is kept.
func TestRevoke_WithoutAConfig(t *testing.T) {
	e := ready(t, nil)
	h := e.creds()
	e.must(deleteOp, "config", map[string]any{"force": true})
	if err := e.revoke(h); err == nil || len(e.records()) != 1 {
		t.Errorf("%v, records %v", err, e.records())
	}
	e.configure()
	if err := e.revoke(h); err != nil || e.cluster.Alive(h.secret()) {
		t.Errorf("with a config again: %v", err)
	}
}

// The root credential is never revoked, even if the ledger has a record of it.
func TestRevoke_NeverRevokesTheRootCredential(t *testing.T) {
	e := ready(t, nil)
	h := e.creds()
	e.edit("config", func(text string) string { // no request can do this
		text = strings.Replace(text, e.root.ID, h.id(), 1)
		return strings.Replace(text, e.root.Secret.Reveal(), h.secret().Reveal(), 1)
	})
	accessor := e.accessorOf(h.id())
	if err := e.revoke(h); err == nil {
		t.Error("the lease was revoked")
	}
	e.try(deleteOp, "tokens/"+accessor, nil)
	tidied := e.write("tidy", map[string]any{"dry_run": false, "revoke_unknown": e.tag}).Data
	if tidied["revoked"] != 0 || !e.cluster.Alive(h.secret()) {
		t.Errorf("the root credential was revoked; tidy: %v", tidied)
	}
}

// After 100 seconds of failures the engine tells Vault that the lease is over, and
// keeps trying. It does not while the mount is being disabled, because the ledger
// is deleted then.
func TestRevoke_IsDeferredAfterATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "24h"})
		h := e.creds()
		e.cluster.SetHook(down)
		for range 50 {
			if err := e.revoke(h); err == nil {
				t.Fatal("quick repetition was answered with success")
			}
		}
		e.clock.advance(99 * time.Second)
		if err := e.revoke(h); err == nil {
			t.Fatal("deferred too early")
		}
		e.clock.advance(time.Second)
		e.system.TaintedVal = true
		if err := e.revoke(h); err == nil {
			t.Fatal("deferred while the mount is being disabled")
		}
		e.system.TaintedVal = false
		if err := e.revoke(h); err != nil {
			t.Fatalf("not deferred: %v", err)
		}
		status := e.read("status").Data
		if status["tokens_revoking"] != 1 || !strings.Contains(fmt.Sprint(status["revoking"]), "out of reach") {
			t.Errorf("status: %v", status)
		}
		token := e.read("tokens/" + e.accessorOf(h.id())).Data
		if token["state"] != stateRevoking || token["token_id"] != h.id() || !strings.Contains(token["last_failure"].(string), "out of reach") {
			t.Errorf("token: %v", token)
		}
		e.pass(time.Hour)
		e.cluster.SetHook(nil)
		e.pass(5 * time.Minute)
		if e.alive() != 0 || len(e.records()) != 0 {
			t.Errorf("%d valid tokens, records %v", e.alive(), e.records())
		}
	})
}

// A lease is not renewed while its token is being revoked.
func TestRenew_RefusedWhileTheTokenIsRevoked(t *testing.T) {
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
		if renewed == nil || renewed.Error() == "not tried" || e.alive() != 0 {
			t.Errorf("renewal: %v; %d valid tokens", renewed, e.alive())
		}
	})
}

// On a mount that is being disabled, the first revocation revokes all tokens in
// batches.
func TestDisable_RevokesInBatches(t *testing.T) {
	e := ready(t, nil)
	var leases []*credential
	for range 200 {
		leases = append(leases, e.creds())
	}
	e.cluster.SetHook(fails(errDown, issuertest.AfterIssue))
	e.try(readOp, "creds/automation", nil)
	e.cluster.SetHook(nil)
	if e.alive() != 201 {
		t.Fatalf("%d valid tokens, want 201", e.alive())
	}
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
		t.Errorf("%d valid tokens", e.alive())
	}
}
