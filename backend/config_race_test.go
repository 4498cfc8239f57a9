package backend_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// departures are refused while the ledger holds tokens.
var departures = map[string]func(e *engine, move map[string]any){
	"moving":   func(e *engine, move map[string]any) { e.tryWrite("config", move) },
	"deleting": func(e *engine, _ map[string]any) { e.try(deleteOp, "config", nil) },
}

// forced departures are not.
var forcedDepartures = map[string]func(e *engine, move map[string]any){
	"moving":   func(e *engine, move map[string]any) { e.tryWrite("config", with(move, "force", true)) },
	"deleting": func(e *engine, _ map[string]any) { e.try(deleteOp, "config", map[string]any{"force": true}) },
}

// While a write of config lists the tokens of the new cluster, a read can issue
// a token on the old one. The mount must not move away from it then.
func TestConfigMove_ReadDuringVerification(t *testing.T) {
	e := ready(t, nil)
	other, move := e.otherCluster()
	var h *credential
	other.SetHook(func(_ context.Context, step issuertest.Step) error {
		if step == issuertest.BeforeList && h == nil {
			h = e.creds()
		}
		return nil
	})
	e.tryWrite("config", move)
	if h == nil {
		t.Fatal("the write did not list the tokens of the new cluster")
	}
	e.leftNothingBehind("a read during the verification", h)
}

// leftNothingBehind checks that the mount can still revoke h, which was read
// while somebody tried to leave the cluster without force.
func (e *engine) leftNothingBehind(when string, h *credential) {
	e.t.Helper()
	if h == nil {
		return
	}
	e.clock.advance(11 * time.Minute) // another cluster's not knowing the token proves something now
	if err := e.revoke(h); err != nil || e.cluster.Alive(h.secret()) {
		e.t.Errorf("%s: the mount left the cluster of a token under a lease behind; its revocation: %v, the token works: %v", when, err, e.cluster.Alive(h.secret()))
	}
}

// tryRead reads a credential and returns it, or nil if the engine refused.
func (e *engine) tryRead() *credential {
	var leases []*credential
	e.tryCreds(&leases)
	if len(leases) == 0 {
		return nil
	}
	return leases[0]
}

// The mount is moved or its config deleted, without force, at any moment of a
// read. Either the departure is refused or the read is.
func TestConfigMove_AtAnyMomentOfARead(t *testing.T) {
	for name, depart := range departures {
		t.Run(name, func(t *testing.T) {
			for n, more := 1, true; more && !t.Failed(); n++ {
				e := ready(t, nil)
				_, move := e.otherCluster()
				i := e.interleave(n, func() { depart(e, move) })
				h := e.tryRead()
				more = i.end()
				e.leftNothingBehind(name, h)
				e.noStrandedToken()
				if t.Failed() {
					t.Errorf("at step %d", n)
				}
			}
		})
	}
}

// noStrandedToken checks that no token of the first cluster is alive while the
// mount serves another cluster or none.
func (e *engine) noStrandedToken() {
	e.t.Helper()
	data, _ := e.do(e.t.Context(), readOp, "config", nil)
	if n := e.alive(); n > 0 && (data == nil || data.Data["cluster_id"] != clusterID) {
		e.t.Errorf("%d tokens are alive on a cluster that the mount left without force; records %v", n, e.ledger())
	}
}

// A read happens at any moment of a move or of a deletion without force.
func TestConfigMove_ReadAtAnyMoment(t *testing.T) {
	for name, depart := range departures {
		t.Run(name, func(t *testing.T) {
			for n, more := 1, true; more && !t.Failed(); n++ {
				e := ready(t, nil)
				_, move := e.otherCluster()
				var h *credential
				i := e.interleave(n, func() { h = e.tryRead() })
				depart(e, move)
				more = i.end()
				e.leftNothingBehind(name, h)
				e.noStrandedToken()
				if t.Failed() {
					t.Errorf("at step %d", n)
				}
			}
		})
	}
}

// The config is moved with force at any moment of a revocation. What the new
// cluster says about the token proves nothing: the record stays until the token
// is revoked on its own cluster.
func TestConfigMove_AtAnyMomentOfARevocation(t *testing.T) {
	revocations := map[string]func(e *engine, h *credential){
		"the lease is revoked": func(e *engine, h *credential) { _ = e.revoke(h) },
		"the token is deleted": func(e *engine, h *credential) { e.try(deleteOp, "tokens/"+e.accessorOf(h.id()), nil) },
		"the lease is lost": func(e *engine, _ *credential) {
			e.clock.advance(2 * time.Hour)
			e.tick()
		},
	}
	for what, revoke := range revocations {
		for how, depart := range forcedDepartures {
			t.Run(what+", "+how, func(t *testing.T) {
				for n, more := 1, true; more && !t.Failed(); n++ {
					synctest.Test(t, func(t *testing.T) {
						e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "24h"})
						_, move := e.otherCluster()
						h := e.creds()
						e.tick()
						e.clock.advance(11 * time.Minute)
						i := e.interleave(n, func() { depart(e, move) })
						revoke(e, h)
						more = i.end()
						if _, recorded := e.recordOf(h.id()); !recorded && e.cluster.Alive(h.secret()) {
							t.Errorf("at step %d: the token is alive and in no record", n)
						}
					})
				}
			})
		}
	}
}

// The root credential is replaced, by an operator or by a rotation, at any
// moment of a read and of the revocation that follows. No token is left behind,
// and one that was handed out works.
func TestConfigChange_RootReplacedAtAnyMomentOfALease(t *testing.T) {
	changes := map[string]func(e *engine){
		"by an operator": func(e *engine) {
			e.tryWrite("config", map[string]any{"mgmt_token": e.operatorsRoot().Secret.Reveal()})
		},
		"by a rotation": func(e *engine) { e.tryWrite("config/rotate-root", nil) },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			for n, more := 1, true; more && !t.Failed(); n++ {
				synctest.Test(t, func(t *testing.T) {
					e := ready(t, nil)
					e.ownRoot()
					i := e.interleave(n, func() { change(e) })
					h := e.tryRead()
					if h != nil {
						if !e.cluster.Alive(h.secret()) {
							t.Errorf("at step %d: a token was handed out that does not work", n)
						}
						_ = e.revoke(h)
					}
					more = i.end()
					e.pass(10 * time.Minute)
					for _, info := range e.tagged() {
						if e.accepted(info.ID) && info.ID != e.rootID() {
							t.Errorf("at step %d: a token is left behind: %q", n, info.Description)
						}
					}
					if len(e.records()) != 0 {
						t.Errorf("at step %d: records %v", n, e.ledger())
					}
					e.rootWorks()
				})
			}
		})
	}
}
