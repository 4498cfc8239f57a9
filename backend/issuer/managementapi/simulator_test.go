package managementapi

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
)

func TestConformance_Simulator(t *testing.T) {
	for _, c := range []struct {
		name, product string
		paths         string // of the product that the server is
		check         contract
	}{
		{"dedicated", issuer.Dedicated, simulator.Dedicated, apiContract(t)},
		{"clustered", issuer.Clustered, simulator.Clustered, apiContract(t)},
		{"clustered with the paths of dedicated", issuer.Clustered, simulator.Dedicated, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			issuertest.Run(t, func(t *testing.T) issuertest.Subject {
				s := simulate(t, c.paths, c.check)
				target := s.cluster(c.product)
				refused := target
				refused.Root = issuer.NewSecret("M.V1.not+the+root+token+Aa1")
				return issuertest.Subject{
					Issuer: s.Open(target), Refused: s.Open(refused), Read: []string{"*"}, Write: []string{"db", "other"},
					Secrets: []issuer.Secret{target.Root, refused.Root},
					Usable:  s.usable, Leftovers: s.leftovers,
				}
			})
		})
	}
}

func TestIssue_LostAnswerLeavesAListedToken(t *testing.T) {
	for name, fault := range map[string]simulator.Fault{
		"cut after the commit":       {Cut: true},
		"502 after the commit":       {Error: "bad gateway", Status: http.StatusBadGateway, Committed: true},
		"504 after the commit":       {Error: "gateway timeout", Status: http.StatusGatewayTimeout, Committed: true},
		"no answer after the commit": {Hang: simulator.After},
		"an answer too late":         {LatencyAfter: simulator.Duration(time.Minute)},
		"a proxy that did not wait":  {Error: "client closed request", Status: 499, Committed: true},
		"a request timeout":          {Error: "request timeout", Status: http.StatusRequestTimeout, Committed: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := simulate(t, simulator.Dedicated, nil)
			s.SetFaults(simulator.Faults{Create: fault})
			target := s.cluster(issuer.Dedicated)
			target.Timeout = 500 * time.Millisecond
			if _, err := s.issue(s.Open(target), name); err == nil || errors.Is(err, issuer.ErrRefused) {
				t.Errorf("a token exists, error %v", err)
			}
			if sent := s.requests(http.MethodPost); len(sent) != 1 {
				t.Errorf("sent: %q", sent)
			}
			iss := s.Open(s.cluster(issuer.Dedicated))
			infos, err := collect(t.Context(), iss)
			if err != nil || len(infos) != 1 || infos[0].Description != name {
				t.Fatalf("listed: %+v, %v", infos, err)
			}
			if failed := iss.Revoke(t.Context(), infos[0].ID); len(failed) > 0 {
				t.Error(failed)
			}
			if ids, live := s.described(name); len(ids) != 1 || live {
				t.Errorf("%d tokens, active: %v", len(ids), live)
			}
		})
	}
}

func TestIssue_Permissions(t *testing.T) {
	s := simulate(t, simulator.Clustered, apiContract(t))
	for _, c := range []struct {
		read, write []string
		want        []simulator.Permission
	}{
		{nil, nil, []simulator.Permission{}},
		{[]string{"a"}, []string{"b", "*"}, []simulator.Permission{{Action: "read", Resource: "a"}, {Action: "write", Resource: "b"}, {Action: "write", Resource: "*"}}},
	} {
		token, err := s.open().Issue(t.Context(), issuer.Request{Description: "d", Read: c.read, Write: c.write})
		if err != nil {
			t.Fatal(err)
		}
		created, _ := s.Token(token.ID)
		if diff := cmp.Diff(c.want, created.Permissions); diff != "" || !created.ExpiresAt.IsZero() {
			t.Errorf("expires %v; -want +got\n%s", created.ExpiresAt, diff)
		}
	}
}

func TestRevoke_RevokedOrExpiredToken(t *testing.T) {
	s := simulate(t, simulator.Dedicated, apiContract(t))
	iss := s.Open(s.cluster(issuer.Dedicated))
	expired := s.AddToken(simulator.Token{Kind: simulator.Database, ExpiresAt: time.Now().Add(-time.Minute)})
	revoked := s.AddToken(simulator.Token{Kind: simulator.Database, RevokedAt: time.Now().Add(-time.Minute)})
	s.SetFaults(simulator.Faults{RevokeDeadError: simulator.TextAlreadyRevoked})
	if failed := iss.Revoke(t.Context(), expired.ID, revoked.ID, revoked.ID); len(failed) > 0 {
		t.Errorf("failed: %v", failed)
	}
}

func TestRevoke_LostAnswer(t *testing.T) {
	for name, fault := range map[string]simulator.Fault{
		"cut": {Cut: true, Times: 1}, "502": {Error: "bad gateway", Status: 502, Committed: true},
	} {
		s := simulate(t, simulator.Dedicated, nil)
		token := s.AddToken(simulator.Token{Kind: simulator.Database})
		s.SetFaults(simulator.Faults{Revoke: fault})
		if failed := s.Open(s.cluster(issuer.Dedicated)).Revoke(t.Context(), token.ID); len(failed) > 0 {
			t.Errorf("%s: %v", name, failed)
		}
	}
}

func TestRevoke_ActiveTokenIsAnError(t *testing.T) {
	for name, faults := range map[string]simulator.Faults{
		"refused":   {Revoke: simulator.Fault{Error: simulator.TextUnauthenticated}},
		"forbidden": {Revoke: simulator.Fault{Error: simulator.TextPermissionDenied}},
		"internal":  {Revoke: simulator.Fault{Error: simulator.TextInternal}},
		"not found": {Revoke: simulator.Fault{Error: simulator.TextNotFound}}, // but listed as active
		"invalid":   {Revoke: simulator.Fault{Error: simulator.TextInvalidArgument}},
		"too many":  {Revoke: simulator.Fault{Error: simulator.TextResourceExhausted}},
		"an outage": {Outage: true},
		"no answer": {Any: simulator.Fault{Hang: simulator.Before}},
		"unclear":   {Any: simulator.Fault{Error: simulator.TextNotFound, Times: 1}, Get: simulator.Fault{Error: simulator.TextInternal}},
	} {
		t.Run(name, func(t *testing.T) {
			s := simulate(t, simulator.Dedicated, nil)
			token := s.AddToken(simulator.Token{Kind: simulator.Database})
			s.SetFaults(faults)
			target := s.cluster(issuer.Dedicated)
			target.Timeout = 300 * time.Millisecond
			err := s.Open(target).Revoke(t.Context(), token.ID)[token.ID]
			if err == nil || errors.Is(err, issuer.ErrUnknown) {
				t.Errorf("it is active, error %v", err)
			}
		})
	}
}

func TestMaxParallel_LimitsRequests(t *testing.T) {
	s := simulate(t, simulator.Clustered, nil)
	s.SetFaults(simulator.Faults{Any: simulator.Fault{Latency: simulator.Duration(20 * time.Millisecond)}})
	target := s.cluster(issuer.Clustered)
	target.MaxParallel = 3
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			iss := s.Open(target)
			token, err := s.issue(iss, fmt.Sprint(i))
			if err != nil {
				t.Error(err)
			}
			if _, err := collect(t.Context(), iss); err != nil {
				t.Error(err)
			}
			if failed := iss.Revoke(t.Context(), token.ID); len(failed) > 0 {
				t.Error(failed)
			}
		})
	}
	all.Wait()
	var ids []string
	for range 12 {
		ids = append(ids, s.AddToken(simulator.Token{Kind: simulator.Database}).ID)
	}
	if failed := s.Open(target).Revoke(t.Context(), ids...); len(failed) > 0 {
		t.Error(failed)
	}
	if s.peak != target.MaxParallel {
		t.Errorf("%d at a time, want %d", s.peak, target.MaxParallel)
	}
}

func TestConnections_AreReused(t *testing.T) {
	s := simulate(t, simulator.Clustered, nil)
	for i := range 10 {
		target := s.cluster(issuer.Clustered)
		target.Timeout += time.Duration(i) // a change that does not concern the connection
		iss := s.Open(target)
		token, err := s.issue(iss, "again")
		if err != nil {
			t.Fatal(err)
		}
		if failed := iss.Revoke(t.Context(), token.ID, someID); len(failed) != 1 || !errors.Is(failed[someID], issuer.ErrUnknown) {
			t.Fatal(failed)
		}
		if _, err := collect(t.Context(), iss); err != nil {
			t.Fatal(err)
		}
	}
	if s.dialed > 5 { // one of two requests may dial while the connection of the other becomes idle
		t.Errorf("%d connections for %d requests", s.dialed, len(s.requests("")))
	}
}

// maxEndpoints is how many clusters the driver keeps connections for.
const maxEndpoints = 64

func TestConnections_OfOldConfigsAreClosed(t *testing.T) {
	s := simulate(t, simulator.Clustered, nil)
	if _, err := collect(t.Context(), s.open()); err != nil {
		t.Fatal(err)
	}
	for i := range 2 * maxEndpoints {
		target := s.cluster(issuer.Clustered)
		target.Host = fmt.Sprintf("cluster-%d.invalid", i)
		s.Open(target)
	}
	eventually(t, "the connection is closed", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.conns) == 0
	})
}

func TestConnections_OfRecentConfigsAreKept(t *testing.T) {
	s := simulate(t, simulator.Clustered, nil)
	for i := range 2 * maxEndpoints {
		if _, err := collect(t.Context(), s.open()); err != nil {
			t.Fatal(err)
		}
		target := s.cluster(issuer.Clustered)
		target.Host = fmt.Sprintf("cluster-%d.invalid", i)
		s.Open(target)
	}
	if s.dialed != 1 {
		t.Errorf("%d connections", s.dialed)
	}
}

func TestList_StreamsALongList(t *testing.T) {
	s := simulate(t, simulator.Clustered, nil)
	const n = 20_000
	s.AddTokens(n, simulator.Token{Kind: simulator.Database, Description: "many"})
	seen := 0
	if err := s.open().List(t.Context(), func(issuer.Info) error { seen++; return nil }); err != nil || seen != n {
		t.Errorf("%d entries, %v", seen, err)
	}
}

func TestCollection_IsFoundOnce(t *testing.T) {
	s := simulate(t, simulator.Dedicated, nil) // serves only the path with IDs
	token := s.AddToken(simulator.Token{Kind: simulator.Database})
	if failed := s.open().Revoke(t.Context(), token.ID); len(failed) > 0 {
		t.Fatal(failed)
	}
	if _, err := s.issue(s.open(), "d"); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"DELETE " + shortPath + "/" + token.ID, "GET " + shortPath, "GET " + longPath,
		"DELETE " + longPath + "/" + token.ID, "POST " + longPath,
	}
	if got := s.requests(""); !slices.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
}
