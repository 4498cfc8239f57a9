package influxctl

import "syscall"

// processAttributes puts the process into a process group of its own. The kernel
// kills it when the thread that started it ends, and so when this process ends.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
