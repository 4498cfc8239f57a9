package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// measureInfluxDB3 compares the issuing of tokens of an InfluxDB 3 server, and
// the reading of a static role, with a plugin that answers a UUID.
func measureInfluxDB3(b *testing.B, out results) {
	r := newRig(b)
	r.mountInfluxDB3(b)
	for _, clients := range []int{1, 4, 32} {
		all := compare(b, load{clients, r.reads("v3/creds/data")}, load{clients, r.reads("yardstick/kept")}, load{clients, r.reads("yardstick/bare")})
		what := fmt.Sprintf("InfluxDB 3 tokens, %d clients", clients)
		one := rates(what, all[0], storedUUID, all[1])
		if clients == 32 {
			ratio := all[0].perSecond() / all[1].perSecond()
			one = one.withGoal("ratio >= 0.8", ratio >= 0.8)
		}
		out.add(b, one)
		out.addRates(b, what, all[0], leasedUUID, all[2])
	}
	for _, clients := range []int{1, 4, 32} {
		all := compare(b, load{clients, r.reads("v3/static-creds/fleet")}, load{clients, r.reads("yardstick/plain")}, load{clients, r.reads("yardstick/wide")})
		what := fmt.Sprintf("reads of a static role, %d clients", clients)
		one := rates(what, all[0], plainUUID, all[1])
		if clients == 32 {
			ratio := all[0].perSecond() / all[1].perSecond()
			one = one.withGoal("ratio >= 0.9", ratio >= 0.9)
		}
		out.add(b, one)
		out.addRates(b, what, all[0], wideAnswer, all[2])
	}
}

// mountInfluxDB3 mounts the engine at v3, for a simulated InfluxDB 3 Enterprise
// server, with the role data and the static role fleet.
func (r *rig) mountInfluxDB3(b *testing.B) {
	b.Helper()
	var server struct {
		URL string `json:"url"`
	}
	rootFile := filepath.Join(b.TempDir(), "root")
	r.startSimulator(b, &server, "server", "--product", "enterprise", "--databases", "metrics", "--root-file", rootFile)
	root, err := os.ReadFile(rootFile)
	must(b, err)
	at := parse(b, server.URL)
	must(b, r.Mount(b.Context(), "engine", "v3"))
	r.write(b, "v3/config", map[string]any{
		"product": "enterprise", "host": at.Hostname(), "port": at.Port(), "disable_tls": true, "admin_token": strings.TrimSpace(string(root)),
	})
	r.write(b, "v3/roles/data", map[string]any{"ttl": "1h", "max_ttl": "8h", "token_type": "database", "write_databases": "metrics"})
	r.write(b, "v3/static-roles/fleet", map[string]any{"write_databases": "metrics", "rotation_period": "24h"})
}

// cycle returns a function that does what a client does in the life of a token:
// it reads a credential under a lease, reads a shared one twice, renews the lease
// and revokes it.
func (r *rig) cycle(leased, shared string) func(context.Context) error {
	return func(ctx context.Context) error {
		var answer struct {
			Lease string `json:"lease_id"`
		}
		if err := r.Call(ctx, "GET", leased, nil, &answer); err != nil {
			return err
		}
		for range 2 {
			if err := r.reads(shared)(ctx); err != nil {
				return err
			}
		}
		if err := r.Call(ctx, "PUT", "sys/leases/renew", map[string]any{"lease_id": answer.Lease}, nil); err != nil {
			return err
		}
		return r.Call(ctx, "PUT", "sys/leases/revoke", map[string]any{"lease_id": answer.Lease, "sync": true}, nil)
	}
}
