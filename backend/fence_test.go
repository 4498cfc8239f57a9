package backend_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// readOnlyNodes are the replication states of nodes that may not write.
var readOnlyNodes = map[string]consts.ReplicationState{
	"performance standby":   consts.ReplicationPerformanceStandby,
	"performance secondary": consts.ReplicationPerformanceSecondary,
	"DR secondary":          consts.ReplicationDRSecondary,
}

// calls counts the calls to the cluster that change something there or ask it.
func (e *engine) calls() (n int) {
	for _, fake := range []*issuertest.Fake{e.cluster, e.data} {
		n += fake.Calls(issuertest.BeforeIssue) + fake.Calls(issuertest.BeforeRevoke) + fake.Calls(issuertest.BeforeList)
	}
	return n
}

// A node that may not write never reaches the cluster: it could not store what
// it did there. Vault hands it renewals and revocations all the same, which no
// flag of a path covers.
func TestFence_NodeThatMayNotWriteNeverReachesTheCluster(t *testing.T) {
	for name, state := range readOnlyNodes {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "3h"})
				h := e.creds()
				accessor := e.accessorOf(h.id())
				e.tick()
				e.setState(state)
				before, calls := e.storage.dump(t), e.calls()
				if err := e.revoke(h); err == nil {
					t.Error("a revocation succeeded")
				} else if _, coded := err.(logical.HTTPCodedError); coded { //nolint:errorlint // only outermost counts, as in core
					t.Errorf("a revocation must fail with a plain error, not %T", err)
				}
				if _, err := e.renew(h, 0); err == nil {
					t.Error("a renewal succeeded")
				}
				for _, request := range []struct {
					op   logical.Operation
					path string
					data map[string]any
				}{
					{readOp, "creds/automation", nil},
					{updateOp, "creds/automation", nil},
					{updateOp, "config/check", nil},
					{updateOp, "config/rotate-root", nil},
					{updateOp, "config", map[string]any{"max_parallel": 5}},
					{updateOp, "tidy", map[string]any{"dry_run": false, "revoke_unknown": e.tag}},
					{deleteOp, "tokens/" + accessor, nil},
				} {
					if status, _ := e.try(request.op, request.path, request.data); status < 400 {
						t.Errorf("%s %s succeeded", request.op, request.path)
					}
				}
				e.pass(4 * time.Hour)
				if n := e.calls() - calls; n != 0 {
					t.Errorf("the cluster was asked %d times", n)
				}
				if e.storage.dump(t) != before {
					t.Error("something was written")
				}
				e.setState(consts.ReplicationPerformancePrimary)
				if err := e.revoke(h); err != nil {
					t.Errorf("on a node that may write: %v", err)
				}
			})
		})
	}
}

// The node loses its right to write between any two steps of a revocation or a
// renewal. What it has begun, the next active node finds in the ledger.
func TestFence_RightToWriteLostAtAnyMoment(t *testing.T) {
	acts := map[string]func(e *engine, h *credential){
		"revoke": func(e *engine, h *credential) { _ = e.revoke(h) },
		"renew":  func(e *engine, h *credential) { _, _ = e.renew(h, 0) },
	}
	for name, act := range acts {
		t.Run(name, func(t *testing.T) {
			for n, more := 1, true; more && !t.Failed(); n++ {
				synctest.Test(t, func(t *testing.T) {
					e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "3h"})
					h := e.creds()
					e.tick()
					i := e.interleave(n, e.loseRightToWrite)
					act(e, h)
					more = i.end()
					if _, recorded := e.recordOf(h.id()); e.cluster.Alive(h.secret()) && !recorded {
						t.Errorf("at step %d: the token works and is in no record", n)
					}
					if name == "renew" && !e.cluster.Alive(h.secret()) {
						t.Errorf("at step %d: a renewal revoked the token", n)
					}
					e.setState(consts.ReplicationPerformancePrimary)
					e.restart() // another node
					e.pass(130 * time.Minute)
					if e.alive() != 0 || len(e.records()) != 0 {
						t.Errorf("at step %d: %d alive, records %v", n, e.alive(), e.ledger())
					}
				})
			}
		})
	}
}

// setState changes the replication state of the node, and waits until the engine does
// not remember the old one any more.
func (e *engine) setState(state consts.ReplicationState) {
	e.system.ReplicationStateVal = state
	e.clock.advance(time.Second)
}

// loseRightToWrite makes the node a standby, whose storage refuses writes.
func (e *engine) loseRightToWrite() {
	e.setState(consts.ReplicationPerformanceStandby)
	e.storage.setFault(func(when string, op logical.Operation, _ string) error {
		if when == "before" && (op == updateOp || op == deleteOp) {
			return logical.ErrReadOnly
		}
		return nil
	})
}

// A revocation asks the cluster also when the token should have expired by
// Vault's clock, which may have jumped.
func TestRevoke_ClockThatJumpedIsNoProof(t *testing.T) {
	revocations := map[string]func(e *engine, h *credential, accessor string){
		"the lease is revoked": func(e *engine, h *credential, _ string) { _ = e.revoke(h) },
		"the token is deleted": func(e *engine, _ *credential, accessor string) { e.try(deleteOp, "tokens/"+accessor, nil) },
	}
	for name, revoke := range revocations {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			theirs := &clock{now: e.clock.Now()} // the cluster's own clock
			cluster, root := issuertest.NewFake(theirs.Now)
			e.others["99999999-7777-4888-8999-aaaaaaaaaaaa"] = cluster
			e.configure(map[string]any{"cluster_id": "99999999-7777-4888-8999-aaaaaaaaaaaa", "mgmt_token": root.Secret.Reveal()})
			e.write("roles/automation", map[string]any{"ttl": "1h"})
			h := e.creds()
			accessor := e.ledger()[0].Accessor
			e.clock.advance(100 * time.Hour)
			revoke(e, h, accessor)
			if cluster.Calls(issuertest.BeforeRevoke) == 0 || cluster.Alive(h.secret()) {
				t.Error("the cluster was not asked to revoke a token that it still accepts")
			}
			cluster.SetHook(fails(issuer.ErrUnauthorized, issuertest.BeforeRevoke))
			h = e.creds()
			e.clock.advance(100 * time.Hour)
			if err := e.revoke(h); err == nil && len(e.records()) == 0 && cluster.Alive(h.secret()) {
				t.Error("a refused root credential was taken for a revocation")
			}
		})
	}
}

// A local mount may write on the active node of a performance secondary, and on
// no other node that may not write.
func TestFence_LocalMount(t *testing.T) {
	for name, state := range readOnlyNodes {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := ready(t, map[string]any{"ttl": "1h"})
				e.system.LocalMountVal = true
				e.setState(state)
				status, _ := e.try(readOp, "creds/automation", nil)
				if issues := status < 400; issues != (state == consts.ReplicationPerformanceSecondary) {
					t.Errorf("creds: status %d", status)
				}
			})
		})
	}
}
