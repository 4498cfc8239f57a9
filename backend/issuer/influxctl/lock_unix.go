//go:build unix

package influxctl

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lockDir locks a directory against other processes and against other calls of
// lockDir. The lock ends when the file is closed or the process ends. A child
// process does not inherit it, because Go opens files with O_CLOEXEC. The error
// is errLocked if the lock is held elsewhere.
//
// The lock is on the directory itself, not on a file in it, so a program that
// removes old files cannot remove the lock alone.
func lockDir(path string) (*os.File, error) {
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return dir, nil
	}
	_ = dir.Close() // opened to lock, never written
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errLocked
	}
	return nil, err
}
