package simulator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A violation is an error that lists what the caller of the command did wrong,
// and what to do instead.
type violation []string

func (v violation) Error() string { return "simulator: violation: " + strings.Join(v, "; ") }
func (v violation) ExitCode() int { return ExitViolation }

// errorOf returns violations as an error, nil if there are none.
func errorOf(violations []string) error {
	if len(violations) == 0 {
		return nil
	}
	return violation(violations)
}

// report reports to the cluster how this process was started, before the process
// does anything else. It returns the violations as an error.
func (p *process) report(ctx context.Context, cluster *client, violations []string) error {
	p.reported = true
	report := runReport{
		Argv:       p.args,
		Env:        p.env,
		Pid:        os.Getpid(),
		Violations: slices.Concat(violations, p.checkStart()),
	}
	found, err := cluster.start(ctx, report)
	if err != nil {
		if broken := errorOf(report.Violations); broken != nil {
			return broken
		}
		return err
	}
	p.cluster = cluster
	return errorOf(found)
}

// reportWithoutProfile reports a run that has not read a profile to the cluster
// of the sidecar. Such a run needs no cluster, so it is no error if the cluster
// cannot be reached. It does nothing if the run was reported.
func (p *process) reportWithoutProfile() error {
	if p.reported {
		return nil
	}
	p.reported = true
	cluster, err := newClient(profile{}, p.side)
	if err != nil {
		return errorOf(p.checkStart())
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err = p.report(ctx, cluster, nil)
	if _, ok := errors.AsType[violation](err); ok {
		return err
	}
	return nil
}

// checkStart checks what a process can see of itself. Only the cluster can
// recognize secrets. A person at a shell may have variables of Vault, and gets a
// note about them.
func (p *process) checkStart() []string {
	variables := p.foreignVariables()
	if p.side.Interactive {
		if len(variables) > 0 {
			fmt.Fprintf(p.stderr, "simulator: note: influxctl does not use %s. Its token is the mgmt_token of the profile, see --config.\n",
				strings.Join(variables, ", "))
		}
		return nil
	}
	var found []string
	if len(variables) > 0 {
		found = append(found, "the environment has "+strings.Join(variables, ", ")+
			": do not start influxctl with the environment of another program; "+
			`to run it from a shell, put "interactive": true into `+SidecarName+" beside it")
	}
	for _, arg := range p.args[1:] {
		switch strings.TrimLeft(arg, "-") {
		case "debug", "trace", "debug=true", "trace=true":
			if strings.HasPrefix(arg, "-") {
				found = append(found, arg+" is given: it prints secrets; leave it out")
			}
		}
	}
	if !atEnd(p.stdin) {
		found = append(found, "standard input is not at its end: influxctl could wait for it; use the null device")
	}
	return found
}

// foreignVariables returns the names of the variables that are meant for other
// programs, or that change what influxctl does.
func (p *process) foreignVariables() (names []string) {
	for _, variable := range p.env {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "INFLUXCTL_") || strings.HasPrefix(name, "VAULT_") {
			names = append(names, name)
		}
	}
	return names
}

// checkModes checks that nobody else may read the profile at path.
func (p *process) checkModes(path string) (found []string) {
	if p.side.Interactive {
		return nil
	}
	for _, place := range []struct {
		path string
		mode os.FileMode
	}{{path, 0o600}, {filepath.Dir(path), 0o700}} {
		info, err := os.Stat(place.path)
		if err == nil && info.Mode().Perm()&^place.mode != 0 {
			found = append(found, fmt.Sprintf("%s has mode %#o: others may read the token in the profile; use mode %#o",
				place.path, info.Mode().Perm(), place.mode))
		}
	}
	return found
}

// atEnd reports whether r is at its end. It waits for a second at most.
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

// secretViolations looks for secrets where other processes can read them.
func (c *Cluster) secretViolations(report runReport) []string {
	const advice = "; put the token into mgmt_token of the profile"
	var found []string
	for _, id := range c.secretsIn(strings.Join(report.Argv, "\x00")) {
		found = append(found, "the secret of token "+id+" is in the arguments, which other users can read"+advice)
	}
	for _, variable := range report.Env {
		name, _, _ := strings.Cut(variable, "=")
		for _, id := range c.secretsIn(variable) {
			found = append(found, "the secret of token "+id+" is in the environment variable "+name+
				", which other processes can read"+advice+", and unset the variable")
		}
	}
	return found
}
