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

func TestTheDriverConforms(t *testing.T) {
	for _, c := range []struct {
		name, product string
		paths         string // of the product that the server is
		held          contract
	}{
		{"dedicated", issuer.Dedicated, simulator.Dedicated, theContract(t)},
		{"clustered", issuer.Clustered, simulator.Clustered, theContract(t)},
		{"clustered with the paths of dedicated", issuer.Clustered, simulator.Dedicated, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			issuertest.Run(t, func(t *testing.T) issuertest.Subject {
				s := simulate(t, c.paths, c.held)
				where := s.cluster(c.product)
				refused := where
				refused.Root = issuer.NewSecret("M.V1.not+the+root+token+Aa1")
				return issuertest.Subject{
					Issuer: s.Open(where), Refused: s.Open(refused), Read: []string{"*"}, Write: []string{"db", "other"},
					Secrets: []issuer.Secret{where.Root, refused.Root},
					Usable:  s.usable, Leftovers: s.leftovers,
				}
			})
		})
	}
}

func TestALostAnswerLeavesATokenThatAListFinds(t *testing.T) {
	for name, fault := range map[string]simulator.Fault{
		"cut after the commit":             {Cut: true},
		"502 after the commit":             {Error: "bad gateway", Status: http.StatusBadGateway, Committed: true},
		"504 after the commit":             {Error: "gateway timeout", Status: http.StatusGatewayTimeout, Committed: true},
		"silence after the commit":         {Hang: simulator.After},
		"an answer too late":               {LatencyAfter: simulator.Duration(time.Minute)},
		"a patience that ends upstream":    {Error: "client closed request", Status: 499, Committed: true},
		"a request that seems to time out": {Error: "request timeout", Status: http.StatusRequestTimeout, Committed: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := simulate(t, simulator.Dedicated, nil)
			s.SetFaults(simulator.Faults{Create: fault})
			where := s.cluster(issuer.Dedicated)
			where.Timeout = 500 * time.Millisecond
			if _, err := s.issue(s.Open(where), name); err == nil || errors.Is(err, issuer.ErrRefused) {
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
				t.Errorf("%d tokens, alive: %v", len(ids), live)
			}
		})
	}
}

func TestATokenMayDoWhatWasAsked(t *testing.T) {
	s := simulate(t, simulator.Clustered, theContract(t))
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
		made, _ := s.Token(token.ID)
		if diff := cmp.Diff(c.want, made.Permissions); diff != "" || !made.ExpiresAt.IsZero() {
			t.Errorf("expires %v; -want +got\n%s", made.ExpiresAt, diff)
		}
	}
}

func TestTheDeadAreDeadHoweverTheClusterSaysSo(t *testing.T) {
	s := simulate(t, simulator.Dedicated, theContract(t))
	iss := s.Open(s.cluster(issuer.Dedicated))
	expired := s.AddToken(simulator.Token{Kind: simulator.Database, ExpiresAt: time.Now().Add(-time.Minute)})
	revoked := s.AddToken(simulator.Token{Kind: simulator.Database, RevokedAt: time.Now().Add(-time.Minute)})
	s.SetFaults(simulator.Faults{RevokeDeadError: simulator.TextAlreadyRevoked})
	if failed := iss.Revoke(t.Context(), expired.ID, revoked.ID, revoked.ID); len(failed) > 0 {
		t.Errorf("failed: %v", failed)
	}
}

func TestARevocationWhoseAnswerIsLostIsFoundDone(t *testing.T) {
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

func TestATokenThatMayLiveIsAnError(t *testing.T) {
	for name, faults := range map[string]simulator.Faults{
		"refused":     {Revoke: simulator.Fault{Error: simulator.TextUnauthenticated}},
		"forbidden":   {Revoke: simulator.Fault{Error: simulator.TextPermissionDenied}},
		"in trouble":  {Revoke: simulator.Fault{Error: simulator.TextInternal}},
		"not found":   {Revoke: simulator.Fault{Error: simulator.TextNotFound}}, // but shown alive
		"invalid":     {Revoke: simulator.Fault{Error: simulator.TextInvalidArgument}},
		"too many":    {Revoke: simulator.Fault{Error: simulator.TextResourceExhausted}},
		"an outage":   {Outage: true},
		"silent":      {Any: simulator.Fault{Hang: simulator.Before}},
		"all is lost": {Any: simulator.Fault{Error: simulator.TextNotFound, Times: 1}, Get: simulator.Fault{Error: simulator.TextInternal}},
	} {
		t.Run(name, func(t *testing.T) {
			s := simulate(t, simulator.Dedicated, nil)
			token := s.AddToken(simulator.Token{Kind: simulator.Database})
			s.SetFaults(faults)
			where := s.cluster(issuer.Dedicated)
			where.Timeout = 300 * time.Millisecond
			err := s.Open(where).Revoke(t.Context(), token.ID)[token.ID]
			if err == nil || errors.Is(err, issuer.ErrUnknown) {
				t.Errorf("it lives, error %v", err)
			}
		})
	}
}

func TestNoMoreRequestsAtATimeThanAllowed(t *testing.T) {
	s := simulate(t, simulator.Clustered, nil)
	s.SetFaults(simulator.Faults{Any: simulator.Fault{Latency: simulator.Duration(20 * time.Millisecond)}})
	where := s.cluster(issuer.Clustered)
	where.MaxParallel = 3
	var all sync.WaitGroup
	for i := range 6 {
		all.Go(func() {
			iss := s.Open(where)
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
	if failed := s.Open(where).Revoke(t.Context(), ids...); len(failed) > 0 {
		t.Error(failed)
	}
	if s.peak != where.MaxParallel {
		t.Errorf("%d at a time, want %d", s.peak, where.MaxParallel)
	}
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	s := simulate(t, simulator.Clustered, nil)
	for i := range 10 {
		where := s.cluster(issuer.Clustered)
		where.Timeout += time.Duration(i) // and after a change that does not matter to a connection
		iss := s.Open(where)
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
	if s.dialed > 5 { // of two requests at a time, one may dial while the other's connection falls idle
		t.Errorf("%d connections for %d requests", s.dialed, len(s.requests("")))
	}
}

// maxEndpoints is how many clusters the driver keeps connections for.
const maxEndpoints = 64

func TestConfigsThatHaveChangedLeaveNothingBehind(t *testing.T) {
	s := simulate(t, simulator.Clustered, nil)
	if _, err := collect(t.Context(), s.open()); err != nil {
		t.Fatal(err)
	}
	for i := range 2 * maxEndpoints {
		where := s.cluster(issuer.Clustered)
		where.Host = fmt.Sprintf("cluster-%d.invalid", i)
		s.Open(where)
	}
	eventually(t, "the connection is closed", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.conns) == 0
	})
}

func TestTheEndpointUsedLastIsKept(t *testing.T) {
	s := simulate(t, simulator.Clustered, nil)
	for i := range 2 * maxEndpoints {
		if _, err := collect(t.Context(), s.open()); err != nil {
			t.Fatal(err)
		}
		where := s.cluster(issuer.Clustered)
		where.Host = fmt.Sprintf("cluster-%d.invalid", i)
		s.Open(where)
	}
	if s.dialed != 1 {
		t.Errorf("%d connections", s.dialed)
	}
}

func TestALongListIsStreamed(t *testing.T) {
	s := simulate(t, simulator.Clustered, nil)
	const n = 20_000
	s.AddTokens(n, simulator.Token{Kind: simulator.Database, Description: "many"})
	seen := 0
	if err := s.open().List(t.Context(), func(issuer.Info) error { seen++; return nil }); err != nil || seen != n {
		t.Errorf("%d entries, %v", seen, err)
	}
}

func TestThePathThatIsServedIsLookedForOnce(t *testing.T) {
	s := simulate(t, simulator.Dedicated, nil) // only the long path
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
