package plugin_test

import (
	"bufio"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
)

// nobody is a user without rights.
const nobody = 65534

// The environment of a process that is not dumpable belongs to root in /proc
// (proc_pid(5)), as does the rest of its memory, whoever the process belongs to.
func TestThePluginsMemoryIsItsOwn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755)) // for nobody
	build(t, dir, "./cmd/"+pluginCommand)
	web := httptest.NewTLSServer(nil)
	defer web.Close()
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})

	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, pluginCommand))
	cmd.Env = []string{"VAULT_BACKEND_PLUGIN=6669da05-b1c8-4f49-97d9-c8e5bed98e20", "PLUGIN_PROTOCOL_VERSIONS=5", "PLUGIN_CLIENT_CERT=" + string(certificate)}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if handshake, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || !strings.Contains(handshake, "|grpc|") {
		t.Fatalf("the plugin does not serve: %q, %v", handshake, err)
	}
	info, err := os.Stat(fmt.Sprintf("/proc/%d/environ", cmd.Process.Pid))
	must(t, err)
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 0 {
		t.Errorf("the process is dumpable: its memory belongs to user %d", uid)
	}
	mustDumpNoCore(t, cmd.Process.Pid)
}

func TestNoCoreIsDumpedOfThePluginOrItsCLI(t *testing.T) {
	t.Parallel()
	st := newStage(t, startVault(t), "cores")
	st.write(t, "roles/ci", map[string]any{"ttl": "1h"})
	st.cluster.SetFaults(simulator.Faults{Create: simulator.Fault{Hang: simulator.Before}})
	go func() { _, _ = st.read(t.Context(), "ci", "") }() // fails when the CLI is killed
	plugin := st.mustHaveOnePlugin(t)
	var runs []process
	must(t, eventually(t.Context(), 30*time.Second, func() error {
		if runs = children([]process{plugin}); len(runs) == 0 {
			return errors.New("no CLI runs")
		}
		return nil
	}))
	mustDumpNoCore(t, plugin.pid)
	mustDumpNoCore(t, runs[0].pid)

	kill(plugin)
	must(t, eventually(t.Context(), 30*time.Second, func() error {
		if n := st.cluster.Running(); n > 0 {
			return fmt.Errorf("%d CLI processes live on without the plugin", n)
		}
		return nil
	}))
}

var coreLimits = regexp.MustCompile(`(?m)^Max core file size +1 +1 +bytes`)

// mustDumpNoCore fails unless no core of the process is written, nor piped.
func mustDumpNoCore(t *testing.T, pid int) {
	t.Helper()
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	must(t, err)
	if !coreLimits.Match(limits) {
		t.Errorf("process %d may dump core:\n%s", pid, limits)
	}
}
