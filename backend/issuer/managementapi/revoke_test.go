package managementapi

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// An API that does not answer costs the time of a few requests, not of one for
// each token.
func TestRevoke_HangingAPIEndsTheBatch(t *testing.T) {
	s := newFixture(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	target := s.cluster(issuer.Clustered)
	target.MaxParallel, target.Timeout = 2, 100*time.Millisecond
	var ids []string
	for i := range 40 {
		ids = append(ids, fmt.Sprint("id-", i))
	}
	failed := s.Open(target).Revoke(t.Context(), ids...)
	for _, id := range ids {
		if !errors.Is(failed[id], issuer.ErrUnreachable) || !strings.Contains(fmt.Sprint(failed[id]), id) {
			t.Errorf("%s: %v", id, failed[id])
		}
	}
	if sent := s.requests(http.MethodDelete); len(sent) > 5 {
		t.Errorf("%d requests", len(sent))
	}
	if sent := s.requests(http.MethodGet); len(sent) > 0 {
		t.Errorf("read %d tokens after a timeout", len(sent))
	}
}

// What a user reads when the cluster does not accept the root credential.
func TestErrors_SayTheLikelyCause(t *testing.T) {
	for _, c := range []struct {
		name    string
		product string
		root    string
		status  int
		want    []string
	}{
		{"wrong token or cluster", issuer.Dedicated, rootCredential, 401, []string{"mgmt_token", "account_id and cluster_id"}},
		{"not allowed", issuer.Dedicated, rootCredential, 403, []string{"mgmt_token", "account_id and cluster_id"}},
		{"wrong token or host", issuer.Clustered, rootCredential, 401, []string{"mgmt_token", "host"}},
		{"database token", issuer.Dedicated, "apiv1_" + strings.Repeat("aB3", 30), 401, []string{"mgmt_token", "database token", "influxctl management create"}},
		{"database token, not allowed", issuer.Clustered, "apiv1_" + strings.Repeat("aB3", 30), 403, []string{"mgmt_token", "database token", "influxctl management create"}},
		{"no such cluster", issuer.Dedicated, rootCredential, 404, []string{"account_id", "cluster_id", "cluster not found"}},
	} {
		s := newFixture(t, status(c.status, "cluster not found"))
		target := s.cluster(c.product)
		target.Root = issuer.NewSecret(c.root)
		_, issue := s.issue(s.Open(target), "d")
		_, list := collect(t.Context(), s.Open(target))
		for _, err := range []error{issue, list} {
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "aB3aB3") {
					t.Errorf("%s: %v, want %q", c.name, err, want)
				}
			}
		}
	}
}

func TestErrors_InvalidRequest(t *testing.T) {
	s := newFixture(t, status(400, "database db does not exist"))
	if _, err := s.issue(s.open(), "d"); !errors.Is(err, issuer.ErrInvalid) || !strings.Contains(err.Error(), "database db does not exist") {
		t.Error(err)
	}
}

func TestErrors_Unreachable(t *testing.T) {
	for _, code := range []int{502, 503, 504} {
		s := newFixture(t, status(code, "x"))
		if _, err := s.issue(s.open(), "d"); !errors.Is(err, issuer.ErrUnreachable) || errors.Is(err, issuer.ErrRefused) {
			t.Errorf("%d: %v", code, err)
		}
	}
	s := newFixture(t, status(204, ""))
	s.server.Close()
	if _, err := s.issue(s.open(), "d"); !errors.Is(err, issuer.ErrUnreachable) || !errors.Is(err, issuer.ErrRefused) {
		t.Error(err)
	}
}
