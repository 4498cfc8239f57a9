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
	// maxStderr is how many bytes of standard error are kept. The rest is read
	// and dropped.
	maxStderr = 64 << 10

	// pipeDelay is how long a pipe may stay open after the process has ended.
	// What the process wrote is in the pipe by then; only a child of the process
	// can keep it open.
	pipeDelay = 500 * time.Millisecond
)

// A job is one run of the program.
type job struct {
	image *image
	args  []string
	home  string // private directory: working directory, HOME and more

	// read reads standard output to its end. If it returns an error, the
	// process is killed.
	read func(io.Reader) error
}

// An outcome is how a process ended.
type outcome struct {
	state   *os.ProcessState
	stderr  string
	readErr error // of job.read
	ctxErr  error // of the context of the run
}

// exit returns the exit status, or -1 if a signal ended the process.
func (o outcome) exit() int { return o.state.ExitCode() }

// A launcher starts all processes from one thread that lives as long as this
// process: on Linux, a child gets its parent-death signal when the thread that
// started it ends, see prctl(2), PR_SET_PDEATHSIG.
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
			defer runtime.UnlockOSThread() // else the thread ends with the goroutine
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

// run runs a job to its end and leaves no process of its process group behind. An
// error means that the process was not started.
func (l *launcher) run(ctx context.Context, j job) (outcome, error) {
	runCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	pipe, end, err := os.Pipe()
	if err != nil {
		return outcome{}, err
	}
	defer pipe.Close()
	stderr := &limitedBuffer{limit: maxStderr}
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
		_ = cmd.Wait()             // cmd.ProcessState says the same
		_ = killGroup(cmd.Process) // children of the process, if there are any
		stdout.processEnded()
	}()
	readErr := j.read(stdout)
	if readErr != nil {
		cancel()
	}
	<-ended
	return outcome{cmd.ProcessState, stderr.String(), readErr, ctx.Err()}, nil
}

// command returns the command of a job. Its process group is killed when ctx is
// done.
func command(ctx context.Context, j job) *exec.Cmd {
	cmd := exec.CommandContext(ctx, j.image.path)
	cmd.Args = append([]string{j.image.name}, j.args...)
	cmd.Dir, cmd.Env = j.home, environment(runtime.GOOS, j.home) // no Stdin: a prompt reads the end of the file
	cmd.SysProcAttr = processAttributes()
	cmd.Cancel = func() error { return killGroup(cmd.Process) }
	cmd.WaitDelay = pipeDelay // for standard error
	if j.image.file != nil {
		cmd.ExtraFiles = []*os.File{j.image.file}
	}
	return cmd
}

// inheritedVariables are the variables that the program gets from this process.
var inheritedVariables = []string{
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
	for _, name := range inheritedVariables {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// An output is the reading end of a process's standard output. Once the process
// has ended, a read waits for at most pipeDelay.
type output struct {
	*os.File
	ended atomic.Bool
}

func (o *output) Read(p []byte) (int, error) {
	ended := o.ended.Load()
	if ended {
		o.setDeadline()
	}
	n, err := o.File.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) && !ended { // it may have passed before anything was read
		o.setDeadline()
		n, err = o.File.Read(p)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = io.EOF
	}
	return n, err
}

// processEnded says that the process has ended.
func (o *output) processEnded() {
	o.ended.Store(true)
	o.setDeadline()
}

// setDeadline limits the current read. Where pipes have no deadlines, the read
// ends when the process group has been killed.
func (o *output) setDeadline() { _ = o.SetReadDeadline(time.Now().Add(pipeDelay)) }

// A limitedBuffer keeps the beginning of what is written to it.
type limitedBuffer struct {
	limit int
	kept  []byte
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.kept = append(b.kept, p[:min(len(p), b.limit-len(b.kept))]...)
	return len(p), nil
}

func (b *limitedBuffer) String() string { return string(b.kept) }
