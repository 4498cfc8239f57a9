package httpapi

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/failure"
)

// maxUnreachable is how many tokens of a batch may fail because the cluster is
// not reachable before the batch ends.
const maxUnreachable = 3

// RevokeEach calls revoke for each different ID, at most parallel at the same
// time, and returns the errors. Once a few calls have failed with
// issuer.ErrUnreachable it does not call revoke any more: the other IDs get an
// error that wraps issuer.ErrUnreachable and issuer.ErrRefused. So a cluster
// that does not answer delays the caller for a bounded time, whatever the number
// of IDs.
func RevokeEach(ctx context.Context, ids []string, parallel int, revoke func(context.Context, string) error) map[string]error {
	b := batch{failed: map[string]error{}}
	var workers errgroup.Group
	workers.SetLimit(max(parallel, 1))
	begun := map[string]bool{}
	for _, id := range ids {
		if begun[id] {
			continue
		}
		begun[id] = true
		workers.Go(func() error {
			err := b.stopped()
			if err == nil {
				err = revoke(ctx, id)
			}
			b.add(id, err)
			return nil
		})
	}
	_ = workers.Wait() // the errors are in b
	return b.failed
}

type batch struct {
	mu          sync.Mutex // guards what follows
	failed      map[string]error
	unreachable int
	first       error // that wraps issuer.ErrUnreachable
}

// stopped returns the error of an ID that is not tried, or nil if the batch goes
// on.
func (b *batch) stopped() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.unreachable < maxUnreachable {
		return nil
	}
	return failure.NotSent(failure.New("not tried, because the cluster did not answer for other tokens: "+b.first.Error(), issuer.ErrUnreachable))
}

func (b *batch) add(id string, err error) {
	if err == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed[id] = err
	if errors.Is(err, issuer.ErrUnreachable) {
		b.unreachable++
		if b.first == nil {
			b.first = err
		}
	}
}
