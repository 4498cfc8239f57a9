package backend_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// telegraf is a role for database tokens.
var telegraf = map[string]any{"token_type": "database", "read_databases": "metrics", "write_databases": "metrics,logs", "max_ttl": "2h"}

// A database token has the rights of its role and the same life as a management
// token. It needs no request for management tokens.
func TestDatabaseToken_Lease(t *testing.T) {
	e := ready(t, telegraf)
	h := e.creds()
	if !e.data.Alive(h.secret()) || h.Data["token_type"] != "database" {
		t.Fatalf("token %s is of type %v and does not work", h.id(), h.Data["token_type"])
	}
	read, write := e.data.Grants(h.id())
	if diff := cmp.Diff([][]string{{"metrics"}, {"metrics", "logs"}}, [][]string{read, write}); diff != "" {
		t.Error(diff)
	}
	if _, err := e.renew(h, 0); err != nil {
		t.Error(err)
	}
	if err := e.revoke(h); err != nil || e.data.Alive(h.secret()) {
		t.Errorf("revocation: %v", err)
	}
	if n := e.cluster.Calls(issuertest.BeforeIssue) + e.cluster.Calls(issuertest.BeforeRevoke); n > 0 {
		t.Errorf("%d requests for management tokens", n)
	}
	e.write("config/check", map[string]any{"token_type": "database"})
	e.refuse(400, updateOp, "config/check", map[string]any{"token_type": "operator"}, "token_type must be")
	e.refuse(400, updateOp, "tidy", map[string]any{"token_type": "operator"}, "token_type must be")
}

// Tokens of both types with lost leases and lost answers are revoked. tidy compares
// one type.
func TestDatabaseToken_AndManagementTokenInOneLedger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, telegraf)
		e.creds() // its lease is lost
		e.failReads("automation", issuertest.AfterIssue, 1)
		e.write("roles/automation", map[string]any{"token_type": "management", "read_databases": "", "write_databases": ""})
		e.creds()
		e.failReads("automation", issuertest.AfterIssue, 1)

		unknown := e.data.Add("[vault:"+e.tag+":"+unknownAccessor+"] unknown", time.Time{})
		tidied := e.write("tidy", map[string]any{"token_type": "database", "dry_run": false, "revoke_unknown": e.tag}).Data
		if tidied["in_ledger"] != 2 || tidied["unknown"] != 1 || tidied["revoked"] != 1 || e.data.Alive(unknown.Secret) {
			t.Errorf("tidy: %v", tidied)
		}
		if e.tokensAlive(e.data) != 2 || e.alive() != 2 {
			t.Fatalf("%d database and %d management tokens are valid, want 2 and 2", e.tokensAlive(e.data), e.alive())
		}
		e.pass(3 * time.Hour)
		if e.tokensAlive(e.data) != 0 || e.alive() != 0 || len(e.records()) != 0 {
			t.Errorf("%d database and %d management tokens are valid, records %v", e.tokensAlive(e.data), e.alive(), e.records())
		}
	})
}
