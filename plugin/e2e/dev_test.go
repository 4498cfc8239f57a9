package e2e

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// untilCtrlC runs a command until it ends or until standard input ends. Then it
// sends what a terminal sends on Ctrl-C: an interrupt to the whole process group.
// A test that is killed leaves nothing behind either. The waiting process keeps no
// output open, so that the output ends with the command.
const untilCtrlC = `exec 3<&0; (cat <&3; kill -INT 0) >/dev/null 2>&1 & exec "$0" "$@" </dev/null 3<&-`

// A tour is a run of `make dev`.
type tour struct {
	cmd     *exec.Cmd
	stdin   io.Closer     // closing it sends Ctrl-C
	lines   *bufio.Reader // standard output and standard error
	witness *os.File      // a pipe that ends when no process of the tour is left
	scratch string        // its folder for temporary files
}

func startTour(t *testing.T) *tour {
	t.Helper()
	vaulttest.Binary(t) // may build it, which takes minutes
	tr := &tour{scratch: t.TempDir()}
	tr.cmd = exec.Command("/bin/sh", "-c", untilCtrlC, "make", "--no-print-directory", "dev", "OUT="+t.TempDir())
	tr.cmd.Dir = "../.."
	tr.cmd.Env = append(os.Environ(), "TMPDIR="+tr.scratch)
	tr.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := tr.cmd.StdinPipe()
	must(t, err)
	out, write, err := os.Pipe()
	must(t, err)
	witness, held, err := os.Pipe()
	must(t, err)
	tr.cmd.Stdout, tr.cmd.Stderr = write, write
	tr.cmd.ExtraFiles = []*os.File{nil, held} // file descriptor 4, inherited by all child processes
	must(t, tr.cmd.Start())
	must(t, write.Close())
	must(t, held.Close())
	tr.stdin, tr.lines, tr.witness = stdin, bufio.NewReader(out), witness
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = tr.cmd.Wait() // ended by the interrupt
		_ = out.Close()
		_ = witness.Close()
	})
	return tr
}

// upTo reads the output of the tour up to a line with the prefix.
func (tr *tour) upTo(t *testing.T, prefix string) string {
	t.Helper()
	var transcript strings.Builder
	for {
		line, err := tr.lines.ReadString('\n')
		transcript.WriteString(line)
		if err != nil {
			t.Fatalf("make dev ended before %q:\n%s", prefix, transcript.String())
		}
		if strings.HasPrefix(line, prefix) {
			return transcript.String()
		}
	}
}

// The tour must show the life of a token, and Ctrl-C must leave no process and no
// file behind.
func TestMakeDev_ShowsLifeOfATokenAndCleansUp(t *testing.T) {
	t.Parallel()
	tr := startTour(t)
	transcript := tr.upTo(t, "Up until Ctrl-C.")
	rest := transcript
	for _, want := range []string{
		"$ vault write influxdb/config ",
		"$ vault write -force influxdb/config/check",
		"step_7_dead",
		"$ vault write influxdb/roles/",
		"max_ttl is 0",
		"$ vault read influxdb/creds/automation",
		"200 OK",
		"$ vault lease renew influxdb/creds/automation/",
		"$ vault lease revoke -sync influxdb/creds/automation/",
		"401 Unauthorized",
		"$ vault read influxdb/creds/telegraf",
		"bucket=logs", "401 Unauthorized",
		"bucket=metrics", "204 No Content",
		"bucket=metrics", "401 Unauthorized",
		"$ vault list -detailed influxdb/tokens",
		"$ vault read influxdb/status",
	} {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Fatalf("%q is missing, or out of order, in:\n%s", want, transcript)
		}
		rest = after
	}

	must(t, tr.stdin.Close())
	must(t, tr.witness.SetReadDeadline(time.Now().Add(30*time.Second)))
	if _, err := io.Copy(io.Discard, tr.witness); err != nil {
		t.Errorf("processes are left: %v", err)
	}
	left, err := os.ReadDir(tr.scratch)
	must(t, err)
	if len(left) > 0 {
		t.Errorf("files are left: %v", left)
	}
}
