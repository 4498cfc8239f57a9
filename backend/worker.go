package backend

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
)

const (
	// settleAtOnce is the number of records that the worker reads and settles
	// together.
	settleAtOnce = 500

	// roundTime bounds one round of a lane. What is left is done at the next tick.
	roundTime = 5 * time.Minute

	// longestWait is the longest time until the worker looks again at the record of a
	// token that must be revoked, or that a list did not show.
	longestWait = time.Hour
)

// A worker acts on the records whose deadline has passed, and on the root
// credential. Its work is divided into lanes, which never wait for each other:
// one for each token type of each cluster, one for the root credential, and one for
// the static roles. So a cluster that does not answer delays only its own records.
//
// The worker has no timer of its own: Vault wakes it about once a minute through
// the periodic function. A plugin process can outlive a Vault that was killed;
// without a Vault it must not act on a ledger that another node uses.
type worker struct {
	mu      sync.Mutex // guards the following
	ctx     context.Context
	cancel  context.CancelFunc
	stopped bool
	busy    map[string]bool // lanes that are running
	idle    chan struct{}   // closed when the last lane of a stopped worker has ended

	corrected bool // used by dispatch only: no deadline is one of a wrong clock
}

// run starts do in its own goroutine, unless the lane is still running or the
// worker is stopped. It returns at once.
func (w *worker) run(lane string, do func(context.Context)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped || w.busy[lane] {
		return
	}
	if w.ctx == nil {
		w.ctx, w.cancel = context.WithCancel(context.Background())
		w.busy = map[string]bool{}
	}
	w.busy[lane] = true
	go func() {
		ctx, cancel := context.WithTimeout(w.ctx, roundTime)
		defer cancel()
		do(ctx)
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.busy, lane)
		if w.stopped && len(w.busy) == 0 {
			close(w.idle)
		}
	}()
}

// stop cancels the lanes that are running and starts no others. The channel that it
// returns is closed when they have ended.
func (w *worker) stop() (idle <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return w.idle
	}
	w.stopped, w.idle = true, make(chan struct{})
	if len(w.busy) == 0 {
		close(w.idle)
	}
	if w.cancel != nil {
		w.cancel()
	}
	return w.idle
}

// periodic is called by Vault about every minute, while Vault holds its state
// lock. It only wakes the worker: it must not wait, and it makes no call to
// Vault.
func (b *backend) periodic(_ context.Context, req *logical.Request) error {
	b.worker.run("dispatch", func(ctx context.Context) { b.dispatch(ctx, req.Storage) })
	return nil
}

// dispatch starts a lane for each group of due records, one for the root
// credential and one for the static roles. On a node that may not write it does
// nothing.
func (b *backend) dispatch(ctx context.Context, s logical.Storage) {
	if !b.WriteSafeReplicationState() {
		return
	}
	if b.clock.wasSetBack() { // what was planned by the wrong clock may be far in the future
		b.worker.corrected = false
		b.ledger.Invalidate()
		b.static.checkAll()
		b.root.checkSoon()
	}
	if err := b.ledger.Load(ctx, s); err != nil {
		if ctx.Err() == nil {
			b.Logger().Error("the ledger cannot be loaded; trying again in a minute", "error", err)
		}
		return
	}
	if !b.worker.corrected { // also after a start: another process or node may have had the wrong clock
		if err := b.correctDeadlines(ctx, s); err != nil {
			b.Logger().Warn("deadlines of a wrong clock cannot be corrected; trying again in a minute", "error", err)
		} else {
			b.worker.corrected = true
		}
	}
	b.worker.run("root", func(ctx context.Context) { b.keepRoot(ctx, s) })
	b.worker.run("static roles", func(ctx context.Context) { b.keepStatic(ctx, s) })
	for lane, due := range dueByLane(b.ledger.Due(b.now())) {
		b.worker.run(lane, func(ctx context.Context) { b.settleDue(ctx, s, due) })
	}
}

// correctDeadlines makes the records due that a clock that was ahead has postponed:
// those of tokens that may not be used any more, and whose deadline is later than any
// that the present clock gives. The previous root credential keeps its overlap. Active
// records keep their deadlines: most are ends of leases of Vault, whose clock is the same.
func (b *backend) correctDeadlines(ctx context.Context, s logical.Storage) error {
	now := b.now()
	for _, e := range b.ledger.All() {
		switch {
		case e.State == ledger.Active || !isFuture(e.Deadline, now.Add(longestWait)):
		case e.Role == rootRole && e.State == ledger.Revoking:
			if err := b.correctRetired(ctx, s, e); err != nil {
				return err
			}
		default:
			b.ledger.Postpone(e.Accessor, now)
		}
	}
	return nil
}

// correctRetired makes the overlap of a previous root credential begin now, if it begins
// in the future.
func (b *backend) correctRetired(ctx context.Context, s logical.Storage, e ledger.Entry) error {
	_, err := b.changeIf(ctx, s, e.Role, e.Accessor, func(r *ledger.Record) bool {
		now := b.now()
		if r.State != ledger.Revoking || !isFuture(r.RetiredAt, now) {
			return false
		}
		r.RetiredAt, r.Deadline = now, now.Add(r.Deadline.Sub(r.RetiredAt))
		return true
	})
	return err
}

// dueByLane divides due records into lanes. Issuing records come first in each,
// so that one list is enough to look for all of them.
func dueByLane(due []ledger.Entry) map[string][]ledger.Entry {
	lanes := map[string][]ledger.Entry{}
	order := func(e ledger.Entry) int {
		if e.State == ledger.Issuing {
			return 0
		}
		return 1
	}
	for _, e := range due {
		lane := "records " + e.Fingerprint + " " + e.TokenType
		lanes[lane] = append(lanes[lane], e)
	}
	for _, entries := range lanes {
		slices.SortFunc(entries, func(x, y ledger.Entry) int {
			return cmp.Or(order(x)-order(y), x.Deadline.Compare(y.Deadline), strings.Compare(x.Accessor, y.Accessor))
		})
	}
	return lanes
}

// settleDue settles due records of one lane. It stops when the cluster is out of
// reach: the rest is done at the next tick.
func (b *backend) settleDue(ctx context.Context, s logical.Storage, due []ledger.Entry) {
	for chunk := range slices.Chunk(due, settleAtOnce) {
		if ctx.Err() != nil {
			return
		}
		var claimed []ledger.Record
		for _, e := range chunk {
			r, err := b.claim(ctx, s, e)
			switch {
			case err == nil:
				claimed = append(claimed, r)
			case errors.Is(err, ledger.ErrDamaged), errors.Is(err, ledger.ErrNewer):
				b.Logger().Error("a record whose deadline has passed cannot be read; it is not changed", "accessor", e.Accessor, "error", err)
				b.ledger.Postpone(e.Accessor, b.now().Add(longestWait))
			case !errors.Is(err, errNotDue) && !errors.Is(err, ledger.ErrNotFound):
				b.Logger().Warn("a record whose deadline has passed cannot be read or stored; trying again in a minute", "accessor", e.Accessor, "error", err)
				return // the storage fails, and would for the others
			}
		}
		failed := b.settle(ctx, s, claimed...)
		unreachable := false
		for accessor, err := range failed {
			unreachable = unreachable || errors.Is(err, issuer.ErrUnreachable)
			b.Logger().Warn("tokens could not be revoked yet", "count", len(failed), "accessor", accessor, "error", err)
			break // an outage fails them alike
		}
		if unreachable {
			return
		}
	}
}

var errNotDue = errors.New("not due")

// claim reads a due record and makes sure that it is due: the index may be older
// than the record. An active record becomes revoking, because Vault has lost its
// lease. Only after that is stored may its token be revoked: a node that has
// lost the leadership cannot store it.
func (b *backend) claim(ctx context.Context, s logical.Storage, e ledger.Entry) (ledger.Record, error) {
	if e.State != ledger.Active {
		r, err := b.ledger.Get(ctx, s, e.Role, e.Accessor)
		if err == nil && (r.State != e.State || !b.ledger.IsDue(e.Accessor, b.now())) {
			err = errNotDue
		}
		return r, err
	}
	r, err := b.ledger.Change(ctx, s, e.Role, e.Accessor, func(r *ledger.Record) error {
		if r.State != ledger.Active || r.Deadline.After(b.now()) {
			return errNotDue
		}
		r.State, r.Deadline = ledger.Revoking, b.now()
		if isOrphan(*r) {
			r.LastFailure = "Vault did not revoke the lease when it ended"
		}
		return nil
	})
	if !isOrphan(r) || errors.Is(err, errNotDue) || errors.Is(err, ledger.ErrNotFound) {
		return r, err
	}
	b.metrics.count(opOrphanRevoke, err)
	if err == nil {
		b.Logger().Warn("token outlived its lease; revoking it", "role", r.Role, "accessor", r.Accessor, "token_id", r.TokenID, "lease_end", r.LeaseEnd)
		b.event(ctx, "orphan-revoke", "tokens/"+r.Accessor, "role", r.Role, "token_id", r.TokenID)
	}
	return r, err
}

// isOrphan reports whether the deadline of an active record means that Vault has
// lost the lease of the token.
func isOrphan(r ledger.Record) bool { return isRoleName(r.Role) && r.DetachedAt.IsZero() }
