package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
)

const (
	// issueTime is how long issuing a token may take, including the wait for a
	// free process or connection. Vault ends a request after 90 s.
	issueTime = 85 * time.Second

	// issueWindow is the time after which an issue that began is certain to have
	// ended, and the deadline of an issuing record.
	issueWindow = issueTime + 15*time.Second

	// activeMargin is how long after the end of a lease Vault must have asked to
	// revoke the token. The engine counts from its answer, and Vault from its
	// receipt, which is up to 90 s later if the plugin was paused in between.
	activeMargin = 2 * time.Minute

	// storeTime bounds a storage operation that must happen although the request
	// that caused it has ended.
	storeTime = 10 * time.Second
)

// Names in place of a role, for tokens that belong to no role. No role can have
// such a name.
const (
	checkRole = "-config-check"
	rootRole  = "-root"
)

var errConfigChanged = errors.New("the config was changed while the token was requested; try again")

// An order says which token to issue, for whom, and what holds it afterwards.
type order struct {
	role        string // the name under which the ledger counts the token
	tokenType   string
	read, write []string // databases
	maxActive   int      // 0: no limit
	expiresAt   time.Time
	text        string // of the description, after the tag
	displayName string
	entityID    string
	revokeOn    string // as in ledger.Record
	mount       string // path of the mount, for logs

	// hold makes something responsible for the token: a lease, a rotation, a
	// check. It may store the secret. Then it sets the LeaseEnd and Deadline of
	// the record, which becomes active when hold returns nil. If it returns an
	// error, the token is revoked.
	hold func(context.Context, issuer.Token, *ledger.Record) error

	// answer is called last, when the record is stored, if it is not nil. It settles
	// what depends on the time of the answer. If it returns an error, the token is
	// revoked.
	answer func() error
}

// issue issues a token. It is the only place that does, and the order of its
// steps keeps the first promise:
//
//  1. Store an issuing record. A crash from here on leaves a record; after its
//     deadline the worker looks for the token and revokes it.
//  2. Read the config again. If it has changed, the record is dropped: a token
//     must not be issued on a cluster that the mount has left.
//  3. Ask the cluster, once. The call goes on if the caller disconnects, because
//     the cluster would go on too.
//  4. Hold the token, make the record active, and settle the answer. The mount must not
//     be one that Vault disables: after its leases it revokes nothing that it does not
//     know.
//
// If the cluster refused, the record is dropped. If the outcome is unknown, the
// record stays issuing. If step 4 fails, the token is revoked.
func (b *backend) issue(ctx context.Context, s logical.Storage, c config, o order) (token issuer.Token, r ledger.Record, err error) {
	token, r, err = b.issueSteps(ctx, s, c, o)
	b.metrics.count(opIssue, err)
	return token, r, err
}

// issueSteps does the steps of issue.
func (b *backend) issueSteps(ctx context.Context, s logical.Storage, c config, o order) (issuer.Token, ledger.Record, error) {
	client := b.issuerOf(c, o.tokenType)
	if err := client.enter(); err != nil { // before anything is stored
		return issuer.Token{}, ledger.Record{}, err
	}
	request := issuer.Request{ExpiresAt: o.expiresAt, Read: o.read, Write: o.write}
	r := b.newRecord(c, o)
	request.Description = r.Description
	r.TokenID = client.idOf(request)

	if err := b.ledger.Open(ctx, s, r, o.maxActive); err != nil {
		return issuer.Token{}, r, explainLimit(o, err)
	}
	defer b.ledger.Close(r.Accessor)
	if err := b.sameConfig(ctx, s, c); err != nil {
		return issuer.Token{}, r, errors.Join(err, b.dropRefused(ctx, s, r))
	}
	token, err := b.ask(ctx, client, request, r.IssuedAt.Add(issueTime))
	if errors.Is(err, issuer.ErrRefused) {
		return issuer.Token{}, r, errors.Join(err, b.dropRefused(ctx, s, r))
	}
	if err != nil {
		return issuer.Token{}, r, fmt.Errorf("%w (it is not known whether a token was created; if so, the engine will find and revoke it)", err)
	}
	r.TokenID, r.ConfirmedAt = token.ID, b.now()
	held, err := b.confirm(ctx, s, r, token, o)
	if err == nil && o.answer != nil {
		err = o.answer()
	}
	if err == nil && b.System().Tainted() { // nothing may be left that clean does not see
		err = errTainted
	}
	if err != nil {
		return issuer.Token{}, r, b.discard(ctx, s, c, r, err)
	}
	return token, held, nil
}

// newRecord returns the record that is stored before the token exists.
func (b *backend) newRecord(c config, o order) ledger.Record {
	now, accessor := b.now(), newAccessor()
	return ledger.Record{
		TokenType: o.tokenType, Role: o.role, Accessor: accessor, State: ledger.Issuing,
		Description: b.tag.describe(accessor, o.text), Fingerprint: c.Fingerprint,
		DisplayName: printable(o.displayName), EntityID: o.entityID, RevokeOn: o.revokeOn,
		IssuedAt: now, ExpiresAt: o.expiresAt, Deadline: now.Add(issueWindow),
	}
}

// explainLimit adds advice to an error of the ledger's limits.
func explainLimit(o order, err error) error {
	switch {
	case errors.Is(err, ledger.ErrMaxActive):
		return fmt.Errorf("%w: role %s has %s and allows no more; wait until a lease ends, revoke one of the tokens, or raise max_active", err, o.role, plural(o.maxActive, "token"))
	case errors.Is(err, ledger.ErrUnsettled):
		return fmt.Errorf("%w: the cluster did not confirm the latest tokens of %s; the engine looks for them within %s; see `vault read` of status, and check the cluster with config/check", err, o.role, shortDuration(issueWindow+time.Minute))
	}
	return err
}

// sameConfig returns an error if the stored config has another cluster or root
// credential than c. The lock makes the check exact: a request that moves or
// deletes the config looks for records and writes under the same lock.
func (b *backend) sameConfig(ctx context.Context, s logical.Storage, c config) error {
	b.configMu.Lock()
	defer b.configMu.Unlock()
	now, err := loadConfig(ctx, s)
	switch {
	case errors.Is(err, errNoConfig), err == nil && (now.Fingerprint != c.Fingerprint || now.place() != c.place() || now.Root != c.Root):
		return errConfigChanged
	}
	return err
}

// ask asks the cluster for the token, which must be issued by the time latest.
func (b *backend) ask(ctx context.Context, client guardedIssuer, request issuer.Request, latest time.Time) (issuer.Token, error) {
	if err := ctx.Err(); err != nil {
		return issuer.Token{}, fmt.Errorf("%w: %w", issuer.ErrRefused, err)
	}
	within := latest.Sub(b.now())
	if within <= 0 { // this process was paused: another node may have settled the record already
		return issuer.Token{}, fmt.Errorf("%w: issuing the token took longer than %s", issuer.ErrRefused, issueTime)
	}
	within = min(within, issueTime) // the clock may have been set back
	if deadline, ok := ctx.Deadline(); ok {
		within = min(within, time.Until(deadline))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
	defer cancel()
	return client.Issue(ctx, request)
}

// confirm makes the record of a token that was issued active, once o.hold has
// made something responsible for it. It fails if the caller has disconnected.
func (b *backend) confirm(ctx context.Context, s logical.Storage, r ledger.Record, token issuer.Token, o order) (ledger.Record, error) {
	if err := ctx.Err(); err != nil {
		return r, err
	}
	ctx, cancel := storeContext(ctx)
	defer cancel()
	r.State = ledger.Active
	if err := o.hold(ctx, token, &r); err != nil {
		return r, err
	}
	return b.ledger.Change(ctx, s, r.Role, r.Accessor, func(stored *ledger.Record) error {
		if stored.State != ledger.Issuing {
			return errors.New("the record of the token was changed meanwhile")
		}
		*stored = r
		return nil
	})
}

// dropRefused deletes the record of a token that does not exist. If that fails,
// the record stays until its deadline, which is not an error of the request.
func (b *backend) dropRefused(ctx context.Context, s logical.Storage, r ledger.Record) error {
	ctx, cancel := storeContext(ctx)
	defer cancel()
	if err := b.ledger.Drop(ctx, s, r.Role, r.Accessor); err != nil {
		b.Logger().Warn("the record of a refused token stays until its deadline", "role", r.Role, "accessor", r.Accessor, "error", err)
	}
	return nil
}

// discard revokes a token that was issued and must not be used, because of cause.
// If that fails, the record is revoking and the worker tries again.
//
// If the storage cannot be used, because this process has lost the leadership
// while it was paused, the token is revoked all the same: no one else knows it
// yet. Root credentials and tokens of static roles are the exceptions: the new leader
// may use what was stored of them.
func (b *backend) discard(ctx context.Context, s logical.Storage, c config, r ledger.Record, cause error) error {
	store, cancel := storeContext(ctx)
	defer cancel()
	r.State, r.Deadline = ledger.Revoking, b.now()
	stored := b.ledger.Put(store, s, r)
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), c.Timeout+storeTime)
	defer stop()
	var err error
	if stored != nil && r.Role != rootRole && !strings.HasPrefix(r.Role, staticPrefix) {
		err = b.issuerOf(c, r.TokenType).Revoke(ctx, r.TokenID)[r.TokenID]
	} else {
		err = b.settle(ctx, s, r)[r.Accessor]
	}
	cause = errors.Join(cause, stored)
	if err != nil {
		return fmt.Errorf("%w (the token was not handed out and will be revoked: %v)", cause, err)
	}
	return cause
}

// storeContext returns a context for storing a result. It does not end with the
// request.
func storeContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), storeTime)
}
