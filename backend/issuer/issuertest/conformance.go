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

// A Subject is an issuer to be examined, and what is known of its cluster.
type Subject struct {
	Issuer  issuer.Issuer
	Refused issuer.Issuer // on the same cluster, with a root token it does not accept

	// Read and Write are what the tokens to be minted may do, where that is asked.
	Read, Write []string

	// Secrets that must stand in no error, the root token first of all.
	Secrets []issuer.Secret

	// Usable asks the cluster whether it accepts a token, where it can be asked.
	Usable func(context.Context, issuer.Secret) (bool, error)

	// Leftovers names processes, connections or files that a finished call has
	// left behind, where that can be told.
	Leftovers func() []string
}

// Run examines the issuers that open returns: one property, one promise of
// issuer.Issuer. Each property gets an issuer of its own, and leaves no live
// token behind.
func Run(t *testing.T, open func(t *testing.T) Subject) {
	for name, property := range map[string]func(*examiner){
		"a token is listed under its description until it dies": (*examiner).listed,
		"secrets differ and are not in the list":                (*examiner).secret,
		"a token works until it is revoked":                     (*examiner).works,
		"revoking the dead is no error":                         (*examiner).revokeTwice,
		"an unknown id is told apart and fails alone":           (*examiner).unknown,
		"a refused root token changes nothing":                  (*examiner).refused,
		"a call ends soon after its context":                    (*examiner).done,
		"concurrent calls do not mix":                           (*examiner).concurrent,
		"descriptions survive":                                  (*examiner).descriptions,
		"the error of yield ends the list":                      (*examiner).yieldError,
	} {
		t.Run(name, func(t *testing.T) {
			x := &examiner{T: t, Subject: open(t)}
			t.Cleanup(x.tidy)
			property(x)
		})
	}
}

// An examiner examines one property and revokes what it minted.
type examiner struct {
	*testing.T
	Subject
	mu     sync.Mutex // guards minted
	minted []issuer.Token
}

func (x *examiner) remember(token issuer.Token) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.minted = append(x.minted, token)
}

// lifetime leaves room for slow clusters, and none for forgotten tokens.
const lifetime = 10 * time.Minute

func (x *examiner) request(desc string, expires time.Time) issuer.Request {
	return issuer.Request{Description: desc, ExpiresAt: expires, Read: x.Read, Write: x.Write}
}

func (x *examiner) issue(desc string) issuer.Token {
	x.Helper()
	token, err := x.Issuer.Issue(x.Context(), x.request(desc, expiry()))
	x.noLeak(err)
	if err != nil {
		x.Fatalf("issue %q: %v", desc, err)
	}
	if token.ID == "" || token.Secret.IsZero() {
		x.Fatalf("issue %q: id %q, secret given: %v", desc, token.ID, !token.Secret.IsZero())
	}
	x.remember(token)
	return token
}

func (x *examiner) tidy() {
	var ids []string
	for _, token := range x.minted {
		ids = append(ids, token.ID)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for id, err := range x.Issuer.Revoke(ctx, ids...) {
		x.Errorf("clean up %s: %v", id, err)
	}
	if x.Leftovers == nil {
		return
	}
	if left := x.Leftovers(); len(left) > 0 {
		x.Errorf("left behind: %q", left)
	}
}

// noLeak fails if the error's text holds a secret.
func (x *examiner) noLeak(err error) {
	x.Helper()
	if err == nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	secrets := x.Secrets
	for _, token := range x.minted {
		secrets = append(secrets, token.Secret)
	}
	for _, s := range secrets {
		if strings.Contains(err.Error(), s.Reveal()) {
			x.Errorf("an error holds a secret")
		}
	}
}

// find returns what the list says of the description.
func (x *examiner) find(desc string) (found []issuer.Info) {
	x.Helper()
	err := x.Issuer.List(x.Context(), func(info issuer.Info) error {
		if info.Description == desc {
			found = append(found, info)
		}
		return nil
	})
	if err != nil {
		x.Fatalf("list: %v", err)
	}
	return found
}

func (x *examiner) revoke(ids ...string) map[string]error {
	failed := x.Issuer.Revoke(x.Context(), ids...)
	for _, err := range failed {
		x.noLeak(err)
	}
	return failed
}

func expiry() time.Time { return time.Now().Add(lifetime).Truncate(time.Second) }

func unique(desc string) string { return "[conformance:" + rand.Text() + "] " + desc }

func (x *examiner) listed() {
	desc, expires := unique("listed"), expiry()
	token, err := x.Issuer.Issue(x.Context(), x.request(desc, expires))
	if err != nil {
		x.Fatal(err)
	}
	x.remember(token)
	found := x.find(desc)
	if len(found) != 1 || found[0].ID != token.ID || found[0].Dead(time.Now()) {
		x.Fatalf("want %s alive, listed: %+v", token.ID, found)
	}
	if got := found[0].ExpiresAt; !got.Equal(expires) {
		x.Errorf("expires at %v, want %v", got, expires)
	}
	if len(x.revoke(token.ID)) > 0 {
		x.Fatal("revoke failed")
	}
	if found := x.find(desc); len(found) == 1 && !found[0].Dead(time.Now()) {
		x.Errorf("listed as alive after revocation: %+v", found)
	}
}

func (x *examiner) secret() {
	a, b := x.issue(unique("a")), x.issue(unique("b"))
	if a.Secret == b.Secret || a.ID == b.ID {
		x.Error("two tokens share an id or a secret")
	}
	err := x.Issuer.List(x.Context(), func(info issuer.Info) error {
		for _, text := range []string{info.ID, info.Description, info.Prefix} {
			if strings.Contains(text, a.Secret.Reveal()) {
				x.Error("the list holds a secret")
			}
		}
		if info.ID == a.ID && !strings.HasPrefix(a.Secret.Reveal(), info.Prefix) {
			x.Errorf("prefix %q is not the secret's", info.Prefix)
		}
		return nil
	})
	if err != nil {
		x.Fatal(err)
	}
}

func (x *examiner) works() {
	token := x.issue(unique("works"))
	if x.Usable == nil {
		return
	}
	if ok, err := x.Usable(x.Context(), token.Secret); err != nil || !ok {
		x.Errorf("a fresh token is accepted: %v, %v", ok, err)
	}
	if len(x.revoke(token.ID)) > 0 {
		x.Fatal("revoke failed")
	}
	if ok, err := x.Usable(x.Context(), token.Secret); err != nil || ok {
		x.Errorf("a revoked token is accepted: %v, %v", ok, err)
	}
}

func (x *examiner) revokeTwice() {
	token := x.issue(unique("twice"))
	for range 2 {
		if failed := x.revoke(token.ID); len(failed) > 0 {
			x.Fatalf("revoke: %v", failed)
		}
	}
	if failed := x.revoke(); len(failed) > 0 {
		x.Errorf("revoke nothing: %v", failed)
	}
}

func (x *examiner) unknown() {
	token, ghost := x.issue(unique("known")), "00000000-dead-4bad-8bad-000000000000"
	failed := x.revoke(token.ID, ghost)
	if err, ok := failed[token.ID]; ok {
		x.Errorf("a good id failed with a bad one: %v", err)
	}
	if err := failed[ghost]; !errors.Is(err, issuer.ErrUnknown) {
		x.Errorf("an id the cluster never knew: %v", err)
	}
}

func (x *examiner) refused() {
	kept, desc := unique("kept"), unique("refused")
	token := x.issue(kept)
	_, err := x.Refused.Issue(x.Context(), x.request(desc, expiry()))
	x.mustBeUnauthorized("issue", err)
	x.mustBeUnauthorized("revoke", x.Refused.Revoke(x.Context(), token.ID)[token.ID])
	x.mustBeUnauthorized("list", x.Refused.List(x.Context(), func(issuer.Info) error { return nil }))
	if found := x.find(desc); len(found) > 0 {
		x.Errorf("a refused mint made %+v", found)
	}
	if found := x.find(kept); len(found) != 1 || found[0].Dead(time.Now()) {
		x.Errorf("a refused revocation changed %s: %+v", token.ID, found)
	}
}

func (x *examiner) mustBeUnauthorized(what string, err error) {
	x.Helper()
	x.noLeak(err)
	if !errors.Is(err, issuer.ErrUnauthorized) || !errors.Is(err, issuer.ErrRefused) {
		x.Errorf("%s with a refused root token: %v", what, err)
	}
}

func (x *examiner) done() {
	token := x.issue(unique("done"))
	ctx, cancel := context.WithCancel(x.Context())
	cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, err := x.Issuer.Issue(ctx, x.request(unique("late"), expiry()))
		if !errors.Is(err, issuer.ErrRefused) {
			x.Errorf("issue under a context that was done: %v", err)
		}
		if x.Issuer.Revoke(ctx, token.ID)[token.ID] == nil {
			x.Error("revoke under a context that was done succeeded")
		}
		if x.Issuer.List(ctx, func(issuer.Info) error { return nil }) == nil {
			x.Error("list under a context that was done succeeded")
		}
	}()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		x.Fatal("calls do not end with their context")
	}
}

func (x *examiner) concurrent() {
	const n = 50
	var all sync.WaitGroup
	var mu sync.Mutex
	descs := map[string]string{} // by id
	for range n {
		all.Go(func() {
			desc := unique("concurrent")
			token, err := x.Issuer.Issue(x.Context(), x.request(desc, expiry()))
			if err != nil {
				x.Error(err)
				return
			}
			mu.Lock()
			descs[token.ID] = desc
			mu.Unlock()
			x.remember(token)
		})
	}
	all.Wait()
	if len(descs) != n {
		x.Fatalf("%d ids, want %d", len(descs), n)
	}
	err := x.Issuer.List(x.Context(), func(info issuer.Info) error {
		if want, ok := descs[info.ID]; ok && info.Description != want {
			x.Errorf("%s is described as %q, want %q", info.ID, info.Description, want)
		}
		return nil
	})
	if err != nil {
		x.Error(err)
	}
	for id := range descs {
		all.Go(func() {
			if failed := x.Issuer.Revoke(x.Context(), id); len(failed) > 0 {
				x.Error(failed)
			}
		})
	}
	all.Wait()
}

func (x *examiner) descriptions() {
	for _, desc := range []string{
		unique(`"quotes" 'and' back\slash`),
		unique(`$(touch pwned); <b>&amp;</b> %s {{.}} | # =`),
		"--force " + unique("leading dashes"),
		"-" + rand.Text(),
		(unique("") + strings.Repeat("long", 30))[:100],
	} {
		token := x.issue(desc)
		if found := x.find(desc); len(found) != 1 || found[0].ID != token.ID {
			x.Errorf("%q: want %s, listed: %+v", desc, token.ID, found)
		}
	}
}

func (x *examiner) yieldError() {
	x.issue(unique("first"))
	enough, calls := errors.New("enough"), 0
	err := x.Issuer.List(x.Context(), func(issuer.Info) error { calls++; return enough })
	if !errors.Is(err, enough) || calls != 1 {
		x.Errorf("%d calls, error %v", calls, err)
	}
}
