// Package influxctl is the driver that runs influxctl, the vendor's command line
// for InfluxDB 3 Cloud Dedicated and InfluxDB Clustered. It returns errors and
// does not log.
//
// A call goes through these files, in this order:
//
//   - cluster.go has the methods of issuer.Issuer;
//   - program.go finds the program, copies it, and checks checksum and version;
//   - gate.go waits until the process may be started;
//   - scratch.go makes a private directory, profile.go writes the profile in it,
//     args.go builds the arguments;
//   - process.go runs the process;
//   - errors.go classifies how it ended;
//   - create.go and list.go decode what it printed.
//
// Revocations are collected by queue.go and carried out by revoke.go.
package influxctl

import (
	"context"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// A Config configures a Driver. It comes from the plugin's registration, not from
// the API: who may write the engine's config must not choose which program runs.
type Config struct {
	Path   string // INFLUXCTL_PATH, absolute; empty: influxctl on PATH
	SHA256 string // INFLUXCTL_SHA256, in hex; empty: any program

	// Dir is where profiles are written while the program runs. Empty: /dev/shm
	// if it exists, which must be writable then, else the directory for
	// temporary files.
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

// New returns a driver. It does no I/O: the program is looked for and checked
// when it is first needed, so a missing program does not keep a mount from
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

// Open returns the issuer of a cluster. c.MaxParallel limits the processes for
// this cluster. All clusters of the driver together have no more processes than
// the largest MaxParallel among those that need one.
func (d *Driver) Open(c issuer.Cluster) issuer.Issuer { return &cluster{d, c} }

// Program checks that the program can be used.
func (d *Driver) Program(ctx context.Context) (issuer.Program, error) {
	facts, _, err := d.program.verified(ctx)
	return facts, err
}

// Close releases what the driver holds. No call may be running, and none may
// follow.
func (d *Driver) Close() error {
	d.launcher.close()
	defer d.scratch.close()
	return d.program.close()
}
