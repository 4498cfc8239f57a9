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

func TestACredentialLivesAsLongAsItsLease(t *testing.T) {
	e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "8h"})
	h := e.creds()
	if !e.cluster.Alive(h.secret()) {
		t.Fatal("a fresh token must work")
	}
	if h.Secret.TTL != time.Hour || !h.Secret.Renewable || len(h.Warnings) > 0 {
		t.Errorf("lease: %+v, warnings %v", h.Secret.LeaseOptions, h.Warnings)
	}
	if len(h.Secret.InternalData) != 3 { // role, nonce, and the secret's type
		t.Errorf("the lease keeps %v", h.Secret.InternalData)
	}
	e.clock.advance(30 * time.Minute)
	renewed, err := e.renew(h, 0)
	if err != nil || renewed.Secret.TTL != time.Hour || len(renewed.Data) > 0 {
		t.Fatalf("renewal: %+v, %v", renewed, err)
	}
	if err := e.revoke(h); err != nil || e.cluster.Alive(h.secret()) {
		t.Fatalf("revocation: %v", err)
	}
	if len(e.records()) != 0 {
		t.Errorf("left in the ledger: %v", e.records())
	}
	if err := e.revoke(h); err != nil {
		t.Errorf("a second revocation: %v", err)
	}
	if _, err := e.renew(h, 0); err == nil {
		t.Error("a dead token's lease was renewed")
	}
}

func TestACredentialSaysWhatItIs(t *testing.T) {
	e := ready(t, map[string]any{"description": "ci of {{.RoleName}} for {{.DisplayName}} é {{.EntityID}} at {{.MountPoint}}"})
	now := e.clock.Now()
	h := e.creds()
	delete(h.Data, "token")
	desc := h.Data["description"].(string)
	tag := "[vault:" + e.read("status").Data["mount_tag"].(string) + ":"
	if !strings.HasPrefix(desc, tag) || !strings.Contains(desc, "] ci of automation for token-tester ? entity") || len(desc) > 100 {
		t.Errorf("description %q", desc)
	}
	want := map[string]any{
		"token_id": h.id(), "accessor": e.accessorOf(h.id()), "description": desc, "product": "dedicated", "account_id": accountID, "cluster_id": clusterID, "host": "", "port": "", "token_type": "management",
		"expires_at": now.Add(time.Hour + 30*time.Second + time.Second - time.Nanosecond).Truncate(time.Second).UTC().Format(time.RFC3339),
	}
	if diff := cmp.Diff(want, h.Data); diff != "" {
		t.Error(diff)
	}
}

func TestAClampIsExplained(t *testing.T) {
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
	e.system.MaxLeaseTTLVal = 0
	e.refuse(500, readOp, "creds/automation", nil, "maximum lease TTL")
}

func TestASlowMintShortensTheLease(t *testing.T) {
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
	_, err := e.do(t.Context(), readOp, "creds/automation", nil)
	if err == nil || !strings.Contains(err.Error(), "issuing the token took so long") {
		t.Errorf("a mint that eats most of the lease: %v", err)
	}
	if e.alive() != 1 || len(e.records()) != 1 {
		t.Errorf("%d alive, records %v", e.alive(), e.records())
	}
}

func TestRolesAreCheckedAndReadBack(t *testing.T) {
	e := newEngine(t)
	resp := e.write("roles/automation", nil)
	if !strings.Contains(strings.Join(resp.Warnings, " "), "not the maximum of the mount") {
		t.Errorf("max_ttl=0 must be explained: %v", resp.Warnings)
	}
	e.write("roles/automation", map[string]any{"max_ttl": "8h"})
	want := map[string]any{
		"ttl": 3600, "max_ttl": 28800, "description": "{{.RoleName}} {{.DisplayName}}", "max_active": 0, "renewable": true, "token_type": "management",
		"effective_ttl": 3600, "effective_ttl_limit": "ttl of the role",
		"effective_max_ttl": 28800, "effective_max_ttl_limit": "max_ttl of the role",
	}
	if diff := cmp.Diff(want, e.read("roles/automation").Data); diff != "" {
		t.Error(diff)
	}
	resp = e.write("roles/automation", map[string]any{"max_ttl": "9000h"})
	if !strings.Contains(strings.Join(resp.Warnings, " "), "-max-lease-ttl") {
		t.Errorf("a value over the mount's maximum must be explained: %v", resp.Warnings)
	}
	for _, c := range []struct {
		change map[string]any
		words  string
	}{
		{map[string]any{"ttl": "9001h"}, "must not be longer than max_ttl"},
		{map[string]any{"ttl": 0}, "ttl must be at least 1s"},
		{map[string]any{"ttl": "-1h"}, "ttl"},
		{map[string]any{"max_ttl": "-1h"}, "max_ttl"},
		{map[string]any{"max_ttl": "1000000h"}, "100 years"},
		{map[string]any{"ttl": "an hour"}, "ttl"},
		{map[string]any{"description": "{{.RoleName"}, "description:"},
		{map[string]any{"description": "{{.Nobody}}"}, "description:"},
		{map[string]any{"description": " "}, "description:"},
		{map[string]any{"description": "{{range 30000000000}}x{{end}}"}, "is not allowed in a description"},
		{map[string]any{"description": "{{define \"a\"}}{{template \"a\"}}{{end}}{{template \"a\"}}"}, "define is not allowed"},
		{map[string]any{"description": "{{$x := .RoleName}}{{$x}}"}, "variables are not allowed"},
		{map[string]any{"description": "{{random 100000000}}"}, "between 0 and 100"},
		{map[string]any{"description": "{{printf \"%1000000d\" 1}}"}, "printf is not allowed"},
		{map[string]any{"description": "{{.RoleName" + strings.Repeat(" | base64", 400) + "}}"}, "may call 8 functions"},
		{map[string]any{"description": "{{.RoleName | replace \"a\" \"aa\"}}"}, "replace is not allowed"},
		{map[string]any{"description": ""}, "description:"},
		{map[string]any{"description": strings.Repeat("x", 5000)}, "longer than 4096"},
		{map[string]any{"max_active": -1}, "max_active"},
		{map[string]any{"token_type": "administrator"}, "token_type must be"},
		{map[string]any{"read_databases": "metrics"}, "are for token_type=database"},
		{map[string]any{"token_type": "database"}, "needs read_databases, write_databases or both"},
		{map[string]any{"token_type": "database", "write_databases": strings.Repeat("x", 65)}, "not the name of a database"},
		{map[string]any{"token_type": "database", "write_databases": []string{"a\nb"}}, "not the name of a database"},
	} {
		e.refuse(400, updateOp, "roles/automation", c.change, c.words)
	}
	e.refuse(400, createOp, "roles/"+strings.Repeat("x", 300), nil, "longer than 128")
	if keys := e.must(listOp, "roles/", nil).Data["keys"]; !cmp.Equal(keys, []string{"automation"}) {
		t.Errorf("roles %v", keys)
	}
	e.must(deleteOp, "roles/automation", nil)
	e.refuse(404, readOp, "roles/automation", nil)
}

func TestADescriptionMayDoWhatItNeeds(t *testing.T) {
	e := ready(t, map[string]any{"description": "{{if .EntityID}}{{.EntityID | truncate 8 | uppercase}}{{else}}none{{end}} {{random 4}} {{/* why */}}{{timestamp \"2006\"}}"})
	if desc := e.creds().Data["description"].(string); !strings.Contains(desc, "] ENTITY-1 ") {
		t.Errorf("description %q", desc)
	}
}

func TestOddNamesAreNoRoles(t *testing.T) {
	e := ready(t, nil)
	for _, name := range []string{"a/b", ".", "..", "../config", "-x", "x-", "ünïcode", "a b", "", "a\nb", "-config-check"} {
		for _, path := range []string{"roles/" + name, "creds/" + name} {
			resp, err := e.HandleRequest(t.Context(), &logical.Request{Operation: readOp, Path: path, Storage: e.storage})
			if err == nil && resp != nil {
				t.Errorf("%q: %v", path, resp)
			}
		}
	}
	e.write("roles/a.b-c_9", nil)
	e.read("creds/a.b-c_9")
}

func TestAMintThatFailsSaysWhyAndKeepsHold(t *testing.T) {
	for _, c := range []struct {
		step    issuertest.Step
		err     error
		status  int
		words   string
		records int // left in the ledger
	}{
		{issuertest.BeforeIssue, issuer.ErrUnauthorized, 400, "root credential not accepted", 0},
		{issuertest.BeforeIssue, errors.Join(issuer.ErrRefused, errors.New("connection refused")), 502, "connection refused", 0},
		{issuertest.BeforeIssue, errors.New("timeout"), 502, "the engine will find and revoke it", 1},
		{issuertest.AfterIssue, errors.New("connection reset"), 502, "the engine will find and revoke it", 1},
	} {
		e := ready(t, nil)
		e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
			if step == c.step {
				return c.err
			}
			return nil
		})
		_, err := e.do(t.Context(), readOp, "creds/automation", nil)
		status, text := statusOf(readOp, nil, err)
		if status != c.status || !strings.Contains(text, c.words) {
			t.Errorf("%v: status %d, %q", c.err, status, text)
		}
		if got := len(e.records()); got != c.records {
			t.Errorf("%v: %d records, want %d", c.err, got, c.records)
		}
	}
}

func TestAMintOutlivesACallerWhoHangsUp(t *testing.T) {
	e := ready(t, nil)
	ctx, hangUp := context.WithCancel(t.Context())
	e.cluster.SetHook(func(mint context.Context, step issuertest.Step) error {
		if step == issuertest.BeforeIssue {
			hangUp()
			return mint.Err() // the mint has a context of its own
		}
		return nil
	})
	if _, err := e.do(ctx, readOp, "creds/automation", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who has gone: %v", err)
	}
	if n := e.cluster.Calls(issuertest.AfterIssue); n != 1 || e.alive() != 0 || len(e.records()) != 0 {
		t.Errorf("%d mints, %d alive, records %v", n, e.alive(), e.records())
	}
}

func TestARevocationSucceedsOnlyWhenTheTokenIsKnownToBeDead(t *testing.T) {
	e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "2h"})
	h := e.creds()
	for _, cause := range []error{
		issuer.ErrUnauthorized, errors.New("timeout"), context.DeadlineExceeded, issuer.ErrUnknown, errors.New("empty list"),
	} {
		e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
			if step == issuertest.BeforeRevoke {
				return cause
			}
			return nil
		})
		err := e.revoke(h)
		if err == nil || errors.Is(err, logical.ErrInvalidRequest) {
			t.Errorf("%v: %v", cause, err)
		}
		if _, coded := err.(logical.HTTPCodedError); coded { //nolint:errorlint // only outermost counts
			t.Errorf("%v: core must get a plain error, not %T", cause, err)
		}
	}
	if _, err := e.renew(h, 0); err == nil {
		t.Error("a token that is owed was renewed")
	}
	if err := e.storage.dumpUnder(t, "ledger/"); !strings.Contains(err, `"state":"revoking"`) || !strings.Contains(err, `"attempts":5`) {
		t.Errorf("the record: %s", err)
	}
	e.clock.advance(11 * time.Minute)
	e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
		if step == issuertest.BeforeRevoke {
			return issuer.ErrUnknown
		}
		return nil
	})
	if err := e.revoke(h); err != nil {
		t.Errorf("a cluster that never knew a token of eleven minutes: %v", err)
	}
}

func TestATokenThatIsGoneAlreadyIsNoError(t *testing.T) {
	e := ready(t, nil)
	h := e.creds()
	e.cluster.Kill(h.id())
	if err := e.revoke(h); err != nil {
		t.Errorf("revoked behind our back: %v", err)
	}
	h = e.creds()
	e.must(deleteOp, "roles/automation", nil)
	if err := e.revoke(h); err != nil {
		t.Errorf("a deleted role: %v", err)
	}
	e.write("roles/automation", nil)
	h = e.creds()
	e.clock.advance(2 * time.Hour)
	e.cluster.SetHook(func(context.Context, issuertest.Step) error { return errors.New("unreachable") })
	if err := e.revoke(h); err == nil {
		t.Error("the first attempt relied on the clock alone")
	}
	if err := e.revoke(h); err != nil || len(e.records()) != 0 {
		t.Errorf("past its expiry: %v, %v", err, e.records())
	}
}

func TestARevocationWithoutAConfigIsNoSuccess(t *testing.T) {
	e := ready(t, nil)
	h := e.creds()
	e.must(deleteOp, "config", map[string]any{"force": true})
	if err := e.revoke(h); err == nil {
		t.Error("revoked by nobody")
	}
	e.configure()
	if err := e.revoke(h); err != nil || e.cluster.Alive(h.secret()) {
		t.Errorf("with a config again: %v", err)
	}
}

func TestADeletedRoleIsNotRenewed(t *testing.T) {
	e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "2h"})
	h := e.creds()
	e.must(deleteOp, "roles/automation", nil)
	if _, err := e.renew(h, 0); err == nil || !strings.Contains(err.Error(), "deleted") {
		t.Errorf("renewal: %v", err)
	}
}

func TestAForeignLeaseIsToldApart(t *testing.T) {
	e := ready(t, nil)
	h := e.creds()
	h.Secret.InternalData = map[string]any{"secret_type": "influxdb_token", "role": 7}
	if err := e.revoke(h); err == nil || !strings.Contains(err.Error(), "was not created by this engine") {
		t.Errorf("revoke: %v", err)
	}
	if _, err := e.renew(h, 0); err == nil {
		t.Error("renewed")
	}
}

func TestASlowClusterHoldsUpNobodyElse(t *testing.T) {
	e := ready(t, nil)
	entered, release := make(chan struct{}), make(chan struct{})
	e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
		if step == issuertest.BeforeIssue {
			close(entered)
			<-release
		}
		return nil
	})
	done := make(chan error)
	go func() {
		_, err := e.do(t.Context(), readOp, "creds/automation", nil)
		done <- err
	}()
	<-entered
	e.read("roles/automation")
	e.read("config")
	e.read("status")
	e.write("roles/automation", map[string]any{"ttl": "2h"})
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestConfigIsInvalidatedUnderLoad(t *testing.T) {
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
		t.Errorf("%d alive, %d records", e.alive(), len(e.records()))
	}
}

func TestTheRootTokenIsSealWrapped(t *testing.T) {
	e := newEngine(t)
	if diff := cmp.Diff([]string{"config", "rotation"}, e.SpecialPaths().SealWrapStorage); diff != "" {
		t.Error(diff)
	}
}

func TestEventsTellOfEveryAct(t *testing.T) {
	e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "2h"})
	h := e.creds()
	if _, err := e.renew(h, 0); err != nil {
		t.Fatal(err)
	}
	if err := e.revoke(h); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, event := range e.events.Events {
		got = append(got, string(event.Type))
	}
	if diff := cmp.Diff([]string{"influxdb/config-write", "influxdb/role-write", "influxdb/issue", "influxdb/renew", "influxdb/revoke"}, got); diff != "" {
		t.Error(diff)
	}
}
