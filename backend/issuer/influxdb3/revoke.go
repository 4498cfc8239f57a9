package influxdb3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

const (
	pathToken = "/api/v3/configure/token"

	// maxUnreachable is how many revocations of a batch may find the cluster out
	// of reach before the others are not tried any more.
	maxUnreachable = 3
)

// Revoke deletes the tokens by their names, several at a time. After
// maxUnreachable errors that wrap [issuer.ErrUnreachable], the remaining tokens
// fail with that error at once.
//
// A deleted token vanishes: to revoke it again is [issuer.ErrUnknown].
func (c *cluster) Revoke(ctx context.Context, ids ...string) map[string]error {
	b := batch{failed: map[string]error{}}
	var workers errgroup.Group
	workers.SetLimit(max(c.MaxParallel, 1))
	begun := map[string]bool{}
	for _, id := range ids {
		if begun[id] {
			continue
		}
		begun[id] = true
		workers.Go(func() error {
			err := b.stopped()
			if err == nil {
				err = c.revoke(ctx, id)
			}
			b.ended(id, err)
			return nil
		})
	}
	_ = workers.Wait() // the errors are in the batch
	return b.failed
}

// A batch collects the outcomes of a Revoke.
type batch struct {
	mu          sync.Mutex // guards what follows
	failed      map[string]error
	unreachable int
	last        error // the last error that wraps ErrUnreachable
}

// stopped returns an error if no further revocation is to be tried.
func (b *batch) stopped() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.unreachable < maxUnreachable {
		return nil
	}
	return b.last
}

func (b *batch) ended(id string, err error) {
	if err == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed[id] = fmt.Errorf("revoke token %q: %w", quote(id), err)
	if errors.Is(err, issuer.ErrUnreachable) {
		b.unreachable++
		b.last = err
	}
}

// revoke deletes one token. A 404 says that the token is unknown only if the
// catalog of the configured cluster says so: a wrong address, another product or
// a proxy also answer 404.
func (c *cluster) revoke(ctx context.Context, name string) error {
	if name == "" {
		return invalid("the name of a token must not be empty")
	}
	target := pathToken + "?" + url.Values{"token_name": {name}}.Encode()
	r, err := c.exchange(ctx, query{method: http.MethodDelete, path: target, want: http.StatusOK})
	switch {
	case err != nil:
		return err
	case r.done:
		return nil
	case r.status == http.StatusNotFound && r.source == nil && strings.HasPrefix(r.message, textNoSuchToken):
		return &verdict{"the cluster knows no token of this name", []error{issuer.ErrUnknown}}
	}
	return c.err(r)
}
