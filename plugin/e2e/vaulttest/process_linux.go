package vaulttest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// A Process is a process on this machine.
type Process struct {
	PID, Parent int
	Program     string // first argument
}

// Processes returns all processes that can be seen. One that ends meanwhile may
// be missing.
func Processes() []Process {
	var found []Process
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range entries {
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue
		}
		argv, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		program, _, _ := bytes.Cut(argv, []byte{0})
		pid, _ := strconv.Atoi(filepath.Base(dir))
		// After the name of the command, which is in parentheses and may hold
		// anything, come the state and the parent; proc_pid_stat(5).
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		parent, _ := strconv.Atoi(fields[1])
		found = append(found, Process{pid, parent, string(program)})
	}
	return found
}

// PluginProcesses returns the processes that run a plugin of this server:
// current are children of the server's process, orphaned are those whose server
// has ended.
func (s *Server) PluginProcesses() (current, orphaned []Process) {
	all := Processes()
	servers := map[int]bool{} // by PID: a Vault server of any node that uses the folder of plugins
	for _, p := range all {
		if filepath.Base(p.Program) == "vault" {
			servers[p.PID] = true
		}
	}
	own, _ := s.process(all)
	for _, p := range all {
		switch {
		case filepath.Dir(p.Program) != s.Plugins:
		case p.Parent == own.PID:
			current = append(current, p)
		case !servers[p.Parent]:
			orphaned = append(orphaned, p)
		}
	}
	return current, orphaned
}

// process finds the process of the server among others.
func (s *Server) process(all []Process) (p Process, ok bool) {
	for _, p := range all {
		if p.Parent == s.run.cmd.Process.Pid && p.Program == filepath.Join(s.Bin, "vault") {
			return p, true
		}
	}
	return Process{PID: -1}, false
}

// Children returns the processes that any of the parents has started. Those of a
// plugin are its influxctl processes.
func Children(parents []Process) []Process {
	of := map[int]bool{}
	for _, p := range parents {
		of[p.PID] = true
	}
	var found []Process
	for _, p := range Processes() {
		if of[p.Parent] {
			found = append(found, p)
		}
	}
	return found
}

// Kill sends SIGKILL to processes. Some may have ended.
func Kill(processes ...Process) {
	for _, p := range processes {
		_ = syscall.Kill(p.PID, syscall.SIGKILL)
	}
}

// Memory returns the resident memory of a process in MB, now and at its peak.
func (p Process) Memory(t testing.TB) (now, peak float64) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	must(t, err)
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		switch {
		case len(fields) < 2:
		case fields[0] == "VmRSS:":
			now, err = strconv.ParseFloat(fields[1], 64)
		case fields[0] == "VmHWM:":
			peak, err = strconv.ParseFloat(fields[1], 64)
		}
		must(t, err)
	}
	return now / 1024, peak / 1024
}
