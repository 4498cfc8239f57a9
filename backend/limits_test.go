package backend_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// manyFailures is more failed reads than any limit on unknown outcomes lets
// through before something is looked for.
const manyFailures = 150

// failReads reads a credential of the role again and again while the cluster
// does what is asked and its answers are lost, or while it does not, and
// returns what the last refusal says.
func (e *engine) failReads(role string, step issuertest.Step, times int) (status int, text string) {
	e.t.Helper()
	e.cluster.SetHook(fails(errDown, step))
	e.data.SetHook(fails(errDown, step))
	defer e.cluster.SetHook(nil)
	defer e.data.SetHook(nil)
	for range times {
		if status, text = e.try(readOp, "creds/"+role, nil); status < 400 {
			e.t.Fatalf("a read of %s without an answer of the cluster succeeded", role)
		}
	}
	return status, text
}

// everythingElseWorks checks that issuing for another role, the rotation of the
// root credential and the check of the config work.
func (e *engine) everythingElseWorks(when string) {
	e.t.Helper()
	for _, request := range []struct {
		path string
		data map[string]any
	}{
		{"config/check", nil},
		{"config/check", map[string]any{"token_type": "database"}},
		{"config/rotate-root", nil},
	} {
		if status, text := e.tryWrite(request.path, request.data); status >= 400 {
			e.t.Errorf("%s: %s %v: %d %s", when, request.path, request.data, status, text)
		}
	}
	if status, text := e.try(readOp, "creds/automation", nil); status >= 400 {
		e.t.Errorf("%s: creds/automation: %d %s", when, status, text)
	}
}

// A hundred creates of one role with unknown outcomes limit that role, at once
// and with advice. They block nothing else.
func TestLimits_UnknownOutcomesOfOneRoleBlockOnlyThatRole(t *testing.T) {
	for name, role := range map[string]map[string]any{
		"database":   telegraf,
		"management": {"ttl": "72h"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := ready(t, nil)
				e.write("roles/broken", role)
				status, text := e.failReads("broken", issuertest.BeforeIssue, manyFailures)
				e.advised(status, text, "broken")
				e.everythingElseWorks("at once")
				if n := len(e.recordsOf("broken")); n > manyFailures-1 {
					t.Errorf("%d records: the role is not limited at all", n)
				}
				e.pass(3 * time.Minute)
				e.read("creds/broken") // its outcomes were looked for meanwhile
			})
		})
	}
}

// recordsOf returns the stored records of a role.
func (e *engine) recordsOf(role string) []stored {
	e.t.Helper()
	return slices.DeleteFunc(e.ledger(), func(r stored) bool { return r.Role != role })
}

// advised checks that a refusal for a limit has a status that says "later", and
// says which role is limited and what to do.
func (e *engine) advised(status int, text, role string) {
	e.t.Helper()
	if status != 429 && status != 502 {
		e.t.Errorf("the limit answers %d, want 429 or 502: %s", status, text)
	}
	if !strings.Contains(text, role) {
		e.t.Errorf("the limit does not name the role: %s", text)
	}
	advice := []string{"try again", "retry", "wait", "status", "tidy", "config/check", "tokens"}
	if !slices.ContainsFunc(advice, func(word string) bool { return strings.Contains(strings.ReplaceAll(text, "unknown outcome", ""), word) }) {
		e.t.Errorf("the limit gives no advice: %s", text)
	}
}

// A role whose creates never get an answer leaves more and more records that
// were looked for in vain. They are kept for a day and block nobody else.
func TestLimits_AbsentTokensOfOneRoleBlockOnlyThatRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.write("roles/broken", map[string]any{"ttl": "72h"})
		var status int
		var text string
		for range 15 {
			status, text = e.failReads("broken", issuertest.BeforeIssue, manyFailures)
			e.pass(3 * time.Minute)
		}
		e.advised(status, text, "broken")
		e.everythingElseWorks("after 45 minutes of failures")
		if n := len(e.recordsOf("broken")); n > 1100 {
			t.Errorf("%d records: the role is not limited at all", n)
		}
		e.restart()
		e.tick() // loads the index
		e.everythingElseWorks("after a restart")
	})
}

// Records of a cluster that is gone, left behind by a move with force, count in
// no limit of the new cluster: neither those with an unknown outcome nor, in
// max_active, those under a lease.
func TestLimits_RecordsOfAnotherClusterDoNotCount(t *testing.T) {
	for _, restart := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e := ready(t, map[string]any{"ttl": "72h"})
			for range 15 { // more than every limit allows, looked for in vain or not
				e.failReads("automation", issuertest.BeforeIssue, manyFailures)
				e.pass(3 * time.Minute)
			}
			e.failReads("automation", issuertest.BeforeIssue, manyFailures)
			_, move := e.otherCluster()
			e.write("config", with(move, "force", true))
			if restart {
				e.restart()
				e.tick() // loads the index
			}
			for _, path := range []string{"config/check", "config/rotate-root"} {
				if status, text := e.tryWrite(path, nil); status >= 400 {
					t.Errorf("%s: %d %s", path, status, text)
				}
			}
			for range 3 {
				if status, text := e.try(readOp, "creds/automation", nil); status >= 400 {
					t.Errorf("creds/automation: %d %s", status, text)
				}
			}
		})
	}
}

func TestMaxActive_CountsTheConfiguredCluster(t *testing.T) {
	for _, restart := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e := ready(t, map[string]any{"ttl": "72h", "max_active": 2})
			e.creds()
			e.creds()
			_, move := e.otherCluster()
			e.write("config", with(move, "force", true))
			if restart {
				e.restart()
			}
			for range 2 {
				if status, text := e.try(readOp, "creds/automation", nil); status != 200 {
					t.Errorf("restart %v, on the new cluster: %d %s", restart, status, text)
				}
			}
			e.refuse(429, readOp, "creds/automation", nil, "max_active")
			e.write("config", with(e.home(), "force", true))
			e.refuse(429, readOp, "creds/automation", nil, "max_active")
		})
	}
}

// A refusal for max_active says what to do.
func TestMaxActive_RefusalGivesAdvice(t *testing.T) {
	e := ready(t, map[string]any{"max_active": 1})
	e.creds()
	status, text := e.try(readOp, "creds/automation", nil)
	e.advised(status, strings.ReplaceAll(text, "max_active", ""), "automation")
}

// Tokens whose IDs are not known are no blank entries in the answer of tidy.
func TestTidy_NamesEveryTokenItShows(t *testing.T) {
	for _, kind := range []string{"management", "database"} {
		e := ready(t, nil)
		if kind == "database" {
			e.write("roles/automation", telegraf)
		}
		e.failReads("automation", issuertest.BeforeIssue, 3)
		answer := e.write("tidy", map[string]any{"token_type": kind}).Data
		if answer["not_listed"] != 3 {
			t.Errorf("%s: %v", kind, answer)
		}
		for field, value := range answer {
			if names, ok := value.([]string); ok && slices.Contains(names, "") {
				t.Errorf("%s: %s is %q", kind, field, names)
			}
		}
	}
}
