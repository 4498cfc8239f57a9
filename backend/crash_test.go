package backend_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// A scenario is something that an engine does for clients with leases, and that
// may fail at any step. It keeps the leases as Vault would.
type scenario struct {
	role    map[string]any // of automation; nil: ttl 1h, max_ttl 3h
	prepare func(e *engine, leases *[]*credential)
	act     func(e *engine, leases *[]*credential)
}

var scenarios = map[string]scenario{
	"issue": {
		act: func(e *engine, leases *[]*credential) { e.tryCreds(leases) },
	},
	"issue, and Vault loses the lease": {
		act: func(e *engine, _ *[]*credential) {
			var lost []*credential
			e.tryCreds(&lost)
		},
	},
	"issue with max_active": {
		role: map[string]any{"ttl": "1h", "max_ttl": "3h", "max_active": 3},
		act:  func(e *engine, leases *[]*credential) { e.tryCreds(leases) },
	},
	"issue for a caller who has disconnected": {
		act: func(e *engine, _ *[]*credential) {
			ctx, disconnect := context.WithCancel(e.t.Context())
			disconnect()
			_, _ = e.do(ctx, readOp, "creds/automation", nil) // refused
		},
	},
	"renew": {
		prepare: func(e *engine, _ *[]*credential) { e.clock.advance(50 * time.Minute) },
		act:     func(e *engine, leases *[]*credential) { e.tryRenew((*leases)[0]) },
	},
	"revoke": {
		act: func(e *engine, leases *[]*credential) { e.tryRevoke(leases) },
	},
	"tick with lost leases": {
		prepare: func(e *engine, leases *[]*credential) {
			e.clock.advance(62 * time.Minute)
			*leases = nil
		},
		act: func(e *engine, _ *[]*credential) { e.tick() },
	},
	"tick with a lost answer": {
		prepare: func(e *engine, _ *[]*credential) {
			e.cluster.SetHook(fails(errDown, issuertest.AfterIssue))
			e.try(readOp, "creds/automation", nil)
			e.cluster.SetHook(nil)
			e.clock.advance(2 * time.Minute)
		},
		act: func(e *engine, _ *[]*credential) { e.tick() },
	},
	"tick with a deferred revocation": {
		prepare: func(e *engine, leases *[]*credential) {
			e.cluster.SetHook(down)
			e.tryRevoke(leases)
			e.clock.advance(2 * time.Minute)
			e.tryRevoke(leases) // deferred
			e.cluster.SetHook(nil)
			e.clock.advance(5 * time.Minute)
		},
		act: func(e *engine, _ *[]*credential) { e.tick() },
	},
	"delete tokens": {
		prepare: func(_ *engine, leases *[]*credential) { *leases = nil },
		act: func(e *engine, _ *[]*credential) {
			for _, key := range e.records() {
				e.try(deleteOp, "tokens/"+key[strings.LastIndex(key, "/")+1:], nil)
			}
		},
	},
	"tidy": {
		prepare: func(e *engine, leases *[]*credential) {
			e.cluster.Add("[vault:"+e.tag+":"+unknownAccessor+"] unknown", e.clock.Now().Add(time.Hour))
			e.cluster.Kill((*leases)[0].id())
			*leases = (*leases)[1:]
		},
		act: func(e *engine, _ *[]*credential) {
			e.tryWrite("tidy", map[string]any{"dry_run": false, "revoke_unknown": e.tag})
		},
	},
	"config/check": {
		act: func(e *engine, _ *[]*credential) { e.tryWrite("config/check", nil) },
	},
	"disable the mount": {
		prepare: func(e *engine, leases *[]*credential) {
			e.tryCreds(leases)
			e.tryCreds(leases)
			e.system.TaintedVal = true
		},
		act: func(e *engine, leases *[]*credential) {
			for len(*leases) > 0 && e.tryRevoke(leases) { // Vault stops at the first failure
				continue
			}
			for _, h := range *leases {
				h.revoking = true
			}
		},
	},
}

// unknownAccessor is the accessor of a token that the tests add on the cluster.
const unknownAccessor = "AAAAAAAAAAAAAAAAAAAAAAAAAA"

// Every step of every scenario fails, in every way. Neither then nor at any time
// afterwards is one of the two promises broken.
func TestCrash_OneFailureAtAnyStep(t *testing.T) {
	for name, s := range scenarios {
		for _, mode := range failureModes {
			t.Run(fmt.Sprintf("%s/%s", name, mode), func(t *testing.T) {
				for n, more := 1, true; more; n++ {
					synctest.Test(t, func(t *testing.T) { more = s.run(t, issuer.Dedicated, failureAt{mode, n}) })
					if t.Failed() {
						t.Fatalf("at step %d", n)
					}
				}
			})
		}
	}
}

// The same with two and three failures: what the engine does to recover fails,
// too. The steps are chosen at random, the same in every run.
func TestCrash_RecoveryFailsAsWell(t *testing.T) {
	const runs = 30
	for name, s := range scenarios {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same numbers in every run
			for range runs {
				var failures []failureAt
				for range 2 + random.IntN(2) {
					failures = append(failures, failureAt{failureModes[random.IntN(len(failureModes))], 1 + random.IntN(10)})
				}
				synctest.Test(t, func(t *testing.T) { s.run(t, issuer.Dedicated, failures...) })
				if t.Failed() {
					t.Fatalf("failures %v", failures)
				}
			}
		})
	}
}

// A failureAt is a failure of the nth step.
type failureAt struct {
	mode failureMode
	n    int
}

// run runs the scenario on a product, with a failure in it, and with the other failures in the
// minutes after it. It checks both promises until a day later, and reports
// whether the first failure happened.
func (s scenario) run(t *testing.T, product string, failures ...failureAt) (happened bool) {
	role := s.role
	if role == nil {
		role = map[string]any{"ttl": "1h", "max_ttl": "3h"}
	}
	e := readyOf(t, product, role)
	other := e.cluster.Add("[vault:0123456789ab:"+unknownAccessor+"] another mount", time.Time{})
	leases := []*credential{e.creds(), e.creds()}
	e.tick()
	if s.prepare != nil {
		s.prepare(e, &leases)
	}
	for i, f := range failures {
		injected := e.failStep(f.mode, f.n)
		if i == 0 {
			s.act(e, &leases)
			synctest.Wait()
			happened = injected.hasHappened()
			e.system.TaintedVal = false
		} else {
			e.pass(3 * time.Minute)
		}
		e.failNoMore()
		if f.mode == crash {
			e.restart()
		}
		e.mustKeepPromises(leases)
	}
	for range 30 {
		e.pass(5 * time.Minute)
		leases = e.endLeases(leases)
		e.mustKeepPromises(leases)
	}
	e.passInSteps(time.Hour, 27*time.Hour)
	if e.alive() != 0 || len(e.records()) != 0 {
		t.Errorf("a day later, %d tokens are valid, records %v", e.alive(), e.ledger())
	}
	for _, name := range e.catalog() {
		if e.named() && e.accessorOf(name) != unknownAccessor { // which tidy may not have reached
			t.Errorf("token %s stays in the catalog", name)
		}
	}
	for _, h := range leases {
		if h.revoking {
			t.Errorf("the lease of token %s never ended", h.id())
		}
	}
	if !e.cluster.Alive(other.Secret) || !e.cluster.Alive(e.root.Secret) {
		t.Error("the token of another mount or the root credential was revoked")
	}
	return happened
}

// mustKeepPromises checks both promises. Every valid token with the tag of the
// mount is under a lease, or has a record, so that it will be revoked. Every token
// under a lease is valid, unless the lease is being revoked.
func (e *engine) mustKeepPromises(leases []*credential) {
	e.t.Helper()
	leased := map[string]bool{}
	for _, h := range leases {
		leased[h.id()] = true
		if !h.revoking && !e.cluster.Alive(h.secret()) {
			e.t.Errorf("token %s was revoked under a valid lease", h.id())
		}
	}
	recorded := map[string]bool{unknownAccessor: true}
	for _, r := range e.ledger() {
		recorded[r.Accessor] = true
	}
	for _, info := range e.tagged() {
		if info.Dead(e.clock.Now()) || leased[info.ID] {
			continue
		}
		if !recorded[e.accessorOf(info.ID)] {
			e.t.Errorf("token %s is valid, without a lease and without a record", info.ID)
		}
	}
}

// endLeases revokes the leases that have ended, as Vault does, and returns the
// others.
func (e *engine) endLeases(leases []*credential) (rest []*credential) {
	e.t.Helper()
	for _, h := range leases {
		if h.revoking || !e.clock.Now().Before(h.end) {
			err := e.revoke(h)
			if err != nil && e.named() && !e.cluster.Alive(h.secret()) { // it is not proved yet, so Vault tries again
				h.revoking = true
				rest = append(rest, h)
			} else if err != nil {
				e.t.Errorf("revocation at the end of a lease: %v", err)
			}
			continue
		}
		rest = append(rest, h)
	}
	return rest
}

// tryCreds reads a credential, and adds its lease if the engine answers.
func (e *engine) tryCreds(leases *[]*credential) {
	resp, err := e.do(e.t.Context(), readOp, "creds/automation", nil)
	if err == nil && !resp.IsError() {
		now := e.clock.Now()
		*leases = append(*leases, &credential{Response: resp, issued: now, end: now.Add(resp.Secret.TTL)})
	}
}

// tryRenew renews a lease, and extends it if the engine answers.
func (e *engine) tryRenew(h *credential) {
	if resp, err := e.renew(h, 0); err == nil && !resp.IsError() {
		h.end = e.clock.Now().Add(resp.Secret.TTL)
	}
}

// tryRevoke revokes the first lease. Vault forgets it if that succeeds, and tries
// again later if it does not.
func (e *engine) tryRevoke(leases *[]*credential) bool {
	h := (*leases)[0]
	if e.revoke(h) != nil {
		h.end, h.revoking = e.clock.Now(), true
		return false
	}
	*leases = (*leases)[1:]
	return true
}
