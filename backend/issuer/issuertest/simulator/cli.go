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

// cliName is the base name of the executable that is the CLI face.
const cliName = "influxctl"

// ExitViolation is the CLI's exit status when its caller has broken a rule that
// the simulator enforces. The reason stands on standard error and in the
// cluster's Violations.
const ExitViolation = 97

// holdArgument makes the program sleep with its standard output open: the
// grandchild of Fault.Grandchild.
const holdArgument = "simulated-grandchild"

// hangTime is how long whatever hangs does so. It has an end so that a test
// that fails leaves nothing for ever.
const hangTime = 10 * time.Minute

// IsCLI tells whether a program that was started with these arguments, os.Args,
// is to be the CLI face.
func IsCLI(args []string) bool {
	return len(args) > 0 && strings.TrimSuffix(filepath.Base(args[0]), ".exe") == cliName
}

// Main is influxctl on the process's own streams and environment. It returns
// the exit status. args are os.Args; the first one, never the executable's real
// path, says where the Sidecar is.
func Main(args []string) int {
	if len(args) == 2 && args[1] == holdArgument {
		time.Sleep(hangTime)
		return 0
	}
	return RunCLI(args, os.Environ(), os.Stdin, os.Stdout, os.Stderr)
}

// RunCLI is influxctl with everything given, in the calling process, which a
// fault that kills or hangs the CLI strikes too. A nil stdin is at its end.
func RunCLI(args, env []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := &process{args: args, env: env, stdin: stdin, stdout: stdout, stderr: stderr}
	if stdin == nil {
		p.stdin = strings.NewReader("")
	}
	side, err := readSidecar(args[0])
	if err != nil {
		return p.fail(err)
	}
	p.side = side
	err = p.app().Run(args)
	if broken := p.reportAnyhow(); broken != nil {
		err = broken
	}
	return p.finish(err)
}

// A process is one run of the CLI.
type process struct {
	args, env      []string
	stdin          io.Reader
	stdout, stderr io.Writer
	side           Sidecar
	reported       bool    // or tried
	cluster        *client // nil unless the run was reported
}

// app is the command line of the version that is simulated.
func (p *process) app() *cli.App {
	v := p.side.version()
	app := &cli.App{
		Name:           cliName,
		Usage:          "CLI for managing InfluxDB 3 clusters",
		HideVersion:    true,
		Writer:         p.stdout,
		ErrWriter:      p.stderr,
		ExitErrHandler: func(*cli.Context, error) {}, // finish does it
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "debug"},
			&cli.BoolFlag{Name: "trace"},
			&cli.StringFlag{Name: "account"},
			&cli.StringFlag{Name: "cluster"},
			&cli.StringFlag{Name: "config"},
			&cli.StringFlag{Name: "profile", Value: "default"},
		},
		Commands: []*cli.Command{{Name: "version", Usage: "Output the current influxctl version", Action: p.version}},
	}
	if v.since(hasTimeout) {
		app.Flags = append(app.Flags, &cli.DurationFlag{Name: "timeout", Value: time.Minute})
	}
	if v.since(hasManagement) {
		app.Commands = append(app.Commands, p.management(v))
	}
	return app
}

func (p *process) management(v version) *cli.Command {
	format := &cli.StringFlag{Name: "format", Value: formatTable}
	list := []cli.Flag{format}
	if v.since(hasSort) {
		list = append(list, &cli.StringFlag{Name: "sort", Value: "created"})
	}
	return &cli.Command{
		Name:  "management",
		Usage: "Manage InfluxDB management tokens",
		Subcommands: []*cli.Command{
			{Name: "create", Action: p.create, Flags: []cli.Flag{
				format,
				&cli.StringFlag{Name: "description"},
				&cli.TimestampFlag{Name: "expires-at", Layout: time.RFC3339},
			}},
			{Name: "list", Action: p.list, Flags: list},
			{Name: "revoke", Action: p.revoke, ArgsUsage: "TOKEN_ID...", Flags: []cli.Flag{
				&cli.BoolFlag{Name: "force"},
			}},
		},
	}
}

func (p *process) version(cmd *cli.Context) error {
	if cmd.NArg() > 0 {
		return errTooMany
	}
	if err := p.reportAnyhow(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(p.stdout, p.side.versionText())
	return err
}

var errTooMany = errors.New("too many arguments")

func (p *process) create(cmd *cli.Context) error {
	ctx, cancel, err := p.open(cmd, 0)
	if err != nil {
		return err
	}
	defer cancel()
	order := createOrder{Description: cmd.String("description")}
	if expires := cmd.Timestamp("expires-at"); expires != nil {
		order.ExpiresAt = expires.UTC()
	}
	var answer createAnswer
	fault, err := p.cluster.call(ctx, "/sim/cli/create", order, &answer)
	if err := p.suffer(fault); err != nil {
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
		version:   p.side.version(),
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
	order := cmd.String("sort")
	if _, ok := sortKeys[order]; !ok && order != "" {
		return fmt.Errorf("invalid sort %q", order)
	}
	path := fmt.Sprintf("/sim/cli/list?format=%s&sort=%s&shape=%s", cmd.String("format"), order, p.side.ListShape)
	answer, fault, err := p.cluster.send(ctx, "GET", path, nil)
	if err := p.suffer(fault); err != nil {
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
	order := revokeOrder{IDs: cmd.Args().Slice(), StopAtError: !p.side.version().since(revokeContinue)}
	var results []revokeResult
	fault, err := p.cluster.call(ctx, "/sim/cli/revoke", order, &results)
	if err := p.suffer(fault); err != nil {
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

// confirm prompts, unless it was told not to.
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

// open checks what all commands of management have in common, reads the
// profile, and reports the run to its cluster.
func (p *process) open(cmd *cli.Context, maxArgs int) (context.Context, context.CancelFunc, error) {
	if cmd.NArg() > maxArgs {
		return nil, nil, errTooMany
	}
	if f := cmd.String("format"); f != "" && f != formatTable && f != formatJSON {
		return nil, nil, fmt.Errorf("invalid format %q", f)
	}
	path := cmd.String("config")
	if path == "" {
		path = p.defaultConfig()
	}
	prof, err := readProfile(path, cmd.String("profile"))
	if err != nil {
		return nil, nil, err
	}
	if id := cmd.String("account"); id != "" {
		prof.AccountID = id
	}
	if id := cmd.String("cluster"); id != "" {
		prof.ClusterID = id
	}
	timeout := cmd.Duration("timeout")
	if timeout == 0 {
		timeout = time.Minute // fixed before there was a flag
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	if err := p.connect(ctx, prof, exposure(path)); err != nil {
		cancel()
		return nil, nil, err
	}
	return ctx, cancel, nil
}

// connect reports the run to the profile's cluster.
func (p *process) connect(ctx context.Context, prof profile, violations []string) error {
	cluster, err := newClient(prof, p.side)
	if err != nil {
		return err
	}
	if err := p.report(ctx, cluster, violations); err != nil {
		return err
	}
	if prof.MgmtToken == "" {
		fmt.Fprintln(p.stderr, "Please log in with the browser to continue.")
		<-ctx.Done() // for a human, who never comes
		return &commandError{text: TextDeadlineExceeded, exit: 1}
	}
	return nil
}

func (p *process) defaultConfig() string {
	if dir := p.getenv("XDG_CONFIG_HOME"); dir != "" {
		return filepath.Join(dir, cliName, "config.toml")
	}
	return filepath.Join(p.getenv("HOME"), ".config", cliName, "config.toml")
}

func (p *process) getenv(name string) string {
	for _, variable := range slices.Backward(p.env) {
		if value, ok := strings.CutPrefix(variable, name+"="); ok {
			return value
		}
	}
	return ""
}

// suffer acts on those faults that only a process can have.
func (p *process) suffer(f Fault) error {
	if f.Grandchild {
		if err := p.breed(); err != nil {
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

// breed starts a child that outlives this process and keeps its standard output.
func (p *process) breed() error {
	child := exec.Command(p.args[0], holdArgument)
	child.Stdout = p.stdout
	child.Env = p.env
	if err := child.Start(); err != nil {
		return fmt.Errorf("start a child: %w", err)
	}
	_, err := p.cluster.call(context.Background(), "/sim/cli/child", childReport{Run: p.cluster.run, Pid: child.Process.Pid}, nil)
	return err
}

// finish ends the run with err.
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

// fail prints err and returns its exit status.
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
