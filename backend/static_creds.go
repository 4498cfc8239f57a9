package backend

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

const (
	staticCredsPrefix  = "static-creds/"
	staticCredsVersion = 1
)

// A staticToken is a token of a static role.
type staticToken struct {
	Accessor    string
	TokenID     string
	Token       issuer.Secret
	TokenType   string
	Read, Write []string
	Description string
	Fingerprint string
	Address     address
	Place       string    // digest of the place where it was issued, see placeDigest
	SwitchAt    time.Time // when it becomes the current token: whole seconds, UTC
	NextAt      time.Time // when its successor is planned to become current; zero: never
	ExpiresAt   time.Time
	Proved      bool // the cluster accepts it; an unproved token never becomes current
}

// An address is what clients need to reach the cluster.
type address struct {
	Product   string `json:"product"`
	AccountID string `json:"account_id,omitempty"`
	ClusterID string `json:"cluster_id,omitempty"`
	Host      string `json:"host,omitempty"`
	Port      string `json:"port,omitempty"`
	URL       string `json:"url,omitempty"` // origin for reading and writing data
}

func (c config) address() address {
	return address{c.Product, c.AccountID, c.ClusterID, c.Host, c.port(), c.url()}
}

// add adds the address to the data of an answer.
func (a address) add(data map[string]any) {
	data["product"], data["host"], data["port"] = a.Product, a.Host, a.Port
	p, _ := productNamed(a.Product)
	for field, value := range map[string]string{"account_id": a.AccountID, "cluster_id": a.ClusterID} {
		if p.foreign[field] == "" {
			data[field] = value
		}
	}
	if a.URL != "" {
		data["url"] = a.URL
	}
}

// staticCreds are the tokens of a static role that readers may get: the current
// one, and the next one, which becomes current at its SwitchAt by itself. The
// entry is seal-wrapped. A token that is in neither place has no stored secret
// any more; its record in the ledger says when it is revoked.
type staticCreds struct {
	Current *staticToken
	Next    *staticToken
}

// storedStaticToken is the stored form of a staticToken.
type storedStaticToken struct {
	Accessor    string    `json:"accessor"`
	TokenID     string    `json:"token_id"`
	Token       string    `json:"token"`
	TokenType   string    `json:"token_type"`
	Read        []string  `json:"read_databases,omitempty"`
	Write       []string  `json:"write_databases,omitempty"`
	Description string    `json:"description"`
	Fingerprint string    `json:"fingerprint"`
	Address     address   `json:"address"`
	Place       string    `json:"place"`
	SwitchAt    time.Time `json:"switch_at"`
	NextAt      time.Time `json:"next_at,omitzero"`
	ExpiresAt   time.Time `json:"expires_at"`
	Proved      bool      `json:"proved,omitempty"`
}

type storedStaticCreds struct {
	Version int                `json:"version"`
	Current *storedStaticToken `json:"current,omitempty"`
	Next    *storedStaticToken `json:"next,omitempty"`
}

func (t *staticToken) stored() *storedStaticToken {
	if t == nil {
		return nil
	}
	return &storedStaticToken{
		t.Accessor, t.TokenID, t.Token.Reveal(), t.TokenType, t.Read, t.Write, t.Description, t.Fingerprint, t.Address, t.Place,
		t.SwitchAt, t.NextAt, t.ExpiresAt, t.Proved,
	}
}

func (s *storedStaticToken) token() *staticToken {
	if s == nil {
		return nil
	}
	return &staticToken{
		s.Accessor, s.TokenID, issuer.NewSecret(s.Token), s.TokenType, s.Read, s.Write, s.Description, s.Fingerprint, s.Address, s.Place,
		s.SwitchAt, s.NextAt, s.ExpiresAt, s.Proved,
	}
}

// usableWith reports whether c can be used to prove the token and to make it the
// current one. A token that is not proved yet may be sent only to the place where it
// was issued.
func (t *staticToken) usableWith(c config) bool {
	return t.Fingerprint == c.Fingerprint && (t.Proved || t.Place == c.placeDigest())
}

// servedUntil returns the time from which reads do not answer the token any more. It
// is some time before the expiry, for the reason that leases end earlier: the clock of
// the cluster may be ahead.
func (t *staticToken) servedUntil() time.Time { return t.ExpiresAt.Add(-margin) }

// at returns the token that is current at now, or nil. The change to the next
// token is a matter of time only: nothing has to be written for it.
func (c staticCreds) at(now time.Time) *staticToken {
	if c.Next != nil && c.Next.Proved && !now.Before(c.Next.SwitchAt) {
		return c.Next
	}
	return c.Current
}

// nextSwitch returns when the token that is current at now is replaced: the time
// of the staged token, else the planned time, else zero.
func (c staticCreds) nextSwitch(now time.Time) time.Time {
	current := c.at(now)
	switch {
	case current == nil:
		return time.Time{}
	case c.Next != nil && c.Next.Proved && current != c.Next:
		return c.Next.SwitchAt
	}
	return current.NextAt
}

// loadStaticCreds returns the tokens of a static role. Without an entry, there
// are none.
func loadStaticCreds(ctx context.Context, s logical.Storage, name string) (staticCreds, error) {
	entry, err := s.Get(ctx, staticCredsPrefix+name)
	if err != nil {
		return staticCreds{}, fmt.Errorf("read the token of static role %s: %w", name, err)
	}
	if entry == nil {
		return staticCreds{}, nil
	}
	var stored storedStaticCreds
	if err := json.Unmarshal(entry.Value, &stored); err != nil {
		return staticCreds{}, errors.New("the stored token of static role " + name + " is damaged") // the cause may quote a secret
	}
	if stored.Version > staticCredsVersion {
		return staticCreds{}, fmt.Errorf("token of static role %s: %w", name, newerVersion(stored.Version))
	}
	return staticCreds{stored.Current.token(), stored.Next.token()}, nil
}

// putStaticCreds stores the tokens of a static role, or deletes the entry if there
// are none.
func (b *backend) putStaticCreds(ctx context.Context, s logical.Storage, name string, c staticCreds) error {
	defer b.static.forget(name)
	if c.Current == nil && c.Next == nil {
		return s.Delete(ctx, staticCredsPrefix+name)
	}
	entry, err := logical.StorageEntryJSON(staticCredsPrefix+name, storedStaticCreds{staticCredsVersion, c.Current.stored(), c.Next.stored()})
	if err != nil {
		return err
	}
	if err := s.Put(ctx, entry); err != nil {
		return fmt.Errorf("store the token of static role %s: %w", name, err)
	}
	return nil
}

// A staticKeeper holds what this process knows about static roles. It is safe for
// concurrent use.
type staticKeeper struct {
	mu       sync.Mutex               // guards the following
	loaded   bool                     // checkAt has every static role
	checkAt  map[string]time.Time     // by role: when the worker must look at it
	verifyAt time.Time                // when the worker compares the current tokens with the cluster
	failing  map[string]staticFailure // by role, consecutive failures of the worker
	working  map[string]*roleLock     // by role: a lock for changes, which may wait for the cluster
	cached   map[string]cachedStatic  // by role, for reads
	changes  int                      // counts what ends the validity of cached
}

// A staticFailure is why the worker could not stage or change a token.
type staticFailure struct {
	text  string
	at    time.Time
	count int
}

// A cachedStatic is what a read needs, valid for a moment.
type cachedStatic struct {
	role  staticRole
	creds staticCreds
	at    time.Time // when it was read
}

// cacheTime is how long a read may use what another read has loaded. Every change
// on this node, and every one that Vault reports, ends it early.
const cacheTime = time.Second

// A roleLock is the lock of one static role.
type roleLock struct {
	turn  chan struct{}
	users int // that hold it or wait for it; without any it is forgotten
}

// lock locks the static role for changes and returns the function that unlocks
// it. The lock may be held over calls to the cluster, so waiting ends with ctx.
func (k *staticKeeper) lock(ctx context.Context, name string) (unlock func(), err error) {
	k.mu.Lock()
	if k.working == nil {
		k.working = map[string]*roleLock{}
	}
	l := k.working[name]
	if l == nil {
		l = &roleLock{turn: make(chan struct{}, 1)}
		k.working[name] = l
	}
	l.users++
	k.mu.Unlock()
	select {
	case l.turn <- struct{}{}:
		return func() {
			<-l.turn
			k.leave(name, l)
		}, nil
	case <-ctx.Done():
		k.leave(name, l)
		return nil, fmt.Errorf("another change of static role %s is running: %w", name, ctx.Err())
	}
}

// leave ends the use of the lock of a role.
func (k *staticKeeper) leave(name string, l *roleLock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(k.working, name)
	}
}

// checkNext sets when the worker looks at a role.
func (k *staticKeeper) checkNext(name string, at time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.checkAt == nil {
		k.checkAt = map[string]time.Time{}
	}
	k.checkAt[name] = at
}

// checkAll makes the worker read all static roles again.
func (k *staticKeeper) checkAll() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.loaded, k.cached, k.verifyAt = false, nil, time.Time{}
	k.changes++
}

// drop forgets a role that is deleted.
func (k *staticKeeper) drop(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.checkAt, name)
	delete(k.failing, name)
	delete(k.cached, name)
	k.changes++
}

// due returns the roles that the worker must look at.
func (k *staticKeeper) due(now time.Time) (names []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, at := range k.checkAt {
		if !now.Before(at) {
			names = append(names, name)
		}
	}
	return names
}

// forget ends the validity of what reads have cached of a role.
func (k *staticKeeper) forget(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.cached, name)
	k.changes++
}

// failed records a failure and reports whether it is the first in a row.
func (k *staticKeeper) failed(name string, err error, now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.failing == nil {
		k.failing = map[string]staticFailure{}
	}
	f := k.failing[name]
	f.text, f.count = shortFailure(err), f.count+1
	if f.count == 1 {
		f.at = now
	}
	k.failing[name] = f
	return f.count == 1
}

func (k *staticKeeper) succeeded(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.failing, name)
}

// failures returns the roles that are failing.
func (k *staticKeeper) failures() map[string]staticFailure {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := map[string]staticFailure{}
	for name, f := range k.failing {
		all[name] = f
	}
	return all
}

// readStatic returns a static role and its tokens, for a read. It returns false if there
// is no such role.
func (b *backend) readStatic(ctx context.Context, s logical.Storage, name string) (staticRole, staticCreds, bool, error) {
	now := b.now()
	b.static.mu.Lock()
	hit, ok := b.static.cached[name]
	changes := b.static.changes
	b.static.mu.Unlock()
	if ok && isFresh(hit.at, cacheTime, now) {
		return hit.role, hit.creds, true, nil
	}
	r, ok, err := findStaticRole(ctx, s, name)
	if err != nil || !ok {
		return r, staticCreds{}, false, err
	}
	c, err := loadStaticCreds(ctx, s, name)
	if err != nil {
		return r, c, true, err
	}
	b.static.mu.Lock()
	defer b.static.mu.Unlock()
	if b.static.cached == nil {
		b.static.cached = map[string]cachedStatic{}
	}
	if b.static.changes == changes { // otherwise what was read may be old already
		b.static.cached[name] = cachedStatic{r, c, now}
	}
	return r, c, true, nil
}

// jitter returns a random delay in whole seconds, up to most.
func jitter(most time.Duration) time.Duration {
	if most < time.Second {
		return 0
	}
	n, err := rand.Int(rand.Reader, big.NewInt(int64(most/time.Second)+1))
	if err != nil {
		return 0 // it never fails
	}
	return time.Duration(n.Int64()) * time.Second
}
