package backend_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// The tests in this file repeat, as short stories, what random walks have found. See
// package simulation.

// A node that was stopped while it had the leadership does not know that it has lost
// it. Its ledger is old, so the tokens of the new leader are unknown to it.
func TestTidy_FormerLeaderRevokesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.write("tidy", nil) // loads the ledger
		ofNewLeader := e.cluster.Add("[vault:"+e.tag+":AAAAAAAAAAAAAAAAAAAAAAAAAA] of the new leader", e.clock.Now().Add(time.Hour))
		e.storage.setFault(func(_ string, op logical.Operation, _ string) error {
			if op == logical.UpdateOperation || op == logical.DeleteOperation {
				return errors.New("node is not the leader")
			}
			return nil
		})
		answer := e.write("tidy", map[string]any{"dry_run": false, "revoke_unknown": e.tag})
		e.storage.setFault(nil)
		if !e.cluster.Alive(ofNewLeader.Secret) {
			t.Error("a token of the new leader was revoked")
		}
		if answer.Data["revoked"] != 0 || len(answer.Warnings) == 0 {
			t.Errorf("answer: %v", answer)
		}
	})
}

// Whoever may write config can claim any ID for the root credential that they write.
// The record of the one that it replaces must stay.
func TestConfig_WrongRootIDKeepsRecordOfReplacedRoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.write("config/rotate-root", nil)
		issued := e.rootID()
		e.write("config", map[string]any{"mgmt_token": "M.V1.bogus", "mgmt_token_id": issued, "verify": false})
		e.pass(10 * time.Minute)
		if _, ok := e.recordOf(issued); !ok || !e.accepted(issued) {
			t.Fatalf("the replaced root credential has no record; it is accepted: %v", e.accepted(issued))
		}
		e.write("config", map[string]any{"mgmt_token": e.operatorsRoot().Secret.Reveal()})
		e.pass(2 * time.Minute)
		if e.accepted(issued) {
			t.Error("the replaced root credential is still accepted after the config was repaired")
		}
	})
}

// The worker looks only once an hour at the tokens of a cluster that config does not
// name, because only a config write can change anything.
func TestConfig_WriteEndsWaitOfWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "1h"})
		h := e.creds()
		_, away := e.otherCluster()
		away["force"] = true
		e.write("config", away)
		if err := e.revoke(h); err == nil {
			t.Fatal("the token of another cluster was revoked")
		}
		e.pass(10 * time.Minute)
		e.write("config", e.home())
		e.pass(2 * time.Minute)
		if e.cluster.Alive(h.secret()) {
			t.Error("the token is still valid after config has named its cluster again")
		}
	})
}

// To prove a management token, the engine sends it to the cluster. Whoever may write
// config must not receive it.
func TestStaticRole_StagedTokenIsNotSentElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.configure(clustered)
		e.clock.advance(5 * time.Minute)
		e.write("static-roles/fleet", map[string]any{"token_type": "management", "rotation_period": "1h"})
		e.cluster.SetSpread(10 * time.Minute) // the next token cannot be proved at once
		e.pass(56 * time.Minute)
		before := len(e.cluster.Secrets())
		e.write("config", map[string]any{"mgmt_token": "M.V1.bogus", "host": "evil.example.com", "same_cluster": true, "verify": false})
		e.pass(20 * time.Minute)
		for _, secret := range e.cluster.Secrets()[:before] {
			for _, place := range e.sentTo(issuer.NewSecret(secret)) {
				if strings.Contains(place, "evil") {
					t.Errorf("a token was sent to %s", place)
				}
			}
		}
	})
}

// A token that could not be replaced is in use until 30 seconds before it expires, and
// no longer.
func TestStaticCreds_OverdueTokenIsNotOfferedBeyondItsExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := shared(t, map[string]any{"rotation_period": "30m", "token_ttl": "35m"})
		e.cluster.SetHook(down)
		e.data.SetHook(down)
		e.pass(34*time.Minute + 10*time.Second)
		answer := e.readStatic()
		if ttl := answer.Data["ttl"].(int); ttl > 20 {
			t.Errorf("the ttl is %d, the token expires at %v, it is %v", ttl, answer.Data["expires_at"], e.clock.Now().UTC())
		}
	})
}
