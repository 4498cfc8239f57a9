//go:build unix && !linux

package influxctl

import "syscall"

// processAttributes puts the process into a process group of its own.
func processAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
