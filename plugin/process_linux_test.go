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
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// nobody is the ID of a user without privileges.
const nobody = 65534

// The kernel makes /proc/PID/environ of a process that is not dumpable belong to
// root, whatever the user of the process; proc_pid(5).
func TestProcess_MemoryIsPrivate(t *testing.T) {
	t.Parallel()
	cmd := pluginProcess(t)
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	awaitHandshake(t, bufio.NewReader(stdout))

	info, err := os.Stat(fmt.Sprintf("/proc/%d/environ", cmd.Process.Pid))
	must(t, err)
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 0 {
		t.Errorf("the process is dumpable: its memory belongs to user %d", uid)
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", cmd.Process.Pid))
	must(t, err)
	if !regexp.MustCompile(`(?m)^Max core file size +1 +1 +bytes`).Match(limits) {
		t.Errorf("the process may dump core:\n%s", limits)
	}
}

// A Vault that is killed by SIGKILL cannot stop its plugins.
func TestProcess_EndsWhenItsParentIsKilled(t *testing.T) {
	t.Parallel()
	plugin := pluginProcess(t)
	// A shell takes the place of Vault. It prints the process ID of the plugin.
	vault := exec.CommandContext(t.Context(), "sh", "-c", `"$0" & echo $!; wait`, plugin.Path)
	vault.Env = append(os.Environ(), plugin.Env...)
	stdout, err := vault.StdoutPipe()
	must(t, err)
	must(t, vault.Start())
	lines := bufio.NewReader(stdout)
	first, err := lines.ReadString('\n')
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	must(t, err)
	awaitHandshake(t, lines)

	must(t, vault.Process.Kill())
	_ = vault.Wait() // ended by the signal
	if err := vaulttest.Eventually(t.Context(), 30*time.Second, func() error {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("process %d is still there (%w)", pid, err)
		}
		return nil
	}); err != nil {
		t.Error(err)
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// pluginProcess builds the plugin and returns a command that runs it as Vault
// does: with go-plugin's magic cookie and a client certificate.
func pluginProcess(t *testing.T) *exec.Cmd {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755)) // lets nobody run it
	vaulttest.Build(t, dir, "./cmd/"+vaulttest.PluginCommand)
	web := httptest.NewTLSServer(nil)
	defer web.Close()
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, vaulttest.PluginCommand))
	cmd.Env = []string{
		"VAULT_BACKEND_PLUGIN=6669da05-b1c8-4f49-97d9-c8e5bed98e20", "PLUGIN_PROTOCOL_VERSIONS=5",
		"PLUGIN_CLIENT_CERT=" + string(certificate),
	}
	return cmd
}

// awaitHandshake reads the line that tells Vault how to reach the plugin.
func awaitHandshake(t *testing.T, stdout *bufio.Reader) {
	t.Helper()
	if handshake, err := stdout.ReadString('\n'); err != nil || !strings.Contains(handshake, "|grpc|") {
		t.Fatalf("the plugin does not serve: %q, %v", handshake, err)
	}
}

// must ends the test if there is an error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
