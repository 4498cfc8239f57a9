package backend_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// proving starts a rotation whose new credential the cluster does not accept
// for four minutes, and returns the ID of the new credential.
func (e *engine) proving() string {
	e.t.Helper()
	e.clock.advance(5 * time.Minute) // the present root credential is known everywhere
	e.cluster.SetSpread(4 * time.Minute)
	answer := e.write("config/rotate-root", nil).Data
	if answer["state"] != "proving" {
		e.t.Fatalf("answer: %v", answer)
	}
	return answer["mgmt_token_id"].(string)
}

// A diversion is a change of config by somebody who may write config and does
// not know the root credential: it points the mount at a place of theirs.
type diversion struct {
	config map[string]any // of the mount
	change map[string]any
	place  issuer.Cluster // of the mount, before the change
}

var clustered = map[string]any{"product": "clustered", "host": "cluster.example.com", "account_id": nil, "cluster_id": nil}

var diversions = map[string]diversion{
	"the host of a clustered mount": {
		config: clustered,
		change: map[string]any{"host": "evil.example.com", "same_cluster": true},
		place:  issuer.Cluster{Host: "cluster.example.com"},
	},
	"the port of a clustered mount": {
		config: clustered,
		change: map[string]any{"port": "6666", "same_cluster": true},
		place:  issuer.Cluster{Host: "cluster.example.com"},
	},
	"plain text": {
		config: clustered,
		change: map[string]any{"disable_tls": true},
		place:  issuer.Cluster{Host: "cluster.example.com"},
	},
	"the api_url of a dedicated mount": {
		change: map[string]any{"api_url": "https://evil.example.com"},
	},
	"a certificate that nobody verifies": {
		change: map[string]any{"insecure_tls": true},
	},
}

// divert writes the change, with a credential that is none and the ID that
// anybody may read who may read config.
func (e *engine) divert(d diversion, id string) {
	change := map[string]any{"mgmt_token": "M.V1.bogus", "mgmt_token_id": id, "verify": false}
	for field, value := range d.change {
		change[field] = value
	}
	e.tryWrite("config", change)
}

// stayedHome checks that no credential issued by the engine was sent to another
// place than where it was issued.
func (e *engine) stayedHome(home issuer.Cluster) {
	e.t.Helper()
	for _, info := range e.tagged() {
		for _, place := range e.sentTo(secretOf(e.t, e.cluster, info.ID)) {
			if place != placeOf(home) {
				e.t.Errorf("%q was sent to %s", info.Description, place)
			}
		}
	}
}

// A rotation that is under way never sends the new root credential to a place
// that config was changed to meanwhile. It is cancelled, and the new credential
// is revoked where it was issued as soon as that place is configured again.
func TestRotation_NewCredentialIsNeverSentToANewPlace(t *testing.T) {
	for name, d := range diversions {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restart %v", name, restart), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := newEngine(t)
					e.configure(d.config)
					next := e.proving()
					e.divert(d, e.root.ID)
					if restart {
						e.restart()
					}
					e.pass(6 * time.Minute) // the cluster accepts the new credential by now
					e.tryWrite("config/check", nil)
					e.tryWrite("config/check", map[string]any{"token_type": "database"})
					e.stayedHome(d.place)
					if got := e.rootID(); got == next {
						t.Error("the new credential was installed at the new place")
					}
					if to := e.read("status").Data["rotation_to"]; to != nil {
						t.Errorf("the rotation to %v was not cancelled", to)
					}
					e.goHome(d)
					e.passInSteps(5*time.Minute, 2*time.Hour)
					if e.accepted(next) || e.alive() != 0 || len(e.records()) != 0 {
						t.Errorf("back home: %d alive, records %v", e.alive(), e.ledger())
					}
				})
			})
		}
	}
}

// goHome is the operator's repair: the old place, and a root credential of
// their own.
func (e *engine) goHome(d diversion) {
	e.t.Helper()
	theirs := e.operatorsRoot()
	e.cluster.SetSpread(0)
	repair := e.config(map[string]any{
		"host": d.place.Host, "port": "", "api_url": "", "insecure_tls": false, "disable_tls": false, "same_cluster": true,
		"mgmt_token": theirs.Secret.Reveal(), "mgmt_token_id": "",
	}, d.config)
	e.write("config", repair)
}

// The same, with the change of config at any moment of the rotation.
func TestRotation_ConfigDivertedAtAnyMoment(t *testing.T) {
	for name, d := range diversions {
		t.Run(name, func(t *testing.T) {
			for n, more := 1, true; more; n++ {
				synctest.Test(t, func(t *testing.T) {
					e := newEngine(t)
					e.configure(d.config)
					diverted := e.interleave(n, func() { e.divert(d, e.root.ID) })
					e.tryWrite("config/rotate-root", nil)
					more = diverted.end()
					e.pass(3 * time.Minute)
					e.tryWrite("config/check", nil)
					e.tryWrite("config/check", map[string]any{"token_type": "database"})
					if !more {
						return // the last step has passed: nothing was diverted
					}
					e.stayedHome(d.place)
					e.goHome(d)
					e.passInSteps(5*time.Minute, 2*time.Hour)
					if e.alive() != 0 || len(e.records()) != 0 {
						t.Errorf("back home: %d alive, records %v", e.alive(), e.ledger())
					}
				})
				if t.Failed() {
					t.Fatalf("at step %d", n)
				}
			}
		})
	}
}
