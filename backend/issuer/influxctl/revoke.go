package influxctl

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// A list may lag behind what was just done. What it does not show yet is looked
// for again, after these pauses.
var lookAgainAfter = []time.Duration{0, 250 * time.Millisecond, 500 * time.Millisecond, time.Second}

// revokeBatch runs `management revoke` for all ids. Only the success of a
// single id speaks for itself: which of several ids a failure is about, and
// even whether a partial failure shows in the exit status, is not documented,
// so that a list settles each id.
func (c *cluster) revokeBatch(ctx context.Context, ids []string) map[string]error {
	ctx, cancel := context.WithTimeout(ctx, 2*(c.timeout()+overtime)) // a run and a list
	defer cancel()
	if len(ids) > 1 && c.stopsEarly(ctx) {
		failed := map[string]error{}
		for _, id := range ids {
			maps.Copy(failed, c.revokeBatch(ctx, []string{id}))
		}
		return failed
	}
	stderr, err := c.manage(ctx, "revoke", revokeArgs(ids), func(r io.Reader) error {
		_, err := readBounded(r)
		return err
	})
	switch {
	case err == nil && len(ids) == 1:
		return nil
	case err != nil && !asked(err):
		return same(ids, err)
	}
	return c.settle(ctx, ids, err, notFound.MatchString(plain([]byte(stderr))))
}

// stopsEarly reports whether the program leaves the other ids alone when one
// cannot be revoked.
func (c *cluster) stopsEarly(ctx context.Context) bool {
	facts, _, _ := c.driver.program.prove(ctx) // without, the run will say why
	v, _ := parseVersion(facts.Version)
	return v.before(persistVersion)
}

// settle tells for each id whether it is dead after a run that ended with err,
// and whether that run spoke of an id not found.
func (c *cluster) settle(ctx context.Context, ids []string, err error, notFound bool) map[string]error {
	var seen map[string]issuer.Info
	listErr := c.lookAgain(ctx, func() (bool, error) {
		var listErr error
		seen, listErr = c.infos(ctx, ids)
		// Only a run that claims success is worth waiting for.
		return err != nil || !c.anyAlive(seen), listErr
	})
	if listErr != nil {
		if err == nil {
			return same(ids, fmt.Errorf("revoked in a group, of which the list that follows tells nothing: %v", listErr))
		}
		return same(ids, fmt.Errorf("%w; a list, to tell what is revoked, failed as well", err))
	}
	failed := map[string]error{}
	for _, id := range ids {
		if fate := c.fate(id, seen, err, notFound); fate != nil {
			failed[id] = fate
		}
	}
	return failed
}

// fate is nil if id is dead by what a full list has shown.
func (c *cluster) fate(id string, seen map[string]issuer.Info, err error, notFound bool) error {
	info, listed := seen[id]
	switch {
	case listed && info.Dead(c.driver.now()):
		return nil
	case listed && err == nil:
		return fmt.Errorf("influxctl management revoke: it ended well, but %s is listed as alive", id)
	case listed:
		return fmt.Errorf("%s is alive: %w", id, err)
	case err == nil:
		return nil
	case notFound:
		return &verdict{issuer.ErrUnknown, fmt.Errorf("%s is not listed: %w", id, err)}
	}
	return fmt.Errorf("%s is not listed: %w", id, err)
}

// infos returns what the list says of ids.
func (c *cluster) infos(ctx context.Context, ids []string) (map[string]issuer.Info, error) {
	seen := map[string]issuer.Info{}
	err := c.List(ctx, func(info issuer.Info) error {
		if slices.Contains(ids, info.ID) {
			seen[info.ID] = info
		}
		return nil
	})
	return seen, err
}

func (c *cluster) anyAlive(seen map[string]issuer.Info) bool {
	for _, info := range seen {
		if !info.Dead(c.driver.now()) {
			return true
		}
	}
	return false
}

// idOf finds the id of a token just created, by its description and by the
// beginning of its secret.
func (c *cluster) idOf(ctx context.Context, desc, secret string) (string, error) {
	var ids []string
	err := c.lookAgain(ctx, func() (bool, error) {
		ids = nil
		err := c.List(ctx, func(info issuer.Info) error {
			if info.Description == desc && strings.HasPrefix(secret, info.Prefix) {
				ids = append(ids, info.ID)
			}
			return nil
		})
		return len(ids) > 0, err
	})
	switch {
	case err != nil:
		return "", err
	case len(ids) != 1:
		return "", fmt.Errorf("%d tokens are listed under its description, not one", len(ids))
	}
	return ids[0], nil
}

// lookAgain calls look until it has seen what it wants, has failed, or has
// been called often enough; or until ctx is done.
func (c *cluster) lookAgain(ctx context.Context, look func() (bool, error)) error {
	for _, pause := range lookAgainAfter {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		if seen, err := look(); seen || err != nil {
			return err
		}
	}
	return nil
}

// same is one error for all ids.
func same(ids []string, err error) map[string]error {
	failed := map[string]error{}
	for _, id := range ids {
		failed[id] = err
	}
	return failed
}
