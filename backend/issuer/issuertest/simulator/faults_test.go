package simulator_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
)

func TestFaults_ListLag(t *testing.T) {
	r := newRig(t)
	r.SetFaults(simulator.Faults{ListLag: simulator.Duration(5 * time.Second)})
	id := r.create("a").ID
	steps := []struct {
		what    string
		act     func()
		listed  int
		revoked bool
	}{
		{"at once", func() {}, 0, false},
		{"almost", func() { r.clock.advance(5*time.Second - time.Microsecond) }, 0, false},
		{"seen", func() { r.clock.advance(time.Microsecond) }, 1, false},
		{"revoked", func() { r.run("management", "revoke", "--force", id) }, 1, false},
		{"seen revoked", func() { r.clock.advance(5 * time.Second) }, 1, true},
	}
	for _, step := range steps {
		step.act()
		entries := r.listed()
		if len(entries) != step.listed {
			t.Fatalf("%s: %d entries", step.what, len(entries))
		}
		if step.listed == 1 && (entries[0]["revoked_at"] != nil) != step.revoked {
			t.Errorf("%s: %v", step.what, entries[0])
		}
	}
}

func TestFaults_ErrorAffectsOneOperation(t *testing.T) {
	r := newRig(t)
	id := r.create("a").ID
	failing := simulator.Fault{Error: simulator.TextPermissionDenied}
	commands := map[string][]string{
		"create": {"management", "create", "--description=x", "--expires-at=" + future},
		"list":   {"management", "list"},
		"revoke": {"management", "revoke", "--force", id},
	}
	for op, faults := range map[string]simulator.Faults{
		"create": {Create: failing}, "list": {List: failing}, "revoke": {Revoke: failing},
	} {
		r.SetFaults(faults)
		for name, args := range commands {
			if name != op && name != "list" {
				continue // would change what the next iteration finds
			}
			got := r.run(args...)
			if failed := got.exit == 1 && strings.Contains(got.stderr, "PermissionDenied"); failed != (name == op) {
				t.Errorf("%s under a fault of %s: %+v", name, op, got)
			}
		}
	}
	if token, _ := r.Token(id); !token.Live || len(r.Tokens()) != 2 {
		t.Errorf("something changed: %+v", r.Tokens())
	}
}

func TestFaults_Outage(t *testing.T) {
	r := newRig(t)
	r.SetFaults(simulator.Faults{Outage: true})
	if got := r.run("management", "list"); got.exit != 1 || !strings.Contains(got.stderr, "code = Unavailable") {
		t.Errorf("%+v", got)
	}
	if status, _ := r.request("GET", "/api/v0/databases", r.Root(), ""); status != http.StatusServiceUnavailable {
		t.Errorf("HTTP answers %d", status)
	}
	r.SetFaults(simulator.Faults{})
	if got := r.run("management", "list"); got.exit != 0 {
		t.Errorf("after the outage: %+v", got)
	}
}

func TestFaults_Times(t *testing.T) {
	r := newRig(t)
	r.SetFaults(simulator.Faults{
		List: simulator.Fault{Error: "own", Times: 2},
		Any:  simulator.Fault{Error: "any", Times: 1},
	})
	for i, want := range []string{"Error: own\n", "Error: own\n", "Error: any\n", ""} {
		if got := r.run("management", "list"); got.stderr != want {
			t.Errorf("run %d: %q, want %q", i, got.stderr, want)
		}
	}
	if diff := cmp.Diff(simulator.Faults{}, r.Faults()); diff != "" {
		t.Error("left over: " + diff)
	}
}

func TestFaults_ErrorAfterCommit(t *testing.T) {
	r := newRig(t)
	for what, fault := range map[string]simulator.Fault{
		"error": {Error: simulator.TextInternal, Committed: true},
		"cut":   {Cut: true},
		"panic": {Die: simulator.DiePanic},
	} {
		r.SetFaults(simulator.Faults{Create: fault})
		got := r.run("management", "create", "--description="+what, "--expires-at="+future)
		if got.exit == 0 || !r.described(what).Live {
			t.Errorf("%s: %+v", what, got)
		}
		if strings.Contains(got.stdout+got.stderr, r.described(what).Secret) {
			t.Errorf("%s: the token is in the output", what)
		}
		if what == "cut" && strings.Contains(got.stderr, "dialing") {
			t.Errorf("a cut connection has the error of a failed dial: %s", got.stderr)
		}
	}
}

func TestFaults_Latency(t *testing.T) {
	for what, c := range map[string]struct {
		fault simulator.Fault
		made  int
	}{
		"before": {simulator.Fault{Latency: simulator.Duration(time.Hour)}, 0},
		"after":  {simulator.Fault{LatencyAfter: simulator.Duration(time.Hour)}, 1},
	} {
		r := newRig(t)
		r.SetFaults(simulator.Faults{Create: c.fault})
		got := r.run("--timeout", "1s", "management", "create", "--description=x")
		if got.exit != 1 || !strings.Contains(got.stderr, "DeadlineExceeded") {
			t.Errorf("%s: %+v", what, got)
		}
		if made := len(r.Tokens()) - 1; made != c.made {
			t.Errorf("%s: %d tokens created, want %d", what, made, c.made)
		}
	}
}

func TestFaults_ShapeOverridesSidecar(t *testing.T) {
	r := newRigWith(t, simulator.Sidecar{Shape: "empty", ListShape: simulator.ListNull})
	r.SetFaults(simulator.Faults{Create: simulator.Fault{Shape: "null"}, List: simulator.Fault{Shape: simulator.ListEmpty}})
	if got := r.run("management", "create", "--format", "json"); got.stdout != "null\n" {
		t.Errorf("create: %+v", got)
	}
	if got := r.run("management", "list", "--format", "json"); got.stdout != "[]\n" {
		t.Errorf("list: %+v", got)
	}
	r.SetFaults(simulator.Faults{Any: simulator.Fault{Shape: "oval"}})
	for _, command := range []string{"create", "list"} {
		if got := r.run("management", command, "--format", "json"); got.exit != 1 || !strings.Contains(got.stderr, "oval") {
			t.Errorf("%s: %+v", command, got)
		}
	}
}

func TestFaults_JSON(t *testing.T) {
	want := simulator.Faults{
		Outage:          true,
		ListLag:         simulator.Duration(3 * time.Second),
		RevokeErrors:    map[string]string{"id": "text"},
		RevokeDeadError: "dead",
		Create:          simulator.Fault{Times: 2, Latency: 2, LatencyAfter: 3, Hang: simulator.After, Grandchild: true},
		List:            simulator.Fault{Error: "e", Status: 502, Committed: true},
		Revoke:          simulator.Fault{Die: simulator.DieKilled},
		Get:             simulator.Fault{Cut: true},
		Any:             simulator.Fault{Shape: "s"},
	}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	if status, body := r.request("PUT", "/sim/control/faults", "", string(text)); status != http.StatusNoContent {
		t.Fatal(status, body)
	}
	if diff := cmp.Diff(want, r.Faults()); diff != "" {
		t.Error("-want +got\n" + diff)
	}
	if status, _ := r.request("PUT", "/sim/control/faults", "", `{"creat":{}}`); status != http.StatusBadRequest {
		t.Errorf("an unknown field: %d", status)
	}
}
