package backend_test

import (
	"testing"
	"testing/synctest"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// Rotations can follow each other at once: the older of two previous tokens is
// revoked without waiting for the worker.
func TestRotateRole_AgainAtOnce(t *testing.T) {
	for _, force := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e := shared(t, nil)
			var secrets []issuer.Secret
			for range 5 {
				secrets = append(secrets, e.staticSecret())
				e.write("rotate-role/fleet", nil)
			}
			if n := e.validStatic(); n != 2 {
				t.Errorf("%d valid tokens, want the current and the previous one", n)
			}
			if last := secrets[len(secrets)-1]; !e.data.Alive(last) {
				t.Error("the previous token was revoked during its grace period")
			}
			e.write("rotate-role/fleet", map[string]any{"force": force})
			if n, want := e.validStatic(), map[bool]int{false: 2, true: 1}[force]; n != want {
				t.Errorf("force=%v: %d valid tokens, want %d", force, n, want)
			}
		})
	}
}
