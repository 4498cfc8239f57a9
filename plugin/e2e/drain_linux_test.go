package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// TestDrain_LoopWaitsForEveryToken runs the procedure of docs/operations.md for
// disabling a mount while the cluster cannot be reached. Vault has no lease any
// more, and a plugin reload and then a step-down make the engine load its ledger
// again. The documented loop must end only when every token is dead.
//
// With $OUTAGE_MINUTES the test waits until the engine has deferred the
// revocations. Without, it makes Vault forget the leases (revoke-force).
func TestDrain_LoopWaitsForEveryToken(t *testing.T) {
	t.Parallel()
	deferred := fromEnv(t, "OUTAGE_MINUTES", 0) > 0
	h := newHAStage(t, "influxdb") // the mount that the page names
	h.write(t, "roles/ci", map[string]any{"ttl": "1h", "max_ttl": "8h"})
	const n = 3
	for range n {
		_, err := h.read(t.Context(), "ci", "")
		must(t, err)
	}
	h.cluster.SetFaults(simulator.Faults{Outage: true})
	h.mustRun(t, "vault lease revoke -prefix influxdb/")
	must(t, vaulttest.Eventually(t.Context(), time.Minute, func() error {
		status, err := h.readStatus(t.Context())
		if err == nil && vaulttest.Count(status.Revoking) != n {
			err = fmt.Errorf("%d tokens are being revoked, want %d", vaulttest.Count(status.Revoking), n)
		}
		return err
	}))
	if !deferred {
		h.mustRun(t, "vault lease revoke -force -prefix influxdb/")
	}
	must(t, vaulttest.Eventually(t.Context(), 15*time.Minute, func() error { return h.noLease(t.Context(), "ci") }))

	loops := []*drainLoop{h.startDrainLoop(t)}
	must(t, h.Call(t.Context(), "PUT", "sys/plugins/reload/backend", map[string]any{"plugin": "influxdb"}, nil))
	loops = append(loops, h.startDrainLoop(t))
	vaulttest.Wait(t.Context(), 4*time.Second)
	h.vault.StepDown(t)
	loops = append(loops, h.startDrainLoop(t))
	vaulttest.Wait(t.Context(), 10*time.Second)
	if alive := len(h.alive()); alive != n {
		t.Fatalf("%d of %d tokens are alive in the outage", alive, n)
	}
	h.cluster.SetFaults(simulator.Faults{})
	for i, loop := range loops {
		loop.mustHaveWaited(t, i+1)
	}
	h.mustRun(t, "vault secrets disable influxdb")
	if alive := len(h.alive()); alive > 0 {
		t.Errorf("%d tokens are alive and have no record any more", alive)
	}
}

// A drainLoop is one run of the documented loop.
type drainLoop struct {
	cmd   *exec.Cmd
	alive chan int // receives how many tokens were alive when the loop ended
	err   error
}

// startDrainLoop starts the loop of docs/operations.md.
func (h *haStage) startDrainLoop(t *testing.T) *drainLoop {
	t.Helper()
	l := &drainLoop{cmd: h.command(t, drainCommand(t)), alive: make(chan int, 1)}
	must(t, l.cmd.Start())
	go func() {
		l.err = l.cmd.Wait()
		l.alive <- len(h.stage.alive())
	}()
	return l
}

// mustHaveWaited waits for the end of the loop, and fails if a token was alive
// then.
func (l *drainLoop) mustHaveWaited(t *testing.T, number int) {
	t.Helper()
	select {
	case alive := <-l.alive:
		must(t, l.err)
		if alive > 0 {
			t.Errorf("loop %d ended while %d tokens were alive", number, alive)
		}
	case <-time.After(4 * time.Minute):
		t.Errorf("loop %d has not ended four minutes after the cluster is back", number)
	}
}

// shellFunction matches a command that defines a shell function.
var shellFunction = regexp.MustCompile(`^\w+\(\) \{`)

// drainCommand returns the loop that docs/operations.md shows, with the shell
// functions that the page defines before it.
func drainCommand(t *testing.T) string {
	t.Helper()
	var lines []string
	for _, step := range stepsOf(t, "../../docs/operations.md") {
		switch {
		case shellFunction.MatchString(step.command):
			lines = append(lines, step.command)
		case strings.HasPrefix(step.command, "until "):
			return strings.Join(append(lines, step.command), "\n")
		}
	}
	t.Fatal("docs/operations.md shows no loop")
	return ""
}

// command returns a shell command that uses the vault command line. Its requests
// go to the first node, which is a standby after the step-down.
func (h *haStage) command(t *testing.T, command string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-c", command)
	cmd.WaitDelay = time.Second // the loop has children, which hold its output
	cmd.Env = append(environ(), "VAULT_ADDR="+h.Addr, "VAULT_TOKEN="+h.Token,
		"PATH="+h.Bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	return cmd
}

// mustRun runs a shell command, again while the leader changes.
func (h *haStage) mustRun(t *testing.T, command string) {
	t.Helper()
	must(t, vaulttest.Eventually(t.Context(), time.Minute, func() error {
		if out, err := h.command(t, command).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", command, err, out)
		}
		return nil
	}))
}
