package backend_test

import (
	"testing"
	"time"
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
