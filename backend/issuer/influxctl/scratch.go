package influxctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
)

// memoryDir is a file system in memory, on Linux.
const memoryDir = "/dev/shm"

// A scratch makes private directories. Their names tell which process made
// them, so that what a killed one has left behind is found and removed.
type scratch struct {
	dir    string // empty: memory, or else the directory for temporary files
	memory string // memoryDir, but for tests
	sweep  sync.Once
}

// make returns a new directory, mode 0700, for secrets. Where there is memory
// that cannot be written to, it fails: no secret goes to a disk by accident.
func (s *scratch) make() (string, error) {
	if s.dir != "" {
		return s.makeIn(s.dir)
	}
	dir, err := s.makeIn(s.memory)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s.makeIn(os.TempDir())
	case err != nil:
		return "", fmt.Errorf("%w; influxctl's profile holds the root token and goes to no disk where there is %s: let the user that Vault runs as write there", err, s.memory)
	}
	return dir, nil
}

// makeIn is make in a place that the caller chooses: for programs, since what
// is in memory can often not be executed.
func (s *scratch) makeIn(base string) (string, error) {
	s.sweep.Do(func() {
		for _, base := range []string{s.dir, s.memory, os.TempDir()} {
			sweep(base)
		}
	})
	dir, err := os.MkdirTemp(base, self().prefix()+"*")
	if err != nil {
		return "", fmt.Errorf("make a private directory: %w", err)
	}
	return dir, nil
}

// discard removes a directory with all that is in it. What cannot be removed
// now is swept later; a call that has succeeded does not fail for it.
func discard(dir string) { _ = os.RemoveAll(dir) }

// An owner is a process, named so that no other one is ever named the same.
type owner struct {
	space uint64 // which name space of process ids
	pid   int
	start uint64 // when it started, in a unit of the system's
}

var ownedName = regexp.MustCompile(`^influxctl-(\d+)-(\d+)-(\d+)-\d+$`)

func (o owner) prefix() string { return fmt.Sprintf("influxctl-%d-%d-%d-", o.space, o.pid, o.start) }

// ownerOf reads the owner in the name of a directory.
func ownerOf(name string) (o owner, ok bool) {
	m := ownedName.FindStringSubmatch(name)
	if m == nil {
		return owner{}, false
	}
	var errs [3]error
	o.space, errs[0] = strconv.ParseUint(m[1], 10, 64)
	o.pid, errs[1] = strconv.Atoi(m[2])
	o.start, errs[2] = strconv.ParseUint(m[3], 10, 64)
	return o, errs == [3]error{}
}

// sweep removes from base what processes that are gone have left there.
func sweep(base string) {
	entries, err := os.ReadDir(base)
	if err != nil {
		return // there is nothing that could be swept
	}
	for _, e := range entries {
		if o, ok := ownerOf(e.Name()); ok && e.IsDir() && o.gone() {
			discard(filepath.Join(base, e.Name()))
		}
	}
}
