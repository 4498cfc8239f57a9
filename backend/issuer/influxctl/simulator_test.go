//go:build linux

package influxctl

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
)

// A simulation is a driver for a simulated cluster.
type simulation struct {
	*simulator.Cluster
	t      *testing.T
	driver *Driver
	target issuer.Cluster
	dir    string // where profiles are written
}

func simulate(t *testing.T, product string, side simulator.Sidecar) *simulation {
	t.Helper()
	s := &simulation{t: t, Cluster: simulator.NewCluster(simulator.Options{Product: product}), dir: t.TempDir()}
	server := httptest.NewServer(s.Cluster)
	t.Cleanup(server.Close)
	address, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	side.URL = server.URL
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path, err := simulator.Install(t.TempDir(), self, side)
	if err != nil {
		t.Fatal(err)
	}
	s.driver = newDriver(t, Config{Path: path, Dir: s.dir})
	s.target = issuer.Cluster{
		Product: product, AccountID: s.AccountID(), ClusterID: s.ClusterID(), Root: issuer.NewSecret(s.Root()),
		MaxParallel: 4, Timeout: 30 * time.Second,
	}
	if product == simulator.Clustered {
		s.target.Host, s.target.Port, s.target.DisableTLS = address.Hostname(), address.Port(), true
	}
	t.Cleanup(func() {
		for _, v := range s.Violations() {
			t.Errorf("the simulator reports a violation: %s", v)
		}
	})
	return s
}

func (s *simulation) open() issuer.Issuer { return s.driver.Open(s.target) }

// usable reports whether the HTTP API of the cluster accepts a token.
func (s *simulation) usable(ctx context.Context, token issuer.Secret) (bool, error) {
	path := fmt.Sprintf("/api/v0/accounts/%s/clusters/%s/tokens", s.AccountID(), s.ClusterID())
	request := httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil)
	request.Header.Set("Authorization", "Bearer "+token.Reveal())
	answer := httptest.NewRecorder()
	s.ServeHTTP(answer, request)
	switch answer.Code {
	case http.StatusOK:
		return true, nil
	case http.StatusUnauthorized:
		return false, nil
	}
	return false, fmt.Errorf("status %d", answer.Code)
}

// leftovers returns the profiles that are left, after all processes have ended.
func (s *simulation) leftovers() (left []string) {
	eventually(s.t, "no influxctl runs", func() bool { return s.Running() == 0 })
	return runDirs(s.t, s.dir)
}

func (s *simulation) issue(desc string) (issuer.Token, error) {
	return s.open().Issue(s.t.Context(), issuer.Request{Description: desc, ExpiresAt: time.Now().Add(time.Hour).Truncate(time.Second)})
}

func (s *simulation) mustIssue(desc string) issuer.Token {
	s.t.Helper()
	token, err := s.issue(desc)
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

// runsOf counts the runs of a command.
func (s *simulation) runsOf(verb string) (n int) {
	for _, run := range s.Runs() {
		if verbOf(run.Argv) == verb {
			n++
		}
	}
	return n
}

func TestConformance_Simulator(t *testing.T) {
	for _, c := range []struct {
		product string
		side    simulator.Sidecar
	}{
		{simulator.Dedicated, simulator.Sidecar{}},
		{simulator.Dedicated, simulator.Sidecar{Version: "2.9.7", Shape: "token-only", ListShape: simulator.ListRFC3339}},
		{simulator.Clustered, simulator.Sidecar{Version: "2.10.5", Shape: "token-only"}},
		{simulator.Clustered, simulator.Sidecar{Version: "2.12.0", Shape: "camel", ListShape: simulator.ListCamel}},
	} {
		t.Run(c.product+" "+c.side.Version, func(t *testing.T) {
			issuertest.Run(t, func(t *testing.T) issuertest.Subject {
				s := simulate(t, c.product, c.side)
				refused := s.target
				refused.Root = issuer.NewSecret("M.V1.not+the+root+token+Aa1")
				return issuertest.Subject{
					Issuer: s.open(), Refused: s.driver.Open(refused),
					Secrets: []issuer.Secret{s.target.Root, refused.Root},
					Usable:  s.usable, Leftovers: s.leftovers,
				}
			})
		})
	}
}

func TestIssue_ReadsEveryShapeWithAToken(t *testing.T) {
	s := simulate(t, simulator.Dedicated, simulator.Sidecar{})
	for _, shape := range simulator.CreateShapes() {
		s.SetFaults(simulator.Faults{Create: simulator.Fault{Shape: shape}})
		desc := "shape " + shape
		token, err := s.issue(desc)
		if slices.Contains(simulator.BrokenCreateShapes, shape) {
			if err == nil || errors.Is(err, issuer.ErrRefused) {
				t.Errorf("%s: a token was created and its output cannot be read, error %v", shape, err)
			}
			if err != nil && strings.Contains(err.Error(), "M.V1.") {
				t.Errorf("%s: the error quotes a token", shape)
			}
			continue
		}
		made, known := s.Token(token.ID)
		if err != nil || !known || made.Description != desc || made.Secret != token.Secret.Reveal() {
			t.Errorf("%s: id %q, error %v", shape, token.ID, err)
		}
	}
}

func TestList_ReadsOrRefusesEveryShape(t *testing.T) {
	for shape, listed := range map[string]bool{
		"": true, simulator.ListRFC3339: true, simulator.ListCamel: true, simulator.ListZeros: true, simulator.ListEpoch: true,
		simulator.ListNothing: false, simulator.ListNull: false, simulator.ListEmpty: false,
	} {
		s := simulate(t, simulator.Dedicated, simulator.Sidecar{ListShape: shape})
		var got []issuer.Info
		err := s.open().List(t.Context(), func(info issuer.Info) error { got = append(got, info); return nil })
		if err != nil || (len(got) == 1) != listed {
			t.Errorf("%q: %v, %v", shape, got, err)
		}
	}
	for _, shape := range []string{simulator.ListWrapped, simulator.ListTruncated, simulator.ListHTML} {
		s := simulate(t, simulator.Dedicated, simulator.Sidecar{ListShape: shape})
		err := s.open().List(t.Context(), func(issuer.Info) error { return nil })
		if !errors.Is(err, errNotList) {
			t.Errorf("%q: %v", shape, err)
		}
	}
}

func TestIssue_FindsAnIDThatIsListedLate(t *testing.T) {
	s := simulate(t, simulator.Dedicated, simulator.Sidecar{})
	s.SetFaults(simulator.Faults{ListLag: simulator.Duration(200 * time.Millisecond), Create: simulator.Fault{Shape: "no-id"}})
	token := s.mustIssue("late")
	if made, ok := s.Token(token.ID); !ok || made.Description != "late" {
		t.Errorf("id %q", token.ID)
	}
}

func TestIssue_IDNotFoundIsNoRefusal(t *testing.T) {
	s := simulate(t, simulator.Dedicated, simulator.Sidecar{})
	s.SetFaults(simulator.Faults{
		Create: simulator.Fault{Shape: "no-id"},
		List:   simulator.Fault{Error: simulator.TextUnauthenticated},
	})
	if token, err := s.issue("lost"); err == nil || errors.Is(err, issuer.ErrRefused) {
		t.Errorf("%v, %v", token, err)
	}
}

func TestIssue_ErrorsForClusterFaults(t *testing.T) {
	s := simulate(t, simulator.Dedicated, simulator.Sidecar{})
	for text, want := range map[string]error{
		simulator.TextUnauthenticated:   issuer.ErrUnauthorized,
		simulator.TextPermissionDenied:  issuer.ErrUnauthorized,
		simulator.TextInvalidArgument:   issuer.ErrInvalid,
		simulator.TextUnavailable:       issuer.ErrUnreachable,
		simulator.TextNoSuchHost:        issuer.ErrUnreachable,
		simulator.TextUntrusted:         issuer.ErrUnreachable,
		simulator.TextUnimplemented:     issuer.ErrRefused,
		simulator.TextResourceExhausted: issuer.ErrRefused,
		simulator.TextDeadlineExceeded:  nil,
		simulator.TextInternal:          nil,
		simulator.TextAlreadyExists:     nil,
	} {
		s.SetFaults(simulator.Faults{Create: simulator.Fault{Error: text}})
		_, err := s.issue("fault")
		if err == nil || errors.Is(err, issuer.ErrRefused) != (want != nil) || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", text, err, want)
		}
	}
	for name, fault := range map[string]simulator.Fault{
		"killed": {Die: simulator.DieKilled}, "panic": {Die: simulator.DiePanic}, "cut": {Cut: true},
	} {
		s.SetFaults(simulator.Faults{Create: fault})
		if _, err := s.issue(name); err == nil || errors.Is(err, issuer.ErrRefused) {
			t.Errorf("%s: the token was created, error %v", name, err)
		}
	}
}

func TestRevoke_ManyTokensNeedFewProcesses(t *testing.T) {
	s := simulate(t, simulator.Dedicated, simulator.Sidecar{})
	const n = 200
	s.AddTokens(n, simulator.Token{Kind: simulator.Management, Description: "batch"})
	var ids []string
	for _, token := range s.Tokens() {
		if strings.HasPrefix(token.Description, "batch ") {
			ids = append(ids, token.ID)
		}
	}
	bad := ids[n/2]
	s.SetFaults(simulator.Faults{
		Revoke:       simulator.Fault{Latency: simulator.Duration(200 * time.Millisecond)},
		RevokeErrors: map[string]string{bad: simulator.TextInternal},
	})
	var all sync.WaitGroup
	for _, id := range ids {
		all.Go(func() {
			if err := s.open().Revoke(t.Context(), id)[id]; (err != nil) != (id == bad) {
				t.Errorf("%s, bad %v: %v", id, id == bad, err)
			}
		})
	}
	all.Wait()
	for _, id := range ids {
		if token, _ := s.Token(id); token.Live != (id == bad) {
			t.Errorf("%s, bad %v: active %v", id, id == bad, token.Live)
		}
	}
	if got := s.runsOf("revoke") + s.runsOf("list"); got > 12 {
		t.Errorf("%d processes", got)
	}
	if s.Peak() > s.target.MaxParallel {
		t.Errorf("%d processes at once", s.Peak())
	}
}

func TestRevoke_OldVersionStopsAtTheFirstError(t *testing.T) {
	s := simulate(t, simulator.Dedicated, simulator.Sidecar{Version: "2.9.7"})
	good, bad, after := s.mustIssue("good"), s.mustIssue("bad"), s.mustIssue("after")
	s.SetFaults(simulator.Faults{RevokeErrors: map[string]string{bad.ID: simulator.TextPermissionDenied}})
	failed := s.open().Revoke(t.Context(), good.ID, bad.ID, after.ID)
	if len(failed) != 1 || !errors.Is(failed[bad.ID], issuer.ErrUnauthorized) {
		t.Errorf("failed: %v", failed)
	}
}

func TestRevoke_RevokedOrExpiredToken(t *testing.T) {
	s := simulate(t, simulator.Dedicated, simulator.Sidecar{})
	dead := s.AddToken(simulator.Token{Kind: simulator.Management, ExpiresAt: time.Now().Add(-time.Minute)})
	s.SetFaults(simulator.Faults{RevokeDeadError: simulator.TextAlreadyRevoked})
	token := s.mustIssue("once")
	for range 2 {
		if failed := s.open().Revoke(t.Context(), token.ID, dead.ID); len(failed) > 0 {
			t.Errorf("failed: %v", failed)
		}
	}
}

func TestRevoke_RepeatsAListThatLags(t *testing.T) {
	s := simulate(t, simulator.Dedicated, simulator.Sidecar{})
	old := simulator.Token{Kind: simulator.Management, CreatedAt: time.Now().Add(-time.Hour)}
	a, b := s.AddToken(old), s.AddToken(old)
	s.SetFaults(simulator.Faults{ListLag: simulator.Duration(400 * time.Millisecond)})
	if failed := s.open().Revoke(t.Context(), a.ID, b.ID); len(failed) > 0 {
		t.Errorf("failed: %v", failed)
	}
	if n := s.runsOf("list"); n < 2 {
		t.Errorf("%d lists", n)
	}
}

func TestRevoke_ListFails(t *testing.T) {
	s := simulate(t, simulator.Dedicated, simulator.Sidecar{})
	a, b := s.mustIssue("a"), s.mustIssue("b")
	s.SetFaults(simulator.Faults{List: simulator.Fault{Shape: simulator.ListTruncated}})
	if failed := s.open().Revoke(t.Context(), a.ID, b.ID); len(failed) != 2 {
		t.Errorf("failed: %v", failed)
	}
	s.SetFaults(simulator.Faults{Revoke: simulator.Fault{Error: simulator.TextUnauthenticated}, List: simulator.Fault{Error: simulator.TextInternal}})
	if err := s.open().Revoke(t.Context(), a.ID)[a.ID]; !errors.Is(err, issuer.ErrUnauthorized) {
		t.Errorf("%v, want the error of the revocation", err)
	}
}

func TestList_StreamsALongList(t *testing.T) {
	s := simulate(t, simulator.Dedicated, simulator.Sidecar{})
	const n = 20_000
	s.AddTokens(n, simulator.Token{Kind: simulator.Management, Description: strings.Repeat("long", 20)})
	seen := 0
	if err := s.open().List(t.Context(), func(issuer.Info) error { seen++; return nil }); err != nil || seen != n+1 {
		t.Errorf("%d entries, %v", seen, err)
	}
}
