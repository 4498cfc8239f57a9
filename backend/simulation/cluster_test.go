//go:build !race

package simulation

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// The hosts of the model. Alias is another name of home. At evil, somebody listens
// who does not have a cluster.
const (
	homeHost  = "home.example"
	aliasHost = "alias.example"
	awayHost  = "away.example"
	evilHost  = "evil.example"
)

// A cluster is the tokens of all types on one cluster. Its clock differs from that
// of Vault by skew.
type cluster struct {
	world *world
	name  string
	uuid  string
	types map[string]*issuertest.Fake
	skew  time.Duration

	// Faults that last.
	outage  map[string]string // by type of token: what happens to calls
	flaky   int               // one call in so many fails
	ignores time.Duration     // how long a node does not know a new token
}

// What happens to calls in an outage.
const (
	refusesConnection = "refuses the connection"
	doesNotAnswer     = "does not answer"
	rejectsRoot       = "rejects the root credential"
)

func newCluster(w *world, name string) (*cluster, issuer.Token) {
	c := &cluster{world: w, name: name, outage: map[string]string{}}
	now := func() time.Time { return w.time().Add(c.skewNow()) }
	var fake *issuertest.Fake
	var root issuer.Token
	if w.product == issuer.Clustered {
		fake, root = issuertest.NewFake(now)
	} else {
		c.uuid = name + "-uuid"
		traits := issuer.Traits{KeepsExpired: true, OneList: true, SpreadTime: 15 * time.Second}
		if w.product == issuer.Core {
			traits.UnknownAge, traits.SpreadTime = -1, 0
		}
		fake, root = issuertest.NewNamedFake(now, traits)
		fake.SetServer(issuer.Server{Product: w.product, Version: "3.9.0", UUID: c.uuid}, nil)
	}
	c.types = map[string]*issuertest.Fake{backend.Management: fake, backend.Database: issuertest.NewFakeOf(fake)}
	for _, f := range c.types {
		f.SetUnknown(func(info issuer.Info) bool {
			return c.ignores > 0 && now().Before(info.CreatedAt.Add(c.ignores))
		})
	}
	return c, root
}

func (c *cluster) skewNow() time.Duration {
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	return c.skew
}

// hasSecret reports whether a token has a secret. The ID in config proves nothing: its
// writer may have made it up.
func (c *cluster) hasSecret(id, secret string) bool {
	return slices.ContainsFunc(c.types[backend.Management].Tokens(), func(info issuer.Info) bool {
		return info.ID == id && info.Matches(issuer.NewSecret(secret))
	})
}

func (c *cluster) now() time.Time { return c.world.time().Add(c.skew) }

// A driver opens the issuers of one instance and one type of token.
type driver struct {
	from      *instance
	tokenType string
}

// Open implements issuer.Driver.
func (d driver) Open(c issuer.Cluster) issuer.Issuer {
	i := remote{driver: d, config: c, host: c.Host}
	if u, err := url.Parse(c.APIURL); err == nil && u.Host != "" && d.tokenType == backend.Database {
		i.host = u.Hostname()
	}
	if i.cluster = d.from.world.clusterAt(i.host); i.cluster != nil {
		i.inner = i.cluster.types[d.tokenType].Open(c)
	}
	if d.from.world.product != issuer.Clustered {
		return namedRemote{i}
	}
	return i
}

// A remote is an issuer whose calls pass gates.
type remote struct {
	driver
	config  issuer.Cluster
	host    string
	cluster *cluster // nil at a host without one
	inner   issuer.Issuer
}

// call passes the gates of one call. do is the effect on the cluster.
func (r remote) call(ctx context.Context, kind, what string, do func()) error {
	w := r.from.world
	g := &gate{from: r.from, kind: kind, what: what, token: r.tokenType, host: r.host, ctx: ctx, effect: do}
	if r.inner == nil {
		g.effect = func() {}
	}
	v := w.wait(g)
	w.sent(r.config.Root.Reveal(), r.host)
	if v.before != nil {
		if v.late > 0 {
			w.later(v.late, g.String()+" has its effect late", g.effect)
		}
		return v.before
	}
	if r.inner == nil {
		return fmt.Errorf("%s: %w", r.host, issuer.ErrUnauthorized)
	}
	do()
	w.dirty = true
	if v.hold {
		if v = w.wait(&gate{from: r.from, kind: kind, what: what, token: r.tokenType, host: r.host, ctx: ctx, after: true}); v.before != nil {
			return v.before
		}
	}
	return v.after
}

// Issue implements issuer.Issuer.
func (r remote) Issue(ctx context.Context, request issuer.Request) (token issuer.Token, err error) {
	var failure error
	err = r.call(ctx, "issue", request.Description, func() {
		token, failure = r.inner.Issue(context.Background(), request)
		if failure == nil {
			r.from.world.issued(r, request, token)
		}
	})
	if err = errors.Join(err, failure); err != nil {
		return issuer.Token{}, err
	}
	return token, nil
}

// Revoke implements issuer.Issuer.
func (r remote) Revoke(ctx context.Context, ids ...string) map[string]error {
	failed := map[string]error{}
	err := r.call(ctx, "revoke", strings.Join(ids, ","), func() {
		before := r.valid(ids)
		failed = r.inner.Revoke(context.Background(), ids...)
		for _, id := range ids {
			if before[id] && failed[id] == nil {
				r.from.world.revoked(r, id)
			}
		}
	})
	if err != nil {
		for _, id := range ids {
			failed[id] = err
		}
	}
	return failed
}

// valid returns which of the tokens are valid.
func (r remote) valid(ids []string) map[string]bool {
	valid := map[string]bool{}
	for _, fake := range r.cluster.types {
		for _, info := range fake.Tokens() {
			if slices.Contains(ids, info.ID) && !info.Dead(r.cluster.now()) {
				valid[info.ID] = true
			}
		}
	}
	return valid
}

// List implements issuer.Issuer.
func (r remote) List(ctx context.Context, yield func(issuer.Info) error) error {
	var infos []issuer.Info
	var failure error
	err := r.call(ctx, "list tokens", "", func() {
		failure = r.inner.List(context.Background(), func(info issuer.Info) error {
			infos = append(infos, info)
			return nil
		})
	})
	if err = errors.Join(err, failure); err != nil {
		return err
	}
	for _, info := range infos {
		if err := yield(info); err != nil {
			return err
		}
	}
	return nil
}

// A namedRemote is an issuer of InfluxDB 3 Core or Enterprise.
type namedRemote struct{ remote }

// IDOf implements issuer.Namer.
func (namedRemote) IDOf(r issuer.Request) string { return r.Description }

// Traits implements issuer.Describer. The engine also asks an issuer without an
// address.
func (r namedRemote) Traits() issuer.Traits {
	home := r.from.world.home.types[r.tokenType]
	return home.Open(issuer.Cluster{}).(issuer.Describer).Traits()
}

// ReportedUUID implements issuer.UUIDReporter.
func (r namedRemote) ReportedUUID() string {
	if r.cluster == nil {
		return ""
	}
	return r.cluster.uuid
}

// Inspect implements issuer.Inspector.
func (r namedRemote) Inspect(ctx context.Context) (server issuer.Server, err error) {
	var failure error
	err = r.call(ctx, "inspect", "", func() {
		server, failure = r.inner.(issuer.Inspector).Inspect(context.Background())
	})
	return server, errors.Join(err, failure)
}

// clusterAt returns the cluster at a host, or nil.
func (w *world) clusterAt(host string) *cluster {
	switch host {
	case homeHost, aliasHost:
		return w.home
	case awayHost:
		return w.away
	}
	return nil
}
