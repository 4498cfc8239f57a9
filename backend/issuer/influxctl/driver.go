// Package influxctl is the issuer that runs influxctl, the vendor's command
// line for InfluxDB 3 Cloud Dedicated and InfluxDB Clustered. It knows the
// program and no Vault, returns errors and does not log.
//
// A call passes through these files, in this order: cluster.go; program.go,
// which proves the program; gate.go, which lets it in; profile.go and args.go,
// which say what to do; process.go, which runs it; errors.go, which judges how
// it ended; create.go and list.go, which read what it printed. Revocations come
// in through queue.go, which gathers them, and revoke.go, which settles them.
package influxctl

import (
	"context"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// A Config says which program to run. It comes from the plugin's registration,
// never from the API: whoever may write the engine's config must not choose
// what runs.
type Config struct {
	Path   string // INFLUXCTL_PATH, absolute; empty: influxctl on PATH
	SHA256 string // INFLUXCTL_SHA256, in hex; empty: not pinned

	// Dir is where profiles are written while the program runs. Empty: in
	// memory where there is /dev/shm, which must be writable then, else the
	// directory for temporary files.
	Dir string

	Now func() time.Time // nil: time.Now
}

// A Driver runs influxctl for any number of clusters. It is an
// [issuer.ProgramDriver].
type Driver struct {
	now      func() time.Time
	program  *program
	scratch  *scratch
	launcher *launcher
	gate     gate
	queues   queues
}

var _ issuer.ProgramDriver = (*Driver)(nil)

// New returns a driver. It does no I/O: the program is looked for and proven
// when it is first needed, so that a missing one never stops a mount from
// loading.
func New(cfg Config) *Driver {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	d := &Driver{now: cfg.Now, scratch: &scratch{dir: cfg.Dir, memory: memoryDir}, launcher: &launcher{}}
	d.program = newProgram(cfg, d.scratch, d.launcher)
	d.queues.run = func(ctx context.Context, c issuer.Cluster, ids []string) map[string]error {
		return (&cluster{d, c}).revokeBatch(ctx, ids)
	}
	return d
}

// Open returns the issuer of a cluster. The number of processes that
// c.MaxParallel allows is counted over all clusters of the driver.
func (d *Driver) Open(c issuer.Cluster) issuer.Issuer { return &cluster{d, c} }

// Program proves the program fit for use.
func (d *Driver) Program(ctx context.Context) (issuer.Program, error) {
	facts, _, err := d.program.prove(ctx)
	return facts, err
}

// Close frees what the driver holds. No call may be under way, none may follow.
func (d *Driver) Close() error {
	d.launcher.close()
	defer d.scratch.close()
	return d.program.close()
}
