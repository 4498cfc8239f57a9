//go:build !unix

package influxctl

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// lockDir locks a directory against other processes and against other calls of
// lockDir. The lock ends when the file is closed or the process ends. The error
// is errLocked if the lock is held elsewhere.
//
// Windows does not lock directories, and does not remove a file that is open.
// So the lock is a file in the directory, and it is held while the file is
// open.
func lockDir(path string) (*os.File, error) {
	name := filepath.Join(path, "lock")
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errLocked
	}
	return os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
}
