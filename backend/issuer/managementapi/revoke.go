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

// Revoke deletes the tokens, several at a time. The API calls it deleting; the
// token stays listed as revoked, or vanishes.
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
			if err := c.revoke(ctx, id); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed[id] = fmt.Errorf("revoke database token %s: %w", quote(id), err)
			}
			return nil
		})
	}
	_ = workers.Wait() // what failed is in the map
	return failed
}

var (
	errNotAnID    = errors.New("this is not the id of a token")
	errAlive      = errors.New("the cluster shows the token as alive")
	errOtherToken = errors.New("the answer is about another token")
)

// revoke deletes one token. Only an answer of 204 speaks for itself. After any
// other that leaves room for it, the cluster is asked what has become of the
// token.
func (c *cluster) revoke(ctx context.Context, id string) error {
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
	info, known, lookErr := c.look(ctx, id)
	switch {
	case lookErr != nil:
		return fmt.Errorf("%w; nor does the cluster tell what has become of it: %w", err, lookErr)
	case !known:
		return &verdict{"the cluster does not know it, and before: " + err.Error(), []error{issuer.ErrUnknown}}
	case info.Dead(c.driver.now()):
		return nil
	}
	return fmt.Errorf("%w: %w", errAlive, err)
}

// look returns what the cluster tells of a token, if it knows it.
func (c *cluster) look(ctx context.Context, id string) (info issuer.Info, known bool, err error) {
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
