package backend_test

import (
	"testing"
	"testing/synctest"
	"time"
)

// A staged management token has the rights of the root credential. It is not sent
// to a place that was written to config after it was issued.
func TestStaticRole_StagedTokenIsNeverSentToANewPlace(t *testing.T) {
	for name, d := range diversions {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEngine(t)
				e.configure(d.config)
				e.write("static-roles/fleet", map[string]any{"token_type": "management", "rotation_period": "1h"})
				e.tick()
				e.cluster.SetSpread(20 * time.Minute)
				e.pass(59 * time.Minute) // the next token is issued and not proved
				if e.validStatic() != 2 {
					t.Fatalf("%d tokens, want the current and the staged one", e.validStatic())
				}
				e.divert(d, e.root.ID)
				e.pass(10 * time.Minute)
				e.try(updateOp, "rotate-role/fleet", nil)
				e.stayedHome(d.place)
			})
		})
	}
}

// The tokens of a cluster that the mount has left do not count against the limit of
// a static role: the role gets a token of the new cluster at the next tick.
func TestStaticRole_TokensOfAnotherClusterDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.configure()
		e.write("static-roles/fleet", map[string]any{"token_type": "management", "rotation_period": "24h"})
		e.write("rotate-role/fleet", nil)
		e.write("rotate-role/fleet", nil)
		other, move := e.otherCluster()
		e.write("config", with(move, "force", true))
		e.pass(3 * time.Minute)
		if !other.Alive(e.staticSecret()) {
			t.Errorf("the role has no token on the new cluster: %v", e.read("static-roles/fleet").Data["last_failure"])
		}
	})
}
