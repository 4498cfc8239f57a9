package issuertest

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// A Subject is an issuer to be tested, and what the suite must know about its
// cluster. Optional fields may be zero.
type Subject struct {
	Issuer  issuer.Issuer
	Refused issuer.Issuer // on the same cluster, with a root credential that it does not accept

	// Read and Write are the databases of the requests (optional).
	Read, Write []string

	// Secrets must not be in any error; the root credential is one of them.
	Secrets []issuer.Secret

	// Usable asks the cluster whether it accepts a token (optional).
	Usable func(context.Context, issuer.Secret) (bool, error)

	// Leftovers returns the processes, connections or files that a finished
	// call has left behind (optional).
	Leftovers func() []string

	// Slack is by how much a token may expire later than requested, for products
	// that take a number of seconds and not a time (optional).
	Slack time.Duration

	// WaitUntil returns when the clock of the cluster has reached a time. Nil
	// waits for the clock of this machine.
	WaitUntil func(time.Time)
}

// Run tests the issuers that open returns against the contract of
// issuer.Issuer, and of issuer.Namer and issuer.Describer where they implement
// it. Each subtest opens an issuer and revokes the tokens that it has issued.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	for _, c := range []struct {
		name string
		test func(*suite)
	}{
		{"List_ShowsTokenUntilRevoked", (*suite).listShowsToken},
		{"List_ShowsNoSecret", (*suite).listShowsNoSecret},
		{"List_EndsWithErrorOfYield", (*suite).listEndsWithError},
		{"Issue_TokenWorksUntilRevoked", (*suite).tokenWorks},
		{"Issue_KeepsDescription", (*suite).keepsDescription},
		{"Issue_Concurrent", (*suite).concurrent},
		{"Revoke_Twice", (*suite).revokeTwice},
		{"Revoke_UnknownIDFailsAlone", (*suite).revokeUnknown},
		{"Refused_ChangesNothing", (*suite).refusedChangesNothing},
		{"Context_EndsCalls", (*suite).contextEndsCalls},
		{"Namer_ChoosesID", (*suite).namerChoosesID},
		{"Namer_UnusedNameIsUnknown", (*suite).unusedNameIsUnknown},
		{"Namer_TakenNameIsNotIssuedAgain", (*suite).takenName},
		{"Describer_KeepsExpired", (*suite).keepsExpired},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &suite{T: t, Subject: open(t)}
			t.Cleanup(s.cleanUp)
			c.test(s)
		})
	}
}

// A suite is the state of one subtest.
type suite struct {
	*testing.T
	Subject
	mu     sync.Mutex // guards issued
	issued []issuer.Token
}

func (s *suite) remember(token issuer.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issued = append(s.issued, token)
}

// lifetime is long enough for slow clusters. A token that is forgotten does not
// live longer than that.
const lifetime = 10 * time.Minute

func (s *suite) request(desc string, expires time.Time) issuer.Request {
	return issuer.Request{Description: desc, ExpiresAt: expires, Read: s.Read, Write: s.Write}
}

func (s *suite) issue(desc string) issuer.Token {
	s.Helper()
	return s.issueUntil(desc, expiry())
}

func (s *suite) issueUntil(desc string, expires time.Time) issuer.Token {
	s.Helper()
	token, err := s.Issuer.Issue(s.Context(), s.request(desc, expires))
	s.checkNoSecretIn(err)
	if err != nil {
		s.Fatalf("issue %q: %v", desc, err)
	}
	if token.ID == "" || token.Secret.IsZero() {
		s.Fatalf("issue %q: ID %q, has a secret: %v", desc, token.ID, !token.Secret.IsZero())
	}
	s.remember(token)
	return token
}

func (s *suite) cleanUp() {
	var ids []string
	for _, token := range s.issued {
		ids = append(ids, token.ID)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for id, err := range s.Issuer.Revoke(ctx, ids...) {
		if !s.goneIsUnknown(err) {
			s.Errorf("revoke %s after the test: %v", id, err)
		}
	}
	if s.Leftovers == nil {
		return
	}
	if left := s.Leftovers(); len(left) > 0 {
		s.Errorf("left behind: %q", left)
	}
}

// goneIsUnknown reports whether err may be the answer for a token that is
// already revoked. Where the client names tokens, a revoked token is removed,
// and the cluster cannot tell it from one that never existed.
func (s *suite) goneIsUnknown(err error) bool {
	_, named := s.Issuer.(issuer.Namer)
	return err == nil || named && errors.Is(err, issuer.ErrUnknown)
}

// checkNoSecretIn fails if the text of err contains a secret.
func (s *suite) checkNoSecretIn(err error) {
	s.Helper()
	if err == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	secrets := s.Secrets
	for _, token := range s.issued {
		secrets = append(secrets, token.Secret)
	}
	for _, secret := range secrets {
		if strings.Contains(err.Error(), secret.Reveal()) {
			s.Errorf("an error contains a secret")
		}
	}
}

// find returns the entries of the list with the description.
func (s *suite) find(desc string) (found []issuer.Info) {
	s.Helper()
	err := s.Issuer.List(s.Context(), func(info issuer.Info) error {
		if info.Description == desc {
			found = append(found, info)
		}
		return nil
	})
	if err != nil {
		s.Fatalf("list: %v", err)
	}
	return found
}

func (s *suite) revoke(ids ...string) map[string]error {
	failed := s.Issuer.Revoke(s.Context(), ids...)
	for _, err := range failed {
		s.checkNoSecretIn(err)
	}
	return failed
}

func (s *suite) waitUntil(then time.Time) {
	if s.WaitUntil != nil {
		s.WaitUntil(then)
		return
	}
	select {
	case <-time.After(time.Until(then)):
	case <-s.Context().Done():
	}
}

// asRequested reports whether a token that expires at got was requested to expire
// at want.
func (s *suite) asRequested(got, want time.Time) bool {
	return !got.Before(want) && !got.After(want.Add(s.Slack))
}

func expiry() time.Time { return time.Now().Add(lifetime).Truncate(time.Second) }

func unique(desc string) string { return "[conformance:" + rand.Text() + "] " + desc }

func (s *suite) listShowsToken() {
	desc, expires := unique("listed"), expiry()
	token := s.issueUntil(desc, expires)
	found := s.find(desc)
	if len(found) != 1 || found[0].ID != token.ID || found[0].Dead(time.Now()) {
		s.Fatalf("want token %s in the list, got %+v", token.ID, found)
	}
	if got := found[0].ExpiresAt; !s.asRequested(got, expires) {
		s.Errorf("the list says that the token expires at %v, want %v", got, expires)
	}
	if failed := s.revoke(token.ID); len(failed) > 0 {
		s.Fatalf("revoke: %v", failed)
	}
	if found := s.find(desc); len(found) == 1 && !found[0].Dead(time.Now()) {
		s.Errorf("the list shows a revoked token as alive: %+v", found)
	}
}

func (s *suite) listShowsNoSecret() {
	a, b := s.issue(unique("a")), s.issue(unique("b"))
	if a.Secret == b.Secret || a.ID == b.ID {
		s.Error("two tokens have the same ID or secret")
	}
	err := s.Issuer.List(s.Context(), func(info issuer.Info) error {
		for _, text := range []string{info.ID, info.Description, info.Prefix, info.HashPrefix} {
			if strings.Contains(text, a.Secret.Reveal()) {
				s.Error("the list contains a secret")
			}
		}
		known := info.Prefix != "" || info.HashPrefix != ""
		if known && info.ID == a.ID && !info.Matches(a.Secret) {
			s.Errorf("prefix %q, hash prefix %q: not those of the token's secret", info.Prefix, info.HashPrefix)
		}
		return nil
	})
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) listEndsWithError() {
	s.issue(unique("first"))
	enough, calls := errors.New("enough"), 0
	err := s.Issuer.List(s.Context(), func(issuer.Info) error { calls++; return enough })
	if !errors.Is(err, enough) || calls != 1 {
		s.Errorf("yield was called %d times, List returned %v", calls, err)
	}
}

func (s *suite) tokenWorks() {
	token := s.issue(unique("works"))
	if s.Usable == nil {
		return
	}
	if ok, err := s.Usable(s.Context(), token.Secret); err != nil || !ok {
		s.Errorf("new token: accepted %v, %v", ok, err)
	}
	if failed := s.revoke(token.ID); len(failed) > 0 {
		s.Fatalf("revoke: %v", failed)
	}
	if ok, err := s.Usable(s.Context(), token.Secret); err != nil || ok {
		s.Errorf("revoked token: accepted %v, %v", ok, err)
	}
}

func (s *suite) keepsDescription() {
	for _, desc := range []string{
		unique(`"quotes" 'and' back\slash`),
		unique(`$(touch pwned); <b>&amp;</b> %s {{.}} | # =`),
		"--force " + unique("leading dashes"),
		"-" + rand.Text(),
		(unique("") + strings.Repeat("long", 30))[:100],
	} {
		token := s.issue(desc)
		if found := s.find(desc); len(found) != 1 || found[0].ID != token.ID {
			s.Errorf("%q: want %s, listed: %+v", desc, token.ID, found)
		}
	}
}

func (s *suite) concurrent() {
	const n = 50
	var all sync.WaitGroup
	var mu sync.Mutex
	descs := map[string]string{} // by ID
	for range n {
		all.Go(func() {
			desc := unique("concurrent")
			token, err := s.Issuer.Issue(s.Context(), s.request(desc, expiry()))
			if err != nil {
				s.Error(err)
				return
			}
			mu.Lock()
			descs[token.ID] = desc
			mu.Unlock()
			s.remember(token)
		})
	}
	all.Wait()
	if len(descs) != n {
		s.Fatalf("%d IDs, want %d", len(descs), n)
	}
	err := s.Issuer.List(s.Context(), func(info issuer.Info) error {
		if want, ok := descs[info.ID]; ok && info.Description != want {
			s.Errorf("%s has the description %q, want %q", info.ID, info.Description, want)
		}
		return nil
	})
	if err != nil {
		s.Error(err)
	}
	for id := range descs {
		all.Go(func() {
			if failed := s.Issuer.Revoke(s.Context(), id); len(failed) > 0 {
				s.Error(failed)
			}
		})
	}
	all.Wait()
}

func (s *suite) revokeTwice() {
	token := s.issue(unique("twice"))
	if failed := s.revoke(token.ID); len(failed) > 0 {
		s.Fatalf("revoke: %v", failed)
	}
	if err := s.revoke(token.ID)[token.ID]; !s.goneIsUnknown(err) {
		s.Errorf("revoke again: %v", err)
	}
	if failed := s.revoke(); len(failed) > 0 {
		s.Errorf("revoke no tokens: %v", failed)
	}
}

func (s *suite) revokeUnknown() {
	token, unknown := s.issue(unique("known")), "00000000-dead-4bad-8bad-000000000000"
	failed := s.revoke(token.ID, unknown)
	if err, ok := failed[token.ID]; ok {
		s.Errorf("revoke an existing token together with an unknown ID: %v", err)
	}
	if err := failed[unknown]; !errors.Is(err, issuer.ErrUnknown) {
		s.Errorf("revoke an unknown ID: %v, want ErrUnknown", err)
	}
}

func (s *suite) refusedChangesNothing() {
	kept, desc := unique("kept"), unique("refused")
	token := s.issue(kept)
	_, err := s.Refused.Issue(s.Context(), s.request(desc, expiry()))
	s.checkUnauthorized("issue", err)
	s.checkUnauthorized("revoke", s.Refused.Revoke(s.Context(), token.ID)[token.ID])
	s.checkUnauthorized("list", s.Refused.List(s.Context(), func(issuer.Info) error { return nil }))
	if found := s.find(desc); len(found) > 0 {
		s.Errorf("a refused Issue created %+v", found)
	}
	if found := s.find(kept); len(found) != 1 || found[0].Dead(time.Now()) {
		s.Errorf("a refused Revoke changed %s: %+v", token.ID, found)
	}
}

func (s *suite) checkUnauthorized(call string, err error) {
	s.Helper()
	s.checkNoSecretIn(err)
	if !errors.Is(err, issuer.ErrUnauthorized) || !errors.Is(err, issuer.ErrRefused) {
		s.Errorf("%s with a root credential that is not accepted: %v, want ErrUnauthorized", call, err)
	}
}

func (s *suite) contextEndsCalls() {
	token := s.issue(unique("done"))
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, err := s.Issuer.Issue(ctx, s.request(unique("late"), expiry()))
		if !errors.Is(err, issuer.ErrRefused) {
			s.Errorf("Issue with a canceled context: %v, want ErrRefused", err)
		}
		if s.Issuer.Revoke(ctx, token.ID)[token.ID] == nil {
			s.Error("Revoke with a canceled context succeeded")
		}
		if s.Issuer.List(ctx, func(issuer.Info) error { return nil }) == nil {
			s.Error("List with a canceled context succeeded")
		}
	}()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		s.Fatal("calls with a canceled context do not return")
	}
}

// namer returns the issuer as a Namer, or nil.
func (s *suite) namer() issuer.Namer {
	n, _ := s.Issuer.(issuer.Namer)
	return n
}

func (s *suite) namerChoosesID() {
	n := s.namer()
	if n == nil {
		return
	}
	a, b := s.request(unique("a"), expiry()), s.request(unique("b"), expiry())
	if n.IDOf(a) == "" || n.IDOf(a) == n.IDOf(b) {
		s.Errorf("IDOf returns %q and %q for two requests", n.IDOf(a), n.IDOf(b))
	}
	token := s.issueUntil(a.Description, a.ExpiresAt)
	if want := n.IDOf(a); token.ID != want {
		s.Errorf("Issue returned ID %q, IDOf %q", token.ID, want)
	}
	if found := s.find(a.Description); len(found) != 1 || found[0].ID != token.ID {
		s.Errorf("want %q in the list, got %+v", token.ID, found)
	}
}

func (s *suite) unusedNameIsUnknown() {
	n := s.namer()
	if n == nil {
		return
	}
	id := n.IDOf(s.request(unique("never issued"), expiry()))
	if err := s.revoke(id)[id]; !errors.Is(err, issuer.ErrUnknown) {
		s.Errorf("revoke a name that was never used: %v, want ErrUnknown", err)
	}
}

// A second Issue of a name fails, but the error must not be ErrRefused: a token
// with that name exists, and the engine must revoke it.
func (s *suite) takenName() {
	if s.namer() == nil {
		return
	}
	desc := unique("taken")
	first := s.issue(desc)
	_, err := s.Issuer.Issue(s.Context(), s.request(desc, expiry()))
	s.checkNoSecretIn(err)
	if err == nil || errors.Is(err, issuer.ErrRefused) {
		s.Errorf("issue a name twice: %v, want an error that is not ErrRefused", err)
	}
	if found := s.find(desc); len(found) != 1 || found[0].ID != first.ID {
		s.Errorf("want one token %q in the list, got %+v", first.ID, found)
	}
}

func (s *suite) keepsExpired() {
	if d, ok := s.Issuer.(issuer.Describer); !ok || !d.Traits().KeepsExpired {
		return
	}
	desc, expires := unique("expired"), time.Now().Add(2*time.Second).Truncate(time.Second)
	token := s.issueUntil(desc, expires)
	s.waitUntil(expires.Add(s.Slack))
	if found := s.find(desc); len(found) != 1 || !s.asRequested(found[0].ExpiresAt, expires) {
		s.Fatalf("want the expired token %s in the list, got %+v", token.ID, found)
	}
	if failed := s.revoke(token.ID); len(failed) > 0 {
		s.Errorf("revoke an expired token: %v", failed)
	}
	for _, info := range s.find(desc) {
		if info.RevokedAt.IsZero() {
			s.Errorf("the list shows an expired token as not revoked after it was revoked: %+v", info)
		}
	}
}
