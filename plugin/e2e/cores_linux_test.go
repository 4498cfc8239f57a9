package e2e

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// A core dump would hold the root credential. It must not be possible for the
// plugin nor for the CLI that it runs, and the CLI must end with the plugin.
func TestPlugin_DumpsNoCore(t *testing.T) {
	t.Parallel()
	st := newStage(t, vaulttest.Start(t), "cores")
	st.write(t, "roles/ci", map[string]any{"ttl": "1h"})
	st.cluster.SetFaults(simulator.Faults{Create: simulator.Fault{Hang: simulator.Before}})
	go func() { _, _ = st.read(t.Context(), "ci", "") }() // fails when the plugin is killed
	plugin := st.mustHaveOnePlugin(t)
	var runs []vaulttest.Process
	must(t, vaulttest.Eventually(t.Context(), 30*time.Second, func() error {
		if runs = vaulttest.Children([]vaulttest.Process{plugin}); len(runs) == 0 {
			return errors.New("the CLI does not run")
		}
		return nil
	}))
	mustDumpNoCore(t, plugin.PID)
	mustDumpNoCore(t, runs[0].PID)

	vaulttest.Kill(plugin)
	must(t, vaulttest.Eventually(t.Context(), 30*time.Second, func() error {
		if n := st.cluster.Running(); n > 0 {
			return fmt.Errorf("%d CLI processes are left after the end of the plugin", n)
		}
		return nil
	}))
}

var coreLimit = regexp.MustCompile(`(?m)^Max core file size +1 +1 +bytes`)

// mustDumpNoCore fails unless the kernel writes no core of the process, neither
// to a file nor to a pipe.
func mustDumpNoCore(t *testing.T, pid int) {
	t.Helper()
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	must(t, err)
	if !coreLimit.Match(limits) {
		t.Errorf("process %d may dump core:\n%s", pid, limits)
	}
}
