package simulator_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
)

// control sends a request to the control API and reads the answer into out.
func (r *rig) control(method, path, body string, out any) {
	r.t.Helper()
	status, text := r.request(method, "/sim/control/"+path, "", body)
	if status != http.StatusOK {
		r.t.Fatalf("%s %s: %d %s", method, path, status, text)
	}
	if err := json.Unmarshal([]byte(text), out); err != nil {
		r.t.Fatalf("%s %s: %v: %s", method, path, err, text)
	}
}

func TestControl_ShowsTokensWithSecrets(t *testing.T) {
	r := newRig(t)
	r.create("m")
	r.post(oneToken)
	var all []simulator.Token
	r.control("GET", "tokens", "", &all)
	if diff := cmp.Diff(r.Tokens(), all); diff != "" {
		t.Error("-want +got\n" + diff)
	}
	var one simulator.Token
	r.control("GET", "tokens/"+all[1].ID, "", &one)
	if diff := cmp.Diff(all[1], one); diff != "" {
		t.Error("one token: -want +got\n" + diff)
	}
	for _, id := range []string{"nonsense", accountID} {
		if status, _ := r.request("GET", "/sim/control/tokens/"+id, "", ""); status != http.StatusNotFound {
			t.Errorf("token %s: %d", id, status)
		}
	}
}

func TestControl_AddsTokens(t *testing.T) {
	r := newRig(t)
	if status, text := r.request("POST", "/sim/control/tokens", "", `{"description":"many","count":1000}`); status != http.StatusNoContent {
		t.Fatal(status, text)
	}
	if token := r.described("many 1000"); len(r.Tokens()) != 1001 || !token.Live || token.Kind != simulator.Management {
		t.Errorf("%d tokens, the last one is %+v", len(r.Tokens()), token)
	}
	if status, _ := r.request("POST", "/sim/control/tokens", "", `{"color":"blue"}`); status != http.StatusBadRequest {
		t.Errorf("an unknown field: %d", status)
	}
}

func TestControl_ShowsAndResetsRuns(t *testing.T) {
	r := newRig(t)
	r.run("version")
	r.run("--debug", "version")
	var log struct {
		Peak int
		Runs []simulator.Run
	}
	r.control("GET", "runs", "", &log)
	if log.Peak != 1 || len(log.Runs) != 2 || log.Runs[1].Exit != simulator.ExitViolation {
		t.Errorf("%+v", log)
	}
	r.request("DELETE", "/sim/control/runs", "", "")
	r.control("GET", "runs", "", &log)
	if len(log.Runs) != 0 || log.Peak != 0 {
		t.Errorf("after the reset: %+v", log)
	}
}

// A client that reads a list slowly does not block other requests.
func TestControl_SlowReaderHoldsNoLock(t *testing.T) {
	r := newRig(t)
	r.AddTokens(100_000, simulator.Token{Description: strings.Repeat("long ", 15)})
	answer := r.response("GET", "/sim/control/tokens", "", "")
	defer answer.Body.Close()
	if _, err := io.ReadFull(answer.Body, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	r.create("meanwhile")
	rest, err := io.ReadAll(answer.Body)
	if err != nil || strings.Contains(string(rest), "meanwhile") || !strings.HasSuffix(string(rest), "]\n") {
		t.Errorf("the list ends in %q, %v", rest[len(rest)-100:], err)
	}
}

func TestNewCluster_GeneratesEmptyOptions(t *testing.T) {
	a, b := simulator.NewCluster(simulator.Options{}), simulator.NewCluster(simulator.Options{})
	if a.AccountID() == b.AccountID() || a.ClusterID() == b.ClusterID() || a.Root() == b.Root() {
		t.Error("two clusters have the same account, ID or root credential")
	}
	if !strings.HasPrefix(a.Root(), "M.V1.") {
		t.Errorf("the root is %q", a.Root())
	}
	given := simulator.NewCluster(simulator.Options{Root: "M.V1.given"})
	if given.Root() != "M.V1.given" || given.Tokens()[0].Prefix != "M.V1.give" {
		t.Errorf("%+v", given.Tokens())
	}
}
