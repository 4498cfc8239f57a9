//go:build linux

package influxctl

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A directory is kept while the process that made it runs, and removed once it
// has ended. Neither its name nor /proc decides, since /proc may hide processes
// (hidepid=2).
func TestScratch_SweepsOnlyWhatIsNotLocked(t *testing.T) {
	base := t.TempDir()
	living, ended := &scratch{dir: base}, &scratch{dir: base}
	kept, left := mustMake(t, living), mustMake(t, ended)
	ended.sessions[base].lock.Close() // what the end of a process does
	names := map[string]bool{
		filepath.Dir(kept):                       true,
		filepath.Dir(left):                       false,
		filepath.Join(base, "influxctl-config"):  true,
		filepath.Join(base, sessionPrefix+"old"): false,
	}
	for name := range names {
		writeFile(t, filepath.Join(name, "run", "profile.toml"))
	}
	file := filepath.Join(base, sessionPrefix+"file") // not a directory
	writeFile(t, file)
	names[file] = true
	link := filepath.Join(base, sessionPrefix+"link")
	outside := filepath.Join(t.TempDir(), "outside")
	writeFile(t, filepath.Join(outside, "file"))
	if err := os.Symlink(outside, link); err != nil {
		t.Fatal(err)
	}
	names[link], names[filepath.Join(outside, "file")] = true, true
	dir := mustMake(t, &scratch{dir: base})
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%s: %v, %v", dir, info, err)
	}
	if info, err := os.Stat(filepath.Dir(dir)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%s: %v, %v", filepath.Dir(dir), info, err)
	}
	for name, want := range names {
		if _, err := os.Lstat(name); (err == nil) != want {
			t.Errorf("%s kept: %v, want %v", name, err == nil, want)
		}
	}
}

// A second plugin process starts while a run of the first is under way. It
// must not remove the profile of that run, however /proc looks to it.
func TestScratch_KeepsTheProfilesOfAnotherProcess(t *testing.T) {
	s := newFixture(t, script{"list": {Hang: true, Touch: "begun"}})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	host := exec.CommandContext(t.Context(), self)
	host.Args = []string{hostName, s.program, s.scratch}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Process.Kill(); _ = host.Wait() })
	s.waitFor("begun")
	child := s.runs("list")[0]
	sweep(s.scratch)
	if left := runDirs(t, s.scratch); len(left) != 1 {
		t.Errorf("runs after a sweep: %v, want one", left)
	}
	session := filepath.Dir(runDirs(t, s.scratch)[0])
	for _, file := range openFiles(t, child.Pids[0]) {
		if strings.HasPrefix(file, session) {
			t.Errorf("the child has %s open", file)
		}
	}
	if held := openFiles(t, host.Process.Pid); !slices.Contains(held, session) {
		t.Errorf("the host has open %q, want %s", held, session)
	}
}

// openFiles returns the names of the files that a process has open.
func openFiles(t *testing.T, pid int) (names []string) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if name, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			names = append(names, name)
		}
	}
	return names
}

// Whatever removes the session directory, the next run has a directory again.
func TestScratch_SessionDirectoryIsMadeAgain(t *testing.T) {
	s := &scratch{dir: t.TempDir()}
	if err := os.RemoveAll(filepath.Dir(mustMake(t, s))); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(mustMake(t, s)); err != nil {
		t.Error(err)
	}
	s.close()
	if left, err := os.ReadDir(s.dir); err != nil || len(left) > 0 {
		t.Errorf("left after close: %v, %v", left, err)
	}
}

func mustMake(t *testing.T, s *scratch) string {
	t.Helper()
	dir, err := s.make()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return dir
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

func TestScratch_IsInMemoryWhereThereIsSome(t *testing.T) {
	dir := mustMake(t, &scratch{memory: memoryDir})
	if got := filepath.Dir(filepath.Dir(dir)); got != memoryDir {
		t.Errorf("%s is not in %s", dir, memoryDir)
	}
}

func TestScratch_IsOnDiskOnlyWhereThereIsNoMemory(t *testing.T) {
	disk := t.TempDir()
	t.Setenv("TMPDIR", disk)
	if dir := mustMake(t, &scratch{memory: filepath.Join(disk, "missing")}); filepath.Dir(filepath.Dir(dir)) != disk {
		t.Errorf("%s is not in %s", dir, disk)
	}
	unusable := filepath.Join(disk, "unusable")
	writeFile(t, unusable)
	if dir, err := (&scratch{memory: unusable}).make(); err == nil {
		t.Errorf("a secret may be written to %s", dir)
	}
	if _, err := (&scratch{dir: filepath.Join(disk, "missing")}).make(); err == nil {
		t.Error("no error")
	}
}

func TestLockDir_HoldsUntilClosed(t *testing.T) {
	dir := t.TempDir()
	lock, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockDir(dir); err != errLocked {
		t.Errorf("locked twice: %v", err)
	}
	lock.Close()
	again, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if _, err := lockDir(filepath.Join(dir, "missing")); !os.IsNotExist(err) {
		t.Errorf("%v, want %v", err, fs.ErrNotExist)
	}
}
