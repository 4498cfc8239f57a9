package influxctl

import "syscall"

// processAttributes put the process into a group of its own, and let it die
// with the thread that started it, and so with this process.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
