package simulator

import (
	"context"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// report tells the cluster how this process was started, before it does
// anything. It fails if that was not as it should be.
func (p *process) report(ctx context.Context, cluster *client, violations []string) error {
	p.cluster = cluster
	said, err := cluster.start(ctx, runReport{
		Argv:       p.args,
		Env:        p.env,
		Pid:        os.Getpid(),
		Violations: slices.Concat(violations, p.inspect()),
	})
	if err != nil {
		return err
	}
	return violated(said)
}

// reportAnyhow reports a run that has read no profile, if it is known to whom.
func (p *process) reportAnyhow() error {
	if p.cluster != nil {
		return nil
	}
	if p.side.URL == "" {
		return violated(p.inspect())
	}
	cluster, err := newClient(profile{}, p.side)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return p.report(ctx, cluster, nil)
}

// violated turns violations into the error that ends the process.
func violated(violations []string) error {
	if len(violations) == 0 {
		return nil
	}
	return &commandError{text: "simulator: violation: " + strings.Join(violations, "; "), exit: ExitViolation}
}

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
