//go:build !unix

package influxctl

import (
	"os"
	"syscall"
)

func processAttributes() *syscall.SysProcAttr { return nil }

// killGroup kills the process. There are no process groups.
func killGroup(p *os.Process) error { return p.Kill() }
