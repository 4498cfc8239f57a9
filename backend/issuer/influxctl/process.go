package influxctl

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxStderr bounds what is kept of standard error. The rest is read and
	// dropped.
	maxStderr = 64 << 10

	// grace is how long a pipe may stay open after the process has ended. What
	// it wrote is in the pipe by then; only a grandchild can hold it longer.
	grace = 500 * time.Millisecond
)

// A job is one run of the program.
type job struct {
	image *image
	args  []string
	home  string // private directory: working directory, HOME and more

	// read reads standard output to its end. If it returns an error before,
	// the process is killed.
	read func(io.Reader) error
}

// An outcome is how a process ended.
type outcome struct {
	state  *os.ProcessState
	stderr string
	read   error // of job.read
	cut    error // why ctx is done, if it is
}

// exit is the exit status, -1 if a signal ended the process.
func (o outcome) exit() int { return o.state.ExitCode() }

// A launcher starts processes, all from one thread: on Linux, a child's
// parent-death signal is sent when the thread that started it ends.
type launcher struct {
	once   sync.Once
	starts chan func()
}

// start starts cmd on the launcher's thread.
func (l *launcher) start(cmd *exec.Cmd) error {
	l.once.Do(func() {
		l.starts = make(chan func())
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread() // so that the thread lives on
			for start := range l.starts {
				start()
			}
		}()
	})
	started := make(chan error)
	l.starts <- func() { started <- cmd.Start() }
	return <-started
}

func (l *launcher) close() {
	l.once.Do(func() { l.starts = make(chan func()) })
	close(l.starts)
}

// run runs a job to its end and leaves no process of its group behind. An error
// means that the process was not started.
func (l *launcher) run(ctx context.Context, j job) (outcome, error) {
	runCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	pipe, end, err := os.Pipe()
	if err != nil {
		return outcome{}, err
	}
	defer pipe.Close()
	stderr := &head{limit: maxStderr}
	cmd := command(runCtx, j)
	cmd.Stdout, cmd.Stderr = end, stderr
	err = l.start(cmd)
	end.Close()
	if err != nil {
		return outcome{}, err
	}
	stdout := &output{File: pipe}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()             // what it can say, cmd.ProcessState says better
		_ = killGroup(cmd.Process) // for grandchildren, if there are any
		stdout.end()
	}()
	readErr := j.read(stdout)
	if readErr != nil {
		cancel()
	}
	<-ended
	return outcome{cmd.ProcessState, stderr.String(), readErr, ctx.Err()}, nil
}

// command makes the command of a job, which dies with ctx, whole group.
func command(ctx context.Context, j job) *exec.Cmd {
	cmd := exec.CommandContext(ctx, j.image.path)
	cmd.Args = append([]string{j.image.name}, j.args...)
	cmd.Dir, cmd.Env = j.home, environment(runtime.GOOS, j.home) // stdin nil: at its end, so no prompt can hang us
	cmd.SysProcAttr = processAttributes()
	cmd.Cancel = func() error { return killGroup(cmd.Process) }
	cmd.WaitDelay = grace // for standard error
	if j.image.file != nil {
		cmd.ExtraFiles = []*os.File{j.image.file}
	}
	return cmd
}

// passed are the variables that the program gets as they are here.
var passed = []string{
	"LANG", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
	"http_proxy", "https_proxy", "all_proxy", "no_proxy",
}

// environment returns the whole environment of a run on the operating system
// goos, named as in runtime.GOOS. It holds nothing of Vault's, and no INFLUXCTL_
// variable, which could choose another cluster. All directories of the user are
// in home.
func environment(goos, home string) []string {
	env := []string{
		"HOME=" + home,
		"XDG_CONFIG_HOME=" + filepath.Join(home, "config"),
		"XDG_CACHE_HOME=" + filepath.Join(home, "cache"),
		"XDG_DATA_HOME=" + filepath.Join(home, "data"),
		"XDG_STATE_HOME=" + filepath.Join(home, "state"),
		"NO_COLOR=1",
		"TERM=dumb",
	}
	if goos == "windows" {
		env = append(env,
			"USERPROFILE="+home,
			"APPDATA="+filepath.Join(home, "AppData", "Roaming"),
			"LOCALAPPDATA="+filepath.Join(home, "AppData", "Local"),
		)
	}
	for _, name := range passed {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// An output is the reading end of a process's standard output. Once the process
// has ended it does not wait for more than grace.
type output struct {
	*os.File
	over atomic.Bool
}

func (o *output) Read(p []byte) (int, error) {
	if o.over.Load() {
		o.hurry()
	}
	n, err := o.File.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = io.EOF
	}
	return n, err
}

// end tells that the process has ended.
func (o *output) end() {
	o.over.Store(true)
	o.hurry()
}

// hurry bounds the read that is under way. Where pipes know no deadlines, the
// end of the process group is what ends it.
func (o *output) hurry() { _ = o.SetReadDeadline(time.Now().Add(grace)) }

// A head keeps the beginning of what is written to it.
type head struct {
	limit int
	kept  []byte
}

func (h *head) Write(p []byte) (int, error) {
	h.kept = append(h.kept, p[:min(len(p), h.limit-len(h.kept))]...)
	return len(p), nil
}

func (h *head) String() string { return string(h.kept) }
