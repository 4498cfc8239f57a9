package influxctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

const (
	// overtime is what a process may take beyond its --timeout: to start, to
	// notice, and to say so.
	overtime = 2 * time.Second

	// defaultTimeout holds for a cluster that names none.
	defaultTimeout = 30 * time.Second

	// maxOutput bounds what create and revoke may print.
	maxOutput = 1 << 20
)

// A cluster is the issuer of one cluster.
type cluster struct {
	driver *Driver
	issuer.Cluster
}

var _ issuer.Issuer = (*cluster)(nil)

// Issue runs `management create`, and `management list` if the answer lacks the
// token's id.
func (c *cluster) Issue(ctx context.Context, r issuer.Request) (issuer.Token, error) {
	var stdout []byte
	stderr, err := c.manage(ctx, "create", createArgs(r), func(r io.Reader) (err error) {
		stdout, err = readBounded(r)
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
		return issuer.Token{}, errors.New("influxctl management create: it printed the root token and no other")
	case token.ID != "":
		return token, nil
	}
	if token.ID, err = c.idOf(ctx, r.Description, token.Secret.Reveal()); err != nil {
		// Not %w: a refusal of the list does not mean that nothing was minted.
		return issuer.Token{}, fmt.Errorf("influxctl management create did not say the token's id: %v", err)
	}
	return token, nil
}

// List runs `management list`.
func (c *cluster) List(ctx context.Context, yield func(issuer.Info) error) error {
	_, err := c.manage(ctx, "list", listArgs(), func(r io.Reader) error { return decodeList(r, yield) })
	return err
}

// Revoke joins the queue of the cluster; revokeBatch does the work.
func (c *cluster) Revoke(ctx context.Context, ids ...string) map[string]error {
	failed := map[string]error{}
	var plausible []string
	for _, id := range ids {
		if !plausibleID(id) {
			failed[id] = notRunf("%q is not the id of a token", id)
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
// if it fails.
func (c *cluster) manage(ctx context.Context, verb string, args []string, read func(io.Reader) error) (string, error) {
	_, img, err := c.driver.program.prove(ctx)
	if err != nil {
		return "", err
	}
	if err := c.driver.gate.enter(ctx, c.Cluster); err != nil {
		return "", notRunf("wait to run influxctl: %w", err)
	}
	defer c.driver.gate.leave(c.Cluster)
	home, err := c.driver.scratch.make()
	if err != nil {
		return "", &notRun{err}
	}
	defer discard(home)
	profile, err := writeProfile(home, c.Cluster)
	if err != nil {
		return "", &notRun{err}
	}
	timeout := c.timeout()
	ctx, cancel := context.WithTimeout(ctx, timeout+overtime)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return "", notRunf("influxctl was not run: %w", err)
	}
	args = managementArgs(profile, timeout, verb, args...)
	out, err := c.driver.launcher.run(ctx, job{image: img, args: args, home: home, read: read})
	if err != nil {
		return "", notRunf("start influxctl: %w", err)
	}
	return out.stderr, c.judge(verb, out)
}

// judge tells whether a run has succeeded, and what went wrong first if not.
func (c *cluster) judge(verb string, out outcome) error {
	var err error
	switch {
	case out.state.Success():
		return out.read
	case out.exit() >= 0: // it ended by itself
		err = failure(out, c.Root.Reveal(), c.ClientKey.Reveal())
	case out.cut != nil:
		err = fmt.Errorf("cut short: %w", out.cut)
	case out.read != nil:
		return out.read
	default:
		err = failure(out, c.Root.Reveal(), c.ClientKey.Reveal())
	}
	return fmt.Errorf("influxctl management %s: %w", verb, err)
}

func (c *cluster) timeout() time.Duration {
	if c.Timeout <= 0 {
		return defaultTimeout
	}
	return c.Timeout
}

// readBounded reads all there is, or fails if that is too much.
func readBounded(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxOutput+1))
	if err == nil && len(text) > maxOutput {
		err = fmt.Errorf("influxctl printed more than %d bytes", maxOutput)
	}
	return text, err
}
