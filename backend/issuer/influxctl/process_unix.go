//go:build unix

package influxctl

import (
	"os"
	"syscall"
)

// killGroup kills a process and its descendants, except those that left its
// process group. The process itself may have ended.
func killGroup(p *os.Process) error {
	if p.Pid <= 1 { // released: its negative would be another process group
		return os.ErrProcessDone
	}
	return syscall.Kill(-p.Pid, syscall.SIGKILL)
}
