package backend_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// at sets the UUID that the server sends.
func (e *engine) at(uuid string) { e.cluster.SetServer(issuer.Server{UUID: uuid}, nil) }

// pinned returns the UUID in config, or nil.
func (e *engine) pinned() any { return e.read("config").Data["cluster_uuid"] }

func TestClusterUUID_IsLearnedAtAnyTime(t *testing.T) {
	for name, call := range map[string]func(*engine){
		"issue":  func(e *engine) { e.creds() },
		"revoke": func(e *engine) { _ = e.revoke(e.creds()) },
		"list":   func(e *engine) { e.write("tidy", nil) },
		"rotate": func(e *engine) { e.write("config/rotate-root", nil) },
	} {
		t.Run(name, func(t *testing.T) {
			e := readyOf(t, issuer.Enterprise, nil)
			if e.pinned() != nil {
				t.Fatal("the server sends no UUID yet")
			}
			e.at(uuidA) // after an upgrade
			call(e)
			if e.pinned() != uuidA {
				t.Fatalf("pinned: %v", e.pinned())
			}
			e.restart()
			e.at(uuidB)
			if _, err := e.do(t.Context(), readOp, "creds/automation", nil); err == nil || !strings.Contains(err.Error(), "another cluster") {
				t.Errorf("a credential of another cluster: %v", err)
			}
			if e.pinned() != uuidA {
				t.Errorf("pinned after another one was seen: %v", e.pinned())
			}
		})
	}
}

func TestClusterUUID_IsNotLearnedFromARefusal(t *testing.T) {
	e := readyOf(t, issuer.Core, nil)
	e.at(uuidA)
	e.cluster.SetHook(fails(issuer.ErrUnauthorized, issuertest.BeforeIssue))
	e.refuse(400, readOp, "creds/automation", nil)
	if e.pinned() != nil {
		t.Errorf("pinned the UUID of a server that refuses the root credential: %v", e.pinned())
	}
}

// A request that began before the UUID was known must not replace it.
func TestClusterUUID_IsNotReplacedByARequestUnderWay(t *testing.T) {
	e := readyOf(t, issuer.Core, nil)
	e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
		if step == issuertest.AfterIssue {
			e.cluster.SetHook(nil)
			e.at(uuidA)
			e.write("config", map[string]any{"max_parallel": 5})
			e.at(uuidB)
		}
		return nil
	})
	e.creds()
	if e.pinned() != uuidA {
		t.Errorf("pinned: %v", e.pinned())
	}
}

// A storage that fails must not fail a request whose token was issued.
func TestClusterUUID_CannotBeStored(t *testing.T) {
	e := readyOf(t, issuer.Core, nil)
	e.at(uuidA)
	e.storage.setFault(func(when string, op logical.Operation, key string) error {
		if key == "config" && op == updateOp {
			return errInjected
		}
		return nil
	})
	e.creds()
	e.storage.setFault(nil)
	e.creds()
	if e.pinned() != uuidA {
		t.Errorf("pinned: %v", e.pinned())
	}
}

func TestClusterUUID_NewAddressOfTheSameCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngineOf(t, issuer.Enterprise)
		e.at(uuidA)
		e.configure()
		e.write("roles/automation", nil)
		h := e.creds()
		e.refuse(400, updateOp, "config", map[string]any{"host": "new.example.com"}, "admin_token again")
		e.write("config", map[string]any{"host": "new.example.com", "port": "8443", "admin_token": e.root.Secret.Reveal()})
		if err := e.revoke(h); err != nil || e.cluster.Alive(h.secret()) {
			t.Errorf("revocation at the new address: %v", err)
		}
		if got := e.read("status").Data["cluster"]; got != "enterprise/"+host+":8181" {
			t.Errorf("the fingerprint must stay: %v", got)
		}
	})
}

func TestClusterUUID_UpgradeFromCoreToEnterprise(t *testing.T) {
	e := newEngineOf(t, issuer.Core)
	e.at(uuidA)
	e.configure()
	e.write("roles/automation", nil)
	h := e.creds()
	e.write("config", map[string]any{"product": "enterprise", "admin_token": e.root.Secret.Reveal()})
	if err := e.revoke(h); err != nil || e.cluster.Alive(h.secret()) {
		t.Errorf("revocation after the upgrade: %v", err)
	}
}

// Another server at the same address knows nothing about the tokens in the ledger:
// what it says must never drop a record.
func TestClusterUUID_AnotherServerAtTheSameAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngineOf(t, issuer.Core)
		e.at(uuidA)
		e.configure()
		e.write("roles/automation", nil)
		h := e.creds()
		other, root := issuertest.NewNamedFake(e.clock.Now, traitsOf(issuer.Core))
		other.SetServer(issuer.Server{UUID: uuidB}, nil)
		e.others[host] = other

		if err := e.revoke(h); err == nil {
			t.Error("a revocation cannot succeed on another server")
		}
		change := map[string]any{"admin_token": root.Secret.Reveal()}
		e.refuse(409, updateOp, "config", change, uuidA, uuidB, "force=true")
		change["same_cluster"] = true
		e.refuse(409, updateOp, "config", change, "same_cluster cannot be true", uuidA, uuidB)
		delete(change, "same_cluster")
		change["force"] = true
		e.write("config", change)
		if e.pinned() != uuidB {
			t.Errorf("pinned: %v", e.pinned())
		}
		sent := other.Calls(issuertest.BeforeRevoke)
		e.passInSteps(time.Hour, 48*time.Hour)
		if len(e.records()) != 1 {
			t.Errorf("records %v: the token was not revoked where it was issued", e.records())
		}
		if got := e.read("status").Data["tokens_on_other_clusters"]; got != 1 {
			t.Errorf("tokens_on_other_clusters %v", got)
		}
		if n := other.Calls(issuertest.BeforeRevoke) - sent; n > 0 {
			t.Errorf("%d revocations were sent to the other server", n)
		}
		e.creds()
	})
}

func TestClusterUUID_EmptyLedgerMoves(t *testing.T) {
	e := newEngineOf(t, issuer.Core)
	e.at(uuidA)
	e.configure()
	e.at(uuidB)
	e.write("config", map[string]any{"admin_token": e.root.Secret.Reveal()})
	if e.pinned() != uuidB {
		t.Errorf("pinned: %v", e.pinned())
	}
	if got := e.read("status").Data["cluster"].(string); !strings.HasSuffix(got, "/"+uuidB) {
		t.Errorf("fingerprint %s: it must differ from that of the cluster before", got)
	}
	e.write("config", map[string]any{"max_parallel": 3})
	if got := e.read("status").Data["cluster"].(string); !strings.HasSuffix(got, "/"+uuidB) {
		t.Errorf("fingerprint %s after an update", got)
	}
}

// A downgraded server sends no UUID. Only the operator can say that it is the same
// cluster.
func TestClusterUUID_ServerStopsSendingIt(t *testing.T) {
	e := newEngineOf(t, issuer.Core)
	e.at(uuidA)
	e.configure()
	e.write("roles/automation", nil)
	h := e.creds()
	e.at("")
	if err := e.revoke(h); err == nil {
		t.Error("it is not known which server has answered")
	}
	e.refuse(409, updateOp, "config", map[string]any{"max_parallel": 3}, "does not send the cluster-uuid", "same_cluster=true")
	e.write("config", map[string]any{"same_cluster": true})
	if e.pinned() != nil {
		t.Errorf("pinned: %v", e.pinned())
	}
	if err := e.revoke(h); err != nil || len(e.records()) != 0 {
		t.Errorf("revocation: %v, records %v", err, e.records())
	}
}

func TestClusterUUID_StaysWithoutVerification(t *testing.T) {
	e := newEngineOf(t, issuer.Core)
	e.at(uuidA)
	e.configure()
	e.write("config", map[string]any{"max_parallel": 3, "verify": false})
	if e.pinned() != uuidA {
		t.Errorf("the same address: %v", e.pinned())
	}
	e.write("config", map[string]any{"host": "new.example.com", "admin_token": e.root.Secret.Reveal(), "verify": false, "same_cluster": true})
	if e.pinned() != uuidA {
		t.Errorf("same_cluster: %v", e.pinned())
	}
	e.write("config", map[string]any{"host": "other.example.com", "admin_token": e.root.Secret.Reveal(), "verify": false})
	if e.pinned() != nil {
		t.Errorf("another cluster: %v", e.pinned())
	}
}

// A cluster gets a new name, and another cluster gets the old one. The mount cannot
// move to that without force, because the ledger holds tokens of the first cluster,
// which is not mistaken for the second.
func TestIdentity_FormerNameIsAnotherCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		root := e.root.Secret.Reveal()
		e.write("config", map[string]any{"product": "clustered", "host": "blue.example.com", "mgmt_token": root})
		e.write("roles/automation", nil)
		e.write("config", map[string]any{"host": "green.example.com", "mgmt_token": root, "same_cluster": true})
		h := e.creds()
		other, otherRoot := issuertest.NewFake(e.clock.Now)
		e.others["blue.example.com"] = other
		move := map[string]any{"host": "blue.example.com", "mgmt_token": otherRoot.Secret.Reveal()}
		e.refuse(409, updateOp, "config", move, "force")
		e.write("config", with(move, "force", true))
		e.clock.advance(20 * time.Minute)
		if err := e.revoke(h); err == nil && e.cluster.Alive(h.secret()) && len(e.records()) == 0 {
			t.Error("the revocation succeeded on the other cluster, and the token is valid")
		}
	})
}
