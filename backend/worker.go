package backend

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// dueAtOnce is how many due records the worker reads and settles in one go.
const dueAtOnce = 500

// periodic runs about every minute, with core's state lock held. It only wakes
// the worker, which core must never wait for, and asks nothing of core itself.
//
// The worker has no timer of its own: a plugin process can outlive a Vault that
// was killed, and must not act on a ledger that it no longer shares.
func (b *backend) periodic(_ context.Context, req *logical.Request) error {
	b.workerMu.Lock()
	defer b.workerMu.Unlock()
	if b.stopped {
		return nil
	}
	if b.wake == nil {
		b.wake = make(chan struct{}, 1)
		ctx, stop := context.WithCancel(context.Background())
		b.stopWorker = stop
		go b.work(ctx, req.Storage, b.wake)
	}
	select {
	case b.wake <- struct{}{}:
	default: // it is awake
	}
	return nil
}

// clean stops the worker for good.
func (b *backend) clean(context.Context) {
	b.workerMu.Lock()
	defer b.workerMu.Unlock()
	b.stopped = true
	if b.stopWorker != nil {
		b.stopWorker()
	}
}

// work is the worker: it acts whenever it is woken, until ctx is done.
func (b *backend) work(ctx context.Context, s logical.Storage, wake <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
			b.act(ctx, s)
		}
	}
}

// act settles everything that is due now. What fails is tried again when it is
// due again, and what the storage does not let be done, at the next call. On a
// node that may not write it does nothing.
func (b *backend) act(ctx context.Context, s logical.Storage) {
	if !b.WriteSafeReplicationState() {
		return
	}
	if err := b.ledger.load(ctx, s); err != nil {
		if ctx.Err() == nil {
			b.Logger().Error("the ledger could not be loaded; trying again in a minute", "error", err)
		}
		return
	}
	b.keepRoot(ctx, s)
	due := b.ledger.due(b.now())
	slices.SortFunc(due, func(x, y indexed) int { // the pending together, for one list tells of them all
		return cmp.Compare(y.state, x.state)
	})
	for some := range slices.Chunk(due, dueAtOnce) {
		if ctx.Err() != nil {
			return
		}
		if err := b.settleDue(ctx, s, some); err != nil {
			b.Logger().Warn("due tokens could not all be settled; trying again in a minute", "error", err)
		}
	}
}

// settleDue acts on records that the index holds for due. The index may be
// stale: every record is read anew, and judged and changed under its lock,
// before anything is done.
func (b *backend) settleDue(ctx context.Context, s logical.Storage, due []indexed) error {
	var looked, condemned []record
	var errs []error
	for _, e := range due {
		r, err := b.claim(ctx, s, e)
		switch {
		case errors.Is(err, errNotDue), errors.Is(err, errGone):
		case err != nil:
			errs = append(errs, err)
		case r.State == pending:
			looked = append(looked, r)
		default:
			condemned = append(condemned, r)
		}
	}
	found, err := b.lookFor(ctx, s, looked)
	errs = append(errs, err)
	failed := b.bury(ctx, s, append(condemned, found...)...)
	for nonce, err := range failed { // one stands for all: an outage fails them alike
		b.Logger().Warn("tokens that are owed could not be revoked yet", "count", len(failed), "nonce", nonce, "error", err)
		break
	}
	return errors.Join(errs...)
}

var errNotDue = errors.New("not due")

// claim reads a record and makes sure that it is due. A live one becomes owed,
// and only once that is stored is its token ours to kill: Vault has lost the
// lease, and a node that is not active any more cannot write.
func (b *backend) claim(ctx context.Context, s logical.Storage, e indexed) (record, error) {
	if e.state != live {
		r, err := b.ledger.get(ctx, s, e.role, e.nonce)
		if err == nil && (r.State == live || r.Attempts == 0 && r.Due.After(b.now())) {
			b.ledger.note(r)
			err = errNotDue
		}
		return r, err
	}
	r, err := b.ledger.change(ctx, s, e.role, e.nonce, func(r *record) error {
		if r.State == live && r.Due.After(b.now()) {
			return errNotDue
		}
		if r.State == live {
			r.State, r.Due = owed, b.now()
			r.LastFailure = "Vault did not revoke the lease when it ended"
		}
		return nil
	})
	switch {
	case errors.Is(err, errNotDue):
		b.ledger.note(r)
	case err == nil:
		b.Logger().Warn("a token has outlived its lease and is revoked now", "role", r.Role, "token_id", r.TokenID, "lease_end", r.LeaseEnd)
		b.event(ctx, "orphan-revoke", "tokens/"+r.Nonce, "role", r.Role, "token_id", r.TokenID)
	}
	return r, err
}

// lookFor looks, in one list, for the tokens of mints whose outcome is not
// known. Those found alive become owed and are returned; those found dead, or
// absent for long enough, are forgotten; for the others it looks again later.
func (b *backend) lookFor(ctx context.Context, s logical.Storage, lost []record) (alive []record, err error) {
	seen, failed := b.survey(ctx, s, lost)
	for _, r := range lost {
		ids, listed := seen[r.Nonce]
		r, judged := b.judge(ctx, s, r, sighting{listed, ids, failed[r.Nonce]})
		switch {
		case errors.Is(judged, errNotPending), errors.Is(judged, errGone): // settled by somebody else meanwhile
		case judged != nil:
			err = errors.Join(err, judged)
		case r.State == owed:
			alive = append(alive, r)
		}
	}
	return alive, err
}

// A sighting is what a list told of a pending record's token.
type sighting struct {
	listed bool
	alive  []string // ids
	err    error    // the list told nothing
}

// judge draws the conclusion from a sighting.
func (b *backend) judge(ctx context.Context, s logical.Storage, r record, saw sighting) (record, error) {
	now := b.now()
	certain := saw.listed && len(saw.alive) == 0 || !saw.listed && now.After(r.IssuedAt.Add(certainlyAbsent))
	if r.expired(now) || saw.err == nil && certain {
		return r, b.ledger.drop(ctx, s, r.Role, r.Nonce)
	}
	return b.ledger.change(ctx, s, r.Role, r.Nonce, func(r *record) error {
		switch {
		case r.State != pending:
			return errNotPending
		case saw.err != nil:
			r.Due = now.Add(owedBackoff(r.Attempts))
			r.Attempts++
			r.LastFailure = abridgeFailure(saw.err)
		case len(saw.alive) > 0:
			r.State, r.Due = owed, now
			if len(saw.alive) == 1 {
				r.TokenID = saw.alive[0]
			}
		default:
			r.Due = now.Add(backoff(time.Minute, time.Hour, r.Absences))
			r.Absences++
		}
		return nil
	})
}

// survey lists the configured cluster for the tokens of the records that were
// made on it and are not dead by themselves. failed says, by nonce, of which
// records that told nothing.
func (b *backend) survey(ctx context.Context, s logical.Storage, lost []record) (seen map[string][]string, failed map[string]error) {
	now := b.now()
	lost = slices.DeleteFunc(slices.Clone(lost), func(r record) bool { return r.expired(now) })
	if len(lost) == 0 {
		return nil, nil
	}
	c, err := loadConfig(ctx, s)
	if err != nil {
		return nil, failAll(lost, err)
	}
	here := slices.DeleteFunc(slices.Clone(lost), func(r record) bool { return r.Fingerprint != c.Fingerprint })
	failed = failAll(lost, errOtherCluster)
	for _, r := range here {
		delete(failed, r.Nonce)
	}
	if len(here) == 0 {
		return nil, failed
	}
	seen, missed := b.find(ctx, c, here)
	maps.Copy(failed, missed)
	return seen, failed
}
