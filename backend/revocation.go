package backend

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/errgroup"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
)

const (
	// expiryMargin is how long after its expiry a token is certainly not accepted
	// any more, whatever the clocks of Vault and cluster say.
	expiryMargin = 2 * margin

	// absenceMargin is how old an issuing record must be before a second list
	// without its token proves that the token does not exist. A list may lag.
	absenceMargin = 24 * time.Hour

	// absencesNeeded and attemptsNeeded are how often the worker must have looked for a
	// token before, in a list or by its ID, if its age may be wrong. It waits longer after
	// each time, so that this takes hours and minutes by any clock.
	absencesNeeded = 10
	attemptsNeeded = 5
)

// settle revokes the tokens of records and drops the records of the tokens that
// are proved to be gone. Every revocation goes through it: of a lease, of the
// worker, of a mount that is disabled, of a token that may not be handed out.
//
// It returns an error, by accessor, for each token that may still be accepted by
// the cluster. The records of those tokens are kept: as revoking, with the failure, or
// as issuing if the token was looked for and not found. If this node may not
// write to storage, settle changes nothing.
func (b *backend) settle(ctx context.Context, s logical.Storage, records ...ledger.Record) map[string]error {
	failed := map[string]error{}
	for _, group := range byCluster(records) {
		maps.Copy(failed, b.settleGroup(ctx, s, group))
	}
	return failed
}

// byCluster splits records into groups of the same cluster and token type, which
// one driver can handle together.
func byCluster(records []ledger.Record) (groups [][]ledger.Record) {
	type key struct{ fingerprint, tokenType string }
	positions := map[key]int{}
	for _, r := range records {
		k := key{r.Fingerprint, r.TokenType}
		i, ok := positions[k]
		if !ok {
			i = len(groups)
			positions[k], groups = i, append(groups, nil)
		}
		groups[i] = append(groups[i], r)
	}
	return groups
}

// settleGroup settles records of one cluster and token type.
func (b *backend) settleGroup(ctx context.Context, s logical.Storage, records []ledger.Record) map[string]error {
	c, err := b.configOf(ctx, s, records[0])
	if err != nil {
		return b.conclude(ctx, s, issuer.Traits{KeepsExpired: b.keepsExpired(records[0])}, records, func(ledger.Record) error { return err })
	}
	client := b.issuerOf(c, records[0].TokenType)
	ids, missing := b.locate(ctx, client, records)
	failed := b.revokeIDs(ctx, s, client, c, ids, records...)
	return b.conclude(ctx, s, client.traits(), records, func(r ledger.Record) error {
		if err := missing[r.Accessor]; err != nil {
			return err
		}
		return proofOf(r, ids[r.Accessor], failed, client.traits().UnknownAge, b.now())
	})
}

// configOf returns the config if it is for the cluster of the record.
func (b *backend) configOf(ctx context.Context, s logical.Storage, r ledger.Record) (config, error) {
	c, err := loadConfig(ctx, s)
	if err == nil && c.Fingerprint != r.Fingerprint {
		err = errOtherCluster
	}
	return c, err
}

// keepsExpired reports whether tokens of the record's product stay on the cluster
// after they have expired.
func (b *backend) keepsExpired(r ledger.Record) bool {
	product := productOf(r.Fingerprint)
	return b.issuerOf(config{Cluster: issuer.Cluster{Product: product}}, r.TokenType).traits().KeepsExpired
}

// locate returns the IDs of the tokens to revoke, by accessor. It looks for the
// tokens of records without an ID in one list; missing says why a token could
// not be found. A record that is in neither map has a token that the list shows
// as revoked.
func (b *backend) locate(ctx context.Context, client guardedIssuer, records []ledger.Record) (ids map[string][]string, missing map[string]error) {
	ids, missing = map[string][]string{}, map[string]error{}
	var unknown []ledger.Record
	for _, r := range records {
		if r.TokenID != "" {
			ids[r.Accessor] = []string{r.TokenID}
		} else {
			unknown = append(unknown, r)
		}
	}
	if len(unknown) == 0 {
		return ids, missing
	}
	listed, err := b.search(ctx, client, unknown)
	for _, r := range unknown {
		found, ok := listed[r.Accessor]
		switch {
		case err != nil:
			missing[r.Accessor] = err
		case len(found) > 0:
			ids[r.Accessor] = found
		case !ok && (r.Absences < absencesNeeded || b.now().Before(r.IssuedAt.Add(absenceMargin))):
			missing[r.Accessor] = errNotListed
		}
	}
	return ids, missing
}

// search looks for tokens whose description has the tag of one of the records.
// The result has an entry for each record whose token the cluster lists, with
// the IDs of the tokens that may still be accepted.
func (b *backend) search(ctx context.Context, client guardedIssuer, records []ledger.Record) (map[string][]string, error) {
	wanted := map[string]bool{}
	for _, r := range records {
		wanted[r.Accessor] = true
	}
	listed := map[string][]string{}
	err := client.List(ctx, func(info issuer.Info) error {
		accessor, ok := b.tag.accessor(info.Description)
		if !ok || !wanted[accessor] {
			return nil
		}
		ids := listed[accessor]
		if info.RevokedAt.IsZero() { // an expiry is no proof: our clock may have jumped
			ids = append(ids, info.ID)
		}
		listed[accessor] = ids
		return nil
	})
	return listed, err
}

// revokeIDs revokes the tokens ids, which belong to accessors. It returns an
// error, by ID, for each token that may still be accepted.
func (b *backend) revokeIDs(ctx context.Context, s logical.Storage, client guardedIssuer, c config, ids map[string][]string, records ...ledger.Record) map[string]error {
	admitted, failed := b.fence(ctx, s, c, ids, records)
	defer b.unfence(admitted)
	if len(admitted) == 0 {
		return failed
	}
	if err := b.leadership.prove(ctx, s, b.now()); err != nil {
		maps.Copy(failed, errorForAll(admitted, err))
		return failed
	}
	maps.Copy(failed, client.Revoke(ctx, admitted...))
	return failed
}

// fence admits the IDs that may be revoked with c. It refuses the root
// credential, the two of a rotation that is under way, and everything if c is not
// the stored config any more. An admitted ID is in b.revoking until
// unfence, and swapRoot refuses to install it as the root credential.
//
// If the rotation cannot be read, any root credential of the mount may be one of the
// two, so all of them are refused.
func (b *backend) fence(ctx context.Context, s logical.Storage, c config, ids map[string][]string, records []ledger.Record) (admitted []string, failed map[string]error) {
	b.configMu.Lock()
	defer b.configMu.Unlock()
	all := slices.Concat(slices.Collect(maps.Values(ids))...)
	slices.Sort(all)
	all = slices.Compact(all)
	now, err := loadConfig(ctx, s)
	if err == nil && now.Fingerprint != c.Fingerprint {
		err = errOtherCluster
	}
	if err != nil {
		return nil, errorForAll(all, err)
	}
	next, underWay, unreadable := findRotation(ctx, s)
	failed = map[string]error{}
	for _, r := range records {
		if r.Role != rootRole {
			continue
		}
		err := unreadable
		if err == nil { // a cancelled rotation drops the record of the credential that it did not replace
			var stored ledger.Record
			if stored, err = b.ledger.Get(ctx, s, r.Role, r.Accessor); err == nil && stored.Deadline.After(r.Deadline) {
				err = errNotDue // a rotation has replaced the credential since r was read
			}
		}
		if err != nil {
			maps.Copy(failed, errorForAll(ids[r.Accessor], err))
		}
	}
	for _, id := range all {
		switch {
		case failed[id] != nil:
		case id == now.RootID, underWay && !next.Cancelled && id == next.From.RootID: // whose swap may not have happened
			failed[id] = errIsRoot
		case id == next.TokenID && !next.Cancelled:
			failed[id] = errIsNextRoot
		default:
			b.revoking[id]++
			admitted = append(admitted, id)
		}
	}
	return admitted, failed
}

func (b *backend) unfence(ids []string) {
	b.configMu.Lock()
	defer b.configMu.Unlock()
	for _, id := range ids {
		if b.revoking[id]--; b.revoking[id] == 0 {
			delete(b.revoking, id)
		}
	}
}

// proofOf returns nil if the results of revoking ids prove that the token of the
// record is gone. A request whose answer was lost may have its effect later, on every
// product, so that the age counts there even if the cluster knows each token at once.
func proofOf(r ledger.Record, ids []string, failed map[string]error, unknownAge time.Duration, now time.Time) error {
	created := r.ConfirmedAt
	if created.IsZero() {
		created, unknownAge = r.IssuedAt.Add(issueWindow), max(unknownAge, issuer.DefaultUnknownAge)
	}
	for _, id := range ids {
		err := failed[id]
		if errors.Is(err, issuer.ErrUnknown) {
			if err = nil; tooYoung(r, created, unknownAge, now) {
				err = errTooYoung
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tooYoung reports whether a token, which was created at the latest at created, may exist
// although the cluster does not know it.
func tooYoung(r ledger.Record, created time.Time, unknownAge time.Duration, now time.Time) bool {
	if isFuture(created, now) && r.State != ledger.Issuing { // its age is not known
		return r.Attempts < attemptsNeeded
	}
	fewAttempts := r.State == ledger.Issuing && r.TokenID != "" && r.Absences < attemptsNeeded
	return now.Before(created.Add(unknownAge)) || fewAttempts
}

// concludeAtOnce is the number of records that are dropped or stored at the same
// time.
const concludeAtOnce = 16

// conclude drops the records for which problem returns nil and stores the
// failure of the others. It returns the errors of those, by accessor.
func (b *backend) conclude(ctx context.Context, s logical.Storage, traits issuer.Traits, records []ledger.Record, problem func(ledger.Record) error) map[string]error {
	var mu sync.Mutex // guards failed
	failed := map[string]error{}
	var writes errgroup.Group
	writes.SetLimit(concludeAtOnce)
	for _, r := range records {
		writes.Go(func() error {
			cause := problem(r)
			err := b.concludeOne(ctx, s, traits, r, cause)
			if !errors.Is(cause, errNotListed) { // which means that there was nothing to revoke yet
				b.metrics.count(opRevoke, err)
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed[r.Accessor] = err
			}
			return nil
		})
	}
	_ = writes.Wait() // never fails
	return failed
}

func (b *backend) concludeOne(ctx context.Context, s logical.Storage, traits issuer.Traits, r ledger.Record, problem error) error {
	ctx, cancel := storeContext(ctx)
	defer cancel()
	switch {
	case problem == nil || b.provedByExpiry(r, traits, problem):
		if err := b.ledger.Drop(ctx, s, r.Role, r.Accessor); err != nil {
			return err
		}
		b.Logger().Info("token revoked", "role", r.Role, "accessor", r.Accessor, "token_id", r.TokenID)
		return nil
	case errors.Is(problem, errStandby), errors.Is(problem, errNotDue):
		return problem
	case errors.Is(problem, errIsRoot):
		return errors.Join(problem, b.dropIfRoot(ctx, s, r))
	case b.waitsForConfig(r, traits, problem):
		b.postponeUntilConfig(ctx, s, r)
		return problem
	}
	return errors.Join(problem, b.storeFailure(ctx, s, r, problem))
}

// waitsForConfig reports whether nothing can change until the config does, so that the
// failure need not be stored again. The first one must be, and what proves the expiry.
func (b *backend) waitsForConfig(r ledger.Record, traits issuer.Traits, problem error) bool {
	if !errors.Is(problem, errOtherCluster) && !errors.Is(problem, errNoConfig) {
		return false
	}
	stored := r.Attempts > 0 && !isFuture(r.FailedAt, b.now())
	return stored && (traits.KeepsExpired || !b.pastExpiry(r))
}

// provedByExpiry reports whether the token is gone because it has expired, where
// the cluster could not answer. The clock may be wrong for a moment, so the deadline that
// the attempt before has set must be after the expiry, too, and must have passed.
func (b *backend) provedByExpiry(r ledger.Record, traits issuer.Traits, problem error) bool {
	for _, inUse := range []error{errIsRoot, errIsNextRoot, errStandby} {
		if errors.Is(problem, inUse) {
			return false
		}
	}
	again := r.Attempts > 0 && r.Deadline.After(r.ExpiresAt.Add(expiryMargin)) && !b.now().Before(r.Deadline)
	return again && !traits.KeepsExpired && b.pastExpiry(r)
}

// pastExpiry reports whether the token has certainly expired, if the clock is right.
func (b *backend) pastExpiry(r ledger.Record) bool {
	return !r.ExpiresAt.IsZero() && b.now().After(r.ExpiresAt.Add(expiryMargin))
}

// postponeUntilConfig lets a record wait for another config, unless that has come
// meanwhile. A change of config makes such records due after it is stored.
func (b *backend) postponeUntilConfig(ctx context.Context, s logical.Storage, r ledger.Record) {
	b.configMu.Lock()
	defer b.configMu.Unlock()
	if _, err := b.configOf(ctx, s, r); errors.Is(err, errOtherCluster) || errors.Is(err, errNoConfig) {
		b.ledger.Postpone(r.Accessor, b.nextLook(r))
	}
}

// nextLook is when the worker looks again at a record of another cluster.
func (b *backend) nextLook(r ledger.Record) time.Time {
	next := b.now().Add(longestWait)
	if end := r.ExpiresAt.Add(expiryMargin + time.Second); !r.ExpiresAt.IsZero() && end.After(b.now()) && end.Before(next) {
		next = end
	}
	return next
}

// errUnchanged is returned by a check or a change of a record that leaves it as it is.
var errUnchanged = errors.New("unchanged")

// changeIf changes a record if change, called with the stored record under its lock,
// returns true. It reports whether it did. It is not an error if there is no record.
func (b *backend) changeIf(ctx context.Context, s logical.Storage, role, accessor string, change func(*ledger.Record) bool) (changed bool, err error) {
	_, err = b.ledger.Change(ctx, s, role, accessor, func(r *ledger.Record) error {
		if !change(r) {
			return errUnchanged
		}
		return nil
	})
	if errors.Is(err, errUnchanged) || errors.Is(err, ledger.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// storeFailure stores in a record that its token could not be revoked, or that a
// list did not show it.
func (b *backend) storeFailure(ctx context.Context, s logical.Storage, r ledger.Record, cause error) error {
	first := false
	r, err := b.ledger.Change(ctx, s, r.Role, r.Accessor, func(r *ledger.Record) error {
		now := b.now()
		if r.State == ledger.Issuing && isFuture(r.IssuedAt, now) {
			r.IssuedAt = now
		}
		switch {
		case r.State == ledger.Issuing && errors.Is(cause, errNotListed):
			r.Deadline = now.Add(backoff(time.Minute, longestWait, r.Absences))
			r.Absences++
			return nil
		case r.State == ledger.Issuing: // it stays: the token may still appear
			if r.TokenID != "" && errors.Is(cause, errTooYoung) { // it was not found by its name
				r.Absences++
			}
		default:
			r.State = ledger.Revoking
		}
		if first = r.FailedAt.IsZero(); first || isFuture(r.FailedAt, now) {
			r.FailedAt = now
		}
		r.Deadline = now.Add(backoff(30*time.Second, 4*time.Minute, r.Attempts))
		r.Attempts++
		r.LastFailure = shortFailure(cause)
		return nil
	})
	if errors.Is(err, ledger.ErrNotFound) {
		return nil
	}
	if first && err == nil && r.State == ledger.Revoking {
		b.event(ctx, "revoke-pending", "tokens/"+r.Accessor, "role", r.Role, "token_id", r.TokenID)
	}
	return err
}
