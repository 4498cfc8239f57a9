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
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestThePluginEndsWithAVaultThatIsKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	build(t, dir, "./cmd/vault-plugin-secrets-influxdb")
	web := httptest.NewTLSServer(nil)
	defer web.Close()
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})

	// A shell in Vault's place, which says who its child is.
	vault := exec.CommandContext(t.Context(), "sh", "-c", `"$0" & echo $!; wait`, filepath.Join(dir, "vault-plugin-secrets-influxdb"))
	vault.Env = append(os.Environ(), "VAULT_BACKEND_PLUGIN=6669da05-b1c8-4f49-97d9-c8e5bed98e20",
		"PLUGIN_PROTOCOL_VERSIONS=5", "PLUGIN_CLIENT_CERT="+string(certificate))
	stdout, err := vault.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := vault.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	first, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil {
		t.Fatalf("the first line is no process: %q", first)
	}
	if handshake, err := lines.ReadString('\n'); err != nil || !strings.Contains(handshake, "|grpc|") {
		t.Fatalf("the plugin does not serve: %q, %v", handshake, err)
	}
	if err := vault.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = vault.Wait()
	if err := eventually(t.Context(), 30*time.Second, func() error {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("process %d is still there (%w)", pid, err)
		}
		return nil
	}); err != nil {
		t.Error(err)
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}
