package influxctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/boundedjson"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/failure"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/redact"
)

const (
	// overtime is how long a process may run beyond its --timeout: to start, to
	// notice the timeout, and to report it.
	overtime = 2 * time.Second

	// defaultTimeout applies to a cluster without a timeout.
	defaultTimeout = 30 * time.Second

	// maxOutput is the largest output of create and revoke, in bytes.
	maxOutput = 1 << 20
)

// A cluster is the issuer of one cluster.
type cluster struct {
	driver *Driver
	issuer.Cluster
}

var _ issuer.Issuer = (*cluster)(nil)

// Issue runs `management create`. If the answer does not hold the ID of the
// token, it runs `management list` too.
func (c *cluster) Issue(ctx context.Context, r issuer.Request) (issuer.Token, error) {
	var stdout []byte
	stderr, err := c.manage(ctx, "create", createArgs(r), func(r io.Reader) (err error) {
		stdout, err = readOutput(r)
		return err
	})
	if err != nil {
		return issuer.Token{}, err
	}
	token, err := decodeCreate(stdout, []byte(stderr))
	switch {
	case err != nil:
		return issuer.Token{}, fmt.Errorf("influxctl management create: %w", err)
	case token.Secret == c.Root:
		return issuer.Token{}, errors.New("influxctl management create: the only token in its output is the root credential")
	}
	if token.ID == "" {
		info, err := c.find(ctx, r.Description, token.Secret.Reveal())
		if err != nil {
			// Not %w: a list that was refused does not mean that no token was
			// created.
			return issuer.Token{}, fmt.Errorf("influxctl management create did not print the id of the token: %v", err)
		}
		token.ID, token.expiries = info.ID, append(token.expiries, info.ExpiresAt)
	}
	if err := token.checkExpiry(r); err != nil {
		return issuer.Token{}, fmt.Errorf("influxctl management create: %w", err)
	}
	return token.Token, nil
}

// List runs `management list`. An empty list is one only if the program does not
// report a failure, because no output is an empty list, too.
func (c *cluster) List(ctx context.Context, yield func(issuer.Info) error) error {
	empty := true
	stderr, err := c.manage(ctx, "list", listArgs(), func(r io.Reader) error {
		return decodeList(r, func(info issuer.Info) error {
			empty = false
			return yield(info)
		})
	})
	if err == nil && empty {
		err = reportedFailure("list", redact.Plain(stderr), c.Cluster)
	}
	return err
}

// Revoke adds the tokens to the queue of the cluster, which calls revokeBatch.
func (c *cluster) Revoke(ctx context.Context, ids ...string) map[string]error {
	failed := map[string]error{}
	var plausible []string
	for _, id := range ids {
		if !plausibleID(id) {
			failed[id] = failure.NotSentf("%q is not the id of a token", redact.Quote(id))
			continue
		}
		plausible = append(plausible, id)
	}
	for id, err := range c.driver.queues.revoke(ctx, c.Cluster, plausible) {
		failed[id] = err
	}
	return failed
}

// manage runs `influxctl management verb` in a private directory with a profile
// and reads its standard output with read. It returns its standard error, also
// if the run fails.
func (c *cluster) manage(ctx context.Context, verb string, args []string, read func(io.Reader) error) (string, error) {
	_, img, err := c.driver.program.verified(ctx)
	if err != nil {
		return "", err
	}
	if err := c.driver.gate.enter(ctx, c.Cluster); err != nil {
		return "", failure.NotSentf("wait to run influxctl: %w", err)
	}
	defer c.driver.gate.leave(c.Cluster)
	home, err := c.driver.scratch.make()
	if err != nil {
		return "", failure.NotSent(err)
	}
	defer discard(home)
	profile, err := writeProfile(home, c.Cluster)
	if err != nil {
		return "", failure.NotSent(err)
	}
	timeout := c.timeout()
	ctx, cancel := context.WithTimeout(ctx, timeout+overtime)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return "", failure.NotSentf("influxctl was not run: %w", err)
	}
	args = managementArgs(profile, timeout, verb, args...)
	out, err := c.driver.launcher.run(ctx, job{image: img, args: args, home: home, read: read})
	if err != nil {
		c.driver.program.forgetIfGone(img)
		return "", failure.NotSentf("start influxctl: %w", err)
	}
	return out.stderr, c.runError(verb, out)
}

// runError returns the error of a run, or nil if it succeeded. If several things
// went wrong it is about the first.
func (c *cluster) runError(verb string, out outcome) error {
	var err error
	switch {
	case out.state.Success():
		return out.readErr
	case out.exit() >= 0: // not ended by a signal
		err = exitError(out, c.Cluster)
	case errors.Is(out.ctxErr, context.DeadlineExceeded):
		err = failure.Wrap(fmt.Errorf("killed after it did not end in time: %w", out.ctxErr), issuer.ErrUnreachable)
	case out.ctxErr != nil:
		err = fmt.Errorf("killed: %w", out.ctxErr)
	case out.readErr != nil:
		return out.readErr
	default:
		err = exitError(out, c.Cluster)
	}
	return fmt.Errorf("influxctl management %s: %w", verb, err)
}

func (c *cluster) timeout() time.Duration {
	if c.Timeout <= 0 {
		return defaultTimeout
	}
	return c.Timeout
}

// readOutput reads r to its end and fails if that is more than maxOutput.
func readOutput(r io.Reader) ([]byte, error) {
	text, err := boundedjson.ReadAll(r, maxOutput)
	if errors.Is(err, boundedjson.ErrTooLong) {
		return nil, fmt.Errorf("influxctl printed more than %d bytes", maxOutput)
	}
	return text, err
}
