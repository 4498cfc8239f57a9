package simulator

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// report tells the cluster how this process was started, before it does
// anything. It fails if that was not as it should be.
func (p *process) report(ctx context.Context, cluster *client, violations []string) error {
	p.reported = true
	report := runReport{
		Argv:       p.args,
		Env:        p.env,
		Pid:        os.Getpid(),
		Violations: slices.Concat(violations, p.inspect()),
	}
	said, err := cluster.start(ctx, report)
	if err != nil {
		if broken := violated(report.Violations); broken != nil {
			return broken
		}
		return err
	}
	p.cluster = cluster
	return violated(said)
}

// reportAnyhow reports a run that has read no profile, if it is known to whom.
// Such a run needs no cluster, so one out of reach does not matter.
func (p *process) reportAnyhow() error {
	if p.reported {
		return nil
	}
	p.reported = true
	cluster, err := newClient(profile{}, p.side)
	if err != nil {
		return violated(p.inspect())
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err = p.report(ctx, cluster, nil)
	if _, ok := errors.AsType[violation](err); ok {
		return err
	}
	return nil
}

// violated turns violations into the error that ends the process.
func violated(violations []string) error {
	if len(violations) == 0 {
		return nil
	}
	return violation(violations)
}

// A violation is an error that tells what the caller of the CLI did wrong.
type violation []string

func (v violation) Error() string { return "simulator: violation: " + strings.Join(v, "; ") }
func (v violation) ExitCode() int { return ExitViolation }

// inspect looks for what a process can see of itself. Secrets are the
// cluster's to know.
func (p *process) inspect() []string {
	var found []string
	for _, variable := range p.env {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "INFLUXCTL_") || strings.HasPrefix(name, "VAULT_") {
			found = append(found, "the environment has "+name)
		}
	}
	for _, arg := range p.args[1:] {
		switch strings.TrimLeft(arg, "-") {
		case "debug", "trace", "debug=true", "trace=true":
			if strings.HasPrefix(arg, "-") {
				found = append(found, arg+" is given")
			}
		}
	}
	if !atEnd(p.stdin) {
		found = append(found, "standard input is not at its end")
	}
	return found
}

// atEnd tells whether r has nothing to say, and says so within a second.
func atEnd(r io.Reader) bool {
	read := make(chan bool, 1)
	go func() {
		n, err := r.Read(make([]byte, 1))
		read <- n == 0 && err == io.EOF
	}()
	select {
	case end := <-read:
		return end
	case <-time.After(time.Second):
		return false
	}
}
