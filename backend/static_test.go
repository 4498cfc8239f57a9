package backend_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// shared returns an engine with the static role fleet, whose tokens are database
// tokens.
func shared(t *testing.T, role map[string]any) *engine {
	t.Helper()
	e := newEngine(t)
	e.configure()
	data := map[string]any{"write_databases": "metrics", "rotation_period": "1h"}
	for field, value := range role {
		data[field] = value
		if value == nil {
			delete(data, field)
		}
	}
	e.write("static-roles/fleet", data)
	return e
}

// readStatic reads the token of the static role fleet.
func (e *engine) readStatic() *logical.Response {
	e.t.Helper()
	return e.read("static-creds/fleet")
}

// staticSecret is the token that a read returns.
func (e *engine) staticSecret() issuer.Secret {
	e.t.Helper()
	return issuer.NewSecret(e.readStatic().Data["token"].(string))
}

// validStatic counts the valid tokens of static roles on the cluster.
func (e *engine) validStatic() (n int) {
	for _, valid := range e.validByRole() {
		n += valid
	}
	return n
}

// validByRole is validStatic by role, for descriptions that end with the role.
func (e *engine) validByRole() map[string]int {
	counts := map[string]int{}
	for _, fake := range []*issuertest.Fake{e.cluster, e.data} {
		for _, info := range fake.Tokens() {
			if _, role, ok := strings.Cut(info.Description, "] static "); ok && !info.Dead(e.clock.Now()) {
				counts[role]++
			}
		}
	}
	return counts
}

func TestStaticCreds_SameTokenUntilTheChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, nil)
		first := e.readStatic()
		e.clock.advance(10 * time.Second)
		second := e.readStatic()
		for field, value := range first.Data {
			if field != "ttl" && fmt.Sprint(value) != fmt.Sprint(second.Data[field]) {
				t.Errorf("%s differs: %v, %v", field, value, second.Data[field])
			}
		}
		if a, b := first.Data["ttl"].(int), second.Data["ttl"].(int); a-b != 10 || a < 3600-1 {
			t.Errorf("ttl %d, ten seconds later %d", a, b)
		}
		if first.Secret != nil {
			t.Error("the answer has a lease")
		}
		e.pass(50 * time.Minute)
		if e.staticSecret() != issuer.NewSecret(first.Data["token"].(string)) {
			t.Error("the token changed early")
		}
		e.pass(15 * time.Minute)
		if e.staticSecret() == issuer.NewSecret(first.Data["token"].(string)) {
			t.Error("the token did not change")
		}
		if !e.data.Alive(issuer.NewSecret(first.Data["token"].(string))) {
			t.Error("the previous token is revoked during the grace period")
		}
		e.pass(10 * time.Minute)
		if e.data.Alive(issuer.NewSecret(first.Data["token"].(string))) {
			t.Error("the previous token is valid after the grace period")
		}
	})
}

// A fleetReader reads the token of a static role again when ttl is over.
type fleetReader struct {
	role    string
	holds   issuer.Secret
	readAt  time.Time
	changes int
}

// readIfDue reads the token if the ttl of the last answer is over.
func (r *fleetReader) readIfDue(e *engine) {
	if e.clock.Now().Before(r.readAt) {
		return
	}
	resp := e.read("static-creds/" + r.role)
	if secret := issuer.NewSecret(resp.Data["token"].(string)); secret != r.holds {
		r.holds = secret
		r.changes++
	}
	r.readAt = e.clock.Now().Add(time.Duration(resp.Data["ttl"].(int)+1) * time.Second)
}

// Ten static roles have one reader each, who reads again when ttl is over. For 30
// days, none of them ever holds a token that the cluster refuses, while requests to
// the cluster fail at random. Reads issue no tokens, and a role never has more than
// three.
func TestStaticCreds_ReaderNeverHoldsARefusedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.configure()
		var readers []*fleetReader
		for i := range 10 {
			role := map[string]any{"write_databases": "metrics", "rotation_period": "6h"}
			if i%2 == 1 {
				role = map[string]any{"write_databases": "metrics", "rotation_schedule": fmt.Sprintf("%d */6 * * *", 6*i), "rotation_window": "2h"}
			}
			readers = append(readers, &fleetReader{role: fmt.Sprintf("fleet-%d", i)})
			e.write("static-roles/"+readers[i].role, role)
		}
		random := rand.New(rand.NewPCG(7, 9))
		var mu sync.Mutex // guards random and failing
		failing := false
		hook := func(context.Context, issuertest.Step) error {
			mu.Lock()
			defer mu.Unlock()
			if failing && random.IntN(2) == 0 {
				return errDown
			}
			return nil
		}
		e.cluster.SetHook(hook)
		e.data.SetHook(hook)
		for step := range 30 * 24 * 12 {
			mu.Lock()
			failing = random.IntN(10) < 3
			mu.Unlock()
			e.passInSteps(5*time.Minute, 5*time.Minute)
			for _, r := range readers {
				r.readIfDue(e)
				if !e.data.Alive(r.holds) {
					t.Fatalf("at %s the reader of %s holds a refused token", e.clock.Now(), r.role)
				}
			}
			if step%12 != 0 {
				continue
			}
			for role, n := range e.validByRole() { // all tokens of the test: slow
				if n > 3 {
					t.Fatalf("%s has %d valid tokens", role, n)
				}
			}
		}
		for _, r := range readers {
			if r.changes < 100 || r.changes > 125 {
				t.Errorf("%d changes of %s in 30 days", r.changes, r.role)
			}
		}
	})
}

// A thousand readers read one static role for an hour, each every five minutes. No
// token is issued because of a read.
func TestStaticCreds_ThousandReadersIssueNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, map[string]any{"rotation_period": "24h"})
		e.tick()
		issued := e.data.Calls(issuertest.BeforeIssue) + e.cluster.Calls(issuertest.BeforeIssue)
		answers := map[string]bool{}
		for second := range 3600 {
			e.clock.advance(time.Second)
			if second%60 == 0 {
				e.tick()
			}
			for reader := second % 300; reader < 1000; reader += 300 {
				answers[e.readStatic().Data["token_id"].(string)] = true
			}
		}
		if n := e.data.Calls(issuertest.BeforeIssue) + e.cluster.Calls(issuertest.BeforeIssue) - issued; n != 0 || len(answers) != 1 {
			t.Errorf("12,000 reads issued %d tokens and returned %d different ones", n, len(answers))
		}
	})
}

func TestStaticRole_BadInput(t *testing.T) {
	e := newEngine(t)
	e.configure()
	for _, c := range []struct {
		data map[string]any
		says string
	}{
		{map[string]any{"write_databases": "m"}, "rotation_period or rotation_schedule is required"},
		{map[string]any{"write_databases": "m", "rotation_period": "1h", "rotation_schedule": "0 3 * * *"}, "exclude each other"},
		{map[string]any{"write_databases": "m", "rotation_period": "9m"}, "at least 10m"},
		{map[string]any{"write_databases": "m", "rotation_period": "1h", "rotation_grace_period": "31m"}, "half"},
		{map[string]any{"write_databases": "m", "rotation_period": "1h", "rotation_window": "1h"}, "rotation_window needs rotation_schedule"},
		{map[string]any{"write_databases": "m", "rotation_schedule": "whenever"}, "cron"},
		{map[string]any{"write_databases": "m", "rotation_schedule": "TZ=UTC"}, "time zone"},
		{map[string]any{"write_databases": "m", "rotation_schedule": "CRON_TZ=Europe/Berlin 0 3 * * *"}, "time zone"},
		{map[string]any{"write_databases": "m", "rotation_schedule": "*/5 * * * *"}, "apart"},
		{map[string]any{"write_databases": "m", "rotation_schedule": "0 3 * * *", "rotation_window": "59m"}, "rotation_window must be at least 1h"},
		{map[string]any{"write_databases": "m", "rotation_period": "1h", "token_ttl": "1h"}, "token_ttl"},
		{map[string]any{"write_databases": "m", "rotation_period": "1h", "metadata": map[string]any{"deletion_time": "x"}}, "deletion_time"},
		{map[string]any{"rotation_period": "1h"}, "read_databases"},
		{map[string]any{"write_databases": "m", "rotation_perod": "1h"}, "rotation_period"},
	} {
		e.refuse(400, createOp, "static-roles/fleet", c.data, c.says)
	}
}

func TestStaticRole_NothingIsStoredIfTheFirstTokenFails(t *testing.T) {
	e := newEngine(t)
	e.configure()
	e.data.SetHook(fails(fmt.Errorf("%w: %w", errDown, issuer.ErrRefused), issuertest.BeforeIssue))
	e.refuse(502, createOp, "static-roles/fleet", map[string]any{"write_databases": "m", "rotation_period": "1h"}, "not stored")
}

func TestRotateRole_RevokesThePreviousToken(t *testing.T) {
	for _, force := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e := shared(t, nil)
			first := e.staticSecret()
			e.write("rotate-role/fleet", map[string]any{"force": force})
			if e.staticSecret() == first {
				t.Fatal("the token did not change")
			}
			if e.data.Alive(first) == force {
				t.Errorf("force=%v: the previous token is valid: %v", force, !force)
			}
			second := e.staticSecret()
			e.write("rotate-role/fleet", nil) // within the grace period of the first
			e.tick()
			if e.data.Alive(first) || !e.data.Alive(second) {
				t.Errorf("force=%v: the first is valid: %v; the second: %v", force, e.data.Alive(first), e.data.Alive(second))
			}
			e.pass(20 * time.Minute)
			if n := e.validStatic(); n != 1 {
				t.Errorf("force=%v: %d valid tokens after the grace period", force, n)
			}
		})
	}
}

func TestRotateRole_InAnOutageUsesTheStagedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, nil)
		first := e.staticSecret()
		e.pass(59 * time.Minute) // the next token is staged
		down := func(context.Context, issuertest.Step) error { return errDown }
		e.cluster.SetHook(down)
		e.data.SetHook(down)
		e.write("rotate-role/fleet", nil)
		if e.staticSecret() == first {
			t.Error("the token did not change")
		}
	})
}

func TestStaticRole_DeleteRevokesItsTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, nil)
		e.pass(59 * time.Minute)
		if n := e.validStatic(); n != 2 {
			t.Fatalf("%d valid tokens, want the current and the staged one", n)
		}
		e.must(deleteOp, "static-roles/fleet", nil)
		if n, keys := e.validStatic(), e.records(); n != 0 || len(keys) != 0 {
			t.Errorf("%d valid tokens, records %v", n, keys)
		}
		if text := e.storage.dumpUnder(t, "static-"); text != "" {
			t.Errorf("left in storage: %s", text)
		}
	})
}

func TestStaticRole_StagedTokenWithOldRightsIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, nil)
		e.pass(59 * time.Minute)
		e.write("static-roles/fleet", map[string]any{"write_databases": "other"})
		e.pass(20 * time.Minute)
		id := e.readStatic().Data["token_id"].(string)
		if _, write := e.data.Grants(id); len(write) != 1 || write[0] != "other" {
			t.Errorf("the token may write %v", write)
		}
	})
}

func TestStaticRole_TokenRevokedOnTheClusterIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, nil)
		e.tick()
		e.data.Kill(e.readStatic().Data["token_id"].(string))
		e.pass(62 * time.Minute)
		if !e.data.Alive(e.staticSecret()) {
			t.Error("the current token is refused an hour later")
		}
	})
}

func TestTokens_CurrentStaticTokenCannotBeRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, nil)
		accessor := e.readStatic().Data["accessor"].(string)
		e.refuse(409, deleteOp, "tokens/"+accessor, nil, "rotate-role/fleet force=true")
	})
}

// A static token survives a restart of the engine at any moment, and a crash at any
// step of its change leaves a current token that works and no orphan.
func TestStaticRole_CrashAtAnyStepOfAChange(t *testing.T) {
	for _, how := range failureModes {
		t.Run(string(how), func(t *testing.T) {
			for n, more := 1, true; more && !t.Failed(); n++ {
				synctest.Test(t, func(t *testing.T) {
					e := shared(t, nil)
					e.tick()
					e.clock.advance(56 * time.Minute)
					f := e.failStep(how, n)
					e.pass(20 * time.Minute)
					more = f.hasHappened()
					e.failNoMore()
					e.restart()
					e.pass(4 * time.Minute)
					if !e.data.Alive(e.staticSecret()) {
						t.Fatalf("step %d: the current token is refused", n)
					}
					e.pass(30 * time.Minute)
					if !e.data.Alive(e.staticSecret()) {
						t.Fatalf("step %d: the current token is refused half an hour later", n)
					}
					if got := e.validStatic(); got > 2 {
						t.Fatalf("step %d: %d valid tokens", n, got)
					}
					if got, held := e.validStatic(), e.states()[stateActive]; got != held {
						t.Fatalf("step %d: %d valid tokens, %d active records", n, got, held)
					}
				})
			}
		})
	}
}
