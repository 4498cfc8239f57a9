package backend_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// detachable returns an engine whose role automation has revoke_on=expiry, and a
// credential of it.
func detachable(t *testing.T, role map[string]any) (*engine, *credential) {
	t.Helper()
	data := map[string]any{"ttl": "1h", "max_ttl": "3h", "revoke_on": "expiry"}
	for field, value := range role {
		data[field] = value
	}
	e := ready(t, data)
	h := e.creds()
	e.tick()
	return e, h
}

// issuedWithExpiry is detachable for tests without a bubble.
func issuedWithExpiry(t *testing.T) (*engine, *credential) {
	t.Helper()
	e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "3h", "revoke_on": "expiry"})
	return e, e.creds()
}

// eventsOf counts the events of a kind.
func (e *engine) eventsOf(what string) (n int) {
	for _, event := range e.events.Events {
		if string(event.Type) == "influxdb/"+what {
			n++
		}
	}
	return n
}

func TestRevokeOnExpiry_TheLeaseLastsForTheWholeCap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, h := detachable(t, nil)
		if h.Secret.TTL != 3*time.Hour || h.Secret.MaxTTL != 3*time.Hour || h.Secret.Renewable {
			t.Errorf("ttl %s, max_ttl %s, renewable %v", h.Secret.TTL, h.Secret.MaxTTL, h.Secret.Renewable)
		}
		accessor := h.Data["accessor"].(string)
		if text := strings.Join(h.Warnings, " "); !strings.Contains(text, "vault delete influxdb/tokens/"+accessor) || !strings.Contains(text, h.Data["expires_at"].(string)) {
			t.Errorf("warnings: %s", text)
		}
		if _, err := e.renew(h, 0); err == nil || !strings.Contains(err.Error(), "revoke_on") {
			t.Errorf("a renewal: %v", err)
		}
		if got := e.read("tokens/" + accessor).Data["revoke_on"]; got != "expiry" {
			t.Errorf("revoke_on of the record: %v", got)
		}
		short := e.must(readOp, "creds/automation", map[string]any{"ttl": "10m"})
		expires, err := time.Parse(time.RFC3339, short.Data["expires_at"].(string))
		if err != nil || short.Secret.TTL != 10*time.Minute || expires.After(e.clock.Now().Add(11*time.Minute)) {
			t.Errorf("a request for 10m: lease %s, expires at %s", short.Secret.TTL, expires)
		}
		e.write("roles/automation", map[string]any{"revoke_on": "lease"})
		if resp := e.read("creds/automation"); resp.Secret.TTL != time.Hour || !resp.Secret.Renewable || len(resp.Warnings) > 0 {
			t.Errorf("with revoke_on=lease: %s, renewable %v, %v", resp.Secret.TTL, resp.Secret.Renewable, resp.Warnings)
		}
		e.refuse(400, updateOp, "roles/automation", map[string]any{"revoke_on": "never"}, "lease or expiry")
	})
}

// The choice belongs to the token: a role that is changed or deleted does not
// change what was promised.
func TestRevokeOnExpiry_TokenOutlivesItsLease(t *testing.T) {
	for name, change := range map[string]func(e *engine){
		"the role stays":      func(*engine) {},
		"the role is changed": func(e *engine) { e.write("roles/automation", map[string]any{"revoke_on": "lease"}) },
		"the role is deleted": func(e *engine) { e.must(deleteOp, "roles/automation", nil) },
		"a restart":           func(e *engine) { e.restart() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, h := detachable(t, map[string]any{"max_active": 1})
				change(e)
				e.clock.advance(10 * time.Minute)
				for range 2 { // Vault may lose the first answer and ask again
					if err := e.revoke(h); err != nil {
						t.Fatal(err)
					}
				}
				if n := e.eventsOf("detach"); n != 1 {
					t.Errorf("%d events", n)
				}
				data := e.read("tokens/" + h.Data["accessor"].(string)).Data
				if data["state"] != stateActive || data["deadline"] != h.Data["expires_at"] || data["detached_at"] == nil {
					t.Errorf("the record: %v", data)
				}
				if name == "the role stays" {
					if status, text := e.try(readOp, "creds/automation", nil); status != 429 {
						t.Errorf("a second token although max_active is 1: %d %s", status, text)
					}
				}
				e.pass(2*time.Hour + 50*time.Minute)
				if !e.cluster.Alive(h.secret()) {
					t.Fatal("the token was revoked before its expiry")
				}
				e.pass(5 * time.Minute)
				if e.alive() != 0 || len(e.records()) != 0 {
					t.Errorf("after its expiry: %d alive, records %v", e.alive(), e.records())
				}
				if n := e.eventsOf("orphan-revoke"); n != 0 {
					t.Errorf("%d events say that a lease was lost", n)
				}
			})
		})
	}
}

func TestRevokeOnExpiry_DeleteRevokesAtOnce(t *testing.T) {
	for _, detached := range []bool{false, true} {
		e, h := issuedWithExpiry(t)
		if detached {
			if err := e.revoke(h); err != nil {
				t.Fatal(err)
			}
		}
		e.must(deleteOp, "tokens/"+h.Data["accessor"].(string), nil)
		if e.cluster.Alive(h.secret()) || len(e.records()) != 0 {
			t.Errorf("detached %v: alive %v, records %v", detached, e.cluster.Alive(h.secret()), e.records())
		}
		if err := e.revoke(h); err != nil {
			t.Errorf("the lease then: %v", err)
		}
	}
}

// At the end of its lease the token is revoked like any other.
func TestRevokeOnExpiry_EndOfTheLease(t *testing.T) {
	e, h := issuedWithExpiry(t)
	e.clock.advance(h.Secret.TTL)
	if err := e.revoke(h); err != nil {
		t.Fatal(err)
	}
	if len(e.records()) != 0 || e.eventsOf("detach") != 0 || e.eventsOf("revoke") != 1 {
		t.Errorf("records %v, detach events %d", e.records(), e.eventsOf("detach"))
	}
}

// Tidy knows the token, also after its lease has ended.
func TestRevokeOnExpiry_Tidy(t *testing.T) {
	e, h := issuedWithExpiry(t)
	if err := e.revoke(h); err != nil {
		t.Fatal(err)
	}
	resp := e.write("tidy", map[string]any{"dry_run": false, "revoke_unknown": e.tag})
	if resp.Data["in_ledger"] != 1 || resp.Data["unknown"] != 0 || !e.cluster.Alive(h.secret()) {
		t.Errorf("%v", resp.Data)
	}
}

// Moving a mount revokes its leases and keeps its storage; disabling it ends with
// Clean, after which the storage is deleted.
func TestRevokeOnExpiry_MoveAndDisable(t *testing.T) {
	for _, disable := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e, h := detachable(t, nil)
			detached := e.creds()
			if err := e.revoke(detached); err != nil {
				t.Fatal(err)
			}
			e.write("roles/automation", map[string]any{"revoke_on": "lease"})
			ordinary := e.creds()
			e.system.TaintedVal = true
			for _, lease := range []*credential{ordinary, h} { // the first one revokes all others that end with their lease
				if err := e.revoke(lease); err != nil {
					t.Fatal(err)
				}
			}
			if e.cluster.Alive(ordinary.secret()) || !e.cluster.Alive(h.secret()) || !e.cluster.Alive(detached.secret()) {
				t.Error("while the mount is tainted: not exactly the token with revoke_on=lease was revoked")
			}
			if disable {
				e.Cleanup(t.Context())
				if e.alive() != 0 {
					t.Errorf("after disabling the mount %d tokens are alive", e.alive())
				}
				return
			}
			e.system.TaintedVal = false
			e.restart()
			e.pass(time.Hour)
			if !e.cluster.Alive(h.secret()) || !e.cluster.Alive(detached.secret()) {
				t.Error("a token did not survive the move of the mount")
			}
			e.pass(3 * time.Hour)
			if len(e.records()) != 0 {
				t.Errorf("records %v", e.records())
			}
		})
	}
}

// A crash at any step of the end of a lease leaves a token that lives until its
// expiry and is in the ledger, and nothing after that.
func TestRevokeOnExpiry_CrashAtEveryStep(t *testing.T) {
	for _, mode := range failureModes {
		for _, deleted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, deleted %v", mode, deleted), func(t *testing.T) {
				for n, happened := 1, true; happened; n++ {
					synctest.Test(t, func(t *testing.T) { happened = detachWith(t, mode, n, deleted) })
					if t.Failed() {
						t.Fatalf("at step %d", n)
					}
				}
			})
		}
	}
}

// detachWith ends a lease early, and deletes the token if told to, with a failure
// at step n.
func detachWith(t *testing.T, mode failureMode, n int, deleted bool) bool {
	e, h := detachable(t, nil)
	e.clock.advance(10 * time.Minute)
	failing := e.failStep(mode, n)
	ended := e.revoke(h) == nil
	if deleted {
		e.try(deleteOp, "tokens/"+h.Data["accessor"].(string), nil)
	}
	synctest.Wait()
	e.failNoMore()
	if mode == crash {
		e.restart()
	}
	if !ended { // Vault tries again
		if err := e.revoke(h); err != nil {
			t.Errorf("the second attempt: %v", err)
		}
	}
	e.tick()
	if alive, known := e.cluster.Alive(h.secret()), len(e.records()) == 1; alive && !known || !alive && !deleted {
		t.Errorf("alive %v, in the ledger %v", alive, known)
	}
	for e.clock.Now().Before(h.issued.Add(3 * time.Hour)) {
		e.pass(10 * time.Minute)
		if alive := e.cluster.Alive(h.secret()); alive && len(e.records()) != 1 || !alive && !deleted {
			t.Fatalf("alive %v, records %v", alive, e.records())
		}
	}
	e.passInSteps(time.Hour, 26*time.Hour)
	if e.alive() != 0 || len(e.records()) != 0 {
		t.Errorf("a day later %d alive, records %v", e.alive(), e.records())
	}
	return failing.hasHappened()
}

// A standby changes nothing about a lease that ends early.
func TestRevokeOnExpiry_Standby(t *testing.T) {
	e, h := issuedWithExpiry(t)
	before := e.storage.dump(t)
	e.loseRightToWrite()
	if err := e.revoke(h); err == nil {
		t.Error("the lease ended on a node that cannot write")
	}
	if e.storage.dump(t) != before || !e.cluster.Alive(h.secret()) {
		t.Error("something was changed")
	}
}

func TestRoleMetadata_ReturnedWithEachCredential(t *testing.T) {
	e := ready(t, map[string]any{"metadata": map[string]any{"team": "storage", "database": "metrics"}})
	want := `{"database":"metrics","team":"storage"}`
	for path, data := range map[string]map[string]any{
		"creds/automation": e.read("creds/automation").Data, "roles/automation": e.read("roles/automation").Data,
	} {
		if got, err := json.Marshal(data["metadata"]); err != nil || string(got) != want {
			t.Errorf("%s: %s (%v)", path, got, err)
		}
	}
	e.refuse(400, updateOp, "roles/automation", map[string]any{"metadata": map[string]any{"deletion_time": "x"}}, "deletion_time")
	e.write("roles/automation", map[string]any{"metadata": map[string]any{}})
	if _, given := e.read("creds/automation").Data["metadata"]; given {
		t.Error("metadata was not removed")
	}
}

// A token that is being revoked on request is not left to its expiry.
func TestRevokeOnExpiry_WhileItIsBeingRevoked(t *testing.T) {
	e, h := issuedWithExpiry(t)
	e.cluster.SetHook(down)
	e.try(deleteOp, "tokens/"+h.Data["accessor"].(string), nil)
	if err := e.revoke(h); err == nil || e.eventsOf("detach") != 0 {
		t.Errorf("the end of the lease: %v, %d detach events", err, e.eventsOf("detach"))
	}
}
