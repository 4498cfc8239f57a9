package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

const (
	// youth is how old a token must be before the cluster's not knowing it
	// proves it dead: a fresh token may not have spread yet.
	youth = 10 * time.Minute

	// gone is how long after its expiry a token is certainly dead, whatever the
	// clocks of Vault and cluster say.
	gone = 2 * margin

	// certainlyAbsent is how long after a mint a list that does not show its
	// token proves that there is none. A list may lag.
	certainlyAbsent = 24 * time.Hour
)

var (
	errOtherCluster = errors.New("the token lives on another cluster than the one configured now")
	errIsRoot       = errors.New("the token is the root token now")
	errAbsent       = errors.New("the cluster does not list the token")
	errTooYoung     = errors.New("the cluster does not know the token yet")
)

// expired reports whether the record's token is certainly dead by itself.
func (r record) expired(now time.Time) bool {
	return !r.ExpiresAt.IsZero() && now.After(r.ExpiresAt.Add(gone))
}

// kill makes the records' tokens dead. The result holds an error, by nonce, for
// each that is not known to be dead: whatever cannot be told is an error.
func (b *backend) kill(ctx context.Context, s logical.Storage, records ...record) map[string]error {
	now, failed := b.now(), map[string]error{}
	records = slices.DeleteFunc(slices.Clone(records), func(r record) bool { return r.expired(now) })
	if len(records) == 0 {
		return failed
	}
	c, err := loadConfig(ctx, s)
	if err != nil {
		return failAll(records, err)
	}
	byID, lost := map[string]record{}, []record(nil)
	for _, r := range records {
		switch {
		case c.Fingerprint != r.Fingerprint:
			failed[r.Nonce] = errOtherCluster
		case r.TokenID == "":
			lost = append(lost, r)
		default:
			byID[r.TokenID] = r
		}
	}
	maps.Copy(failed, b.trace(ctx, c, lost, byID))
	for _, kind := range []string{Management, Database} {
		some := maps.Clone(byID)
		maps.DeleteFunc(some, func(_ string, r record) bool { return r.Kind != kind })
		if len(some) > 0 {
			maps.Copy(failed, b.revokeTokens(ctx, s, kind, some))
		}
	}
	return failed
}

func failAll(records []record, err error) map[string]error {
	failed := map[string]error{}
	for _, r := range records {
		failed[r.Nonce] = err
	}
	return failed
}

// byKind sorts records by the kind of their tokens.
func byKind(records []record) map[string][]record {
	kinds := map[string][]record{}
	for _, r := range records {
		kinds[r.Kind] = append(kinds[r.Kind], r)
	}
	return kinds
}

// trace looks for the tokens of records that do not know their ids, and adds
// the living to byID.
func (b *backend) trace(ctx context.Context, c config, lost []record, byID map[string]record) map[string]error {
	found, failed := b.find(ctx, c, lost)
	for _, r := range lost {
		seen, ok := found[r.Nonce]
		if !ok && failed[r.Nonce] == nil && b.now().Before(r.IssuedAt.Add(certainlyAbsent)) {
			failed[r.Nonce] = errAbsent
		}
		for _, id := range seen {
			byID[id] = r
		}
	}
	return failed
}

// find looks for tokens whose descriptions bear the records' nonces. A nonce
// that the cluster lists has an entry, with the ids of the tokens alive; failed
// says of which nonces nothing could be learnt.
func (b *backend) find(ctx context.Context, c config, records []record) (found map[string][]string, failed map[string]error) {
	now := b.now()
	found, failed = map[string][]string{}, map[string]error{}
	for kind, some := range byKind(records) {
		wanted := map[string]bool{}
		for _, r := range some {
			wanted[r.Nonce] = true
		}
		err := b.issuerOf(c, kind).List(ctx, func(info issuer.Info) error {
			nonce, ok := b.tag.nonce(info.Description)
			if !ok || !wanted[nonce] {
				return nil
			}
			alive := found[nonce]
			if !info.Dead(now) {
				alive = append(alive, info.ID)
			}
			found[nonce] = alive
			return nil
		})
		b.health.saw("list", err, now)
		if err != nil {
			maps.Copy(failed, failAll(some, upstream("look for the token", err)))
		}
	}
	return found, failed
}

// revokeTokens revokes tokens of one kind by id, all but the root. What is the
// root is read last of all, and under the lock that a change of it takes.
func (b *backend) revokeTokens(ctx context.Context, s logical.Storage, kind string, byID map[string]record) map[string]error {
	failed := map[string]error{}
	b.configMu.Lock()
	c, err := loadConfig(ctx, s)
	b.configMu.Unlock()
	if err != nil {
		return failAll(slices.Collect(maps.Values(byID)), err)
	}
	if r, ok := byID[c.RootID]; ok {
		failed[r.Nonce] = errIsRoot
		delete(byID, c.RootID)
	}
	if len(byID) == 0 {
		return failed
	}
	began := b.now()
	errs := b.issuerOf(c, kind).Revoke(ctx, slices.Sorted(maps.Keys(byID))...)
	for id, r := range byID {
		err := errs[id]
		if errors.Is(err, issuer.ErrUnknown) {
			if err = nil; began.Before(r.IssuedAt.Add(youth)) {
				err = errTooYoung
			}
		}
		b.health.saw("revoke", err, b.now())
		if err != nil {
			failed[r.Nonce] = fmt.Errorf("revoke token %s: %w", id, err)
			continue
		}
		b.Logger().Info("token revoked", "role", r.Role, "token_id", id, "duration", took(b.now().Sub(began)))
	}
	return failed
}

// bury kills the records' tokens and takes the dead out of the ledger. What
// could not be killed is owed from then on, with the failure noted; the result
// holds the errors, by nonce.
func (b *backend) bury(ctx context.Context, s logical.Storage, records ...record) map[string]error {
	failed := b.kill(ctx, s, records...)
	ctx, cancel := own(ctx)
	defer cancel()
	for _, r := range records {
		cause := failed[r.Nonce]
		if cause == nil {
			if err := b.ledger.drop(ctx, s, r.Role, r.Nonce); err != nil {
				failed[r.Nonce] = err
			}
			continue
		}
		if err := b.owe(ctx, s, r, cause); err != nil {
			failed[r.Nonce] = errors.Join(cause, err)
		}
	}
	return failed
}

// owe notes a failed attempt to kill the record's token, which is owed from
// then on.
func (b *backend) owe(ctx context.Context, s logical.Storage, r record, cause error) error {
	first := false
	r, err := b.ledger.change(ctx, s, r.Role, r.Nonce, func(r *record) error {
		now := b.now()
		if first = r.FailedAt.IsZero(); first {
			r.FailedAt = now
		}
		r.State, r.Due = owed, now.Add(owedBackoff(r.Attempts))
		r.Attempts++
		r.LastFailure = abridgeFailure(cause)
		return nil
	})
	if errors.Is(err, errGone) {
		return nil
	}
	if first && err == nil {
		b.event(ctx, "owed", "tokens/"+r.Nonce, "role", r.Role, "token_id", r.TokenID)
	}
	return err
}

// owedBackoff is how long to wait after the given number of failed attempts.
func owedBackoff(attempts int) time.Duration {
	return backoff(30*time.Second, 4*time.Minute, attempts)
}

// backoff doubles from first to most.
func backoff(first, most time.Duration, times int) time.Duration {
	return min(most, first<<min(times, 20))
}

// abridgeFailure keeps a record small whatever an upstream says.
func abridgeFailure(err error) string {
	const most = 300
	text := printable(err.Error())
	if len(text) > most {
		text = text[:most] + "..."
	}
	return text
}
