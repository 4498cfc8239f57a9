//go:build linux

package influxctl

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestWhatAKilledProcessLeftIsSweptAtFirstUse(t *testing.T) {
	child := exec.Command("/bin/sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = child.Process.Kill(); _ = child.Wait() })
	start, _, err := processState(child.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	me := self()
	living := owner{me.space, child.Process.Pid, start}
	base := t.TempDir()
	kept := map[string]bool{
		me.prefix() + "1":     true,
		living.prefix() + "1": true,
		owner{me.space, me.pid, me.start - 1}.prefix() + "1": false, // the number is in use again
		owner{me.space, 1 << 30, 1}.prefix() + "1":           false,
		owner{me.space + 1, 1 << 30, 1}.prefix() + "1":       true, // of another container
		"influxctl-config":                         true,
		owner{me.space, 1 << 30, 1}.prefix() + "x": true,
	}
	for name := range kept {
		writeFile(t, filepath.Join(base, name, "profile.toml"))
	}
	file := owner{me.space, 1 << 30, 1}.prefix() + "2" // not a directory
	writeFile(t, filepath.Join(base, file))
	kept[file] = true
	dir, err := (&scratch{dir: base}).make()
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 || !strings.HasPrefix(filepath.Base(dir), me.prefix()) {
		t.Errorf("%s: %v, %v", dir, info, err)
	}
	for name, want := range kept {
		if _, err := os.Stat(filepath.Join(base, name)); (err == nil) != want {
			t.Errorf("%s kept: %v", name, err == nil)
		}
	}
}

func writeFile(t *testing.T, path string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		err = os.WriteFile(path, nil, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestScratchIsInMemoryWhereThereIsSome(t *testing.T) {
	s := &scratch{memory: memoryDir}
	dir, err := s.make()
	if err != nil {
		t.Fatal(err)
	}
	defer discard(dir)
	if want := memoryDir; filepath.Dir(dir) != want {
		t.Errorf("%s is not in %s", dir, want)
	}
}

func TestScratchIsAmongTemporaryFilesOnlyWhereThereIsNoMemory(t *testing.T) {
	disk := t.TempDir()
	t.Setenv("TMPDIR", disk)
	dir, err := (&scratch{memory: filepath.Join(disk, "missing")}).make()
	if err != nil || filepath.Dir(dir) != disk {
		t.Errorf("%s, %v", dir, err)
	}
	discard(dir)
	unusable := filepath.Join(disk, "unusable")
	writeFile(t, unusable)
	if dir, err := (&scratch{memory: unusable}).make(); err == nil {
		t.Errorf("a secret may be written to %s", dir)
	}
	if _, err := (&scratch{dir: filepath.Join(disk, "missing")}).make(); err == nil {
		t.Error("no error")
	}
}

func TestAnOwnerIsReadFromItsName(t *testing.T) {
	o := owner{1, 2, 3}
	if got, ok := ownerOf(o.prefix() + "4"); !ok || got != o {
		t.Errorf("%+v, %v", got, ok)
	}
	for _, name := range []string{"influxctl-1-2-3", "influxctl-1-2-99999999999999999999-4", "other-1-2-3-4", fmt.Sprintf("influxctl-%d-a-1-1", 1)} {
		if o, ok := ownerOf(name); ok {
			t.Errorf("%s: %+v", name, o)
		}
	}
}
