package vaulttest

import (
	"io"
	"os"
	"os/exec"
	"time"
)

// endsWithStdin is a shell script that runs a command and sends it SIGTERM when
// standard input ends. Lines of input, before that, are the names of signals to send
// instead. The script exits when the command has ended.
const endsWithStdin = `exec 3<&0
"$0" "$@" </dev/null 3<&- & pid=$!
(read -r signal; while kill -${signal:-TERM} $pid && [ "$signal" ] && read -r signal; do :; done) 2>/dev/null <&3 3<&- &
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

// endTime is how long a process may take to end after SIGTERM. Vault sometimes hangs
// then, when it has lost the other nodes of its cluster.
const endTime = 30 * time.Second

// end stops the process by SIGTERM, or else by SIGKILL, and waits for its end.
func (r *run) end() {
	_, _ = io.WriteString(r.stdin, "TERM\n")
	late := time.AfterFunc(endTime, func() { _, _ = io.WriteString(r.stdin, "KILL\n") })
	defer late.Stop()
	r.await()
}

// await waits for the end of the process.
func (r *run) await() {
	_ = r.cmd.Wait() // exit status 143 or 137: ended by the signal
	_ = r.stdin.Close()
	_ = r.log.Close()
}

// kill stops the process by SIGKILL and waits for its end.
func (r *run) kill() {
	_, _ = io.WriteString(r.stdin, "KILL\n")
	r.await()
}
