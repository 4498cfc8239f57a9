package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// TestLoad_RevocationsShareProcesses ends many leases at once, in each way that
// Vault has, with a CLI that takes 200 ms a call. $LOAD_LEASES is their number.
func TestLoad_RevocationsShareProcesses(t *testing.T) {
	t.Parallel()
	n := fromEnv(t, "LOAD_LEASES", 200)
	st := newStage(t, vaulttest.Start(t), "load")
	st.write(t, "roles/many", map[string]any{"ttl": "1h"})
	for _, c := range []struct {
		name  string
		lease time.Duration // counted from before the first read; 0: the ttl of the role
		end   func() error
	}{
		{"lazy revocation of a prefix", 0, func() error {
			return st.Call(t.Context(), "PUT", "sys/leases/revoke-prefix/load/creds/many", map[string]any{"sync": false}, nil)
		}},
		{"leases that end together", time.Duration(n) * 100 * time.Millisecond, func() error { return nil }},
		{"the mount is disabled", 0, func() error {
			return st.Call(t.Context(), "DELETE", "sys/mounts/load", nil, nil)
		}},
	} {
		st.take(t, n, c.lease)
		st.mustEndWithFewProcesses(t, n, c.name, c.end)
	}
}

// take reads n credentials of the role many, whose leases end together.
func (st *stage) take(t *testing.T, n int, lease time.Duration) {
	t.Helper()
	end := time.Now().Add(lease)
	must(t, vaulttest.Concurrently(n, 8, func() error {
		query := ""
		if lease > 0 {
			query = fmt.Sprintf("?ttl=%.0fs", time.Until(end).Seconds())
		}
		_, err := st.read(t.Context(), "many", query)
		return err
	}))
	if alive := len(st.alive()); alive != n {
		t.Fatalf("%d of %d tokens are alive", alive, n)
	}
}

// mustEndWithFewProcesses ends n leases and counts the CLI processes. A batch
// takes two, one that revokes and one that lists. Some more are for revocations
// that did not wait for a full batch.
func (st *stage) mustEndWithFewProcesses(t *testing.T, n int, how string, end func() error) {
	t.Helper()
	const (
		batch       = 50
		maxParallel = 4
	)
	slow := simulator.Fault{Latency: simulator.Duration(200 * time.Millisecond)}
	st.cluster.SetFaults(simulator.Faults{Any: slow})
	defer st.cluster.SetFaults(simulator.Faults{})
	st.cluster.ResetRuns()
	began := time.Now()
	must(t, end())
	must(t, vaulttest.Eventually(t.Context(), 5*time.Minute, func() error { return st.allDead(t.Context()) }))
	must(t, vaulttest.Eventually(t.Context(), time.Minute, func() error { return st.noLease(t.Context(), "many") }))
	runs, peak := len(st.cluster.Runs()), st.cluster.Peak()
	t.Logf("%s: %d tokens dead after %s, with %d processes, at most %d at a time", how, n, time.Since(began).Round(100*time.Millisecond), runs, peak)
	if most := 2*n/batch + 20; runs > most {
		t.Errorf("%s: %d processes, want at most %d", how, runs, most)
	}
	if peak > maxParallel {
		t.Errorf("%s: %d processes at a time, want at most %d", how, peak, maxParallel)
	}
}
