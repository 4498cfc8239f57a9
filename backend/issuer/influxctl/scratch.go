package influxctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// memoryDir is a file system in memory, on Linux.
const memoryDir = "/dev/shm"

// sessionPrefix begins the name of every session directory.
const sessionPrefix = "influxctl-session-"

// A scratch makes private directories for single runs of the program. It is
// safe for concurrent use.
//
// The directories of one plugin process are in a session directory, whose lock
// the process holds until it ends, however it ends. Another process removes a
// session directory only if it can take that lock, so it never removes
// the files of a process that is running. It does not look into /proc, which
// may hide other processes (hidepid).
type scratch struct {
	dir    string // empty: memory, or else the directory for temporary files
	memory string // memoryDir, except in tests

	mu       sync.Mutex // guards all that follows
	swept    bool
	sessions map[string]*session // by the directory that they are in
}

// A session is a locked directory.
type session struct {
	path string
	lock *os.File
}

// make returns a new directory for secrets, mode 0700. It fails if memoryDir
// exists and cannot be written to: a secret is not written to a disk instead.
func (s *scratch) make() (string, error) {
	if s.dir != "" {
		return s.makeIn(s.dir)
	}
	dir, err := s.makeIn(s.memory)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s.makeIn(os.TempDir())
	case err != nil:
		return "", fmt.Errorf("%w; influxctl's profile holds the root credential and is not written to a disk while %s exists: let the user that runs Vault write there", err, s.memory)
	}
	return dir, nil
}

// makeIn returns a new directory in base, mode 0700. Copies of the program use
// it, because files in memoryDir often cannot be executed.
func (s *scratch) makeIn(base string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweepOnce()
	for range attempts {
		current, err := s.session(base)
		if err != nil {
			return "", fmt.Errorf("make a private directory: %w", err)
		}
		dir, err := os.MkdirTemp(current.path, "run-")
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("make a private directory: %w", err)
		}
		// Another program, for example one that removes old files, has removed
		// the session directory.
		delete(s.sessions, base)
		_ = current.lock.Close() // opened to lock, never written
	}
	return "", fmt.Errorf("make a private directory in %s: another program removes it", base)
}

// attempts limits how often a directory is made again that disappears.
const attempts = 5

// session returns the session in base and starts it if there is none. The
// caller holds mu.
func (s *scratch) session(base string) (*session, error) {
	if current := s.sessions[base]; current != nil {
		return current, nil
	}
	if s.sessions == nil {
		s.sessions = map[string]*session{}
	}
	current, err := newSession(base)
	if err == nil {
		s.sessions[base] = current
	}
	return current, err
}

// newSession makes and locks a session directory in base.
func newSession(base string) (*session, error) {
	for range attempts {
		path, err := os.MkdirTemp(base, sessionPrefix)
		if err != nil {
			return nil, err
		}
		lock, err := lockDir(path)
		switch {
		case err == nil:
			return &session{path, lock}, nil
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, errLocked): // swept between its creation and its lock
			continue
		}
		discard(path)
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return nil, fmt.Errorf("another program removes new directories in %s", base)
}

// remove removes the directory of a session and ends its lock. Windows cannot
// remove a file that is open, such as the lock there, so it tries a second time.
func (s *session) remove() {
	discard(s.path)
	_ = s.lock.Close() // opened to lock, never written
	discard(s.path)
}

// close removes the session directories. No run may be under way.
func (s *scratch) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, current := range s.sessions {
		current.remove()
	}
	clear(s.sessions)
}

// discard removes a directory and everything in it. It ignores errors: a call
// that succeeded does not fail because of them, and a later sweep tries again.
func discard(dir string) { _ = os.RemoveAll(dir) }

// errLocked means that another process holds the lock of a directory.
var errLocked = errors.New("locked by another process")

// sweepOnce removes what processes that have ended left behind. The caller
// holds mu.
func (s *scratch) sweepOnce() {
	if s.swept {
		return
	}
	s.swept = true
	for _, base := range []string{s.dir, s.memory, os.TempDir()} {
		sweep(base)
	}
}

// sweep removes from base the session directories of processes that have ended.
func sweep(base string) {
	entries, err := os.ReadDir(base)
	if err != nil {
		return // newSession reports what is wrong with a base that is used
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), sessionPrefix) {
			continue
		}
		path := filepath.Join(base, e.Name())
		if lock, err := lockDir(path); err == nil {
			(&session{path, lock}).remove()
		}
	}
}
