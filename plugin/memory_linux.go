package plugin

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// keepMemoryPrivate protects the credentials in the memory of this process: no core
// dump is written, and no other process of the same user can read the memory. The
// limit also applies to the programs that this process runs. They cannot raise it.
//
// The limit is one byte and not zero. No core dump fits into either. But if
// core_pattern pipes core dumps to a program, the kernel ignores a limit of 0 and
// respects a limit of 1, see core(5).
func keepMemoryPrivate() error {
	var errs []error
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: coreLimit, Max: coreLimit}); err != nil {
		errs = append(errs, fmt.Errorf("limit core dumps: %w", err))
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		errs = append(errs, fmt.Errorf("make the process undumpable: %w", err))
	}
	return errors.Join(errs...)
}

const coreLimit = 1
