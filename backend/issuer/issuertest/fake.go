// Package issuertest holds what tests of issuers and of the engine share: a
// conformance suite that every issuer passes, and an in-memory cluster that can
// be made to fail at any step.
package issuertest

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// A Step is a point in a call to a Fake at which its hook is asked.
type Step string

// Before means that the cluster has not been asked yet, and After that it has
// done what was asked but its answer has not arrived.
const (
	BeforeIssue  Step = "before issue"
	AfterIssue   Step = "after issue"
	BeforeRevoke Step = "before revoke"
	AfterRevoke  Step = "after revoke"
	BeforeList   Step = "before list"
	AfterList    Step = "after list"
)

// A Hook decides what happens at a step: the call fails with the error it
// returns. It may wait, move a clock, or cancel a context.
type Hook func(ctx context.Context, step Step) error

// A Fake is a cluster in memory and the driver that opens issuers on it. It is
// safe for concurrent use.
type Fake struct {
	now   func() time.Time
	roots *Fake // whose tokens it accepts as roots

	mu     sync.Mutex // guards what follows
	hook   Hook
	lag    time.Duration
	spread time.Duration
	tokens map[string]*fakeToken
	order  []*fakeToken
	calls  map[Step]int
	opened map[issuer.Cluster]bool
}

type fakeToken struct {
	issuer.Info
	secret      string
	read, write []string
}

// NewFake returns a cluster whose time is now, and a first root token.
func NewFake(now func() time.Time) (*Fake, issuer.Token) {
	f := &Fake{now: now, tokens: map[string]*fakeToken{}, calls: map[Step]int{}}
	f.roots = f
	return f, f.Add("root", time.Time{})
}

// NewFakeOf returns the same cluster as one that mints another kind of token:
// it accepts the root tokens of roots.
func NewFakeOf(roots *Fake) *Fake {
	f, _ := NewFake(roots.now)
	f.roots = roots
	return f
}

// Grants returns the databases that a token may read and write.
func (f *Fake) Grants(id string) (read, write []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tokens[id].read, f.tokens[id].write
}

// Add makes a token that nobody asked for by the interface: a root, or a
// stranger's.
func (f *Fake) Add(desc string, expires time.Time) issuer.Token {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := &fakeToken{
		Info:   issuer.Info{ID: uuid.NewString(), Description: desc, CreatedAt: f.now(), ExpiresAt: expires},
		secret: "M.V1." + rand.Text() + rand.Text(),
	}
	t.Prefix = t.secret[:9]
	f.tokens[t.ID] = t
	f.order = append(f.order, t)
	return issuer.Token{ID: t.ID, Secret: issuer.NewSecret(t.secret)}
}

// SetHook makes h decide at every step from now on; nil ends that.
func (f *Fake) SetHook(h Hook) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = h
}

// SetLag makes lists lag behind the truth by d.
func (f *Fake) SetLag(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lag = d
}

// SetSpread makes the cluster refuse a fresh token as a root for d.
func (f *Fake) SetSpread(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spread = d
}

// Kill revokes a token behind everybody's back.
func (f *Fake) Kill(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tokens[id].RevokedAt = f.now()
}

// Calls returns how often the step was reached.
func (f *Fake) Calls(step Step) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[step]
}

// Alive reports whether the cluster would accept the secret.
func (f *Fake) Alive(secret issuer.Secret) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.alive(secret)
}

func (f *Fake) alive(secret issuer.Secret) bool {
	t := f.find(secret)
	return t != nil && !t.Dead(f.now())
}

// accepts reports whether the secret is good for a root.
func (f *Fake) accepts(secret issuer.Secret) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.alive(secret) && !f.find(secret).CreatedAt.Add(f.spread).After(f.now())
}

func (f *Fake) find(secret issuer.Secret) *fakeToken {
	for _, t := range f.order {
		if t.secret == secret.Reveal() {
			return t
		}
	}
	return nil
}

// Tokens returns all tokens ever made, oldest first.
func (f *Fake) Tokens() []issuer.Info {
	f.mu.Lock()
	defer f.mu.Unlock()
	infos := make([]issuer.Info, len(f.order))
	for i, t := range f.order {
		infos[i] = t.Info
	}
	return infos
}

// Secrets returns every secret ever made, for the hunt after leaks.
func (f *Fake) Secrets() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	secrets := make([]string, len(f.order))
	for i, t := range f.order {
		secrets[i] = t.secret
	}
	return secrets
}

// Open implements issuer.Driver. The issuer acts with the root token of c.
func (f *Fake) Open(c issuer.Cluster) issuer.Issuer {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.opened == nil {
		f.opened = map[issuer.Cluster]bool{}
	}
	f.opened[c] = true
	return fakeIssuer{f, c.Root}
}

// Opened returns the different clusters that Open was called with, in no
// particular order: which credential was sent to which place.
func (f *Fake) Opened() []issuer.Cluster {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.opened))
}

// at counts the step and asks the hook.
func (f *Fake) at(ctx context.Context, step Step) error {
	f.mu.Lock()
	f.calls[step]++
	hook := f.hook
	f.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, step); err != nil {
			return err
		}
	}
	return ctx.Err()
}

type fakeIssuer struct {
	*Fake
	root issuer.Secret
}

// enter is the way into every call: the hook first, then the root token.
func (f fakeIssuer) enter(ctx context.Context, step Step) error {
	if err := f.at(ctx, step); err != nil {
		return err
	}
	if !f.roots.accepts(f.root) {
		return issuer.ErrUnauthorized
	}
	return nil
}

func (f fakeIssuer) Issue(ctx context.Context, r issuer.Request) (issuer.Token, error) {
	if err := ctx.Err(); err != nil {
		return issuer.Token{}, fmt.Errorf("%w: %w", issuer.ErrRefused, err)
	}
	if err := f.enter(ctx, BeforeIssue); err != nil {
		return issuer.Token{}, err
	}
	token := f.Add(r.Description, r.ExpiresAt)
	f.mu.Lock()
	f.tokens[token.ID].read, f.tokens[token.ID].write = r.Read, r.Write
	f.mu.Unlock()
	if err := f.at(ctx, AfterIssue); err != nil {
		return issuer.Token{}, err
	}
	return token, nil
}

func (f fakeIssuer) Revoke(ctx context.Context, ids ...string) map[string]error {
	failed := map[string]error{}
	all := func(err error) map[string]error {
		for _, id := range ids {
			failed[id] = err
		}
		return failed
	}
	if err := f.enter(ctx, BeforeRevoke); err != nil {
		return all(err)
	}
	f.mu.Lock()
	for _, id := range ids {
		switch t := f.tokens[id]; {
		case t == nil:
			failed[id] = fmt.Errorf("revoke %s: %w", id, issuer.ErrUnknown)
		case t.RevokedAt.IsZero():
			t.RevokedAt = f.now()
		}
	}
	f.mu.Unlock()
	if err := f.at(ctx, AfterRevoke); err != nil {
		return all(err)
	}
	return failed
}

func (f fakeIssuer) List(ctx context.Context, yield func(issuer.Info) error) error {
	if err := f.enter(ctx, BeforeList); err != nil {
		return err
	}
	f.mu.Lock()
	horizon := f.now().Add(-f.lag)
	f.mu.Unlock()
	for _, info := range f.Tokens() {
		if info.CreatedAt.After(horizon) {
			continue
		}
		if info.RevokedAt.After(horizon) {
			info.RevokedAt = time.Time{}
		}
		if err := yield(info); err != nil {
			return err
		}
	}
	return f.at(ctx, AfterList)
}
