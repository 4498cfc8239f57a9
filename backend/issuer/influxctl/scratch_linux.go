package influxctl

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"
)

// self is this process. Without /proc its start is 0.
var self = sync.OnceValue(func() owner {
	start, _, _ := processState(os.Getpid())
	return owner{space: pidSpace(), pid: os.Getpid(), start: start}
})

// gone reports whether the process has ended. One that cannot be seen from
// here, such as in another container, has not.
func (o owner) gone() bool {
	if self().start == 0 || o.space != self().space {
		return false
	}
	start, state, err := processState(o.pid)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	return start != o.start || state == 'Z'
}

// pidSpace is the number of this process's name space of process ids.
func pidSpace() uint64 {
	var n uint64
	link, _ := os.Readlink("/proc/self/ns/pid")
	_, _ = fmt.Sscanf(link, "pid:[%d]", &n)
	return n
}

// processState reads from /proc/PID/stat when a process was started, in ticks
// since the machine was, and its state. The fields are counted from behind the
// name, which may hold anything; proc_pid_stat(5).
func processState(pid int) (start uint64, state byte, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	const stateField, startField = 0, 19 // the third and the 22nd of all
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= startField {
		return 0, 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	start, err = strconv.ParseUint(string(fields[startField]), 10, 64)
	return start, fields[stateField][0], err
}
