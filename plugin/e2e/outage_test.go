package e2e

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// TestOutage_LeavesNoTokenAndNoIrrevocableLease lets leases end while the cluster
// cannot be reached. Vault tries six times to revoke a lease, in about ten
// minutes. With $OUTAGE_MINUTES the outage can last longer than that.
func TestOutage_LeavesNoTokenAndNoIrrevocableLease(t *testing.T) {
	t.Parallel()
	const leases = 20
	outage := time.Duration(fromEnv(t, "OUTAGE_MINUTES", 0)) * time.Minute
	st := newStage(t, vaulttest.Start(t), "outage")
	st.write(t, "roles/brief", map[string]any{"ttl": "10s", "max_ttl": "1h"}) // the tokens do not expire during the test
	must(t, vaulttest.Concurrently(leases, 4, func() error {
		_, err := st.read(t.Context(), "brief", "")
		return err
	}))

	began := time.Now()
	st.cluster.SetFaults(simulator.Faults{Outage: true})
	must(t, vaulttest.Eventually(t.Context(), time.Minute, func() error {
		if n := vaulttest.Count(st.status(t).Revoking); n < leases {
			return fmt.Errorf("%d tokens are being revoked, not %d", n, leases)
		}
		return nil
	}))
	t.Logf("all tokens were being revoked after %s", time.Since(began).Round(time.Second))
	deferred := sync.OnceFunc(func() { t.Logf("no lease was left after %s", time.Since(began).Round(time.Second)) })
	for time.Since(began) < outage && vaulttest.Wait(t.Context(), time.Second) {
		if st.noLease(t.Context(), "brief") == nil {
			deferred()
		}
	}
	if alive := len(st.alive()); alive != leases {
		t.Fatalf("%d tokens are alive at the end of the outage", alive)
	}
	st.cluster.SetFaults(simulator.Faults{})

	returned := time.Now()
	must(t, vaulttest.Eventually(t.Context(), 6*time.Minute, func() error { return st.allDead(t.Context()) }))
	t.Logf("after an outage of %s all tokens were dead within %s", returned.Sub(began).Round(time.Second), time.Since(returned).Round(time.Second))
	must(t, vaulttest.Eventually(t.Context(), 6*time.Minute, func() error {
		if now := st.status(t); !now.Empty() {
			return errors.New("the ledger is not empty")
		}
		return st.noLease(t.Context(), "brief")
	}))
	if n, err := st.irrevocable(t.Context()); err != nil || n > 0 {
		t.Errorf("%d leases are irrevocable (%v)", n, err)
	}
	for _, token := range st.issued() {
		if token.RevokedAt.IsZero() {
			t.Errorf("token %s expired and was not revoked", token.ID)
		}
	}
}
