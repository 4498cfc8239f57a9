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

func TestADatabaseTokenLivesLikeAnyOther(t *testing.T) {
	e := ready(t, telegraf)
	h := e.creds()
	if !e.data.Alive(h.secret()) || h.Data["token_type"] != "database" {
		t.Fatalf("credential %v", h.Data["token_id"])
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

func TestOneLedgerHoldsBothKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, telegraf)
		e.creds() // its lease is lost
		e.data.SetHook(fails(errDown, issuertest.AfterIssue))
		_, _ = e.do(t.Context(), readOp, "creds/automation", nil)
		e.data.SetHook(nil)
		e.write("roles/automation", map[string]any{"token_type": "management", "read_databases": "", "write_databases": ""})
		e.creds()
		e.cluster.SetHook(fails(errDown, issuertest.AfterIssue))
		_, _ = e.do(t.Context(), readOp, "creds/automation", nil)
		e.cluster.SetHook(nil)

		lost := e.data.Add("[vault:"+e.tag+":AAAAAAAAAAAAAAAAAAAAAAAAAA] lost", time.Time{})
		tidied := e.write("tidy", map[string]any{"token_type": "database", "dry_run": false, "revoke_unknown": e.tag}).Data
		if tidied["in_ledger"] != 2 || tidied["unknown"] != 1 || tidied["revoked"] != 1 || e.data.Alive(lost.Secret) {
			t.Errorf("tidy: %v", tidied)
		}
		e.pass(3 * time.Hour)
		living := 0
		for _, info := range e.data.Tokens() {
			if !info.Dead(e.clock.Now()) {
				living++
			}
		}
		if living != 0 || e.alive() != 0 || len(e.records()) != 0 {
			t.Errorf("%d database and %d management tokens alive, records %v", living, e.alive(), e.records())
		}
	})
}
