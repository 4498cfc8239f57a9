package backend_test

import (
	"context"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// unreadable are the ways in which a record may not be readable.
var unreadable = map[string]func(text string) string{
	"of a newer version": ofANewerVersion,
	"damaged":            damaged,
}

// A token whose record cannot be read looks unknown. Its lease may be alive, so
// tidy does not revoke unknown tokens as long as there is such a record.
func TestTidy_RevokesNothingUnknownBesideUnreadableRecords(t *testing.T) {
	for name, change := range unreadable {
		t.Run(name, func(t *testing.T) {
			e := ready(t, nil)
			h := e.creds()
			lost := e.cluster.Add("[vault:"+e.tag+":AAAAAAAAAAAAAAAAAAAAAAAAAA] lost", time.Time{})
			r, _ := e.recordOf(h.id())
			e.edit(r.Key, change)
			e.restart()
			e.refuseWith4xx(updateOp, "tidy", map[string]any{"dry_run": false, "revoke_unknown": e.tag}, "record")
			if !e.cluster.Alive(h.secret()) {
				t.Error("a token under a lease was revoked")
			}
			answer := e.write("tidy", map[string]any{"dry_run": false}).Data
			if answer["revoked"] != 0 || !e.cluster.Alive(h.secret()) || !e.cluster.Alive(lost.Secret) {
				t.Errorf("without revoke_unknown: %v", answer)
			}
			e.write("tidy", nil)
		})
	}
}

// Another token with the tag of one whose record has its ID proves nothing about that
// one. If it is valid, it is an unknown token.
func TestTidy_AnotherTokenWithTheSameTag(t *testing.T) {
	e := ready(t, map[string]any{"ttl": "1h"})
	var valid issuer.Token
	e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
		if step == issuertest.BeforeIssue {
			tag := "[vault:" + e.tag + ":" + e.ledger()[0].Accessor + "]"
			e.cluster.Kill(e.cluster.Add(tag, time.Time{}).ID)
			valid = e.cluster.Add(tag, time.Time{})
		}
		return nil
	})
	h := e.creds()
	e.cluster.SetHook(nil)
	if dead := e.write("tidy", map[string]any{"dry_run": false}).Data["dead"]; dead != 0 || len(e.records()) != 1 {
		t.Errorf("dead %v, records %v", dead, e.records())
	}
	if e.write("tidy", map[string]any{"dry_run": false, "revoke_unknown": e.tag}); e.cluster.Alive(valid.Secret) || !e.cluster.Alive(h.secret()) {
		t.Errorf("a valid twin is accepted: %v; the token under a lease: %v", e.cluster.Alive(valid.Secret), e.cluster.Alive(h.secret()))
	}
	if err := e.revoke(h); err != nil || e.cluster.Alive(h.secret()) {
		t.Errorf("the token is accepted after its lease has ended: %v", err)
	}
}
