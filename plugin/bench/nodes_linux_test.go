package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// measureNodes puts a mixed load on a Vault of three nodes. Every client uses all
// nodes in turn; standbys forward its requests.
func measureNodes(b *testing.B, out results) {
	vault := vaulttest.StartCluster(b)
	for _, node := range vault.Nodes {
		(&rig{Server: node}).logLess(b)
	}
	r := newRigOn(b, vault.AwaitLeader(b))
	r.mountInfluxDB3(b)
	for _, clients := range []int{4, 32} {
		both := compare(b,
			load{clients, r.onAllNodes(vault, "v3/creds/data", "v3/static-creds/fleet")},
			load{clients, r.onAllNodes(vault, "yardstick/kept", "yardstick/plain")})
		out.addRates(b, fmt.Sprintf("three nodes, cycles of issue, 2 shared reads, renew and revoke, %d clients", clients), both[0], storedUUID, both[1])
	}
}

// onAllNodes returns a function that does a cycle, each time at the next node.
func (r *rig) onAllNodes(vault *vaulttest.Cluster, leased, shared string) func(context.Context) error {
	var next atomic.Int64
	return func(ctx context.Context) error {
		at := &rig{Server: vault.Nodes[int(next.Add(1))%len(vault.Nodes)]}
		return at.cycle(leased, shared)(ctx)
	}
}

// measureHang measures how long it takes to issue and to revoke a management
// token while the cluster of another mount does not answer.
func measureHang(b *testing.B, out results) {
	r := newRig(b)
	var other cluster
	r.startSimulator(b, &other, "cluster")
	must(b, r.Mount(b.Context(), "engine", "other"))
	r.configure(b, "other", other)
	r.slow(b, cliLatency)
	quiet := r.issueAndRevoke(b)

	r.controlOf(b, other, "PUT", "faults", simulator.Faults{Any: simulator.Fault{Hang: simulator.Before}}, nil)
	ctx, stop := context.WithCancel(b.Context())
	var hanging sync.WaitGroup
	for i := range 2 * maxParallel {
		role := fmt.Sprint("other/roles/", i)
		r.write(b, role, map[string]any{"ttl": "1h"})
		hanging.Go(func() { _ = r.reads(fmt.Sprint("other/creds/", i))(ctx) }) // ends when ctx does
	}
	must(b, vaulttest.Eventually(b.Context(), 30*time.Second, func() error {
		if n := len(vaulttest.Children([]vaulttest.Process{r.engine})); n < maxParallel {
			return fmt.Errorf("%d processes hang", n)
		}
		return nil
	}))
	disturbed := r.issueAndRevoke(b)
	stop()
	hanging.Wait()
	for i, act := range []string{"issue", "revoke"} {
		out.addRates(b, act+" a management token while another cluster hangs, 1 client", disturbed[i], noHang, quiet[i])
	}
}

// issueAndRevoke issues management tokens and revokes each at once, one after
// the other.
func (r *rig) issueAndRevoke(b *testing.B) []measurement {
	b.Helper()
	var answer struct {
		Lease string `json:"lease_id"`
	}
	return alternate(b,
		func(ctx context.Context) error { return r.Call(ctx, "GET", "engine/creds/cli", nil, &answer) },
		func(ctx context.Context) error {
			return r.Call(ctx, "PUT", "sys/leases/revoke", map[string]any{"lease_id": answer.Lease, "sync": true}, nil)
		})
}
