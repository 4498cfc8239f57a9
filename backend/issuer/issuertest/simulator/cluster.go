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

// The products that a profile can name.
const (
	Dedicated = "dedicated"
	Clustered = "clustered"
)

// Options configures a cluster. Empty fields get a generated value.
type Options struct {
	Product   string           // Dedicated or Clustered; empty serves the profiles and paths of both
	AccountID string           // a UUID
	ClusterID string           // a UUID
	Root      string           // secret of the first root credential
	Now       func() time.Time // nil: time.Now
}

// A Cluster is a simulated InfluxDB 3 cluster and its account. It is an
// http.Handler, is safe for concurrent use, and needs no closing.
type Cluster struct {
	product   string
	accountID string
	clusterID string
	now       func() time.Time
	root      string
	user      uuid.UUID // who created the tokens, according to lists
	keys      keyring
	tokens    store
	runs      runLog
	mux       *http.ServeMux

	mu     sync.Mutex // guards faults
	faults Faults
}

// NewCluster returns a cluster whose account has one token, a root credential.
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
	c.mux = http.NewServeMux()
	c.routeManagementAPI()
	c.routeCLI()
	c.routeControl()
	return c
}

func (c *Cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The server notices that a client disconnects only after the body is read.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	c.mux.ServeHTTP(w, r)
}

// AccountID returns the ID of the account.
func (c *Cluster) AccountID() string { return c.accountID }

// ClusterID returns the ID of the cluster.
func (c *Cluster) ClusterID() string { return c.clusterID }

// Root returns the secret of the first root credential.
func (c *Cluster) Root() string { return c.root }

// AddRoot adds a root credential: a management token that lists show at once.
func (c *Cluster) AddRoot() Token {
	return c.AddToken(Token{Root: true, Description: "root"})
}

// AddToken adds a token, as somebody else with access to the account would.
// Empty fields of t get a generated value. Prefix, CreatedBy and Live are
// ignored. It panics if t.ID is set and not a UUID.
func (c *Cluster) AddToken(t Token) Token {
	added, err := c.add(t)
	if err != nil {
		panic(err)
	}
	return added
}

// AddTokens adds n tokens like t. Their descriptions end in a number.
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

// Tokens returns all tokens that were ever created, oldest first.
func (c *Cluster) Tokens() []Token {
	var all []Token
	c.tokens.each(func(r record) error { // the function returns no error
		all = append(all, c.token(r))
		return nil
	})
	return all
}

// revoke revokes the token id unless it is already revoked. It reports whether
// there is such a token.
func (c *Cluster) revoke(id uuid.UUID) bool {
	now := c.now().UTC().Truncate(time.Microsecond)
	return c.tokens.update(id, func(r *record) {
		if r.revoked.IsZero() {
			r.revoked = now
		}
	})
}

// SetFaults replaces all faults.
func (c *Cluster) SetFaults(f Faults) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.RevokeErrors = maps.Clone(f.RevokeErrors)
	c.faults = f
}

// Faults returns the current faults. Their Times are those that remain.
func (c *Cluster) Faults() Faults {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.faults
}

// authorize checks that secret is a management token that works now.
func (c *Cluster) authorize(secret string) error {
	r, ok := c.bySecret(secret)
	if !ok || r.kind != Management || !r.live(c.now()) {
		return refuse(TextUnauthenticated)
	}
	return nil
}

// asListed returns r as a list that is lag behind shows it, and whether it
// shows it at all.
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
