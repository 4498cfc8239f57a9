package managementapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// Revoke deletes the tokens, at most MaxParallel at a time. The API calls it
// deletion. Whether a deleted token stays in the list as revoked or disappears
// is not documented; both are accepted.
func (c *cluster) Revoke(ctx context.Context, ids ...string) map[string]error {
	var mu sync.Mutex // guards failed
	failed := map[string]error{}
	var workers errgroup.Group
	workers.SetLimit(max(c.MaxParallel, 1))
	begun := map[string]bool{}
	for _, id := range ids {
		if begun[id] {
			continue
		}
		begun[id] = true
		workers.Go(func() error {
			if err := c.revokeOne(ctx, id); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed[id] = err
			}
			return nil
		})
	}
	_ = workers.Wait() // the errors are in the map
	c.settleNotFound(ctx, failed)
	for id, err := range failed {
		failed[id] = fmt.Errorf("revoke database token %s: %w", quote(id), err)
	}
	return failed
}

var (
	errNotAnID    = errors.New("this is not the id of a token")
	errAlive      = errors.New("the cluster lists the token as active")
	errOtherToken = errors.New("the answer is about another token")
)

// A notFound is the error of a token for which the API answered 404. It does
// not say whether the token or something else, such as the cluster, was not
// found.
type notFound struct{ cause error } // what the API answered to DELETE

func (n *notFound) Error() string { return n.cause.Error() }
func (n *notFound) Unwrap() error { return n.cause }

// revokeOne deletes one token. Only the answer 204 proves that the token is
// revoked. After any other answer that may mean the same, it reads the token.
func (c *cluster) revokeOne(ctx context.Context, id string) error {
	if !plausibleID(id) {
		return refused(errNotAnID)
	}
	r, err := c.ask(ctx, query{method: http.MethodDelete, id: id})
	switch {
	case err == nil && r.status == http.StatusNoContent:
		return nil
	case err == nil:
		err = r.err(c.secrets()...)
	}
	if errors.Is(err, issuer.ErrUnauthorized) || ctx.Err() != nil || r.status == 0 && !asked(err) {
		return err
	}
	info, found, readErr := c.read(ctx, id)
	switch {
	case readErr != nil:
		return fmt.Errorf("%w; reading the token failed too: %w", err, readErr)
	case !found:
		return &notFound{err}
	case info.Dead(c.driver.now()):
		return nil
	}
	return fmt.Errorf("%w: %w", errAlive, err)
}

// read returns what the API says about one token. It is not found if the API
// answers 404.
func (c *cluster) read(ctx context.Context, id string) (info issuer.Info, found bool, err error) {
	r, err := c.ask(ctx, query{method: http.MethodGet, id: id, read: func(body io.Reader) error {
		t, err := decodeToken(body)
		if err == nil {
			info, err = t.info()
		}
		return err
	}})
	switch {
	case err != nil:
		return issuer.Info{}, false, err
	case r.status == http.StatusNotFound:
		return issuer.Info{}, false, nil
	case !r.success():
		return issuer.Info{}, false, r.err(c.secrets()...)
	case !strings.EqualFold(info.ID, id):
		return issuer.Info{}, false, errOtherToken
	}
	return info, true, nil
}

// settleNotFound decides about the tokens in failed for which the API answered
// 404. A complete list that is read now proves that account and cluster exist
// and are served at this path, so that an absent token is unknown to the
// cluster. Without such a list a 404 proves nothing. One list serves all
// tokens of a call.
func (c *cluster) settleNotFound(ctx context.Context, failed map[string]error) {
	listed := map[string]issuer.Info{} // by ID in lower case
	causes := map[string]error{}
	for id, err := range failed {
		if n, ok := errors.AsType[*notFound](err); ok {
			causes[id] = n.cause
			listed[strings.ToLower(id)] = issuer.Info{}
		}
	}
	if len(causes) == 0 {
		return
	}
	listErr := c.List(ctx, func(info issuer.Info) error {
		if key := strings.ToLower(info.ID); hasKey(listed, key) {
			listed[key] = info
		}
		return nil
	})
	for id, cause := range causes {
		info := listed[strings.ToLower(id)]
		switch {
		case listErr != nil:
			failed[id] = fmt.Errorf("%w; whether the token or the cluster was not found is unknown: %w", cause, listErr)
		case info.ID == "":
			failed[id] = &verdict{"the cluster does not list the token: " + cause.Error(), []error{issuer.ErrUnknown}}
		case info.Dead(c.driver.now()):
			delete(failed, id)
		default:
			failed[id] = fmt.Errorf("%w: %w", errAlive, cause)
		}
	}
}

func hasKey(m map[string]issuer.Info, key string) bool {
	_, ok := m[key]
	return ok
}
