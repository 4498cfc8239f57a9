package backend_test

import (
	"context"
	"encoding/base32"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// This file tests for defects that other secrets engines had.

// Only creds/ answers with a lease. A leased answer of another path would be
// one that nothing can revoke.
func TestPaths_OnlyCredsAnswersWithALease(t *testing.T) {
	e := ready(t, nil)
	e.creds()
	accessor := e.ledger()[0].Accessor
	for _, request := range []struct {
		op   logical.Operation
		path string
	}{
		{readOp, "config"}, {updateOp, "config"}, {updateOp, "config/check"}, {updateOp, "config/rotate-root"},
		{listOp, "roles/"}, {readOp, "roles/automation"}, {updateOp, "roles/automation"},
		{listOp, "tokens/"}, {readOp, "tokens/" + accessor}, {deleteOp, "tokens/" + accessor},
		{updateOp, "tidy"}, {readOp, "status"}, {deleteOp, "roles/automation"}, {deleteOp, "config"},
	} {
		resp, err := e.do(t.Context(), request.op, request.path, nil)
		if err != nil && request.path != "config" {
			t.Errorf("%s %s: %v", request.op, request.path, err)
		}
		if resp != nil && (resp.Secret != nil || resp.Auth != nil || resp.WrapInfo != nil) {
			t.Errorf("%s %s answers with a lease", request.op, request.path)
		}
		if resp != nil {
			for field, value := range resp.Data {
				if text, ok := value.(string); ok && strings.HasPrefix(text, "M.V1.") {
					t.Errorf("%s %s shows a secret in %s", request.op, request.path, field)
				}
			}
		}
	}
}

// Lost answers are settled by a list. Exactly the tokens of the lost answers
// are revoked: not those of other mounts, not those whose descriptions quote a
// tag, not those under a lease, not those that only look alike.
func TestLostAnswers_ExactlyTheirTokensAreRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "24h"})
		leased := []*credential{e.creds(), e.creds()}
		e.failReads("automation", issuertest.AfterIssue, 3)
		var lost, strangers []issuer.Token
		for _, info := range e.tagged() {
			secret := secretOf(t, e.cluster, info.ID)
			if info.ID == leased[0].id() || info.ID == leased[1].id() {
				continue
			}
			lost = append(lost, issuer.Token{ID: info.ID, Secret: secret})
			accessor := e.accessorOf(info.ID)
			for _, description := range []string{
				"[vault:0123456789ab:" + accessor + "] another mount's",
				"about [vault:" + e.tag + ":" + accessor + "]",
				" [vault:" + e.tag + ":" + accessor + "]",
				"[vault:" + e.tag + ":" + accessor[:len(accessor)-1] + "] cut",
				"[vault:" + e.tag + ":" + strings.ToLower(accessor) + "] small",
				"[vault:" + e.tag + ":" + accessor,
				accessor,
				"",
			} {
				strangers = append(strangers, e.cluster.Add(description, time.Time{}))
			}
		}
		if len(lost) != 3 {
			t.Fatalf("%d answers were lost", len(lost))
		}
		e.pass(10 * time.Minute)
		for _, token := range lost {
			if e.cluster.Alive(token.Secret) {
				t.Errorf("the token of a lost answer is alive: %s", token.ID)
			}
		}
		for _, token := range strangers {
			if !e.cluster.Alive(token.Secret) {
				t.Errorf("a stranger's token was revoked: %+v", token)
			}
		}
		for _, h := range leased {
			if !e.cluster.Alive(h.secret()) {
				t.Errorf("a token under a lease was revoked: %s", h.id())
			}
		}
	})
}

// An accessor has at least 96 random bits, and no description cuts it.
func TestAccessor_IsLongUniqueAndNeverCut(t *testing.T) {
	long := strings.Repeat("x", 128)
	e := newEngine(t)
	e.configure()
	e.write("roles/"+long, map[string]any{"description": "{{.RoleName}} {{.RoleName}} {{.RoleName}}"})
	seen := map[string]bool{}
	for range 2000 {
		resp := e.read("creds/" + long)
		description := resp.Data["description"].(string)
		rest, tagged := strings.CutPrefix(description, "[vault:"+e.tag+":")
		accessor, _, whole := strings.Cut(rest, "]")
		if !tagged || !whole || len(description) > 100 {
			t.Fatalf("description %q", description)
		}
		raw, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(accessor)
		if err != nil || len(raw)*8 < 96 {
			t.Fatalf("accessor %q has %d bits, %v", accessor, len(raw)*8, err)
		}
		if seen[accessor] {
			t.Fatalf("accessor %q twice", accessor)
		}
		seen[accessor] = true
	}
}

// A cluster that hangs in any call holds up no request that does not need it.
func TestSlowCluster_HoldsUpNoOtherRequest(t *testing.T) {
	requests := map[string]func(e *engine, h *credential){
		"read a credential": func(e *engine, _ *credential) { e.try(readOp, "creds/automation", nil) },
		"revoke a lease":    func(e *engine, h *credential) { _ = e.revoke(h) },
		"write config":      func(e *engine, _ *credential) { e.tryWrite("config", map[string]any{"max_parallel": 5}) },
		"check config":      func(e *engine, _ *credential) { e.tryWrite("config/check", nil) },
		"rotate":            func(e *engine, _ *credential) { e.tryWrite("config/rotate-root", nil) },
		"tidy":              func(e *engine, _ *credential) { e.tryWrite("tidy", map[string]any{"dry_run": false}) },
		"delete a token":    func(e *engine, h *credential) { e.try(deleteOp, "tokens/"+e.accessorOf(h.id()), nil) },
	}
	for name, request := range requests {
		t.Run(name, func(t *testing.T) {
			e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "2h"})
			slow, other := e.creds(), e.creds()
			entered, release := make(chan struct{}), make(chan struct{})
			var once sync.Once
			e.cluster.SetHook(func(context.Context, issuertest.Step) error {
				once.Do(func() { close(entered) })
				<-release
				return nil
			})
			var all sync.WaitGroup
			all.Go(func() { request(e, slow) })
			<-entered
			e.read("roles/automation")
			e.write("roles/automation", map[string]any{"ttl": "30m"})
			e.read("config")
			e.write("config", map[string]any{"max_parallel": 6, "verify": false})
			e.read("status")
			e.must(listOp, "tokens/", nil)
			e.read("tokens/" + e.accessorOf(other.id()))
			if _, err := e.renew(other, 0); err != nil {
				t.Errorf("renewal: %v", err)
			}
			close(release)
			all.Wait()
		})
	}
}

// The previous root credential is revoked by its own ID, and the new one is in
// config before that: a rotation with answers that are late, in any call, never
// leaves the mount with a dead root credential.
func TestRotation_LateAnswersLeaveAWorkingRoot(t *testing.T) {
	for n := 1; n <= 8; n++ {
		synctest.Test(t, func(t *testing.T) {
			e := ready(t, nil)
			calls := 0
			e.cluster.SetHook(func(ctx context.Context, step issuertest.Step) error {
				if calls++; calls == n {
					return hangsFor(30*time.Second)(ctx, step)
				}
				return nil
			})
			e.tryWrite("config/rotate-root", nil)
			e.cluster.SetHook(nil)
			for range 5 {
				e.rootWorks()
				e.elapse(10 * time.Minute)
			}
			e.elapse(70 * time.Minute)
			e.rootWorks()
			if len(e.roots()) != 1 {
				t.Errorf("call %d was late: %d root credentials", n, len(e.roots()))
			}
		})
	}
}
