// Package backend is the InfluxDB 3 secrets engine: it mints management and
// database tokens under a Vault lease and revokes them when the lease ends.
//
// It keeps two promises, in this order. No token outlives its lease: a record
// in the ledger precedes every token and stays until the token is known to be
// dead. A token under a living lease works until the lease ends.
//
// The package knows Vault and no vendor. What it asks of a cluster is in
// package issuer.
package backend

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// The kinds of tokens.
const (
	// Management tokens have full administrative power over an account or
	// cluster, and none over data.
	Management = "management"

	// Database tokens read and write the data of databases.
	Database = "database"
)

// Options is what the engine is made of.
type Options struct {
	Version string                   // of the plugin, as `vault plugin list` shows it: a semantic version with a leading v
	Drivers map[string]issuer.Driver // by kind of token; one for Management, one for Database
	Now     func() time.Time         // the clock; nil for the system's
}

// Factory returns the factory of engines that share o. Every mount gets an
// engine of its own. The factory does no I/O: it also runs when the plugin is
// registered, with nothing to go on.
func Factory(o Options) logical.Factory {
	return func(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
		for _, kind := range []string{Management, Database} {
			if o.Drivers[kind] == nil {
				return nil, fmt.Errorf("no driver for %s tokens is built in", kind)
			}
		}
		b := newBackend(o, conf.BackendUUID)
		named := *conf
		if conf.Logger != nil { // Vault shows the lines of all mounts under the name of one
			named.Logger = conf.Logger.With("mount_tag", b.tag)
		}
		if err := b.Setup(ctx, &named); err != nil {
			return nil, fmt.Errorf("set the engine up: %w", err)
		}
		return b, nil
	}
}

type backend struct {
	*framework.Backend
	drivers map[string]issuer.Driver
	version string
	now     func() time.Time
	tag     mountTag
	ledger  *ledger
	health  health
	root    rootKeeper

	workerMu   sync.Mutex    // guards what follows
	wake       chan struct{} // nil until there is a worker
	stopWorker context.CancelFunc
	stopped    bool

	configMu sync.Mutex // guards the stored config: held to compare and to write
	rolesMu  sync.Mutex // guards the stored roles: held to read, alter and write one
}

func newBackend(o Options, backendUUID string) *backend {
	b := &backend{
		drivers: o.Drivers,
		version: o.Version,
		now:     o.Now,
		tag:     newMountTag(backendUUID),
		ledger:  newLedger(),
	}
	if b.now == nil {
		b.now = time.Now
	}
	b.Backend = &framework.Backend{
		BackendType:    logical.TypeLogical,
		RunningVersion: o.Version,
		Help:           strings.TrimSpace(help),
		PathsSpecial:   &logical.Paths{SealWrapStorage: []string{configKey, rotationKey}},
		Secrets:        []*framework.Secret{b.secret()},
		PeriodicFunc:   b.periodic,
		Clean:          b.clean,
		Invalidate:     b.invalidate,
		Paths: strict([]*framework.Path{
			b.pathConfig(),
			b.pathConfigCheck(),
			b.pathRotateRoot(),
			b.pathRoles(),
			b.pathRole(),
			b.pathCreds(),
			b.pathTokens(),
			b.pathToken(),
			b.pathTidy(),
			b.pathStatus(),
		}),
	}
	return b
}

// invalidate is told of what another node has written. Only when the root token
// needs a look is remembered of the config.
func (b *backend) invalidate(_ context.Context, key string) {
	if key == configKey {
		b.root.look(time.Time{})
	}
}

const help = `
The InfluxDB secrets engine mints management tokens and database tokens of
InfluxDB 3 Cloud Dedicated and InfluxDB Clustered under a lease, and revokes
them when the lease ends.

    vault write influxdb/config product=dedicated account_id=… cluster_id=… mgmt_token=@root-token
    vault write -f influxdb/config/check
    vault write influxdb/roles/automation ttl=1h max_ttl=8h
    vault read influxdb/creds/automation
    vault write influxdb/roles/telegraf token_type=database write_databases=metrics

A management token has full administrative power over an account or a cluster;
most applications want a database token, which reads and writes the databases
that its role names. A token's expires_at, fixed at its birth, lies shortly after
the last moment its lease can have, so that it dies even if nothing is left to
revoke it.
`

// issuerOf returns what mints, lists and revokes tokens of a kind on the
// configured cluster.
func (b *backend) issuerOf(c config, kind string) issuer.Issuer {
	return b.drivers[kind].Open(c.Cluster)
}

// event tells Vault's event subscribers of an act, also if the request that
// brought it about has ended. That nobody may hear it, or that this server has
// no events, is not an error.
func (b *backend) event(ctx context.Context, what, path string, metadata ...string) {
	ctx, cancel := own(ctx)
	defer cancel()
	pairs := append([]string{logical.EventMetadataPath, path, logical.EventMetadataOperation, what}, metadata...)
	_ = logical.SendEvent(ctx, b, "influxdb/"+what, pairs...)
}

// ownTime bounds what must be stored whatever became of the request.
const ownTime = 10 * time.Second

// own returns a context that does not end with the request's.
func own(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), ownTime)
}
