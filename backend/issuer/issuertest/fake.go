// Package issuertest holds what tests of issuers and of the engine share: a
// conformance suite for every issuer, an in-memory cluster whose calls can be
// made to fail at any step, and in package simulator the simulated products.
package issuertest

import (
	"context"
	"crypto/rand"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// A Step is a point in a call to a Fake at which its hook is called.
type Step string

// Before means that the cluster has not been asked yet. After means that it has
// done what was asked, but its answer has not arrived.
const (
	BeforeIssue   Step = "before issue"
	AfterIssue    Step = "after issue"
	BeforeRevoke  Step = "before revoke"
	AfterRevoke   Step = "after revoke"
	BeforeList    Step = "before list"
	AfterList     Step = "after list"
	BeforeInspect Step = "before inspect"
)

// A Hook is called at every step. If it returns an error, the call fails with
// that error. It may wait, change a clock, or cancel a context.
type Hook func(ctx context.Context, step Step) error

// A Fake is the tokens of one type on a cluster in memory, and the driver that
// opens issuers for them. It is safe for concurrent use.
type Fake struct {
	now     func() time.Time
	product product
	roots   *Fake // holds the root credentials that this Fake accepts

	mu      sync.Mutex // guards the fields below
	types   []*Fake    // the token types of the cluster; only set where roots is the Fake itself
	hook    Hook
	lag     time.Duration
	spread  time.Duration
	unknown func(issuer.Info) bool
	server  issuer.Server
	broken  error // what Inspect fails with
	tokens  map[string]*fakeToken
	order   []*fakeToken // also those that were removed
	calls   map[Step]int
	opened  map[issuer.Cluster]bool
}

// A product is what differs between products.
type product struct {
	named  bool // see NewNamedFake
	traits issuer.Traits
}

type fakeToken struct {
	issuer.Info
	secret      string
	read, write []string
}

// NewFake returns a cluster whose clock is now, and its first root credential.
// It behaves as InfluxDB Cloud Dedicated: the cluster chooses the ID of a token,
// and revoked tokens stay in the list.
func NewFake(now func() time.Time) (*Fake, issuer.Token) {
	return newCluster(now, product{})
}

// NewNamedFake returns a cluster that behaves as InfluxDB 3 Core and Enterprise:
//
//   - The description is the name of a token, and the name is its ID. Its
//     issuers are a Namer. A name that a token has, even an expired one, cannot
//     be issued again.
//   - Revoke removes a token from the list, and frees its name. Revoking it
//     again is ErrUnknown.
//   - Lists show the HashPrefix of a secret, not its Prefix.
//   - Its issuers are a Describer with the given traits, an Inspector, and a
//     UUIDReporter.
func NewNamedFake(now func() time.Time, traits issuer.Traits) (*Fake, issuer.Token) {
	return newCluster(now, product{named: true, traits: traits})
}

// NewFakeOf returns a further token type of the cluster that root belongs to. It
// accepts the root credentials of root.
func NewFakeOf(root *Fake) *Fake {
	f := newFake(root.now, root.product)
	f.roots = root.roots
	f.roots.mu.Lock()
	defer f.roots.mu.Unlock()
	f.roots.types = append(f.roots.types, f)
	return f
}

func newCluster(now func() time.Time, p product) (*Fake, issuer.Token) {
	f := newFake(now, p)
	f.roots, f.types = f, []*Fake{f}
	return f, f.Add("root", time.Time{})
}

func newFake(now func() time.Time, p product) *Fake {
	return &Fake{now: now, product: p, tokens: map[string]*fakeToken{}, calls: map[Step]int{}}
}

// Grants returns the databases that the token id may read and write.
func (f *Fake) Grants(id string) (read, write []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tokens[id].read, f.tokens[id].write
}

// Add creates a token without an issuer: a root credential, or a token of
// somebody else.
func (f *Fake) Add(desc string, expires time.Time) issuer.Token {
	return f.add(issuer.Request{Description: desc, ExpiresAt: expires})
}

func (f *Fake) add(r issuer.Request) issuer.Token {
	t := &fakeToken{
		Info:   issuer.Info{ID: uuid.NewString(), Description: r.Description, CreatedAt: f.now(), ExpiresAt: r.ExpiresAt},
		secret: "M.V1." + rand.Text() + rand.Text(),
		read:   r.Read, write: r.Write,
	}
	t.Prefix = t.secret[:9]
	if f.product.named {
		t.ID, t.secret, t.Prefix = r.Description, "apiv3_"+rand.Text()+rand.Text(), ""
		sum := sha512.Sum512([]byte(t.secret))
		t.HashPrefix = hex.EncodeToString(sum[:8])
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tokens[t.ID] = t
	f.order = append(f.order, t)
	return issuer.Token{ID: t.ID, Secret: issuer.NewSecret(t.secret)}
}

// SetHook sets the hook; nil removes it.
func (f *Fake) SetHook(h Hook) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = h
}

// Hook returns the hook, which may be nil.
func (f *Fake) Hook() Hook {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hook
}

// SetLag makes lists show the state of the cluster as it was d ago.
func (f *Fake) SetLag(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lag = d
}

// SetSpread makes the cluster reject a new token as a root credential for d.
func (f *Fake) SetSpread(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spread = d
}

// SetUnknown makes Revoke answer ErrUnknown for the tokens for which unknown is
// true, and leave them as they are. A node that learns late about new tokens is
// a function of CreatedAt. The function must not call the Fake; nil removes it.
func (f *Fake) SetUnknown(unknown func(issuer.Info) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unknown = unknown
}

// SetServer sets what Inspect returns. An issuer whose cluster has a UUID fails if
// the server has another one.
func (f *Fake) SetServer(s issuer.Server, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.server, f.broken = s, err
}

// Kill revokes the token id without an issuer.
func (f *Fake) Kill(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remove(f.tokens[id])
}

// remove revokes t. The caller holds mu.
func (f *Fake) remove(t *fakeToken) {
	if t.RevokedAt.IsZero() {
		t.RevokedAt = f.now()
	}
	if f.product.named {
		delete(f.tokens, t.ID)
	}
}

// Calls returns how often a step was reached.
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

// accepts reports whether the secret is a root credential that works now.
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

// Tokens returns all tokens that were ever created, oldest first.
func (f *Fake) Tokens() []issuer.Info {
	f.mu.Lock()
	defer f.mu.Unlock()
	infos := make([]issuer.Info, len(f.order))
	for i, t := range f.order {
		infos[i] = t.Info
	}
	return infos
}

// Secrets returns the secrets of all tokens that were ever created, so that a
// test can search for them.
func (f *Fake) Secrets() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	secrets := make([]string, len(f.order))
	for i, t := range f.order {
		secrets[i] = t.secret
	}
	return secrets
}

// Open implements issuer.Driver. The issuer uses the root credential of c.
func (f *Fake) Open(c issuer.Cluster) issuer.Issuer {
	f.mu.Lock()
	if f.opened == nil {
		f.opened = map[issuer.Cluster]bool{}
	}
	f.opened[c] = true
	f.mu.Unlock()
	if f.product.named {
		return namedIssuer{fakeIssuer{f, c.Root, c.UUID}}
	}
	return fakeIssuer{f, c.Root, ""}
}

// Opened returns the different clusters that Open was called with, in no
// particular order. They say which credential was sent to which place.
func (f *Fake) Opened() []issuer.Cluster {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Keys(f.opened))
}

// reached returns the token types that a request of this type reaches.
func (f *Fake) reached() []*Fake {
	if !f.product.traits.OneList {
		return []*Fake{f}
	}
	f.roots.mu.Lock()
	defer f.roots.mu.Unlock()
	return append([]*Fake{}, f.roots.types...)
}

// at counts the step and calls the hook.
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

// revoke revokes one token.
func (f *Fake) revoke(id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.tokens[id]
	if t == nil || f.unknown != nil && f.unknown(t.Info) {
		return fmt.Errorf("revoke %s: %w", id, issuer.ErrUnknown)
	}
	f.remove(t)
	return nil
}

// has reports whether a token has the name.
func (f *Fake) has(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tokens[name] != nil
}

// listed returns what a list shows now.
func (f *Fake) listed() (infos []issuer.Info) {
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
		if f.product.named && !info.RevokedAt.IsZero() {
			continue
		}
		infos = append(infos, info)
	}
	return infos
}

type fakeIssuer struct {
	*Fake
	root issuer.Secret
	uuid string // that the cluster must have; empty for any
}

var errOtherCluster = errors.New("the answer comes from another cluster than the configured one")

// enter begins every call: first the hook, then the UUID, then the root credential.
func (f fakeIssuer) enter(ctx context.Context, step Step) error {
	if err := f.at(ctx, step); err != nil {
		return err
	}
	if f.uuid != "" && f.roots.reportedUUID() != f.uuid {
		return errOtherCluster
	}
	if !f.roots.accepts(f.root) {
		return issuer.ErrUnauthorized
	}
	return nil
}

var errNameTaken = errors.New("token name already exists")

func (f fakeIssuer) Issue(ctx context.Context, r issuer.Request) (issuer.Token, error) {
	if err := ctx.Err(); err != nil {
		return issuer.Token{}, fmt.Errorf("%w: %w", issuer.ErrRefused, err)
	}
	if err := f.enter(ctx, BeforeIssue); err != nil {
		return issuer.Token{}, err
	}
	if f.product.named {
		for _, kind := range f.reached() {
			if kind.has(r.Description) {
				return issuer.Token{}, fmt.Errorf("issue %s: %w", r.Description, errNameTaken)
			}
		}
	}
	token := f.add(r)
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
	for _, id := range ids {
		var err error
		for _, kind := range f.reached() {
			if err = kind.revoke(id); err == nil {
				break
			}
		}
		if err != nil {
			failed[id] = err
		}
	}
	if err := f.at(ctx, AfterRevoke); err != nil {
		return all(err)
	}
	return failed
}

func (f fakeIssuer) List(ctx context.Context, yield func(issuer.Info) error) error {
	if err := f.enter(ctx, BeforeList); err != nil {
		return err
	}
	for _, kind := range f.reached() {
		for _, info := range kind.listed() {
			if err := yield(info); err != nil {
				return err
			}
		}
	}
	return f.at(ctx, AfterList)
}

// A namedIssuer implements the optional interfaces of issuer.
type namedIssuer struct{ fakeIssuer }

// IDOf implements issuer.Namer.
func (namedIssuer) IDOf(r issuer.Request) string { return r.Description }

// Traits implements issuer.Describer.
func (f namedIssuer) Traits() issuer.Traits { return f.product.traits }

// ReportedUUID implements issuer.UUIDReporter.
func (f namedIssuer) ReportedUUID() string { return f.roots.reportedUUID() }

func (f *Fake) reportedUUID() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.server.UUID
}

// Inspect implements issuer.Inspector. Like /ping, it needs a valid token.
func (f namedIssuer) Inspect(ctx context.Context) (issuer.Server, error) {
	if err := f.enter(ctx, BeforeInspect); err != nil {
		return issuer.Server{}, err
	}
	f.roots.mu.Lock()
	defer f.roots.mu.Unlock()
	return f.roots.server, f.roots.broken
}
