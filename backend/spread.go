package backend

import (
	"context"
	"errors"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// spreadWait is how long a call is repeated that a node refuses because it does
// not know a new root credential yet.
const spreadWait = 15 * time.Second

// spreading reports whether some nodes of the cluster may not know the root
// credential yet, because the engine has just issued it.
func (g guardedIssuer) spreading() bool {
	return g.config.RootAccessor != "" && g.b.now().Before(g.config.RootSince.Add(g.traits().SpreadTime))
}

// whileSpreading makes a call, and repeats it for up to spreadWait while nodes may
// refuse the root credential because it is new. Such a refusal has changed nothing
// on the cluster, so that the call may be repeated. It is not repeated by a process
// that was stopped meanwhile: another node may have settled the record of the call.
func (g guardedIssuer) whileSpreading(ctx context.Context, call func() error) (err error) {
	spreading, latest := g.spreading(), g.b.now().Add(spreadWait)
	_ = retry(ctx, spreadWait, func() bool { // err says more than the end of the wait
		if err != nil && g.b.now().After(latest) {
			return true
		}
		err = call()
		return !spreading || !errors.Is(err, issuer.ErrUnauthorized)
	})
	return err
}

// revokeWhileSpreading is whileSpreading for a call that revokes tokens. It repeats
// the call only for those that were refused.
func (g guardedIssuer) revokeWhileSpreading(ctx context.Context, ids []string) map[string]error {
	failed := map[string]error{}
	_ = g.whileSpreading(ctx, func() (refused error) {
		attempt := g.issuer.Revoke(ctx, ids...)
		var again []string
		for _, id := range ids {
			err := attempt[id]
			switch {
			case err == nil:
				delete(failed, id)
			default:
				failed[id] = err
			}
			if errors.Is(err, issuer.ErrUnauthorized) {
				again, refused = append(again, id), err
			}
		}
		ids = again
		return refused
	})
	return failed
}
