package simulator

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// The products a profile can name.
const (
	Dedicated = "dedicated"
	Clustered = "clustered"
)

// Options describe a cluster. What is empty is made up.
type Options struct {
	Product   string           // Dedicated or Clustered; empty serves the profiles and paths of both
	AccountID string           // a UUID
	ClusterID string           // a UUID
	Root      string           // secret of the first management token
	Now       func() time.Time // time.Now if nil
}

// A Cluster is a simulated InfluxDB 3 cluster with its account. It is an
// http.Handler, safe for concurrent use, and needs no closing.
type Cluster struct {
	product   string
	accountID string
	clusterID string
	now       func() time.Time
	root      string
	user      uuid.UUID // who all tokens were created by
	keys      keyring
	tokens    store
	runs      runLog
	mux       *http.ServeMux

	mu        sync.Mutex // guards what follows
	faults    Faults
	faultsSet time.Time
}

// NewCluster makes a cluster whose account holds one root token.
func NewCluster(o Options) *Cluster {
	c := &Cluster{
		product:   o.Product,
		accountID: cmp.Or(o.AccountID, uuid.NewString()),
		clusterID: cmp.Or(o.ClusterID, uuid.NewString()),
		now:       o.Now,
		user:      uuid.New(),
		keys:      newKeyring(),
		tokens:    store{byID: make(map[uuid.UUID]*record), given: make(map[string]uuid.UUID)},
	}
	if c.now == nil {
		c.now = time.Now
	}
	c.root = c.AddToken(Token{Root: true, Secret: o.Root, Description: "root"}).Secret
	c.mux = c.routes()
	return c
}

func (c *Cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The server notices that a client leaves only once the body is read.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	c.mux.ServeHTTP(w, r)
}

func (c *Cluster) routes() *http.ServeMux {
	mux := http.NewServeMux()
	c.routeAPI(mux)
	c.routeCLI(mux)
	c.routeControl(mux)
	return mux
}

// AccountID is the account the cluster belongs to.
func (c *Cluster) AccountID() string { return c.accountID }

// ClusterID is the cluster's own ID.
func (c *Cluster) ClusterID() string { return c.clusterID }

// Root is the secret of the first management token.
func (c *Cluster) Root() string { return c.root }

// AddRoot makes a further root token: a management token that lists show at
// once and that is accepted at once, whatever the faults.
func (c *Cluster) AddRoot() Token {
	return c.AddToken(Token{Root: true, Description: "root"})
}

// AddToken makes a token behind the back of whoever uses the cluster. Fields of
// t that are empty are made up; Prefix, CreatedBy and Live are ignored. It
// panics if t.ID is set and no UUID.
func (c *Cluster) AddToken(t Token) Token {
	made, err := c.mint(t)
	if err != nil {
		panic(err)
	}
	return made
}

// AddTokens makes n tokens like t, with their number appended to the
// description.
func (c *Cluster) AddTokens(n int, t Token) {
	t.ID, t.Secret = "", ""
	description := t.Description
	for i := range n {
		t.Description = strings.TrimSpace(fmt.Sprintf("%s %d", description, i+1))
		c.AddToken(t)
	}
}

// Token returns the token id, of either kind.
func (c *Cluster) Token(id string) (Token, bool) {
	parsed, err := uuid.Parse(id)
	if err != nil {
		return Token{}, false
	}
	r, ok := c.tokens.get(parsed)
	if !ok {
		return Token{}, false
	}
	return c.token(r), true
}

// Tokens returns all tokens there have ever been, in the order of creation.
func (c *Cluster) Tokens() []Token {
	var all []Token
	c.tokens.each(func(r record) error { // f never fails
		all = append(all, c.token(r))
		return nil
	})
	return all
}

// Kill revokes the token id, as somebody else with access to the account might.
// It tells whether there is such a token.
func (c *Cluster) Kill(id string) bool {
	parsed, err := uuid.Parse(id)
	if err != nil {
		return false
	}
	_, ok := c.kill(parsed)
	return ok
}

// kill revokes the token id unless it is revoked already.
func (c *Cluster) kill(id uuid.UUID) (record, bool) {
	now := c.now().UTC().Truncate(time.Microsecond)
	return c.tokens.update(id, func(r *record) {
		if r.revoked.IsZero() {
			r.revoked = now
		}
	})
}

// SetFaults replaces all faults. Those that are limited in time or number count
// from now.
func (c *Cluster) SetFaults(f Faults) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.RevokeErrors = maps.Clone(f.RevokeErrors)
	c.faults = f
	c.faultsSet = c.now()
}

// Faults returns the faults in force, with the numbers that remain.
func (c *Cluster) Faults() Faults {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.faults
}

// authorise finds the living management token that a credential is.
func (c *Cluster) authorise(secret string) error {
	r, ok := c.bySecret(secret)
	if !ok || r.kind != Management || !c.accepted(r) {
		return refuse(TextUnauthenticated)
	}
	return nil
}

// accepted tells whether the token r works as a credential now.
func (c *Cluster) accepted(r record) bool {
	now := c.now()
	delay := time.Duration(c.Faults().NewTokenDelay)
	return r.live(now) && (r.root || now.Sub(r.created) >= delay)
}

// asListed is r as a list shows it now, which may lag behind the truth.
func (c *Cluster) asListed(r record, lag time.Duration) (record, bool) {
	seen := c.now().Add(-lag)
	if lag > 0 && !r.root && r.created.After(seen) {
		return r, false
	}
	if lag > 0 && r.revoked.After(seen) {
		r.revoked = time.Time{}
	}
	return r, true
}
