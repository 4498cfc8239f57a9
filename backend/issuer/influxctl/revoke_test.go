//go:build linux

package influxctl

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
)

const unknownID = "00000000-dead-4bad-8bad-000000000000"

// The list does not show a new token yet. That another ID of the batch is not
// found says nothing about this one.
func TestRevoke_NotFoundIsAboutOneID(t *testing.T) {
	s := simulate(t, simulator.Dedicated, simulator.Sidecar{})
	active := s.mustIssue("active")
	s.SetFaults(simulator.Faults{
		ListLag:      simulator.Duration(time.Hour),
		RevokeErrors: map[string]string{active.ID: simulator.TextInternal},
	})
	failed := s.open().Revoke(t.Context(), active.ID, unknownID)
	if err := failed[active.ID]; err == nil || errors.Is(err, issuer.ErrUnknown) {
		t.Errorf("the active token: %v", err)
	}
	if err := failed[unknownID]; !errors.Is(err, issuer.ErrUnknown) {
		t.Errorf("the unknown token: %v", err)
	}
}

// A run with several IDs that ends with status 0 says nothing about an ID that
// the list does not show. A run with that ID alone does.
func TestRevoke_BatchSuccessIsNoProofForAnAbsentID(t *testing.T) {
	for _, c := range []struct {
		name string
		one  step // a run with one ID
		want string
	}{
		{"revoked", step{}, ""},
		{"fails", step{Exit: 1, Stderr: "code = Internal"}, "failed"},
		{"not found", step{Exit: 1, Stderr: "code = NotFound desc = token not found"}, "unknown"},
	} {
		s := newFixture(t, script{"revoke": {}, "revoke one": c.one, "list": {Stdout: "[]"}})
		failed := s.open().Revoke(t.Context(), "a", "b")
		for _, id := range []string{"a", "b"} {
			if got := kindOf(failed[id]); got != c.want {
				t.Errorf("%s, %s: %q, want %q: %v", c.name, id, got, c.want, failed[id])
			}
		}
	}
}

// Whether the program ends with an error status when it goes on after an error is
// not documented, and a program that calls influxctl may lose the status. So status
// 0 proves nothing if the output reports a failure; then the list decides.
func TestRevoke_StatusZeroWithAFailureIsNoProof(t *testing.T) {
	const active, revoked = `[{"id":"an-id"}]`, `[{"id":"an-id","revoked_at":{"seconds":1767323045}}]`
	for _, c := range []struct {
		name string
		do   step
		list string
		want string
	}{
		{"log line", step{Stderr: "error\trpc error: code = PermissionDenied desc = no\n"}, active, "failed"},
		{"message", step{Stderr: "Error: revoke an-id: permission denied\n"}, active, "failed"},
		{"on standard output", step{Stdout: "Failed to revoke token, error: no such host\n"}, active, "failed"},
		{"gRPC status only", step{Stderr: "an-id: rpc error: code = Internal desc = x"}, active, "failed"},
		{"log in JSON", step{Stderr: `{"level":"error","msg":"an-id"}`}, active, "failed"},
		{"logfmt", step{Stderr: "time=1 level=error msg=an-id"}, active, "failed"},
		{"help", step{Stdout: "NAME:\n", Stderr: "Incorrect Usage: flag provided but not defined: -force"}, active, "failed"},
		{"not found", step{Stderr: "code = NotFound desc = token not found"}, `[]`, "unknown"},
		{"not found, listed", step{Stderr: "token not found"}, active, "failed"},
		{"failure, but revoked", step{Stderr: "error\ttoken already revoked"}, revoked, ""},
		{"warning of the desktop", step{Stderr: "Gtk-Message: 12:00: Failed to load module \"atk-bridge\"\n"}, active, ""},
		{"confirmation", step{Stdout: "info\ttoken an-id revoked\n"}, active, ""},
	} {
		s := newFixture(t, script{"revoke": c.do, "list": {Stdout: c.list}})
		err := s.open().Revoke(t.Context(), "an-id")["an-id"]
		if kindOf(err) != c.want || errors.Is(err, issuer.ErrRefused) {
			t.Errorf("%s: %q, want %q: %v", c.name, kindOf(err), c.want, err)
		}
	}
}

// The clock of this machine may be wrong, so an expiry that has passed settles a
// failure only if the failure may be the answer for an expired token.
func TestRevoke_ExpiryDoesNotExplainEveryFailure(t *testing.T) {
	const expired = `{"id":"a","expires_at":{"seconds":1767323045}}`
	for stderr, want := range map[string]string{
		"code = FailedPrecondition desc = token expired":             "",
		"code = Unknown desc = token is not active: already revoked": "",
		"code = NotFound desc = token not found":                     "",
		"code = InvalidArgument":                                     "",
		"code = Internal desc = x":                                   "failed",
		"code = PermissionDenied":                                    "failed",
		"code = Unauthenticated desc = token expired":                "failed",
		"code = Unavailable desc = connection refused":               "failed",
		"code = ResourceExhausted":                                   "failed",
		"something went wrong":                                       "failed",
	} {
		for _, ids := range [][]string{{"a"}, {"a", "b"}} {
			s := newFixture(t, script{"revoke": {Exit: 1, Stderr: stderr}, "list": {Stdout: "[" + expired + `,{"id":"b","revoked_at":{"seconds":1767323045}}]`}})
			failed := s.open().Revoke(t.Context(), ids...)
			if kindOf(failed["a"]) != want || failed["b"] != nil {
				t.Errorf("%s, %v: %q, want %q: %v", stderr, ids, kindOf(failed["a"]), want, failed)
			}
		}
	}
	s := newFixture(t, script{"revoke": {}, "list": {Stdout: "[" + expired + `,{"id":"b","revoked_at":{"seconds":1767323045}}]`}})
	if failed := s.open().Revoke(t.Context(), "a", "b"); len(failed) > 0 || len(s.runs("revoke")) != 1 {
		t.Errorf("a run that succeeded: %v", failed)
	}
}

func kindOf(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, issuer.ErrUnknown):
		return "unknown"
	}
	return "failed"
}

// Only a text about the token itself proves that the cluster does not know it.
func TestRevoke_OnlyAnUnknownTokenIsUnknown(t *testing.T) {
	for stderr, want := range map[string]string{
		"code = NotFound desc = token not found":                          "unknown",
		"revoke management token an-id: code = NotFound desc = not found": "unknown",
		"no such token": "unknown",
		"Error: management token an-id does not exist":                                  "unknown",
		"code = NotFound desc = account not found":                                      "failed",
		"code = NotFound desc = not found: account aaaaaaaa-0000":                       "failed",
		"code = NotFound desc = not found in cluster bbbbbbbb-0000":                     "failed",
		"code = NotFound desc = not found: token an-id of account aaaaaaaa-0000":        "unknown",
		"code = NotFound desc = account aaaaaaaa-0000-4000-8000-000000000001 not found": "failed",
		"revoke management token an-id: cluster with ID bbbbbbbb-0000 was not found":    "failed",
		"code = NotFound desc = the cluster does not exist":                             "failed",
		"404 page not found":              "failed",
		"profile \"vault\" not found":     "failed",
		"unexpected HTTP status code 404": "failed",
		"config file not found":           "failed",
	} {
		s := newFixture(t, script{"revoke": {Exit: 1, Stderr: stderr}, "list": {Stdout: "[]"}})
		err := s.open().Revoke(t.Context(), "an-id")["an-id"]
		if err == nil || kindOf(err) != want {
			t.Errorf("%s: %q, want %q: %v", stderr, kindOf(err), want, err)
		}
	}
}

// The number of runs with a single ID is limited for each batch, and the rest
// fails with an error that does not blame the token.
func TestRevoke_SingleRunsAreLimited(t *testing.T) {
	s := newFixture(t, script{"revoke": {}, "list": {Stdout: "[]"}})
	var ids []string
	for i := range maxBatch {
		ids = append(ids, fmt.Sprint("id-", i))
	}
	failed := s.open().Revoke(t.Context(), ids...)
	if want := maxBatch - maxSingleRuns; len(failed) != want {
		t.Errorf("%d IDs failed, want %d", len(failed), want)
	}
	for id, err := range failed {
		if kindOf(err) != "failed" {
			t.Errorf("%s: %v", id, err)
		}
	}
	if got := len(s.runs("revoke")); got != 1+maxSingleRuns {
		t.Errorf("%d runs of revoke, want %d", got, 1+maxSingleRuns)
	}
}

// If the cluster is not reachable, the other runs with a single ID are not tried.
func TestRevoke_UnreachableClusterEndsTheSingleRuns(t *testing.T) {
	s := newFixture(t, script{"revoke": {}, "revoke one": {Exit: 1, Stderr: "dial tcp: connection refused"}, "list": {Stdout: "[]"}})
	failed := s.open().Revoke(t.Context(), "a", "b", "c", "d")
	if len(failed) != 4 {
		t.Errorf("failed: %v", failed)
	}
	for id, err := range failed {
		if !errors.Is(err, issuer.ErrUnreachable) {
			t.Errorf("%s: %v", id, err)
		}
	}
	if got := len(s.runs("revoke")); got != 2 {
		t.Errorf("%d runs of revoke, want 2", got)
	}
}

// If the list fails too, no token gets an error that may be about another one.
func TestRevoke_BatchErrorIsNotAboutEachToken(t *testing.T) {
	for stderr, want := range map[string]error{
		"revoke a: code = InvalidArgument desc = malformed id": nil,
		"code = Unauthenticated":                               issuer.ErrUnauthorized,
	} {
		s := newFixture(t, script{"revoke": {Exit: 1, Stderr: stderr}, "list": {Exit: 1, Stderr: stderr}})
		failed := s.open().Revoke(t.Context(), "a", "b")
		for _, id := range []string{"a", "b"} {
			if err := failed[id]; err == nil || errors.Is(err, issuer.ErrRefused) != (want != nil) || want != nil && !errors.Is(err, want) {
				t.Errorf("%s, %s: %v", stderr, id, err)
			}
		}
	}
}
