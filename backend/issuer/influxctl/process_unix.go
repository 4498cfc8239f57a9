//go:build unix

package influxctl

import (
	"os"
	"syscall"
)

// killGroup kills a process and its descendants, those that did not leave its
// group. The process itself may have ended.
func killGroup(p *os.Process) error {
	if p.Pid <= 1 { // released: the negative would be somebody else
		return os.ErrProcessDone
	}
	return syscall.Kill(-p.Pid, syscall.SIGKILL)
}
