package simulator

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// cliName is the name under which a program is the simulated command.
const cliName = "influxctl"

// ExitViolation is the exit status of the command if its caller has broken a
// rule of the simulator. The reason is on standard error and in
// Cluster.Violations.
const ExitViolation = 97

// holdArgument makes the program sleep with its standard output open. It is the
// process that Fault.Grandchild starts.
const holdArgument = "simulated-grandchild"

// hangTime is how long a process hangs. It ends so that a failed test leaves no
// process forever.
const hangTime = 10 * time.Minute

// IsCLI reports whether a program with these arguments, os.Args, was started
// under the name influxctl. It must then call Main.
func IsCLI(args []string) bool {
	return len(args) > 0 && strings.TrimSuffix(filepath.Base(args[0]), ".exe") == cliName
}

// Main runs influxctl with the streams and the environment of the process, and
// returns the exit status. The arguments are os.Args. The Sidecar is in the
// directory of the first one, which need not be the path of the executable.
func Main(args []string) int {
	if len(args) == 2 && args[1] == holdArgument {
		time.Sleep(hangTime)
		return 0
	}
	return RunCLI(args, os.Environ(), os.Stdin, os.Stdout, os.Stderr)
}

// RunCLI runs influxctl in the calling process and returns the exit status. A
// fault that kills the command or makes it hang does that to the calling process.
// A nil stdin is at its end.
func RunCLI(args, env []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := &process{args: args, env: env, stdin: stdin, stdout: stdout, stderr: stderr}
	if stdin == nil {
		p.stdin = strings.NewReader("")
	}
	var err error
	if p.side, err = readSidecar(args[0]); err != nil {
		return p.fail(err)
	}
	if p.version, err = p.side.version(); err != nil {
		return p.fail(err)
	}
	err = p.app().Run(args)
	if broken := p.reportWithoutProfile(); broken != nil {
		err = broken
	}
	return p.finish(err)
}

// A process is one run of the command.
type process struct {
	args, env      []string
	stdin          io.Reader
	stdout, stderr io.Writer
	side           Sidecar
	version        version
	reported       bool    // to a cluster; also if that failed
	cluster        *client // nil if the run was not reported
}

// app returns the command line.
func (p *process) app() *cli.App {
	return &cli.App{
		Name:           cliName,
		Usage:          "CLI for managing InfluxDB 3 clusters",
		HideVersion:    true,
		Writer:         p.stdout,
		ErrWriter:      p.stderr,
		ExitErrHandler: func(*cli.Context, error) {}, // finish prints the error
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "debug"},
			&cli.BoolFlag{Name: "trace"},
			&cli.StringFlag{Name: "config"},
			&cli.StringFlag{Name: "profile", Value: "default"},
			&cli.DurationFlag{Name: "timeout", Value: time.Minute},
		},
		Commands: []*cli.Command{
			{Name: "version", Usage: "Output the current influxctl version", Action: p.printVersion},
			p.management(),
		},
	}
}

func (p *process) management() *cli.Command {
	format := &cli.StringFlag{Name: "format", Value: formatTable}
	return &cli.Command{
		Name:  "management",
		Usage: "Manage InfluxDB management tokens",
		Subcommands: []*cli.Command{
			{Name: "create", Action: p.create, Flags: []cli.Flag{
				format,
				&cli.StringFlag{Name: "description"},
				&cli.TimestampFlag{Name: "expires-at", Layout: time.RFC3339},
			}},
			{Name: "list", Action: p.list, Flags: []cli.Flag{format}},
			{Name: "revoke", Action: p.revoke, ArgsUsage: "TOKEN_ID...", Flags: []cli.Flag{
				&cli.BoolFlag{Name: "force"},
			}},
		},
	}
}

func (p *process) printVersion(cmd *cli.Context) error {
	if cmd.NArg() > 0 {
		return errTooManyArguments
	}
	if err := p.reportWithoutProfile(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(p.stdout, p.version)
	return err
}

var errTooManyArguments = errors.New("too many arguments")

func (p *process) create(cmd *cli.Context) error {
	ctx, cancel, err := p.open(cmd, 0)
	if err != nil {
		return err
	}
	defer cancel()
	request := createRequest{Description: cmd.String("description")}
	if expires := cmd.Timestamp("expires-at"); expires != nil {
		request.ExpiresAt = expires.UTC()
	}
	var answer createAnswer
	fault, err := p.cluster.call(ctx, "/sim/cli/create", request, &answer)
	if err := p.applyFault(fault); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	shape := p.side.Shape
	if fault.Shape != "" {
		shape = fault.Shape
	}
	return created{
		token:     answer.Token,
		accountID: answer.AccountID,
		version:   p.version,
		stdout:    p.stdout,
		stderr:    p.stderr,
	}.print(cmd.String("format"), shape)
}

func (p *process) list(cmd *cli.Context) error {
	ctx, cancel, err := p.open(cmd, 0)
	if err != nil {
		return err
	}
	defer cancel()
	path := fmt.Sprintf("/sim/cli/list?format=%s&shape=%s", cmd.String("format"), p.side.ListShape)
	answer, fault, err := p.cluster.send(ctx, "GET", path, nil)
	if err := p.applyFault(fault); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(p.stdout, answer.Body); err != nil {
		return transportError(err)
	}
	return nil
}

func (p *process) revoke(cmd *cli.Context) error {
	if cmd.NArg() == 0 {
		return errors.New("at least one token ID is required")
	}
	ctx, cancel, err := p.open(cmd, math.MaxInt)
	if err != nil {
		return err
	}
	defer cancel()
	if err := p.confirm(cmd); err != nil {
		return err
	}
	request := revokeRequest{IDs: cmd.Args().Slice(), StopAtError: !p.version.since(revokeContinues)}
	var results []revokeResult
	fault, err := p.cluster.call(ctx, "/sim/cli/revoke", request, &results)
	if err := p.applyFault(fault); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	var failed []error
	for _, r := range results {
		if r.Error != "" {
			failed = append(failed, fmt.Errorf("revoke management token %s: %s", r.ID, r.Error))
			continue
		}
		fmt.Fprintf(p.stdout, "management token %s revoked\n", r.ID)
	}
	return errors.Join(failed...)
}

// confirm asks for confirmation unless --force is given.
func (p *process) confirm(cmd *cli.Context) error {
	if cmd.Bool("force") {
		return nil
	}
	fmt.Fprintf(p.stdout, "Revoke %d management tokens? This cannot be undone. [y/N] ", cmd.NArg())
	answer, err := bufio.NewReader(p.stdin).ReadString('\n')
	if err != nil {
		return fmt.Errorf("read confirmation: %w", err)
	}
	if !strings.EqualFold(strings.TrimSpace(answer), "y") {
		return errors.New("not confirmed")
	}
	return nil
}

// open does what all commands of management have in common: it checks the
// arguments, reads the profile, and reports the run to the cluster.
func (p *process) open(cmd *cli.Context, maxArgs int) (context.Context, context.CancelFunc, error) {
	if cmd.NArg() > maxArgs {
		return nil, nil, errTooManyArguments
	}
	if f := cmd.String("format"); f != "" && f != formatTable && f != formatJSON {
		return nil, nil, fmt.Errorf("invalid format %q", f)
	}
	path := cmd.String("config")
	if path == "" {
		path = filepath.Join(p.getenv("HOME"), ".config", cliName, "config.toml")
	}
	prof, err := readProfile(path, cmd.String("profile"))
	if err != nil {
		return nil, nil, err
	}
	cluster, err := newClient(prof, p.side)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), cmd.Duration("timeout"))
	if err := p.report(ctx, cluster, p.checkModes(path)); err != nil {
		cancel()
		return nil, nil, err
	}
	return ctx, cancel, nil
}

func (p *process) getenv(name string) string {
	for _, variable := range slices.Backward(p.env) {
		if value, ok := strings.CutPrefix(variable, name+"="); ok {
			return value
		}
	}
	return ""
}

// applyFault acts on the faults of a process.
func (p *process) applyFault(f Fault) error {
	if f.Grandchild {
		if err := p.startGrandchild(); err != nil {
			return err
		}
	}
	if f.Hang != "" {
		time.Sleep(hangTime)
	}
	switch f.Die {
	case DieKilled:
		self, err := os.FindProcess(os.Getpid())
		if err != nil {
			return err
		}
		return errors.Join(self.Kill(), errors.New("still alive after SIGKILL"))
	case DiePanic:
		return &commandError{
			text: "panic: runtime error: invalid memory address or nil pointer dereference\n\ngoroutine 1 [running]:\nmain.main()",
			exit: 2,
		}
	}
	return nil
}

// startGrandchild starts a process that outlives this one and keeps its standard
// output open. It is a grandchild of the program that started the command.
func (p *process) startGrandchild() error {
	child := exec.Command(p.args[0], holdArgument)
	child.Stdout = p.stdout
	child.Env = p.env
	if err := child.Start(); err != nil {
		return fmt.Errorf("start a child: %w", err)
	}
	_, err := p.cluster.call(context.Background(), "/sim/cli/child", childReport{Run: p.cluster.run, Pid: child.Process.Pid}, nil)
	return err
}

// finish prints err, reports the end of the run, and returns the exit status.
func (p *process) finish(err error) int {
	exit := 0
	if err != nil {
		exit = p.fail(err)
	}
	if p.cluster != nil {
		p.cluster.end(exit)
	}
	return exit
}

// fail prints err and returns the exit status.
func (p *process) fail(err error) int {
	coder, ok := errors.AsType[cli.ExitCoder](err)
	if !ok {
		fmt.Fprintln(p.stderr, "Error:", err)
		return 1
	}
	if coder.ExitCode() == 1 {
		fmt.Fprintln(p.stderr, "Error:", err)
	} else {
		fmt.Fprintln(p.stderr, err)
	}
	return coder.ExitCode()
}
