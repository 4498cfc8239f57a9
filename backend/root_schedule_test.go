package backend_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/automatedrotationutil"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// scheduled returns an engine whose root credential is rotated every night at 3,
// at 1 o'clock.
func scheduled(t *testing.T, changes map[string]any) *engine {
	t.Helper()
	e := newEngine(t)
	now := e.clock.Now().UTC()
	e.clock.advance(time.Date(now.Year(), now.Month(), now.Day()+1, 1, 0, 0, 0, time.UTC).Sub(now))
	e.configure(map[string]any{"rotation_schedule": "0 3 * * *"}, changes)
	return e
}

// nextRotation returns next_vault_rotation of config, as time of day and number of
// days from now.
func (e *engine) nextRotation() string {
	e.t.Helper()
	at, err := time.Parse(time.RFC3339, e.read("config").Data["next_vault_rotation"].(string))
	if err != nil {
		e.t.Fatal(err)
	}
	today := e.clock.Now().UTC().Truncate(24 * time.Hour)
	return at.Format("15:04") + " +" + string(rune('0'+int(at.Truncate(24*time.Hour).Sub(today).Hours())/24))
}

func TestRootSchedule_RotatesAtEachActivation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := scheduled(t, nil)
		first := e.rootID()
		if next := e.nextRotation(); next != "03:00 +0" {
			t.Errorf("next rotation at %s", next)
		}
		e.passInSteps(10*time.Minute, 110*time.Minute)
		if e.rootID() != first {
			t.Error("rotated before the activation")
		}
		e.pass(15 * time.Minute)
		second := e.rootID()
		if second == first || e.nextRotation() != "03:00 +1" {
			t.Errorf("root credential changed: %v; next rotation at %s", second != first, e.nextRotation())
		}
		e.passInSteps(10*time.Minute, 23*time.Hour)
		if e.rootID() != second {
			t.Error("rotated again before the next activation")
		}
		e.pass(time.Hour)
		if e.rootID() == second {
			t.Error("not rotated at the next activation")
		}
	})
}

// A rotation that cannot happen within the window waits for the next activation.
// Without a window, it is repeated until it succeeds.
func TestRootSchedule_Window(t *testing.T) {
	for _, c := range []struct {
		window any
		next   string
	}{{"1h", "03:00 +1"}, {nil, "03:00 +0"}} {
		synctest.Test(t, func(t *testing.T) {
			e := scheduled(t, map[string]any{"rotation_window": c.window})
			first := e.rootID()
			e.cluster.SetHook(fails(errDown, issuertest.BeforeIssue, issuertest.BeforeList))
			e.passInSteps(10*time.Minute, 4*time.Hour)
			e.cluster.SetHook(nil)
			if next := e.nextRotation(); next != c.next {
				t.Errorf("window %v: next rotation at %s, want %s", c.window, next, c.next)
			}
			e.passInSteps(10*time.Minute, 3*time.Hour)
			if rotated := e.rootID() != first; rotated != (c.window == nil) {
				t.Errorf("window %v: rotated when the cluster works again: %v", c.window, rotated)
			}
			e.passInSteps(10*time.Minute, 24*time.Hour)
			if e.rootID() == first {
				t.Errorf("window %v: not rotated at the next activation", c.window)
			}
		})
	}
}

func TestRootSchedule_ReplacesAPeriod(t *testing.T) {
	e := newEngine(t)
	e.configure(map[string]any{"rotation_period": "24h"})
	for _, c := range []struct {
		data                  map[string]any
		period, cron, windows any
	}{
		{map[string]any{"rotation_schedule": "0 3 * * *", "rotation_window": "2h"}, 0, "0 3 * * *", 7200},
		{map[string]any{"rotation_window": "3h"}, 0, "0 3 * * *", 10800},
		{map[string]any{"rotation_period": "48h"}, 172800, nil, nil},
		{map[string]any{"rotation_schedule": "0 4 * * *"}, 0, "0 4 * * *", nil},
		{map[string]any{"rotation_schedule": ""}, 0, nil, nil},
	} {
		e.write("config", c.data)
		data := e.read("config").Data
		if data["rotation_period"] != c.period || data["rotation_schedule"] != c.cron || data["rotation_window"] != c.windows {
			t.Errorf("after %v: %v %v %v", c.data, data["rotation_period"], data["rotation_schedule"], data["rotation_window"])
		}
	}
	for _, c := range []struct {
		data  map[string]any
		words string
	}{
		{map[string]any{"rotation_period": "24h", "rotation_schedule": "0 3 * * *"}, "exclude each other"},
		{map[string]any{"rotation_window": "2h"}, "rotation_window needs rotation_schedule"},
		{map[string]any{"rotation_schedule": "sometimes"}, "cron expression of five fields"},
		{map[string]any{"rotation_schedule": "*/5 * * * *"}, "at least 1h"},
		{map[string]any{"rotation_schedule": "0 3 * * *", "rotation_window": "10m"}, "rotation_window must be at least 1h"},
		{map[string]any{"rotation_schedule": "0 3 * * *", "rotation_ttl": "30h"}, "rotation_ttl"},
	} {
		e.refuse(400, updateOp, "config", c.data, c.words)
	}
}

// The parameters and answers have the names and types of the SDK's helper for
// automated rotation, so that Vault's tools understand them.
func TestRootSchedule_NamesOfTheSDK(t *testing.T) {
	e := scheduled(t, map[string]any{"rotation_window": "1h"})
	fields := e.Backend.(interface {
		Route(string) *framework.Path
	}).Route("config").Fields
	theirs := map[string]*framework.FieldSchema{}
	automatedrotationutil.AddAutomatedRotationFields(theirs)
	delete(theirs, "rotation_policy") // of the rotation manager, which only Vault Enterprise has
	for name, field := range theirs {
		if fields[name] == nil || fields[name].Type != field.Type {
			t.Errorf("%s: %v", name, fields[name])
		}
	}
	params := automatedrotationutil.AutomatedRotationParams{}
	if err := params.ParseAutomatedRotationFields(&framework.FieldData{
		Schema: theirs, Raw: map[string]any{"rotation_schedule": "0 3 * * *", "rotation_window": "1h"},
	}); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{}
	params.PopulateSetAutomatedRotationData(want)
	delete(want, "rotation_policy")
	e.write("config/rotate-root", nil)
	got := e.read("config").Data
	for name, value := range want {
		if seconds, ok := value.(float64); ok {
			value = int(seconds)
		}
		if got[name] != value {
			t.Errorf("%s: %v, want %v", name, got[name], value)
		}
	}
	for _, name := range []string{"last_vault_rotation", "next_vault_rotation"} {
		if _, err := time.Parse(time.RFC3339, got[name].(string)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A root credential that has expired cannot issue another one. It is rotated early
// enough before, also if expiry_warning is short, and if the cluster is out of reach for
// half an hour.
func TestRotation_BeforeTheExpiryWithoutAWarning(t *testing.T) {
	for _, warning := range []string{"0s", "30s"} {
		synctest.Test(t, func(t *testing.T) {
			e := ready(t, nil)
			e.write("config", map[string]any{"expiry_warning": warning, "rotation_ttl": "4h"})
			e.write("config/rotate-root", nil)
			e.pass(3*time.Hour - time.Minute)
			if got, want := e.read("config").Data["next_vault_rotation"], e.clock.Now().Add(time.Minute).UTC().Format(time.RFC3339); got != want {
				t.Errorf("next rotation at %v, want %v", got, want)
			}
			e.cluster.SetHook(down)
			e.pass(30 * time.Minute)
			e.cluster.SetHook(nil)
			e.pass(time.Hour)
			if status, text := e.try(readOp, "creds/automation", nil); status != 200 {
				t.Errorf("expiry_warning %s: %d %s", warning, status, text)
			}
		})
	}
}

// A rotation on request has failed. Status says when the engine tries again, if it
// does before the next regular rotation.
func TestStatus_NextTryOfARotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.write("config", map[string]any{"rotation_period": "48h"})
		e.cluster.SetHook(down)
		e.tryWrite("config/rotate-root", nil)
		status := e.read("status").Data
		if at := status["rotation_next_try_at"]; at != nil || status["rotation_last_failure"] == nil {
			t.Errorf("nothing is tried again before %v: %v", status["next_vault_rotation"], at)
		}
		e.clock.advance(48 * time.Hour)
		e.tick()
		at, err := time.Parse(time.RFC3339, e.read("status").Data["rotation_next_try_at"].(string))
		if err != nil || !at.After(e.clock.Now()) || at.After(e.clock.Now().Add(time.Hour)) {
			t.Errorf("a regular rotation has failed: next try at %s, %v", at, err)
		}
	})
}
