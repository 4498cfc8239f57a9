package plugin

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// keepMemoryPrivate keeps the root token, and every token that passes through,
// where they are: no core dump is written of this process, and no other process
// of its user can read its memory. The limit holds for the programs that it runs,
// too; they cannot raise it.
//
// The limit is one byte, not none. No core fits into either, but a core that is
// piped to a program (core_pattern in core(5)) the kernel withholds at 1 only: it
// is how it marks a process whose core must not be piped.
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
