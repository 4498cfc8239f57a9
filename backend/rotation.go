package backend

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
)

// rotationKey is the storage key of the rotation that is under way. The entry is
// seal-wrapped, because it holds the new root credential.
const rotationKey = "rotation"

const rotationVersion = 1

// proofTime is how long a new root credential may take until the cluster accepts
// it. See docs/vendor-facts.md, "fresh-token-delay".
const proofTime = time.Hour

// A rotation replaces the root credential. Its steps are stored, so that any
// process can continue it:
//
//  1. issue:  a record of the new credential is stored, the credential is issued
//     with the old one, the rotation is stored with it (startRotation).
//  2. prove:  the cluster accepts the new credential.
//  3. retire: a record of the old credential is stored, as revoking.
//  4. mark:   the rotation is stored as swapped.
//  5. swap:   the config gets the new credential, if it still has the old one.
//  6. finish: the record of the new credential and the rotation are deleted. The
//     worker revokes the old credential after the overlap.
//
// A crash after any step leaves a config that works. If the cluster's place or
// the root credential in config changes meanwhile, or if the record of the new
// credential is gone, the rotation is cancelled: the new credential is revoked
// where it was issued, and never sent to another place.
type rotation struct {
	Accessor    string // of the new credential
	TokenID     string
	Token       issuer.Secret
	ExpiresAt   time.Time // zero: never
	StartedAt   time.Time
	From        config // that the rotation started with, without its root credential
	OldDigest   string // of the root credential that is replaced
	OldAccessor string
	Swapped     bool // step 4 is done: step 5 may be done
	Cancelled   bool // the new credential must be revoked
}

// storedRotation is the stored form of a rotation.
type storedRotation struct {
	Version     int          `json:"version"`
	Accessor    string       `json:"accessor"`
	TokenID     string       `json:"token_id"`
	Token       string       `json:"token"`
	ExpiresAt   time.Time    `json:"expires_at,omitzero"`
	StartedAt   time.Time    `json:"started_at"`
	From        storedConfig `json:"from"`
	OldDigest   string       `json:"old_digest"`
	OldAccessor string       `json:"old_accessor"`
	Swapped     bool         `json:"swapped,omitempty"`
	Cancelled   bool         `json:"cancelled,omitempty"`
}

func (r rotation) entry() (*logical.StorageEntry, error) {
	return logical.StorageEntryJSON(rotationKey, storedRotation{
		Version: rotationVersion, Accessor: r.Accessor, TokenID: r.TokenID, Token: r.Token.Reveal(), ExpiresAt: r.ExpiresAt,
		StartedAt: r.StartedAt, From: r.From.stored(), OldDigest: r.OldDigest, OldAccessor: r.OldAccessor,
		Swapped: r.Swapped, Cancelled: r.Cancelled,
	})
}

func rotationFrom(e *logical.StorageEntry) (rotation, error) {
	var s storedRotation
	if err := json.Unmarshal(e.Value, &s); err != nil {
		return rotation{}, errors.New("the stored rotation is damaged") // the cause may quote a secret
	}
	if s.Version > rotationVersion {
		return rotation{}, fmt.Errorf("rotation: %w", newerVersion(s.Version))
	}
	from, err := s.From.config()
	return rotation{
		Accessor: s.Accessor, TokenID: s.TokenID, Token: issuer.NewSecret(s.Token), ExpiresAt: s.ExpiresAt,
		StartedAt: s.StartedAt, From: from, OldDigest: s.OldDigest, OldAccessor: s.OldAccessor,
		Swapped: s.Swapped, Cancelled: s.Cancelled,
	}, err
}

// findRotation returns the rotation that is under way, and whether there is one.
func findRotation(ctx context.Context, s logical.Storage) (rotation, bool, error) {
	entry, err := s.Get(ctx, rotationKey)
	if err != nil || entry == nil {
		return rotation{}, false, err
	}
	r, err := rotationFrom(entry)
	return r, err == nil, err
}

var (
	errRotating  = errors.New("a rotation of the root credential is running already; try again when it is done")
	errNotProved = errors.New("the cluster does not accept the new root credential yet")
	errCancelled = errors.New("the rotation was cancelled and the new root credential is revoked")
	errReplaced  = errors.New("the config was changed during the rotation")
	errNoRecord  = errors.New("the new root credential was revoked during the rotation")
)

// digest identifies a root credential without revealing it.
func digest(s issuer.Secret) string {
	sum := sha256.Sum256([]byte("influxdb root credential " + s.Reveal()))
	return hex.EncodeToString(sum[:])
}

// unchanged reports whether c still has the cluster, the place and the root
// credential that the rotation started with.
func (r rotation) unchanged(c config) bool {
	return r.samePlace(c) && digest(c.Root) == r.OldDigest
}

func (r rotation) samePlace(c config) bool {
	return c.Fingerprint == r.From.Fingerprint && c.place() == r.From.place()
}

// startRotation does step 1.
func (b *backend) startRotation(ctx context.Context, s logical.Storage, c config) (rotation, error) {
	root, err := b.identifyRoot(ctx, c)
	if err != nil {
		return rotation{}, err
	}
	switch {
	case !root.Known:
		return rotation{}, c.noRootID()
	case c.isOperator(root.ID):
		return rotation{}, badRequest("%v", errOperator)
	}
	r := rotation{StartedAt: b.now(), From: c, OldDigest: digest(c.Root), OldAccessor: c.RootAccessor}
	r.From.Root, r.From.RootID, r.From.RootExpiresAt, r.From.RootKnown = issuer.Secret{}, root.ID, root.ExpiresAt, true
	if r.OldAccessor == "" {
		r.OldAccessor = newAccessor()
	}
	if ttl := c.Rotation.ttl(); ttl > 0 {
		r.ExpiresAt = ceilSecond(r.StartedAt.Add(ttl)).UTC()
	}
	_, _, err = b.issue(ctx, s, c, order{
		role: rootRole, tokenType: Management, expiresAt: r.ExpiresAt, text: "root credential",
		hold: func(ctx context.Context, token issuer.Token, record *ledger.Record) error {
			r.Accessor, r.TokenID, r.Token = record.Accessor, token.ID, token.Secret
			record.Deadline = r.StartedAt.Add(2 * proofTime)
			return storeRotation(ctx, s, r)
		},
	})
	if err != nil {
		return rotation{}, err
	}
	b.Logger().Info("new root credential issued", "accessor", r.Accessor, "token_id", r.TokenID, "expires_at", timestampOrNever(r.ExpiresAt))
	return r, nil
}

func storeRotation(ctx context.Context, s logical.Storage, r rotation) error {
	entry, err := r.entry()
	if err != nil {
		return err
	}
	if err := s.Put(ctx, entry); err != nil {
		return fmt.Errorf("store the rotation: %w", err)
	}
	return nil
}

// continueRotation does steps 2 to 6. It may be called again after any error:
// every step may have been done before. errNotProved means that it is too early.
func (b *backend) continueRotation(ctx context.Context, s logical.Storage, r rotation) error {
	c, err := loadConfig(ctx, s)
	switch {
	case err == nil && c.Root == r.Token:
		return b.finishRotation(ctx, s, r)
	case errors.Is(err, errNoConfig), err == nil && !r.unchanged(c):
		return b.cancel(ctx, s, r, errReplaced)
	case err != nil:
		return err
	case r.Cancelled:
		return b.cancel(ctx, s, r, nil)
	}
	record, err := b.ledger.Get(ctx, s, rootRole, r.Accessor)
	switch {
	case errors.Is(err, ledger.ErrNotFound), err == nil && record.State != ledger.Active:
		return b.cancel(ctx, s, r, errNoRecord)
	case err != nil:
		return err
	}
	if err := b.proveRoot(ctx, c, r); err != nil {
		if b.now().After(r.StartedAt.Add(proofTime)) {
			return b.cancel(ctx, s, r, err)
		}
		return err
	}
	if err := b.retireRoot(ctx, s, b.retired(r.From, r.OldAccessor, c.Rotation.overlap())); err != nil {
		return err
	}
	attempted := r.Swapped
	r.Swapped = true
	if err := storeRotation(ctx, s, r); err != nil {
		return err
	}
	if err := b.swapRoot(ctx, s, r); errors.Is(err, errReplaced) {
		r.Swapped = attempted // this attempt has not swapped
		return b.cancel(ctx, s, r, err)
	} else if err != nil {
		return err
	}
	return b.finishRotation(ctx, s, r)
}

// errProved ends a list that has proved enough.
var errProved = errors.New("proved")

// proveRoot lists the tokens of the cluster with the new root credential. The
// caller has checked that c is the place where it was issued.
func (b *backend) proveRoot(ctx context.Context, c config, r rotation) error {
	c.Root, c.RootAccessor, c.RootSince = r.Token, r.Accessor, r.StartedAt
	err := b.issuerOf(c, Management).List(ctx, func(issuer.Info) error { return errProved })
	if err != nil && !errors.Is(err, errProved) {
		return fmt.Errorf("%w: %w", errNotProved, err)
	}
	return nil
}

// retired returns the record of the root credential of c, which must be revoked
// after a delay. As long as it is the root credential, nothing revokes it.
func (b *backend) retired(c config, accessor string, delay time.Duration) ledger.Record {
	now := b.now()
	return ledger.Record{
		TokenType: Management, Role: rootRole, Accessor: accessor, State: ledger.Revoking, TokenID: c.RootID,
		Description: "previous root credential", Fingerprint: c.Fingerprint,
		IssuedAt: c.RootSince, ConfirmedAt: c.RootSince, RetiredAt: now, ExpiresAt: c.RootExpiresAt, Deadline: now.Add(delay),
	}
}

// retireRoot does step 3. Under the lock of the config, dropIfRoot either drops an
// older record of the same credential before, or sees that the rotation is under way.
func (b *backend) retireRoot(ctx context.Context, s logical.Storage, record ledger.Record) error {
	b.configMu.Lock()
	defer b.configMu.Unlock()
	return b.ledger.Put(ctx, s, record)
}

// swapRoot makes the new credential the root credential in config. It returns
// errReplaced if config has changed, or if the new credential is being revoked
// at this moment: fence admits an ID under the same lock.
func (b *backend) swapRoot(ctx context.Context, s logical.Storage, r rotation) error {
	b.configMu.Lock()
	defer b.configMu.Unlock()
	c, err := loadConfig(ctx, s)
	if errors.Is(err, errNoConfig) || err == nil && (!r.unchanged(c) || b.revoking[r.TokenID] > 0) {
		return errReplaced
	}
	if err != nil {
		return err
	}
	c.Root, c.RootID, c.RootExpiresAt, c.RootKnown = r.Token, r.TokenID, r.ExpiresAt, true
	c.RootSince, c.RootAccessor = b.now(), r.Accessor
	return putConfig(ctx, s, c)
}

// finishRotation does step 6, and reports the rotation, also one whose swap was made
// by a process that has ended. A record that is retired stays: a change of config has
// replaced the new credential meanwhile.
func (b *backend) finishRotation(ctx context.Context, s logical.Storage, r rotation) error {
	err := b.ledger.DropIf(ctx, s, rootRole, r.Accessor, func(record ledger.Record) error {
		if !record.RetiredAt.IsZero() {
			return errUnchanged
		}
		return nil
	})
	if err != nil && !errors.Is(err, errUnchanged) {
		return err
	}
	if err := s.Delete(ctx, rotationKey); err != nil {
		return err
	}
	b.metrics.count(opRotateRoot, nil)
	b.Logger().Info("root credential rotated", "token_id", r.TokenID, "previous_token_id", r.From.RootID)
	b.event(ctx, "root-rotate", "config/rotate-root", "token_id", r.TokenID, "previous_token_id", r.From.RootID)
	return nil
}

// cancel cancels a rotation because of cause.
func (b *backend) cancel(ctx context.Context, s logical.Storage, r rotation, cause error) error {
	if err := b.cancelRotation(ctx, s, r); err != nil {
		return errors.Join(cause, err)
	}
	return errors.Join(cause, errCancelled)
}

// cancelRotation revokes the new credential, where it was issued, and deletes the
// rotation. It may be called again after an error.
func (b *backend) cancelRotation(ctx context.Context, s logical.Storage, r rotation) error {
	if err := b.markCancelled(ctx, s, &r); err != nil {
		return err
	}
	record := b.retired(r.From, r.Accessor, 0)
	record.TokenID, record.Description = r.TokenID, "root credential of a cancelled rotation"
	record.IssuedAt, record.ConfirmedAt, record.ExpiresAt = r.StartedAt, r.StartedAt, r.ExpiresAt
	if err := b.ledger.Put(ctx, s, record); err != nil {
		return err
	}
	b.Logger().Warn("rotation of the root credential cancelled; revoking the new credential", "accessor", r.Accessor, "token_id", r.TokenID)
	if err := b.revokeWhereIssued(ctx, s, r, record); err != nil {
		b.Logger().Warn("token not revoked", "role", rootRole, "accessor", r.Accessor, "token_id", r.TokenID, "error", err)
	}
	return s.Delete(ctx, rotationKey)
}

// markCancelled stores that the rotation is cancelled, after which fence admits
// the new credential. It drops the record of the old credential, unless that
// must be revoked all the same: because the swap may have happened, or because
// the engine issued it and config has another one now.
func (b *backend) markCancelled(ctx context.Context, s logical.Storage, r *rotation) error {
	b.configMu.Lock()
	defer b.configMu.Unlock()
	c, err := loadConfig(ctx, s)
	if err != nil && !errors.Is(err, errNoConfig) {
		return err
	}
	stillRoot := err == nil && digest(c.Root) == r.OldDigest
	// A change of config that replaces the new credential retires its record
	// (storeChange). Before that, config never had the credential.
	record, err := b.ledger.Get(ctx, s, rootRole, r.Accessor)
	if err != nil && !errors.Is(err, ledger.ErrNotFound) {
		return err
	}
	if !r.Cancelled && err == nil && record.RetiredAt.IsZero() {
		r.Swapped = false
	}
	if stillRoot || !r.Swapped && r.From.RootAccessor == "" {
		if err := b.ledger.Drop(ctx, s, rootRole, r.OldAccessor); err != nil {
			return err
		}
	}
	r.Cancelled = true
	return storeRotation(ctx, s, *r)
}

// revokeWhereIssued revokes the new credential of a cancelled rotation. If config
// still has the place where it was issued, that is an ordinary revocation.
// Otherwise the credential revokes itself at that place, once. If that fails, the
// record stays revoking.
func (b *backend) revokeWhereIssued(ctx context.Context, s logical.Storage, r rotation, record ledger.Record) error {
	c, err := loadConfig(ctx, s)
	if err == nil && r.samePlace(c) {
		return b.settle(ctx, s, record)[record.Accessor]
	}
	from := r.From
	from.Root = r.Token
	return b.revokeItself(ctx, s, from, record)
}

// revokeItself revokes the root credential of c with itself, at the place of c.
// It is for a root credential that no config holds any more. Whether a token may
// revoke itself is not known, see docs/vendor-facts.md, "self-revocation".
func (b *backend) revokeItself(ctx context.Context, s logical.Storage, c config, record ledger.Record) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Timeout+storeTime)
	defer cancel()
	client := b.issuerOf(c, Management)
	failed := client.Revoke(ctx, record.TokenID)
	err := proofOf(record, []string{record.TokenID}, failed, client.traits().UnknownAge, b.now())
	b.metrics.count(opRevoke, err)
	if err != nil {
		return err
	}
	return b.ledger.Drop(ctx, s, record.Role, record.Accessor)
}

// dropIfRoot drops the revoking record of a token that is the root credential: a
// config write or a rotation that stored it was not completed. It keeps the
// record as long as a rotation is under way, and if only the writer of config says
// that the token is the root credential: mgmt_token_id may be wrong.
func (b *backend) dropIfRoot(ctx context.Context, s logical.Storage, r ledger.Record) error {
	b.configMu.Lock()
	defer b.configMu.Unlock()
	c, err := loadConfig(ctx, s)
	if err != nil {
		return err
	}
	_, underWay, err := findRotation(ctx, s)
	if err != nil {
		return err
	}
	proved := c.RootKnown || c.RootAccessor == r.Accessor
	if underWay || c.RootID != r.TokenID || !proved {
		b.ledger.Postpone(r.Accessor, b.now().Add(time.Minute))
		return nil
	}
	return b.ledger.Drop(ctx, s, r.Role, r.Accessor)
}
