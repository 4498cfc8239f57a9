package backend_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// roots returns the ids of the live tokens that were made to be roots.
func (e *engine) roots() (ids []string) {
	for _, info := range e.cluster.Tokens() {
		made := info.Description == "root" || strings.HasPrefix(info.Description, "[vault:"+e.tag) && strings.HasSuffix(info.Description, "] root credential")
		if made && !info.Dead(e.clock.Now()) {
			ids = append(ids, info.ID)
		}
	}
	return ids
}

// rootWorks mints and revokes with whatever root token the config holds.
func (e *engine) rootWorks() {
	e.t.Helper()
	h := e.creds()
	if err := e.revoke(h); err != nil || e.cluster.Alive(h.secret()) {
		e.t.Errorf("revocation: %v", err)
	}
}

func TestTheRootTokenIsRotated(t *testing.T) {
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
			t.Error("the old root token must live on for the overlap")
		}
		e.rootWorks()
		e.pass(2 * time.Minute)
		if e.cluster.Alive(e.root.Secret) || len(e.roots()) != 1 || len(e.records()) != 1 {
			t.Errorf("after the overlap: roots %v, records %v", e.roots(), e.records())
		}
		if err := e.revoke(h); err != nil || e.cluster.Alive(h.secret()) {
			t.Errorf("a token minted by the old root: %v", err)
		}
		e.write("config/rotate-root", nil)
		e.rootWorks()
	})
}

func TestTheOldRootTokenLivesForTheOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.write("config", map[string]any{"rotation_overlap": "10m"})
		e.write("config/rotate-root", nil)
		e.pass(5 * time.Minute)
		e.restart()
		e.pass(4 * time.Minute)
		if !e.cluster.Alive(e.root.Secret) {
			t.Error("the old root token died before the overlap was over")
		}
		e.pass(2 * time.Minute)
		if e.cluster.Alive(e.root.Secret) {
			t.Error("the old root token outlived the overlap")
		}
	})
}

func TestARotationNeedsTheRootTokensID(t *testing.T) {
	e := ready(t, nil)
	e.cluster.SetLag(time.Hour) // the list does not show the root credential
	e.write("config", map[string]any{"mgmt_token": e.root.Secret.Reveal(), "mgmt_token_id": "", "verify": false})
	e.refuse(400, updateOp, "config/rotate-root", nil, "mgmt_token_id")
	if len(e.roots()) != 1 {
		t.Errorf("roots: %v", e.roots())
	}
}

func TestANewRootTokenMayTakeMinutesToSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.cluster.SetSpread(4 * time.Minute)
		e.clock.advance(5 * time.Minute) // the present root token has long spread
		resp := e.write("config/rotate-root", nil)
		if resp.Data["state"] != "proving" || len(resp.Warnings) == 0 {
			t.Fatalf("answer: %v", resp)
		}
		if got := e.read("config").Data["mgmt_token_id"]; got != e.root.ID {
			t.Errorf("a token that is not accepted became the root: %v", got)
		}
		if got := e.read("status").Data["rotation_to"]; got != resp.Data["mgmt_token_id"] {
			t.Errorf("status: %v", got)
		}
		e.pass(3 * time.Minute)
		e.restart()
		e.pass(2 * time.Minute)
		if got := e.read("config").Data["mgmt_token_id"]; got != resp.Data["mgmt_token_id"] {
			t.Errorf("the rotation was not finished: root %v", got)
		}
		e.pass(3 * time.Minute)
		if len(e.roots()) != 1 || len(e.records()) != 0 {
			t.Errorf("roots %v, records %v", e.roots(), e.records())
		}
		e.rootWorks()
	})
}

func TestANewRootTokenThatIsNeverAcceptedIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		minted := false
		e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
			if step == issuertest.AfterIssue {
				minted = true
			}
			if step == issuertest.BeforeList && minted {
				return errDown
			}
			return nil
		})
		e.write("config/rotate-root", nil)
		e.pass(70 * time.Minute)
		if e.read("config").Data["mgmt_token_id"] != e.root.ID || len(e.roots()) != 1 || len(e.records()) != 0 {
			t.Errorf("roots %v, records %v", e.roots(), e.records())
		}
		status := e.read("status").Data
		if status["rotation_last_failure"] == nil || status["rotation_to"] != nil {
			t.Errorf("status: %v", status)
		}
		e.cluster.SetHook(nil)
		e.rootWorks()
	})
}

func TestTheRootTokenIsRotatedUnattended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "1h"})
		e.write("config", map[string]any{"rotation_period": "24h"})
		ids := map[any]bool{}
		for range 5 {
			ids[e.read("config").Data["mgmt_token_id"]] = true
			e.passBy(30*time.Minute, 24*time.Hour+30*time.Minute)
			if len(e.roots()) != 1 {
				t.Fatalf("roots %v", e.roots())
			}
		}
		if len(ids) != 5 {
			t.Errorf("%d roots in five days", len(ids))
		}
		expires, _ := time.Parse(time.RFC3339, e.read("config").Data["mgmt_token_expires_at"].(string))
		if left := expires.Sub(e.clock.Now()); left < 69*time.Hour || left > 73*time.Hour {
			t.Errorf("a new root token lives for %s, want three periods", left)
		}
		e.rootWorks()
	})
}

func TestARootTokenNearItsExpiryIsRotatedEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		old := e.cluster.Add("root", e.clock.Now().Add(10*24*time.Hour))
		e.configure(map[string]any{"mgmt_token": old.Secret.Reveal(), "rotation_period": "720h"})
		e.cluster.Kill(e.root.ID)
		e.passBy(time.Hour, 2*24*time.Hour)
		if got := e.read("config").Data["mgmt_token_id"]; got != old.ID {
			t.Fatalf("rotated too early: %v", got)
		}
		e.passBy(time.Hour, 2*24*time.Hour)
		if got := e.read("config").Data["mgmt_token_id"]; got == old.ID {
			t.Error("the root token was left to expire")
		}
	})
}

func TestAFailedRotationIsTriedAgainAndStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.write("config", map[string]any{"rotation_period": "24h"})
		e.passBy(time.Hour, 23*time.Hour)
		e.cluster.SetHook(fails(issuer.ErrRefused, issuertest.BeforeIssue))
		mints := e.cluster.Calls(issuertest.BeforeIssue)
		e.pass(6 * time.Hour)
		if n := e.cluster.Calls(issuertest.BeforeIssue) - mints; n < 4 || n > 15 {
			t.Errorf("%d attempts in five hours", n)
		}
		if got := e.read("status").Data["rotation_last_failure"]; got == nil {
			t.Error("status does not tell of the failure")
		}
		e.cluster.SetHook(nil)
		e.rootWorks()
		e.pass(time.Hour)
		if got := e.read("config").Data["mgmt_token_id"]; got == e.root.ID {
			t.Error("not rotated after all")
		}
		if !strings.Contains(fmt.Sprint(e.events.Events), "root-rotate-fail") {
			t.Error("no event of the failure")
		}
	})
}

func TestAnExpiringRootTokenIsWarnedOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		old := e.cluster.Add("root", e.clock.Now().Add(10*24*time.Hour))
		e.configure(map[string]any{"mgmt_token": old.Secret.Reveal()})
		e.passBy(time.Hour, 2*24*time.Hour)
		if w := e.read("config").Warnings; len(w) > 0 || strings.Contains(e.log.String(), "root credential expires:") {
			t.Errorf("warned too early: %v", w)
		}
		ops := e.storage.count()
		e.passBy(time.Hour, 4*24*time.Hour)
		for _, path := range []string{"config", "status"} {
			if w := strings.Join(e.read(path).Warnings, " "); !strings.Contains(w, "rotate-root") {
				t.Errorf("%s: warnings %q", path, w)
			}
		}
		if n := strings.Count(e.log.String(), "root credential expires:"); n < 2 || n > 5 {
			t.Errorf("%d lines in the log in three days", n)
		}
		if n := e.storage.count() - ops; n > 20 {
			t.Errorf("%d storage operations in four days of nothing to do", n)
		}
		e.passBy(time.Hour, 5*24*time.Hour)
		if w := strings.Join(e.read("status").Warnings, " "); !strings.Contains(w, "root credential expired") {
			t.Errorf("warnings %q", w)
		}
	})
}

func TestAnOperatorsRootTokenWinsOverARotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		theirs := e.cluster.Add("root", time.Time{})
		minted := false
		e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
			if step == issuertest.AfterIssue {
				minted = true
			}
			if step == issuertest.BeforeList && minted {
				minted = false
				e.write("config", map[string]any{"mgmt_token": theirs.Secret.Reveal()})
			}
			return nil
		})
		if _, err := e.do(t.Context(), updateOp, "config/rotate-root", nil); err == nil {
			t.Error("both won")
		}
		e.cluster.SetHook(nil)
		if got := e.read("config").Data["mgmt_token_id"]; got != theirs.ID {
			t.Errorf("root %v, want the operator's", got)
		}
		e.pass(5 * time.Minute)
		if !e.cluster.Alive(e.root.Secret) || len(e.roots()) != 2 || len(e.records()) != 0 {
			t.Errorf("roots %v (the operator's and the one they replaced), records %v", e.roots(), e.records())
		}
		e.rootWorks()
	})
}

func TestOneOfTwoRotationsWins(t *testing.T) {
	e := ready(t, nil)
	e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
		if step == issuertest.BeforeIssue {
			e.refuse2(t)
		}
		return nil
	})
	e.write("config/rotate-root", nil)
	e.cluster.SetHook(nil)
	if len(e.roots()) != 2 { // the new one, and the old one in its overlap
		t.Errorf("roots %v", e.roots())
	}
}

// refuse2 tries a second rotation.
func (e *engine) refuse2(t *testing.T) {
	_, err := e.do(t.Context(), updateOp, "config/rotate-root", nil)
	if status, _ := statusOf(updateOp, nil, err); status != 409 {
		t.Errorf("a second rotation: %v", err)
	}
}

func TestNoCrashOfARotationLocksAnybodyOut(t *testing.T) {
	for _, how := range []sabotage{crash, before, after} {
		t.Run(string(how), func(t *testing.T) {
			for n, struck := 1, true; struck; n++ {
				synctest.Test(t, func(t *testing.T) {
					e := ready(t, nil)
					e.tick()
					h := e.creds()
					saboteur := e.sabotage(how, n)
					_, _ = e.do(t.Context(), updateOp, "config/rotate-root", nil)
					e.pass(2 * time.Minute) // the overlap, too, may be struck
					e.heal()
					struck = saboteur.struck
					if how == crash {
						e.restart()
					}
					e.rootWorks()
					if len(e.roots()) > 2 {
						t.Errorf("roots %v: more than one spare", e.roots())
					}
					if !e.cluster.Alive(h.secret()) {
						t.Error("a token under a living lease was killed")
					}
					e.pass(10 * time.Minute)
					e.rootWorks()
					if len(e.roots()) != 1 {
						t.Errorf("minutes later: roots %v", e.roots())
					}
					e.passBy(time.Hour, 27*time.Hour)
					if len(e.roots()) != 1 || len(e.records()) != 0 {
						t.Errorf("in the end: roots %v, records %v", e.roots(), e.records())
					}
				})
				if t.Failed() {
					t.Fatalf("at step %d", n)
				}
			}
		})
	}
}
