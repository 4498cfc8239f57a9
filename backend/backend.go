// Package backend is the InfluxDB 3 secrets engine. It issues management and
// database tokens under a Vault lease and revokes them when the lease ends.
//
// It makes two promises, in this order. No token outlives its lease: a record in
// the ledger is stored before a token is created, and stays until the token is
// known to be revoked or expired. A token under a valid lease works until the
// lease ends.
//
// The package knows Vault and no vendor. What it needs from a cluster is defined
// in package issuer; what it remembers is in package ledger.
//
// # Map
//
// A read of creds/:role passes these files, in this order: path_creds.go;
// terms.go, which computes TTLs and expiry; issuance.go, which stores the record,
// issues the token and confirms it; upstream.go, the only way to a driver;
// lease.go, which also renews and revokes.
//
// A revocation passes lease.go, revocation.go and leadership.go, also that of a mount that is
// being disabled (disable.go). The worker (worker.go) finds
// records whose deadline has passed and passes them to revocation.go too.
//
// product.go is the table of products. cluster_identity.go makes sure that the
// server at the configured address is the configured cluster.
//
// The root credential: config.go stores it, root_identity.go finds it among the
// tokens of the cluster, rotation_policy.go says when to rotate it, rotation.go
// does so, root_keeper.go calls that from the worker.
//
// Static roles: static_role.go describes them, static_creds.go stores their tokens,
// static_rotation.go replaces the tokens.
//
// Each path is in path_*.go: schema, help and handler. errors.go maps errors to
// answers; format.go formats them.
package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
)

// The token types.
const (
	// Management tokens have full administrative rights over an account or a
	// cluster. In some products they have no access to data.
	Management = "management"

	// Database tokens read and write the data of databases.
	Database = "database"
)

// Drivers are the drivers by product and token type.
type Drivers map[string]map[string]issuer.Driver

// Options configures the engine.
type Options struct {
	Version string           // of the plugin, as `vault plugin list` shows it: a semantic version with a leading v
	Drivers Drivers          // for every product that config accepts
	Now     func() time.Time // the clock; nil for the system's clock
}

// Factory returns the factory of engines that share o. Every mount gets its own
// engine. The factory does no I/O: Vault also calls it when the plugin is
// registered, without a mount.
func Factory(o Options) logical.Factory {
	return func(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
		if len(o.Drivers) == 0 {
			return nil, errors.New("the engine has no drivers")
		}
		b := newBackend(o, conf.BackendUUID)
		b.storage = conf.StorageView
		own := *conf
		if conf.Logger != nil { // Vault shows the lines of all mounts under one name
			own.Logger = conf.Logger.With("mount_tag", b.tag)
		}
		if conf.System != nil {
			own.System = &systemView{SystemView: conf.System, now: b.now}
		}
		if err := b.Setup(ctx, &own); err != nil {
			return nil, fmt.Errorf("set up the engine: %w", err)
		}
		return b, nil
	}
}

type backend struct {
	*framework.Backend
	drivers Drivers
	version string
	clock   clock
	tag     mountTag
	storage logical.Storage // for clean, which gets none; nil when the plugin is registered
	ledger  *ledger.Ledger
	health  health
	metrics *metrics
	root    rootKeeper
	static  staticKeeper
	worker  worker

	leadership leadership

	// configMu guards the stored config and what must agree with it: it is held
	// to compare and write the config, and to admit IDs to revoking. A record's
	// lock may be taken while it is held, never the other way round.
	configMu sync.Mutex
	revoking map[string]int // IDs that are being revoked at this moment

	rolesMu sync.Mutex // held to read, change and write a role
}

func newBackend(o Options, backendUUID string) *backend {
	b := &backend{
		drivers:  o.Drivers,
		version:  o.Version,
		clock:    clock{read: o.Now},
		tag:      newMountTag(backendUUID),
		ledger:   ledger.New(),
		metrics:  newMetrics(),
		revoking: map[string]int{},
	}
	b.Backend = &framework.Backend{
		BackendType:    logical.TypeLogical,
		RunningVersion: o.Version,
		Help:           strings.TrimSpace(help),
		PathsSpecial:   &logical.Paths{SealWrapStorage: []string{configKey, rotationKey, staticCredsPrefix}},
		Secrets:        []*framework.Secret{b.secret()},
		PeriodicFunc:   b.periodic,
		Clean:          b.clean,
		Invalidate:     b.invalidate,
		Paths: keepIndents(b.strict([]*framework.Path{
			b.pathConfig(),
			b.pathConfigCheck(),
			b.pathRotateRoot(),
			b.pathRoles(),
			b.pathRole(),
			b.pathCreds(),
			b.pathStaticRoles(),
			b.pathStaticRole(),
			b.pathStaticCreds(),
			b.pathRotateRole(),
			b.pathTokens(),
			b.pathTokensDetailed(),
			b.pathToken(),
			b.pathTidy(),
			b.pathStatus(),
			b.pathMetrics(),
		})),
	}
	return b
}

// invalidate is called when another node has changed the storage. This node then
// reads what it holds in memory again when it needs it.
func (b *backend) invalidate(_ context.Context, key string) {
	switch {
	case key == configKey, key == rotationKey:
		b.root.checkSoon()
	case strings.HasPrefix(key, ledger.Prefix):
		b.ledger.Invalidate()
	case strings.HasPrefix(key, staticRolePrefix), strings.HasPrefix(key, staticCredsPrefix):
		b.static.checkAll()
	}
}

const help = `
The InfluxDB secrets engine issues management tokens and database tokens of
InfluxDB Cloud Dedicated, InfluxDB Clustered and InfluxDB 3 Core, Enterprise and
Cloud under a lease, and revokes them when the lease ends.

    vault write influxdb/config product=dedicated account_id=… cluster_id=… mgmt_token=@token
    vault write influxdb/config product=enterprise host=… admin_token=@token
    vault write -f influxdb/config/check
    vault write influxdb/roles/automation ttl=1h max_ttl=8h
    vault read influxdb/creds/automation
    vault write influxdb/roles/telegraf token_type=database write_databases=metrics

A management token has full administrative rights over an account or a cluster.
Most applications need a database token, which reads and writes the databases
that its role names. InfluxDB 3 Core has no database tokens.

The expiry of a token is fixed when it is issued: 30 seconds after the latest
time at which its lease can end. So a token ends even if it cannot be revoked.
`

// programDriver returns the driver of a product that runs a program of the vendor,
// or nil. As long as no product is configured, it is that of any product.
func (b *backend) programDriver(product string) issuer.ProgramDriver {
	for name, types := range b.drivers {
		if driver, ok := types[Management].(issuer.ProgramDriver); ok && (product == "" || name == product) {
			return driver
		}
	}
	return nil
}

// event sends an event to Vault's subscribers, also if the request that caused it
// has ended. It is not an error if there are no subscribers or no events.
func (b *backend) event(ctx context.Context, what, path string, metadata ...string) {
	ctx, cancel := storeContext(ctx)
	defer cancel()
	pairs := append([]string{logical.EventMetadataPath, path, logical.EventMetadataOperation, what}, metadata...)
	_ = logical.SendEvent(ctx, b, "influxdb/"+what, pairs...)
}
