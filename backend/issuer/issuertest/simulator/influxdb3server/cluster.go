package influxdb3server

import (
	"cmp"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// The products.
const (
	Core       = "core"
	Enterprise = "enterprise"
	Cloud      = "cloud"
)

// Operator is the name of the operator token, which has ID 0, never expires and
// cannot be deleted.
const Operator = "_admin"

// defaultVersion is the newest release that is known.
const defaultVersion = "3.11.5"

// Options configures a Cluster. The zero value is a Core server without tokens.
type Options struct {
	Product   string           // default Core
	Version   string           // default 3.11.5
	UUID      string           // of the catalog; default random
	Databases []string         // that exist
	Now       func() time.Time // default time.Now

	// Build replaces the value of the header X-Influxdb-Build; "-" omits the
	// header.
	Build string

	// WithoutAuth is the server's flag --without-auth.
	WithoutAuth bool

	// InvalidDatabase is the status for a database that does not exist. The
	// source of Core says 500; what Enterprise says is unknown. Default 400.
	InvalidDatabase int

	// Alarm is called with each violation, for example t.Error.
	Alarm func(...any)
}

// A Cluster is one catalog of tokens and the nodes that share it. It is safe for
// concurrent use. As a handler it is its first node.
type Cluster struct {
	first *Node

	mu         sync.Mutex // guards what follows, and the state of all nodes
	options    Options
	offset     time.Duration
	log        []change
	faults     []*Fault
	outage     bool
	violations []string
}

// A Node is a server of a cluster. It is an [http.Handler].
type Node struct {
	cluster *Cluster
	lag     time.Duration
	applied int // changes of the cluster's log
	catalog catalog
}

// New returns a cluster with one node.
func New(o Options) *Cluster {
	o.Product = cmp.Or(o.Product, Core)
	o.Version = cmp.Or(o.Version, defaultVersion)
	o.InvalidDatabase = cmp.Or(o.InvalidDatabase, http.StatusBadRequest)
	if o.UUID == "" {
		o.UUID = newUUID()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &Cluster{options: o}
	c.first = c.AddNode(0)
	return c
}

// AddNode returns a further node. It learns of what other nodes have changed
// after lag, or when it makes a change itself.
func (c *Cluster) AddNode(lag time.Duration) *Node {
	return &Node{cluster: c, lag: lag, catalog: newCatalog()}
}

// ServeHTTP answers as the first node.
func (c *Cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) { c.first.ServeHTTP(w, r) }

// A Balancer passes requests to its handlers in turn, as a load balancer does.
type Balancer struct {
	mu    sync.Mutex // guards next
	next  int
	nodes []http.Handler
}

// Balance returns a handler that passes requests to nodes in turn.
func Balance(nodes ...http.Handler) *Balancer { return &Balancer{nodes: nodes} }

// ServeHTTP passes the request to the next node.
func (b *Balancer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	node := b.nodes[b.next%len(b.nodes)]
	b.next++
	b.mu.Unlock()
	node.ServeHTTP(w, r)
}

// A Token is a token in the catalog. Its secret is not stored.
type Token struct {
	ID          uint64
	Name        string
	Hash        string // SHA-512 of the secret, in hex
	CreatedAt   time.Time
	Expiry      time.Time // zero: never
	Permissions []string  // such as "db:NAME:read"; nil: administrator
}

// Admin reports whether the token has all rights.
func (t Token) Admin() bool { return t.Permissions == nil }

// Live reports whether the server accepts the token at now.
func (t Token) Live(now time.Time) bool { return t.Expiry.IsZero() || t.Expiry.After(now) }

// A change is an entry of the catalog's log. Exactly one field besides at is
// set.
type change struct {
	at      time.Time
	created *Token
	deleted string
	whole   *catalog // restored from a backup
}

// A catalog is what one node knows.
type catalog struct {
	byName map[string]*Token
	byHash map[string]*Token
	nextID uint64
}

func newCatalog() catalog {
	return catalog{byName: map[string]*Token{}, byHash: map[string]*Token{}, nextID: 1}
}

func (g *catalog) apply(ch change) {
	switch {
	case ch.created != nil:
		g.byName[ch.created.Name], g.byHash[ch.created.Hash] = ch.created, ch.created
		g.nextID = max(g.nextID, ch.created.ID+1)
	case ch.whole != nil:
		*g = ch.whole.clone()
	default:
		if t := g.byName[ch.deleted]; t != nil {
			delete(g.byName, t.Name)
			delete(g.byHash, t.Hash)
		}
	}
}

func (g *catalog) clone() catalog {
	copied := newCatalog()
	copied.nextID = g.nextID
	for _, t := range g.byName {
		copied.byName[t.Name], copied.byHash[t.Hash] = t, t
	}
	return copied
}

// tokens returns all tokens in the order of their IDs.
func (g *catalog) tokens() []*Token {
	all := make([]*Token, 0, len(g.byName))
	for _, t := range g.byName {
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b *Token) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// catchUp applies the changes that the node knows by now. The caller holds the
// cluster's lock.
func (n *Node) catchUp() {
	now := n.cluster.options.Now()
	for n.applied < len(n.cluster.log) && !n.cluster.log[n.applied].at.Add(n.lag).After(now) {
		n.apply()
	}
}

func (n *Node) apply() {
	n.catalog.apply(n.cluster.log[n.applied])
	n.applied++
}

// commit appends a change that prepare makes from the node's catalog. As in the
// product, an error of the first prepare returns although the node may be
// behind. Only a node that loses the race for the next place in the log catches
// up and prepares again. The caller holds the cluster's lock.
func (n *Node) commit(prepare func(*catalog) (change, error)) (change, error) {
	ch, err := prepare(&n.catalog)
	if err != nil {
		return change{}, err
	}
	if n.applied < len(n.cluster.log) {
		for n.applied < len(n.cluster.log) {
			n.apply()
		}
		if ch, err = prepare(&n.catalog); err != nil {
			return change{}, err
		}
	}
	ch.at = n.cluster.options.Now()
	n.cluster.log = append(n.cluster.log, ch)
	n.apply()
	return ch, nil
}

// now is the time on the servers' clocks.
func (c *Cluster) now() time.Time { return c.options.Now().Add(c.offset) }

// SetClockOffset makes the servers' clocks differ from Now by d.
func (c *Cluster) SetClockOffset(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset = d
}

// SetVersion upgrades the servers.
func (c *Cluster) SetVersion(version string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.options.Version = version
}

// SetOutage makes every connection end without an answer.
func (c *Cluster) SetOutage(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outage = on
}

// UUID returns the UUID of the catalog.
func (c *Cluster) UUID() string { return c.options.UUID }

// AddToken adds a token as an offline token file does, and returns its secret.
// An empty secret is chosen by the server. A zero expiry means never. Without
// permissions the token is an administrator.
func (c *Cluster) AddToken(name, secret string, expiry time.Time, permissions ...string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	secret = cmp.Or(secret, newSecret())
	_, err := c.first.commit(func(g *catalog) (change, error) {
		return g.prepareCreate(name, secret, c.now(), expiry, permissions)
	})
	if err != nil {
		panic(fmt.Sprintf("add token %q: %v", name, err))
	}
	return secret
}

// Tokens returns the tokens in the newest catalog.
func (c *Cluster) Tokens() []Token {
	c.mu.Lock()
	defer c.mu.Unlock()
	newest := c.newest()
	var all []Token
	for _, t := range newest.tokens() {
		all = append(all, *t)
	}
	return all
}

// Token returns the token of a name in the newest catalog.
func (c *Cluster) Token(name string) (Token, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.newest().byName[name]; t != nil {
		return *t, true
	}
	return Token{}, false
}

// Accepts reports whether a node that knows the newest catalog accepts a
// secret.
func (c *Cluster) Accepts(secret string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.newest().byHash[hashOf(secret)]
	return t != nil && t.Live(c.now())
}

// newest returns the catalog of the first node after it has caught up.
func (c *Cluster) newest() *catalog {
	c.first.catchUp()
	return &c.first.catalog
}

// A Backup is a copy of the catalog.
type Backup struct{ catalog catalog }

// Backup copies the catalog.
func (c *Cluster) Backup() Backup {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Backup{c.newest().clone()}
}

// Restore replaces the catalog: tokens deleted since the backup exist again,
// and newer ones are gone.
func (c *Cluster) Restore(b Backup) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = c.first.commit(func(*catalog) (change, error) { return change{whole: &b.catalog}, nil })
}

// Violations returns the requests that the secrets engine must never send.
func (c *Cluster) Violations() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string{}, c.violations...)
}

func (c *Cluster) violation(text string) {
	c.violations = append(c.violations, text)
	if c.options.Alarm != nil {
		c.options.Alarm("influxdb3server: " + text)
	}
}

func hashOf(secret string) string {
	sum := sha512.Sum512([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// newSecret returns a secret as the product makes them: 64 random bytes.
func newSecret() string {
	var random [64]byte
	_, _ = rand.Read(random[:])
	return "apiv3_" + base64.RawURLEncoding.EncodeToString(random[:])
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
