package backend

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
)

// Vault disables and moves a mount in the same way at first: it marks the mount
// as tainted and revokes its leases one after the other. Only when it disables
// the mount, it then calls Clean, and deletes the storage. So tokens that no
// lease holds, or that may outlive their lease, and the root credential, must
// survive until Clean.

// cleanTime bounds what clean does on a mount that is being disabled. Vault serves
// no other request meanwhile.
const cleanTime = 10 * time.Second

// laneTime is how long clean waits for the worker and for tokens that are being issued,
// before that.
const laneTime = 5 * time.Second

// clean is called by Vault when the engine is closed: at a seal, a reload, a
// step-down, and when the mount is disabled. It stops the worker. When the mount
// is disabled, it revokes the tokens that are left and a root credential that
// the engine issued, because no one can do so afterwards. Vault does not say which
// of these it is, see revokeRest.
func (b *backend) clean(ctx context.Context) {
	idle := b.worker.stop()
	if b.storage == nil || !b.System().Tainted() {
		return
	}
	// A token that is being issued on a tainted mount is revoked before its lane ends, or
	// its request.
	wait, stop := context.WithTimeout(ctx, laneTime)
	defer stop()
	for _, ended := range []<-chan struct{}{idle, b.ledger.Quiet()} {
		select {
		case <-ended:
		case <-wait.Done():
		}
	}
	ctx, cancel := context.WithTimeout(ctx, cleanTime)
	defer cancel()
	switch err := b.revokeRest(ctx, b.storage); {
	case errors.Is(err, errStillLeased):
		b.Logger().Warn("tainted mount closed, its tokens are kept", "error", err)
	case err != nil:
		b.Logger().Warn("not every token of the disabled mount could be revoked", "error", err)
	}
}

// errStillLeased means that a mount is not being disabled, although Vault closes it
// while it is tainted: Vault revokes all leases of a mount before it disables it.
var errStillLeased = errors.New("the mount has leases, so it is not being disabled: it is being moved, or a move of it has failed")

// revokeRest revokes what a disabled mount still holds. It changes nothing if the
// mount has leases, or if this node cannot write to storage: Vault also closes a
// tainted mount when it is sealed, or steps down, during a move.
func (b *backend) revokeRest(ctx context.Context, s logical.Storage) error {
	if err := b.ledger.Load(ctx, s); err != nil {
		return err
	}
	if slices.ContainsFunc(b.ledger.Settled(), func(e ledger.Entry) bool { return e.State == ledger.Active && endsWithLease(e) }) {
		return errStillLeased
	}
	if err := b.leadership.prove(ctx, s, b.now()); err != nil {
		return err
	}
	c, missing := loadConfig(ctx, s)
	if missing != nil && !errors.Is(missing, errNoConfig) {
		return missing
	}
	r, underWay, err := findRotation(ctx, s)
	switch {
	case underWay && c.Root == r.Token:
		err = b.finishRotation(ctx, s, r)
	case underWay:
		err = b.cancelRotation(ctx, s, r)
	}
	if missing != nil {
		return err // the other tokens cannot be revoked without a config
	}
	for _, failed := range b.settle(ctx, s, b.recordsOf(ctx, s, b.ledger.Settled())...) {
		err = errors.Join(err, failed)
	}
	if c.RootAccessor != "" {
		err = errors.Join(err, b.revokeItself(ctx, s, c, b.retired(c, c.RootAccessor, 0)))
	}
	return err
}

// endsWithLease reports whether a token is of a lease and must end with it.
func endsWithLease(e ledger.Entry) bool { return isRoleName(e.Role) && !e.OutlivesLease }

// revokeOthers revokes all leased tokens of a mount that is being disabled or
// moved, except one. Vault revokes its leases one after the other then, which
// would take a request to the cluster for each.
func (b *backend) revokeOthers(ctx context.Context, s logical.Storage, except string) {
	if err := b.ledger.Load(ctx, s); err != nil {
		b.Logger().Warn("the tokens of a mount that is being disabled cannot be revoked together", "error", err)
		return
	}
	others := slices.DeleteFunc(b.ledger.Settled(), func(e ledger.Entry) bool {
		return e.Accessor == except || !endsWithLease(e)
	})
	slices.SortFunc(others, func(x, y ledger.Entry) int { // those without an ID need a list: last
		return cmp.Compare(y.TokenID, x.TokenID)
	})
	for chunk := range slices.Chunk(others, settleAtOnce) {
		if failed := b.settle(ctx, s, b.recordsOf(ctx, s, chunk)...); len(failed) > 0 {
			return // the revocation of each lease will report its own error
		}
	}
}

// recordsOf reads the records of entries, except those that are gone.
func (b *backend) recordsOf(ctx context.Context, s logical.Storage, entries []ledger.Entry) (records []ledger.Record) {
	for _, e := range entries {
		if r, err := b.ledger.Get(ctx, s, e.Role, e.Accessor); err == nil {
			records = append(records, r)
		}
	}
	return records
}
