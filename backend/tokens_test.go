package backend_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// accessors lists the tokens in the ledger.
func (e *engine) accessors() []string {
	e.t.Helper()
	resp := e.must(listOp, "tokens/", nil)
	keys, ok := resp.Data["keys"].([]string)
	if !ok {
		e.t.Fatalf("tokens: %v", resp.Data)
	}
	return keys
}

func TestTokens_ListReadAndDelete(t *testing.T) {
	e := ready(t, nil)
	h := e.creds()
	other := e.creds()
	if n := len(e.accessors()); n != 2 {
		t.Fatalf("%d tokens are listed, want 2", n)
	}
	for _, accessor := range e.accessors() {
		token := e.read("tokens/" + accessor).Data
		if token["accessor"] != accessor || token["state"] != stateActive || token["role"] != "automation" || token["display_name"] != "token-tester" || token["entity_id"] != "entity-1" || token["deadline"] == nil {
			t.Errorf("token: %v", token)
		}
	}
	if byID := e.read("tokens/" + h.id()).Data; byID["accessor"] != e.accessorOf(h.id()) {
		t.Errorf("read by the ID of the token: %v", byID)
	}
	e.must(deleteOp, "tokens/"+e.accessorOf(h.id()), nil)
	if e.cluster.Alive(h.secret()) || !e.cluster.Alive(other.secret()) || len(e.accessors()) != 1 {
		t.Errorf("after a delete: %d valid tokens, listed %v", e.alive(), e.accessors())
	}
	if err := e.revoke(h); err != nil {
		t.Errorf("the revocation of the lease of a deleted token: %v", err)
	}
}

// A delete that fails says so, and the engine keeps trying.
func TestTokens_DeleteWhileTheClusterIsOutOfReach(t *testing.T) {
	e := ready(t, nil)
	h := e.creds()
	e.cluster.SetHook(down)
	status, text := e.try(deleteOp, "tokens/"+e.accessorOf(h.id()), nil)
	if status != 502 || !strings.Contains(text, "the engine keeps trying") || e.states()[stateRevoking] != 1 {
		t.Errorf("status %d, %s, records %v", status, text, e.states())
	}
}

// Exactly max_active tokens are issued by concurrent requests, also when the index
// knows nothing after a start.
func TestMaxActive_IsExactUnderConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"max_active": 10, "ttl": "72h"})
		first := e.creds()
		e.restart()
		statuses := map[int]int{}
		var mu sync.Mutex // guards statuses
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				status, _ := e.try(readOp, "creds/automation", nil)
				mu.Lock()
				defer mu.Unlock()
				statuses[status]++
			})
		}
		all.Wait()
		if diff := cmp.Diff(map[int]int{http.StatusOK: 9, http.StatusTooManyRequests: 41}, statuses); diff != "" || e.alive() != 10 {
			t.Errorf("%d valid tokens: %s", e.alive(), diff)
		}
		e.refuse(429, readOp, "creds/automation", nil, "max_active")
		if err := e.revoke(first); err != nil {
			t.Fatal(err)
		}
		e.creds()
		e.refuse(429, readOp, "creds/automation", nil, "max_active")
	})
}

// A token with an unknown outcome counts in max_active until a list does not show
// it.
func TestMaxActive_CountsUnknownOutcomesUntilTheyAreLookedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"max_active": 1, "ttl": "72h"})
		e.failReads("automation", issuertest.BeforeIssue, 1)
		e.cluster.SetHook(down)
		e.pass(5 * time.Minute)
		e.refuse(429, readOp, "creds/automation", nil, "max_active")
		e.cluster.SetHook(nil)
		e.pass(5 * time.Minute)
		e.creds()
	})
}

// A role may have a hundred tokens with an unknown outcome. The next request is
// refused until they were looked for.
func TestLimits_HundredUnknownOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "72h"})
		e.failReads("automation", issuertest.BeforeIssue, 101)
		e.refuse(429, readOp, "creds/automation", nil, "unknown outcome", "automation")
		if n := len(e.records()); n != 100 {
			t.Errorf("%d records, want 100", n)
		}
		e.pass(3 * time.Minute)
		e.creds()
	})
}

// tidy reports tokens of the mount without a record, and records without a valid
// token. It changes what it is told to change, and nothing of other mounts.
func TestTidy_ComparesLedgerAndCluster(t *testing.T) {
	e := ready(t, nil)
	h, dead := e.creds(), e.creds()
	e.cluster.Kill(dead.id())
	unknown := e.cluster.Add("[vault:"+e.tag+":"+unknownAccessor+"] unknown", time.Time{})
	otherMount := e.cluster.Add("[vault:0123456789ab:"+unknownAccessor+"] another mount", time.Time{})
	quoted := e.cluster.Add("me [vault:"+e.tag+":"+unknownAccessor+"]", time.Time{})

	for _, request := range []map[string]any{nil, {"dry_run": true, "revoke_unknown": e.tag}} {
		got := e.write("tidy", request).Data
		want := map[string]any{
			"dry_run": true, "listed": 7, "foreign": 4, "in_ledger": 2, "unknown": 1, "unknown_ids": []string{unknown.ID},
			"dead": 1, "dead_ids": []string{dead.id()}, "not_listed": 0, "not_listed_ids": []string{}, "revoked": 0, "forgotten": 0,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	if len(e.records()) != 2 || !e.cluster.Alive(unknown.Secret) {
		t.Error("a dry run changed something")
	}
	e.refuse(400, updateOp, "tidy", map[string]any{"dry_run": false, "revoke_unknown": "yes"}, "as a confirmation")
	if got := e.write("tidy", map[string]any{"dry_run": false}).Data; got["forgotten"] != 1 || got["revoked"] != 0 || !e.cluster.Alive(unknown.Secret) {
		t.Errorf("without revoke_unknown: %v", got)
	}
	if got := e.write("tidy", map[string]any{"dry_run": false, "revoke_unknown": e.tag}).Data; got["revoked"] != 1 || e.cluster.Alive(unknown.Secret) {
		t.Errorf("with revoke_unknown: %v", got)
	}
	for name, token := range map[string]issuer.Token{"root credential": e.root, "token of another mount": otherMount, "token that quotes the tag": quoted} {
		if !e.cluster.Alive(token.Secret) {
			t.Errorf("the %s was revoked", name)
		}
	}
	if !e.cluster.Alive(h.secret()) {
		t.Error("a token under a valid lease was revoked")
	}
}

// During the overlap of a rotation, the previous root credential is in the ledger.
func TestTidy_KnowsThePreviousRootCredential(t *testing.T) {
	e := ready(t, nil)
	e.write("config/rotate-root", nil)
	got := e.write("tidy", nil).Data
	if got["in_ledger"] != 1 || got["not_listed"] != 0 || got["foreign"] != 1 || got["unknown"] != 0 {
		t.Errorf("tidy: %v", got)
	}
}
