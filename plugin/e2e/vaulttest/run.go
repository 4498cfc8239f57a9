package vaulttest

import (
	"io"
	"os"
	"os/exec"
)

// endsWithStdin is a shell script that runs a command and sends it SIGTERM when
// standard input ends. A line of input, before that, is the name of the signal
// to send instead. The script exits when the command has ended.
const endsWithStdin = `exec 3<&0
"$0" "$@" </dev/null 3<&- & pid=$!
(read -r signal; kill -${signal:-TERM} $pid 2>/dev/null) <&3 3<&- &
exec 3<&-
wait $pid`

// Command returns a command that runs a program until its standard input ends.
// The caller must connect standard input to a pipe (StdinPipe) and keep it open.
// Because the pipe also ends when the test process dies, even by SIGKILL, no
// program is left behind.
func Command(program string, args ...string) *exec.Cmd {
	return exec.Command("/bin/sh", append([]string{"-c", endsWithStdin, program}, args...)...)
}

// A run is one process of a server.
type run struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	log   *os.File
}

// end stops the process by SIGTERM and waits for its end.
func (r *run) end() {
	_ = r.stdin.Close()
	_ = r.cmd.Wait() // exit status 143: ended by the signal
	_ = r.log.Close()
}

// kill stops the process by SIGKILL and waits for its end.
func (r *run) kill() {
	_, _ = io.WriteString(r.stdin, "KILL\n")
	r.end()
}
