package influxctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/failure"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/redact"
)

// A list may not show yet what was just done (docs/vendor-facts.md, "list-lag").
// It is repeated after these pauses.
var listPauses = []time.Duration{0, 250 * time.Millisecond, 500 * time.Millisecond, time.Second}

// maxSingleRuns limits how many tokens of one batch are revoked again one by
// one. The engine tries the others again later.
const maxSingleRuns = 10

// revokeBatch revokes the tokens ids. It returns an error for each that may
// still be active.
//
// It is not documented which of several IDs an error text is about, or whether
// the exit status shows that one of them failed (docs/vendor-facts.md,
// "revoke-several-ids"). So a run with several IDs proves nothing by itself; the
// list that follows proves that a token is revoked. A token that the list does
// not show as revoked is revoked again in a run of its own, whose result is about
// that token alone.
func (c *cluster) revokeBatch(ctx context.Context, ids []string) map[string]error {
	ctx, cancel := context.WithTimeout(ctx, 2*(c.timeout()+overtime)) // a run and a list
	defer cancel()
	if len(ids) == 1 || c.stopsAtFirstError(ctx) {
		return c.revokeSingly(ctx, ids)
	}
	failed, unproven := c.revokeTogether(ctx, ids)
	// In random order, so that no token is left out every time.
	rand.Shuffle(len(unproven), func(i, j int) { unproven[i], unproven[j] = unproven[j], unproven[i] }) //nolint:gosec // the order is not a secret
	n := min(len(unproven), maxSingleRuns)
	maps.Copy(failed, c.revokeSingly(ctx, unproven[:n]))
	for _, id := range unproven[n:] {
		failed[id] = fmt.Errorf("influxctl management revoke: a run with several tokens did not prove that %s is revoked; it must be revoked again", id)
	}
	return failed
}

// stopsAtFirstError reports whether a run with several IDs ends at the first
// that fails.
func (c *cluster) stopsAtFirstError(ctx context.Context) bool {
	facts, _, _ := c.driver.program.verified(ctx) // the run reports the error
	v, _ := parseVersion(facts.Version)
	return v.before(continueOnErrorVersion)
}

// revokeTogether revokes several tokens in one run and reads a list. It returns
// the errors of those that are not to be tried again now, and the IDs of those
// for which neither run nor list is a proof.
func (c *cluster) revokeTogether(ctx context.Context, ids []string) (failed map[string]error, unproven []string) {
	_, err := c.runRevoke(ctx, ids)
	if err != nil && !failure.WasSent(err) {
		return forAll(ids, err), nil
	}
	var listed map[string]issuer.Info
	listErr := c.repeatList(ctx, func() (bool, error) {
		var listErr error
		listed, listErr = c.infos(ctx, ids)
		// After a failed run the list cannot be expected to change.
		return err != nil || !c.anyActive(listed), listErr
	})
	if listErr != nil {
		if err != nil { // which may be about one of the tokens
			err = failure.New(err.Error(), kindsForOthers(err)...)
		}
		return forAll(ids, unsettled(err, listErr)), nil
	}
	failed = map[string]error{}
	for _, id := range ids {
		info, ok := listed[id]
		switch {
		case ok && !info.RevokedAt.IsZero(), ok && err == nil && info.Dead(c.driver.now()):
		case ok && err == nil:
			failed[id] = fmt.Errorf("influxctl management revoke: it reported success, but %s is listed as active", id)
		default:
			unproven = append(unproven, id)
		}
	}
	return failed, unproven
}

// revokeSingly revokes each token in a run of its own. A run that succeeds and
// reports no failure proves that its token is revoked. One list decides about the
// others.
func (c *cluster) revokeSingly(ctx context.Context, ids []string) map[string]error {
	failed := map[string]error{}
	printed := map[string]string{} // by ID: what the run printed that failed
	var check []string
	for i, id := range ids {
		text, err := c.runRevoke(ctx, []string{id})
		switch {
		case err == nil:
			continue
		case !failure.WasSent(err): // the next run would fail in the same way
			maps.Copy(failed, forAll(ids[i:], err))
			return c.settle(ctx, check, printed, failed)
		}
		failed[id], printed[id] = err, text
		check = append(check, id)
		if ctx.Err() != nil || errors.Is(err, issuer.ErrUnreachable) { // as would the next
			notTried := failure.NotSent(failure.New("not tried, because another run failed: "+err.Error(), kindsForOthers(err)...))
			maps.Copy(failed, forAll(ids[i+1:], notTried))
			break
		}
	}
	return c.settle(ctx, check, printed, failed)
}

// kindsForOthers returns the sentinels of an error about one token that hold for
// the other tokens of the cluster too.
func kindsForOthers(err error) []error {
	kinds := failure.ContextKinds(err)
	for _, kind := range []error{issuer.ErrUnreachable, issuer.ErrUnauthorized} {
		if errors.Is(err, kind) {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// settle reads a list and decides about the tokens ids, whose own runs have
// printed a text and failed with the errors in failed.
func (c *cluster) settle(ctx context.Context, ids []string, printed map[string]string, failed map[string]error) map[string]error {
	if len(ids) == 0 {
		return failed
	}
	listed, listErr := c.infos(ctx, ids)
	for _, id := range ids {
		err := failed[id]
		info, ok := listed[id]
		switch {
		case listErr != nil:
			failed[id] = unsettled(err, listErr)
		case ok && (!info.RevokedAt.IsZero() || info.Dead(c.driver.now()) && mayMeanExpired(err, printed[id])):
			delete(failed, id)
		case ok:
			failed[id] = fmt.Errorf("%s is not listed as revoked: %w", id, err)
		case saysUnknownToken(printed[id]):
			failed[id] = failure.New(fmt.Sprintf("%s is not listed: %v", id, err), issuer.ErrUnknown)
		default:
			failed[id] = fmt.Errorf("%s is not listed: %w", id, err)
		}
	}
	return failed
}

// unsettled is the error of a token after a run that ended with err and a list
// that failed.
func unsettled(err, listErr error) error {
	if err == nil {
		return fmt.Errorf("influxctl management revoke: it reported success for several tokens, but the list to confirm it failed: %v", listErr)
	}
	return fmt.Errorf("%w; the list to see whether the token is revoked failed too", err)
}

// runRevoke runs `management revoke` and returns what it printed: standard output
// only if the exit status is 0, because a usage error prints help there.
func (c *cluster) runRevoke(ctx context.Context, ids []string) (printed string, err error) {
	var stdout []byte
	stderr, err := c.manage(ctx, "revoke", revokeArgs(ids), func(r io.Reader) (err error) {
		stdout, err = readOutput(r)
		return err
	})
	printed = redact.Plain(stderr)
	if err == nil {
		printed += "\n" + redact.Plain(string(stdout))
		err = reportedFailure("revoke", printed, c.Cluster)
	}
	return printed, err
}

// infos returns what the list says about ids.
func (c *cluster) infos(ctx context.Context, ids []string) (map[string]issuer.Info, error) {
	listed := map[string]issuer.Info{}
	err := c.List(ctx, func(info issuer.Info) error {
		if slices.Contains(ids, info.ID) {
			listed[info.ID] = info
		}
		return nil
	})
	return listed, err
}

func (c *cluster) anyActive(listed map[string]issuer.Info) bool {
	for _, info := range listed {
		if !info.Dead(c.driver.now()) {
			return true
		}
	}
	return false
}

// find finds a token just created, by its description and by the beginning of its
// secret.
func (c *cluster) find(ctx context.Context, description, secret string) (issuer.Info, error) {
	var found []issuer.Info
	err := c.repeatList(ctx, func() (bool, error) {
		found = nil
		err := c.List(ctx, func(info issuer.Info) error {
			if info.Description == description && strings.HasPrefix(secret, info.Prefix) {
				found = append(found, info)
			}
			return nil
		})
		return len(found) > 0, err
	})
	switch {
	case err != nil:
		return issuer.Info{}, err
	case len(found) != 1:
		return issuer.Info{}, fmt.Errorf("%d tokens have its description, want one", len(found))
	}
	return found[0], nil
}

// repeatList calls list until it reports that the list is complete, fails, or
// has been called after each pause.
func (c *cluster) repeatList(ctx context.Context, list func() (complete bool, err error)) error {
	for _, pause := range listPauses {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		if complete, err := list(); complete || err != nil {
			return err
		}
	}
	return nil
}

// forAll is one error for all ids.
func forAll(ids []string, err error) map[string]error {
	failed := map[string]error{}
	for _, id := range ids {
		failed[id] = err
	}
	return failed
}
