package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator/influxdb3server"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// TestStaticRole_SurvivesKills kills the plugin, Vault, or both, by SIGKILL at a
// random moment of a rotation, each time of another static role. The server must
// always accept the current token of each role, and every other token must be in
// the ledger and end soon.
//
// With $STATIC_KILLS it kills that often, at moments that $STATIC_SEED decides, and
// then waits until each role has no token but its current one.
func TestStaticRole_SurvivesKills(t *testing.T) {
	t.Parallel()
	seed := fromEnv(t, "STATIC_SEED", int(time.Now().UnixNano()%1_000_000))
	kills := fromEnv(t, "STATIC_KILLS", 0)
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	st := newServerStage(t, vaulttest.Start(t), "kills", influxdb3server.Enterprise)
	var roles []string
	issued := 0
	for i := range max(kills, 6) {
		role := fmt.Sprintf("role-%d", i)
		st.writeStatic(t, role)
		moment := time.Duration(random.Int64N(int64(300 * time.Millisecond)))
		what, outcome := st.killInRotation(t, role, i, moment)
		n := len(st.tokensOf(role))
		t.Logf("%s killed after %s: rotation %s, %d tokens", what, moment.Round(time.Millisecond), outcome, n)
		issued += n - 1
		must(t, vaulttest.Eventually(t.Context(), time.Minute, func() (err error) {
			_, err = st.currentStatic(t, role)
			return err
		}))
		roles = append(roles, role)
	}
	if issued == 0 {
		t.Error("no rotation has issued a token: nothing was tested")
	}
	for _, role := range roles { // now, so that they all wait for the same run of the worker
		st.mustHoldStatic(t, role)
	}
	if kills == 0 {
		return
	}
	for _, role := range roles {
		must(t, vaulttest.Eventually(t.Context(), 6*time.Minute, func() error { return st.onlyCurrentAfterForce(t.Context(), role) }))
	}
}

// killInRotation starts a rotation and kills processes after the given time: the
// plugin, Vault or both, in turn. It returns what it has killed, and how the
// rotation ended for the caller. Vault repeats a request whose plugin has died.
func (st *serverStage) killInRotation(t *testing.T, role string, turn int, moment time.Duration) (what, outcome string) {
	t.Helper()
	st.latency.Store(int64(30 * time.Millisecond)) // time to be killed in
	defer st.latency.Store(0)
	var caller sync.WaitGroup
	caller.Go(func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if outcome = "done"; st.rotateStatic(ctx, role, nil) != nil {
			outcome = "failed"
		}
	})
	defer caller.Wait()
	vaulttest.Wait(t.Context(), moment)
	plugins, _ := st.PluginProcesses()
	switch turn % 3 {
	case 0:
		vaulttest.Kill(plugins...)
		return "plugin", outcome
	case 1:
		what = "Vault"
	default:
		vaulttest.Kill(plugins...)
		what = "plugin and Vault"
	}
	st.Kill()
	caller.Wait()
	st.Run(t)
	st.Unseal(t)
	return what, outcome
}

// onlyCurrentAfterForce rotates a role by force, if it has other tokens than the
// current one, and fails while it has.
func (st *serverStage) onlyCurrentAfterForce(ctx context.Context, role string) error {
	if len(st.tokensOf(role)) == 1 {
		return nil
	}
	if err := st.rotateStatic(ctx, role, map[string]any{"force": true}); err != nil {
		return err
	}
	if names := st.tokensOf(role); len(names) != 1 {
		return fmt.Errorf("role %s has the tokens %q", role, names)
	}
	return nil
}
