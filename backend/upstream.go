package backend

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// A guardedIssuer is the only way from the engine to a cluster. A node that may not
// write to storage makes no call, but see systemView. It records how and how fast the cluster
// answered, and marks the errors of the cluster as such.
type guardedIssuer struct {
	b      *backend
	issuer issuer.Issuer // nil if the product has no tokens of the type
	lacks  error         // why it is nil
	config config
}

// issuerOf returns the issuer of tokens of a type on the configured cluster.
func (b *backend) issuerOf(c config, tokenType string) guardedIssuer {
	driver, lacks := b.drivers[c.Product][tokenType], c.product().checkType(tokenType)
	switch {
	case lacks != nil:
		return guardedIssuer{b, nil, lacks, c}
	case driver == nil:
		return guardedIssuer{b, nil, fmt.Errorf("%w: the product has no tokens of this type", issuer.ErrInvalid), c}
	}
	return guardedIssuer{b, driver.Open(c.Cluster), nil, c}
}

// traits returns the traits of the issuer's product.
func (g guardedIssuer) traits() issuer.Traits { return issuer.TraitsOf(g.issuer) }

// idOf returns the ID that the token of r will have, if the client chooses it.
func (g guardedIssuer) idOf(r issuer.Request) string {
	if namer, ok := g.issuer.(issuer.Namer); ok {
		return namer.IDOf(r)
	}
	return ""
}

// WriteSafeReplicationState reports whether this node may write to the storage of
// the mount. It answers as the method of the framework, with one call to Vault less
// where it is the active node of the primary cluster: whether the mount is local
// matters on a secondary only.
func (b *backend) WriteSafeReplicationState() bool {
	state := b.System().ReplicationState()
	return !state.HasState(consts.ReplicationDRSecondary) && !state.HasState(consts.ReplicationPerformanceStandby) &&
		(!state.HasState(consts.ReplicationPerformanceSecondary) || b.System().LocalMount())
}

// enter says why a call may not be made.
func (g guardedIssuer) enter() error {
	switch {
	case g.issuer == nil:
		return g.lacks
	case !g.b.WriteSafeReplicationState():
		return fmt.Errorf("%w: %w", issuer.ErrRefused, errStandby)
	}
	return nil
}

// Issue issues a token. The caller has called enter, and has stored a record since
// then, which a node that may not write could not.
func (g guardedIssuer) Issue(ctx context.Context, r issuer.Request) (issuer.Token, error) {
	began := g.b.now()
	var token issuer.Token
	err := g.whileSpreading(ctx, func() (err error) {
		token, err = g.issuer.Issue(ctx, r)
		return err
	})
	g.record(callIssue, "issue a token", err, began)
	if err == nil {
		g.learn(ctx)
	}
	return token, upstream("issue a token", err)
}

func (g guardedIssuer) Revoke(ctx context.Context, ids ...string) map[string]error {
	if err := g.enter(); err != nil {
		return errorForAll(ids, err)
	}
	began := g.b.now()
	failed := g.revokeWhileSpreading(ctx, ids)
	var failure error
	for id, err := range failed {
		failed[id] = upstream("revoke token "+id, err)
		if !errors.Is(err, issuer.ErrUnknown) { // for which the cluster has answered
			failure = err
		}
	}
	g.record(callRevoke, "revoke tokens", failure, began)
	if failure == nil {
		g.learn(ctx)
	}
	return failed
}

func (g guardedIssuer) List(ctx context.Context, yield func(issuer.Info) error) error {
	if err := g.enter(); err != nil {
		return err
	}
	began := g.b.now()
	var stopped error // the error of yield, which is not the cluster's
	err := g.whileSpreading(ctx, func() error {
		return g.issuer.List(ctx, func(info issuer.Info) error {
			stopped = yield(info)
			return stopped
		})
	})
	if err == nil || stopped != nil {
		g.learn(ctx)
	}
	if stopped != nil {
		g.record(callList, "list tokens", nil, began)
		return stopped
	}
	g.record(callList, "list tokens", err, began)
	return upstream("list the tokens of the cluster", err)
}

// record records one call to the cluster.
func (g guardedIssuer) record(call, doing string, err error, began time.Time) {
	ended := g.b.now()
	g.b.health.record(doing, err, ended)
	g.b.metrics.observe(call, ended.Sub(began))
}

// errorForAll returns one error for every key.
func errorForAll(keys []string, err error) map[string]error {
	failed := map[string]error{}
	for _, key := range keys {
		failed[key] = err
	}
	return failed
}

// A health records how the cluster answered most recently, since the process
// started. It is safe for concurrent use.
type health struct {
	mu          sync.Mutex // guards the following
	successAt   time.Time
	failureAt   time.Time
	lastFailure string
}

// record stores the outcome of one call to the cluster.
func (h *health) record(doing string, err error, ended time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		h.successAt = ended
		return
	}
	h.failureAt, h.lastFailure = ended, doing+": "+err.Error()
}

// describe adds the health to the data of an answer.
func (h *health) describe(data map[string]any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.successAt.IsZero() {
		data["last_success_at"] = timestamp(h.successAt)
	}
	if !h.failureAt.IsZero() {
		data["last_failure_at"], data["last_failure"] = timestamp(h.failureAt), h.lastFailure
	}
}
