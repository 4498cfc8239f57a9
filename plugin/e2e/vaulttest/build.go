package vaulttest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// PluginCommand is the file name of the plugin binary.
const PluginCommand = "vault-plugin-secrets-influxdb"

// Root is the absolute path of the repository: the nearest folder, from the
// working directory upwards, that holds go.mod.
var Root = sync.OnceValue(func() string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			panic("no go.mod above the working directory")
		}
		dir = parent
	}
})

// Binary returns the path of the Vault (or OpenBao) binary that scripts/vault.sh
// finds. If the machine has none, the script builds one, which takes minutes.
func Binary(t testing.TB) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(Root(), "scripts", "vault.sh"))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	must(t, err)
	return strings.TrimSpace(string(out))
}

// Build compiles the program of a package of this module into dir. The package
// is named relative to the root of the module, as in "./cmd/influxsim".
func Build(t testing.TB, dir, pkg string, flags ...string) {
	t.Helper()
	args := append([]string{"build", "-o", dir + string(filepath.Separator)}, flags...)
	cmd := exec.CommandContext(t.Context(), "go", append(args, pkg)...)
	cmd.Dir = Root()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
}
