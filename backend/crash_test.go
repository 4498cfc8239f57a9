package backend_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// A sabotage is a way for things to go wrong at one step: an operation of the
// storage or a point in a call to the cluster.
type sabotage string

const (
	crash  sabotage = "crash"                 // nothing has any effect from then on, until a restart
	before sabotage = "failure before effect" // the one step fails
	after  sabotage = "failure after effect"  // the one step fails although it had its effect
)

var errSabotage = errors.New("sabotage")

// A saboteur strikes at the nth step, once.
type saboteur struct {
	how sabotage

	mu      sync.Mutex // guards what follows
	n, step int
	struck  bool
}

// strike reports whether the step now begun ("before") or ended ("after")
// fails.
func (s *saboteur) strike(when string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if when == "before" {
		s.step++
	}
	hit := s.step == s.n && (s.how == after) == (when == "after") || s.how == crash && s.step > s.n
	if hit {
		s.struck = true
		return errSabotage
	}
	return nil
}

// sabotage lets a saboteur strike at the nth step from now on.
func (e *engine) sabotage(how sabotage, n int) *saboteur {
	s := &saboteur{how: how, n: n}
	e.storage.setFault(func(when string, _ logical.Operation, _ string) error { return s.strike(when) })
	e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
		if err := s.strike("before"); err != nil {
			return err
		}
		return s.strike("after")
	})
	return s
}

func (e *engine) heal() {
	e.storage.setFault(nil)
	e.cluster.SetHook(nil)
}

// A story is something that happens to an engine with leases, and may go wrong
// at any step. It keeps leases up to date with what core would know.
type story struct {
	role    map[string]any
	prepare func(e *engine, leases *[]*held)
	act     func(e *engine, leases *[]*held)
}

var stories = map[string]story{
	"mint": {
		act: func(e *engine, leases *[]*held) { e.tryCreds(leases) },
	},
	"mint whose lease Vault loses": {
		act: func(e *engine, _ *[]*held) {
			var lost []*held
			e.tryCreds(&lost)
		},
	},
	"mint with a limit": {
		role: map[string]any{"ttl": "1h", "max_ttl": "3h", "max_active": 3},
		act:  func(e *engine, leases *[]*held) { e.tryCreds(leases) },
	},
	"renew": {
		prepare: func(e *engine, _ *[]*held) { e.clock.advance(50 * time.Minute) },
		act:     func(e *engine, leases *[]*held) { e.tryRenew((*leases)[0]) },
	},
	"revoke": {
		act: func(e *engine, leases *[]*held) { e.tryRevoke(leases) },
	},
	"a lost lease is due": {
		prepare: func(e *engine, leases *[]*held) {
			e.clock.advance(62 * time.Minute)
			*leases = nil
		},
		act: func(e *engine, _ *[]*held) { e.tick() },
	},
	"a lost answer is due": {
		prepare: func(e *engine, _ *[]*held) {
			e.cluster.SetHook(fails(errDown, issuertest.AfterIssue))
			_, _ = e.do(e.t.Context(), readOp, "creds/automation", nil)
			e.cluster.SetHook(nil)
			e.clock.advance(2 * time.Minute)
		},
		act: func(e *engine, _ *[]*held) { e.tick() },
	},
	"a debt is due": {
		prepare: func(e *engine, leases *[]*held) {
			e.cluster.SetHook(down)
			e.tryRevoke(leases)
			e.clock.advance(2 * time.Minute)
			e.tryRevoke(leases) // taken over
			e.cluster.SetHook(nil)
			e.clock.advance(5 * time.Minute)
		},
		act: func(e *engine, _ *[]*held) { e.tick() },
	},
	"a token is deleted": {
		prepare: func(_ *engine, leases *[]*held) { *leases = nil },
		act: func(e *engine, _ *[]*held) {
			for _, key := range e.records() {
				_, _ = e.do(e.t.Context(), deleteOp, "tokens/"+key[strings.LastIndex(key, "/")+1:], nil)
			}
		},
	},
	"tidy": {
		prepare: func(e *engine, leases *[]*held) {
			e.cluster.Add("[vault:"+e.tag+":AAAAAAAAAAAAAAAAAAAAAAAAAA] lost", e.clock.Now().Add(time.Hour))
			e.cluster.Kill((*leases)[0].id())
			*leases = (*leases)[1:]
		},
		act: func(e *engine, _ *[]*held) {
			_, _ = e.do(e.t.Context(), updateOp, "tidy", map[string]any{"dry_run": false, "revoke_unknown": e.tag})
		},
	},
	"config/check": {
		act: func(e *engine, _ *[]*held) { _, _ = e.do(e.t.Context(), updateOp, "config/check", nil) },
	},
	"the mount is disabled": {
		prepare: func(e *engine, leases *[]*held) {
			e.tryCreds(leases)
			e.tryCreds(leases)
			e.system.TaintedVal = true
		},
		act: func(e *engine, leases *[]*held) {
			// Core stops at the first failure; the leases are still there then.
			for len(*leases) > 0 && e.tryRevoke(leases) {
				continue
			}
			for _, h := range *leases {
				h.revoking = true
			}
		},
	},
	"the caller hangs up": {
		act: func(e *engine, _ *[]*held) {
			ctx, hangUp := context.WithCancel(e.t.Context())
			hangUp()
			_, _ = e.do(ctx, readOp, "creds/automation", nil)
		},
	},
}

func TestNoCrashBreaksAPromise(t *testing.T) {
	for name, story := range stories {
		for _, how := range []sabotage{crash, before, after} {
			t.Run(fmt.Sprintf("%s, %s", name, how), func(t *testing.T) {
				for n, struck := 1, true; struck; n++ {
					synctest.Test(t, func(t *testing.T) { struck = story.tell(t, how, n) })
					if t.Failed() {
						t.Fatalf("at step %d", n)
					}
				}
			})
		}
	}
}

// tell tells the story with a sabotage at step n, and checks both promises then
// and ever after. It reports whether the story has so many steps.
func (s story) tell(t *testing.T, how sabotage, n int) bool {
	return s.tellOf(t, issuer.Dedicated, how, n)
}

// tellOf is tell with a cluster of a product.
func (s story) tellOf(t *testing.T, product string, how sabotage, n int) bool {
	role := s.role
	if role == nil {
		role = map[string]any{"ttl": "1h", "max_ttl": "3h"}
	}
	e := readyOf(t, product, role)
	stranger := e.cluster.Add("[vault:0123456789ab:AAAAAAAAAAAAAAAAAAAAAAAAAA] another mount's", time.Time{})
	leases := []*held{e.creds(), e.creds()}
	e.tick()
	if s.prepare != nil {
		s.prepare(e, &leases)
	}
	saboteur := e.sabotage(how, n)
	s.act(e, &leases)
	synctest.Wait()
	e.heal()
	e.system.TaintedVal = false
	if how == crash {
		e.restart()
	}
	e.promises(leases)
	for range 30 {
		e.pass(5 * time.Minute)
		leases = e.endLeases(leases)
		e.promises(leases)
	}
	e.passBy(time.Hour, 27*time.Hour)
	if e.alive() != 0 || len(e.records()) != 0 {
		t.Errorf("a day later %d tokens are alive, records %v", e.alive(), e.records())
	}
	for _, name := range e.catalog() {
		if e.named() && !strings.Contains(name, strings.Repeat("A", 26)) { // which tidy may not have reached
			t.Errorf("token %s stays in the catalog", name)
		}
	}
	for _, h := range leases {
		if h.revoking {
			t.Errorf("the lease of %s never ended", h.id())
		}
	}
	if !e.cluster.Alive(stranger.Secret) || !e.cluster.Alive(e.root.Secret) {
		t.Error("a stranger's token or the root was killed")
	}
	return saboteur.struck
}

// promises checks the two promises: no live token with our tag that is neither
// leased nor in the ledger with a due that kills it; no living lease whose
// token is dead.
func (e *engine) promises(leases []*held) {
	e.t.Helper()
	leased := map[string]bool{}
	for _, h := range leases {
		leased[h.id()] = true
		if !h.revoking && !e.cluster.Alive(h.secret()) {
			e.t.Errorf("token %s is dead under a living lease", h.id())
		}
	}
	ledger := e.storage.dumpUnder(e.t, "ledger/")
	for _, info := range e.cluster.Tokens() {
		if !strings.HasPrefix(info.Description, "[vault:"+e.tag) || info.Dead(e.clock.Now()) || leased[info.ID] {
			continue
		}
		nonce := strings.Split(strings.Trim(strings.Fields(info.Description)[0], "[]"), ":")[2]
		if nonce != strings.Repeat("A", 26) && !strings.Contains(ledger, `"accessor":"`+nonce+`"`) {
			e.t.Errorf("token %s is alive, without a lease and in no record", info.ID)
		}
	}
}

// endLeases revokes the leases whose time has come, as core does.
func (e *engine) endLeases(leases []*held) (rest []*held) {
	e.t.Helper()
	for _, h := range leases {
		if h.revoking || !e.clock.Now().Before(h.end) {
			err := e.revoke(h)
			if err != nil && e.named() && !e.cluster.Alive(h.secret()) { // not proved yet; core tries again
				h.revoking = true
				rest = append(rest, h)
			} else if err != nil {
				e.t.Errorf("the end of a lease: %v", err)
			}
			continue
		}
		rest = append(rest, h)
	}
	return rest
}

// tryCreds reads a credential; a lease is added if core got an answer.
func (e *engine) tryCreds(leases *[]*held) {
	resp, err := e.do(e.t.Context(), readOp, "creds/automation", nil)
	if err == nil && !resp.IsError() {
		now := e.clock.Now()
		*leases = append(*leases, &held{Response: resp, issued: now, end: now.Add(resp.Secret.TTL)})
	}
}

func (e *engine) tryRenew(h *held) {
	if resp, err := e.renew(h, 0); err == nil && !resp.IsError() {
		h.end = e.clock.Now().Add(resp.Secret.TTL)
	}
}

// tryRevoke revokes the first lease; core forgets it if that succeeds, and
// takes it for ended, and tries again, if it does not.
func (e *engine) tryRevoke(leases *[]*held) bool {
	h := (*leases)[0]
	if e.revoke(h) != nil {
		h.end, h.revoking = e.clock.Now(), true
		return false
	}
	*leases = (*leases)[1:]
	return true
}
