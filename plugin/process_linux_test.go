package plugin_test

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

// A process is one that runs on this machine.
type process struct {
	pid, parent int
	program     string // the first argument
}

// processes are all that this test can see. Those that end meanwhile may be
// missing.
func processes() []process {
	var found []process
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range entries {
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue
		}
		argv, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		program, _, _ := bytes.Cut(argv, []byte{0})
		pid, _ := strconv.Atoi(filepath.Base(dir))
		_, rest, _ := strings.Cut(string(stat), ") ") // after the command's name: state, parent
		fields := strings.Fields(rest[strings.LastIndex(rest, ")")+1:])
		parent, _ := strconv.Atoi(fields[1])
		found = append(found, process{pid, parent, string(program)})
	}
	return found
}

// pluginProcesses are those that run the server's plugin, whether the server
// that started them is still there (current) or not.
func (s *server) pluginProcesses() (current, orphaned []process) {
	all := processes()
	vaults := map[int]bool{}
	for _, p := range all {
		if p.parent == s.process.cmd.Process.Pid {
			vaults[p.pid] = true
		}
	}
	for _, p := range all {
		switch {
		case filepath.Dir(p.program) != s.plugins:
		case vaults[p.parent]:
			current = append(current, p)
		default:
			orphaned = append(orphaned, p)
		}
	}
	return current, orphaned
}

// children are the processes that any of the parents has started: of a plugin,
// the runs of its CLI.
func children(parents []process) []process {
	of := map[int]bool{}
	for _, p := range parents {
		of[p.pid] = true
	}
	var found []process
	for _, p := range processes() {
		if of[p.parent] {
			found = append(found, p)
		}
	}
	return found
}

// kill ends processes by SIGKILL. Some may have ended.
func kill(victims ...process) {
	for _, p := range victims {
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
	}
}

// memory is the resident memory of a process in MB, now and at its peak.
func (p process) memory(t testing.TB) (now, peak float64) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
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
