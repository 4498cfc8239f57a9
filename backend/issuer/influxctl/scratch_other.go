//go:build !linux

package influxctl

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"
)

// self is this process. Its start is when it was first asked for.
var self = sync.OnceValue(func() owner {
	return owner{pid: os.Getpid(), start: uint64(time.Now().UnixNano())}
})

// gone reports whether the process has ended. Where a start cannot be asked
// for, a process that bears the same number as one that has ended keeps its
// directory alive, unless that process is this one.
func (o owner) gone() bool {
	if o.pid == self().pid {
		return o.start != self().start
	}
	p, err := os.FindProcess(o.pid)
	if err != nil {
		return true
	}
	return errors.Is(p.Signal(syscall.Signal(0)), os.ErrProcessDone)
}
