//go:build unix && !linux

package influxctl

import "syscall"

// processAttributes put the process into a group of its own.
func processAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
