package backend_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// A token works from the answer until the revocation of its lease, which leaves
// no record.
func TestCreds_TokenLivesAsLongAsItsLease(t *testing.T) {
	e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "8h"})
	h := e.creds()
	if !e.cluster.Alive(h.secret()) {
		t.Fatal("a new token does not work")
	}
	if h.Secret.TTL != time.Hour || !h.Secret.Renewable || len(h.Warnings) > 0 {
		t.Errorf("lease: %+v, warnings %v", h.Secret.LeaseOptions, h.Warnings)
	}
	if diff := cmp.Diff(map[string]any{"secret_type": "influxdb_token", "role": "automation", "accessor": e.accessorOf(h.id())}, h.Secret.InternalData); diff != "" {
		t.Errorf("internal data of the lease: %s", diff)
	}
	e.clock.advance(30 * time.Minute)
	renewed, err := e.renew(h, 0)
	if err != nil || renewed.Secret.TTL != time.Hour || len(renewed.Data) > 0 {
		t.Fatalf("renewal: %+v, %v", renewed.Secret, err)
	}
	if err := e.revoke(h); err != nil || e.cluster.Alive(h.secret()) {
		t.Fatalf("revocation: %v", err)
	}
	if len(e.records()) != 0 {
		t.Errorf("records %v", e.records())
	}
	if err := e.revoke(h); err != nil {
		t.Errorf("a second revocation: %v", err)
	}
	if _, err := e.renew(h, 0); err == nil {
		t.Error("the lease of a revoked token was renewed")
	}
}

func TestCreds_Answer(t *testing.T) {
	e := ready(t, map[string]any{"description": "ci of {{.RoleName}} for {{.DisplayName}} é {{.EntityID}} at {{.MountPoint}}"})
	now := e.clock.Now()
	h := e.creds()
	delete(h.Data, "token")
	description := h.Data["description"].(string)
	if !strings.HasPrefix(description, "[vault:"+e.tag+":"+e.accessorOf(h.id())+"] ci of automation for token-tester ? entity") || len(description) > 100 {
		t.Errorf("description %q", description)
	}
	want := map[string]any{
		"token_id": h.id(), "accessor": e.accessorOf(h.id()), "description": description, "token_type": "management",
		"product": "dedicated", "account_id": accountID, "cluster_id": clusterID, "host": "", "port": "",
		"expires_at": now.Add(time.Hour + 30*time.Second + time.Second - time.Nanosecond).Truncate(time.Second).UTC().Format(time.RFC3339),
	}
	if diff := cmp.Diff(want, h.Data); diff != "" {
		t.Error(diff)
	}
}

// A warning says which limit made a lease shorter than requested.
func TestCreds_ExplainsAShorterLease(t *testing.T) {
	e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "2h"})
	resp := e.must(readOp, "creds/automation", map[string]any{"ttl": "3h"})
	if resp.Secret.TTL != 2*time.Hour || resp.Secret.Renewable || !strings.Contains(strings.Join(resp.Warnings, " "), "max_ttl of the role") {
		t.Errorf("%+v %v", resp.Secret.LeaseOptions, resp.Warnings)
	}
	resp = e.must(readOp, "creds/automation", map[string]any{"ttl": "90m"})
	if resp.Secret.TTL != 90*time.Minute || len(resp.Warnings) > 0 {
		t.Errorf("%+v %v", resp.Secret.LeaseOptions, resp.Warnings)
	}
	e.refuse(400, readOp, "creds/automation", map[string]any{"ttl": "-1h"}, "ttl")
	e.system.MaxLeaseTTLVal = 10 * time.Minute
	resp = e.read("creds/automation")
	if resp.Secret.TTL != 10*time.Minute || !strings.Contains(strings.Join(resp.Warnings, " "), "maximum lease TTL of the mount") {
		t.Errorf("%+v %v", resp.Secret.LeaseOptions, resp.Warnings)
	}
	e.system.MaxLeaseTTLVal = 0 // as when Vault cannot be asked
	e.refuse(500, readOp, "creds/automation", nil, "maximum lease TTL")
}

// The time that the cluster takes is part of the lease. If less than half of the
// lease is left, the token is revoked instead of handed out.
func TestCreds_SlowIssueShortensTheLease(t *testing.T) {
	e := ready(t, map[string]any{"ttl": "60s", "max_ttl": "60s"})
	slow := 20 * time.Second
	e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
		if step == issuertest.AfterIssue {
			e.clock.advance(slow)
		}
		return nil
	})
	h := e.creds()
	if h.Secret.TTL > 41*time.Second || h.Secret.TTL < 40*time.Second || !strings.Contains(strings.Join(h.Warnings, " "), "time that issuing the token took") {
		t.Errorf("%+v %v", h.Secret.LeaseOptions, h.Warnings)
	}
	slow = 40 * time.Second
	e.refuse(502, readOp, "creds/automation", nil, "issuing the token took so long")
	if e.alive() != 1 || len(e.records()) != 1 {
		t.Errorf("%d valid tokens, records %v", e.alive(), e.records())
	}
}

// A refusal of the cluster leaves no record. An unknown outcome leaves one, so
// that the token is found and revoked if it exists.
func TestCreds_FailureLeavesARecordIfTheTokenMayExist(t *testing.T) {
	for _, c := range []struct {
		step    issuertest.Step
		err     error
		status  int
		words   string
		records int
	}{
		{issuertest.BeforeIssue, issuer.ErrUnauthorized, 400, "root credential not accepted", 0},
		{issuertest.BeforeIssue, errors.Join(issuer.ErrRefused, errors.New("connection refused")), 502, "connection refused", 0},
		{issuertest.BeforeIssue, errors.New("timeout"), 502, "the engine will find and revoke it", 1},
		{issuertest.AfterIssue, errors.New("connection reset"), 502, "the engine will find and revoke it", 1},
	} {
		e := ready(t, nil)
		e.cluster.SetHook(fails(c.err, c.step))
		status, text := e.try(readOp, "creds/automation", nil)
		if status != c.status || !strings.Contains(text, c.words) {
			t.Errorf("%v: status %d, %q", c.err, status, text)
		}
		if got := e.states(); got[stateIssuing] != c.records || len(e.records()) != c.records {
			t.Errorf("%v: records %v, want %d", c.err, got, c.records)
		}
	}
}

// The call to the cluster goes on when the caller disconnects. The token is then
// revoked.
func TestCreds_CallerDisconnects(t *testing.T) {
	e := ready(t, nil)
	ctx, disconnect := context.WithCancel(t.Context())
	e.cluster.SetHook(func(call context.Context, step issuertest.Step) error {
		if step == issuertest.BeforeIssue {
			disconnect()
			return call.Err()
		}
		return nil
	})
	if _, err := e.do(ctx, readOp, "creds/automation", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if n := e.cluster.Calls(issuertest.AfterIssue); n != 1 || e.alive() != 0 || len(e.records()) != 0 {
		t.Errorf("%d tokens were issued, %d are valid, records %v", n, e.alive(), e.records())
	}
}

// A token whose record another node has changed or deleted while it was issued is
// not handed out. It is revoked.
func TestCreds_RecordChangedMeanwhile(t *testing.T) {
	for name, change := range map[string]func(e *engine, key string){
		"revoking": func(e *engine, key string) {
			e.edit(key, func(text string) string { return strings.Replace(text, `"issuing"`, `"revoking"`, 1) })
		},
		"deleted": func(e *engine, key string) {
			if err := e.storage.Storage.Delete(context.Background(), key); err != nil {
				e.t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := ready(t, nil)
			e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
				if step == issuertest.AfterIssue {
					change(e, e.records()[0])
				}
				return nil
			})
			if status, text := e.try(readOp, "creds/automation", nil); status < 400 {
				t.Errorf("the token was handed out: %d %s", status, text)
			}
			if e.cluster.Calls(issuertest.AfterIssue) != 1 || e.alive() != 0 || len(e.records()) != 0 {
				t.Errorf("%d valid tokens, records %v", e.alive(), e.records())
			}
		})
	}
}

func TestCreds_UnderConcurrentInvalidations(t *testing.T) {
	e := ready(t, nil)
	var all sync.WaitGroup
	for range 1000 {
		all.Go(func() {
			if _, err := e.do(t.Context(), readOp, "creds/automation", nil); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() { e.InvalidateKey(t.Context(), "config") })
	}
	all.Wait()
	if e.alive() != 1000 || len(e.records()) != 1000 {
		t.Errorf("%d valid tokens, %d records", e.alive(), len(e.records()))
	}
}

func TestRenew_RefusedAfterTheRoleWasDeleted(t *testing.T) {
	e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "2h"})
	h := e.creds()
	e.must(deleteOp, "roles/automation", nil)
	if _, err := e.renew(h, 0); err == nil || !strings.Contains(err.Error(), "deleted") {
		t.Errorf("renewal: %v", err)
	}
}

// A lease without the data of this engine is refused, not ignored.
func TestLease_OfAnotherEngineIsRefused(t *testing.T) {
	e := ready(t, nil)
	h := e.creds()
	h.Secret.InternalData = map[string]any{"secret_type": "influxdb_token", "role": 7}
	if err := e.revoke(h); err == nil || !strings.Contains(err.Error(), "not created by this engine") {
		t.Errorf("revocation: %v", err)
	}
	if _, err := e.renew(h, 0); err == nil {
		t.Error("renewed")
	}
}

func TestPaths_SealWrapTheRootCredential(t *testing.T) {
	e := newEngine(t)
	if diff := cmp.Diff([]string{"config", "rotation", "static-creds/"}, e.SpecialPaths().SealWrapStorage); diff != "" {
		t.Error(diff)
	}
}

// Every act sends an event.
func TestEvents_OfALease(t *testing.T) {
	e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "2h"})
	h := e.creds()
	if _, err := e.renew(h, 0); err != nil {
		t.Fatal(err)
	}
	e.cluster.SetHook(down)
	for range 2 {
		if err := e.revoke(h); err == nil {
			t.Fatal("revoked")
		}
	}
	e.clock.advance(2 * time.Minute)
	if err := e.revoke(h); err != nil {
		t.Fatal(err)
	}
	e.tryCreds(new([]*credential))
	e.cluster.SetHook(nil)
	h = e.creds()
	if err := e.revoke(h); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"config-write", "role-write", "issue", "renew", "revoke-pending", "revoke-fail", "revoke-fail", "revoke-fail", "revoke-deferred",
		"issue-fail", "issue", "revoke",
	}
	if diff := cmp.Diff(want, e.eventTypes()); diff != "" {
		t.Error(diff)
	}
}

// eventTypes returns the types of the events so far.
func (e *engine) eventTypes() (types []string) {
	for _, event := range e.events.Events {
		types = append(types, strings.TrimPrefix(string(event.Type), "influxdb/"))
	}
	return types
}

// The names of roles are letters, digits, dots, dashes and underscores.
func TestPaths_RefuseOddRoleNames(t *testing.T) {
	e := ready(t, nil)
	for _, name := range []string{"a/b", ".", "..", "../config", "-x", "x-", "ünïcode", "a b", "", "a\nb", "-config-check"} {
		for _, path := range []string{"roles/" + name, "creds/" + name} {
			resp, err := e.HandleRequest(t.Context(), &logical.Request{Operation: readOp, Path: path, Storage: e.storage})
			if err == nil && resp != nil {
				t.Errorf("%q: %v", path, resp.Data)
			}
		}
	}
	e.write("roles/a.b-c_9", nil)
	e.read("creds/a.b-c_9")
}
