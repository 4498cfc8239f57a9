package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// TestRelease_IsReproducible builds a release of this tree twice, in two folders,
// the second time without a build cache. All files must be identical, Vault must
// accept the plugin with the checksum of the release, and list it under the
// version of the tag.
func TestRelease_IsReproducible(t *testing.T) {
	t.Parallel()
	one := newClone(t)
	other := &clone{dir: t.TempDir(), env: append(slices.Clone(one.env), "GOCACHE="+t.TempDir())}
	other.git(t, "clone", "--quiet", one.dir, ".")
	first, second := one.release(t), other.release(t)
	goes, err := one.command(t, "go", "env", "GOROOT", "GOMODCACHE").Output()
	must(t, err)
	for name := range first {
		if !bytes.Equal(first[name], second[name]) {
			t.Errorf("%s differs from folder to folder", name)
		}
		for _, folder := range append(strings.Fields(string(goes)), one.dir) {
			if bytes.Contains(first[name], []byte(folder)) {
				t.Errorf("%s contains the path of the build %s", name, folder)
			}
		}
	}
	platform := runtime.GOOS + "_" + runtime.GOARCH
	binary := vaulttest.PluginCommand + "_v1.2.3_" + platform
	want := []string{binary, binary + ".cdx.json", vaulttest.PluginCommand + "_v1.2.3_SHA256SUMS"}
	for _, name := range want {
		if first[name] == nil || second[name] == nil {
			t.Fatalf("no %s among %d files", name, len(first))
		}
	}

	s := vaulttest.Start(t)
	must(t, os.WriteFile(filepath.Join(s.Plugins, binary), first[binary], 0o755))
	serves(t, s, binary, sumOf(t, string(first[want[2]]), binary), "v1.2.3")
}

// serves registers a plugin with a checksum and checks the version that Vault
// lists.
func serves(t *testing.T, s *vaulttest.Server, command, sum, version string) {
	t.Helper()
	must(t, s.Call(t.Context(), "PUT", "sys/plugins/catalog/secret/released", map[string]any{"command": command, "sha256": sum}, nil))
	must(t, s.Mount(t.Context(), "released", "released"))
	cmd := exec.CommandContext(t.Context(), filepath.Join(s.Bin, "vault"), "plugin", "list", "secret")
	cmd.Env = []string{"VAULT_ADDR=" + s.Addr, "VAULT_TOKEN=" + s.Token, "HOME=" + s.Home}
	list, err := cmd.CombinedOutput()
	must(t, err)
	for line := range strings.Lines(string(list)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "released" {
			if fields[1] != version {
				t.Errorf("listed as %q", line)
			}
			return
		}
	}
	t.Errorf("not listed:\n%s", list)
}

// sumOf returns the checksum of a file in a SHA256SUMS file.
func sumOf(t *testing.T, sums, name string) string {
	t.Helper()
	for line := range strings.Lines(sums) {
		if sum, of, ok := strings.Cut(strings.TrimSpace(line), "  "); ok && of == name {
			return sum
		}
	}
	t.Fatalf("no checksum of %s in\n%s", name, sums)
	return ""
}

// TestRelease_NeedsATaggedCommit checks that a release is refused when it could
// not be built again from a tag.
func TestRelease_NeedsATaggedCommit(t *testing.T) {
	t.Parallel()
	c := newClone(t)
	for _, step := range []struct {
		prepare func()
		want    string
	}{
		{func() { must(t, os.WriteFile(filepath.Join(c.dir, "stray.go"), nil, 0o600)) }, "a release is a commit"},
		{func() { must(t, os.Remove(filepath.Join(c.dir, "stray.go"))); c.git(t, "tag", "v1.2.4") }, "has 2 [v1.2.3 v1.2.4]"},
		{func() { c.git(t, "tag", "-d", "v1.2.3", "v1.2.4"); c.git(t, "tag", "v1.2") }, "has 0 []: git tag v1.2.3"},
	} {
		step.prepare()
		out, err := c.command(t, "go", "run", "./scripts/release").CombinedOutput()
		if err == nil || !strings.Contains(string(out), step.want) {
			t.Errorf("said %q, want %q", out, step.want)
		}
		if _, err := os.Stat(filepath.Join(c.dir, "dist")); err == nil {
			t.Error("dist/ was written")
		}
	}
}

// A clone is a repository with one commit, tagged v1.2.3, that holds this tree with
// all changes that are not committed.
type clone struct {
	dir string
	env []string
}

func newClone(t *testing.T) *clone {
	t.Helper()
	c := &clone{dir: t.TempDir(), env: append(os.Environ(),
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_AUTHOR_DATE=2026-01-01T00:00:00Z",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com", "GIT_COMMITTER_DATE=2026-01-01T00:00:00Z",
		"GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1")}
	list := exec.CommandContext(t.Context(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = "../.."
	names, err := list.Output()
	must(t, err)
	for _, name := range strings.Split(strings.TrimRight(string(names), "\x00"), "\x00") {
		content, err := os.ReadFile(filepath.Join("..", "..", name))
		if os.IsNotExist(err) {
			continue // deleted and not committed
		}
		must(t, err)
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(c.dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(c.dir, name), content, 0o644))
	}
	c.git(t, "init", "--quiet")
	c.git(t, "add", "--all")
	c.git(t, "commit", "--quiet", "--message", "all")
	c.git(t, "tag", "v1.2.3")
	return c
}

func (c *clone) command(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = c.dir, c.env
	return cmd
}

func (c *clone) git(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.command(t, "git", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", args[0], err, out)
	}
	return string(out)
}

// release builds a release for this platform and returns its files.
func (c *clone) release(t *testing.T) map[string][]byte {
	t.Helper()
	out, err := c.command(t, "go", "run", "./scripts/release", runtime.GOOS+"/"+runtime.GOARCH).CombinedOutput()
	if err != nil {
		t.Fatalf("release: %v\n%s", err, out)
	}
	files := map[string][]byte{}
	entries, err := os.ReadDir(filepath.Join(c.dir, "dist"))
	must(t, err)
	for _, e := range entries {
		files[e.Name()], err = os.ReadFile(filepath.Join(c.dir, "dist", e.Name()))
		must(t, err)
	}
	return files
}
