package backend_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// Every step of a check says what it found. The token of the check is revoked.
func TestConfigCheck_AllStepsPass(t *testing.T) {
	e := ready(t, nil)
	resp := e.write("config/check", nil)
	for field, found := range resp.Data {
		if !strings.HasPrefix(found.(string), "ok: ") {
			t.Errorf("%s: %v", field, found)
		}
	}
	if len(resp.Data) != 7 || len(resp.Warnings) > 0 || e.alive() != 0 || len(e.records()) != 0 {
		t.Errorf("%v, %v, alive %d, records %v", resp.Data, resp.Warnings, e.alive(), e.records())
	}
}

// The answer names the step that failed, the cause and what to do. Whatever
// failed, the token of the check is revoked.
func TestConfigCheck_NamesTheStepThatFails(t *testing.T) {
	forbidden := errors.Join(issuer.ErrUnauthorized, errors.New("PermissionDenied"))
	for _, c := range []struct {
		step   issuertest.Step
		nth    int
		err    error
		status int
		words  []string
	}{
		{issuertest.BeforeList, 1, errors.New("no route"), 502, []string{"list, failed", "passed: program)", "host"}},
		{issuertest.BeforeIssue, 1, forbidden, 400, []string{"create, failed", "no token of this cluster may create others"}},
		{issuertest.BeforeList, 2, errors.New("no route"), 502, []string{"find, failed"}},
		{issuertest.BeforeRevoke, 1, errors.New("boom"), 502, []string{"revoke, failed"}},
		{issuertest.BeforeList, 4, errors.New("boom"), 502, []string{"dead, failed"}},
	} {
		e := ready(t, nil)
		n := e.cluster.Calls(c.step)
		e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
			if step == c.step && e.cluster.Calls(step) == n+c.nth {
				return c.err
			}
			return nil
		})
		_, err := e.do(t.Context(), updateOp, "config/check", nil)
		status, text := statusOf(updateOp, nil, err)
		for _, word := range c.words {
			if !strings.Contains(text, word) {
				t.Errorf("%q does not say %q", text, word)
			}
		}
		if status != c.status {
			t.Errorf("%s: status %d, want %d", text, status, c.status)
		}
		if e.alive() != 0 || len(e.records()) != 0 {
			t.Errorf("%s: alive %d, records %v", text, e.alive(), e.records())
		}
	}
}

// A token type that the product does not have is no problem of the address or of the
// root credential.
func TestConfigCheck_TokenTypeThatTheProductLacks(t *testing.T) {
	e := newEngineOf(t, issuer.Core)
	e.configure()
	status, text := e.tryWrite("config/check", map[string]any{"token_type": "database"})
	if status != 400 || !strings.HasPrefix(text, "InfluxDB 3 Core has no database tokens") || strings.Contains(text, "host") {
		t.Errorf("%d %s", status, text)
	}
}
