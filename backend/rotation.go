package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// rotationKey is where a rotation that is under way is stored, seal-wrapped.
const rotationKey = "rotation"

const rotationVersion = 1

const (
	// yearLong is how long a new root token lives where nothing else is said.
	yearLong = 8760 * time.Hour

	// rotationPatience is how long a new root token may take until the cluster
	// accepts it. Fresh tokens can need minutes to spread.
	rotationPatience = time.Hour
)

// A rotationPolicy says when the root token is rotated, and what the next one
// is like.
type rotationPolicy struct {
	Period  time.Duration  // between rotations; 0: only when asked to
	TTL     *time.Duration // of a new root token; nil: the default; 0: it never expires
	Overlap *time.Duration // for which the old root token lives on; nil: the default
	Warning time.Duration  // before the root token's expiry
}

// ttl is how long a new root token lives; 0 is for ever.
func (p rotationPolicy) ttl() time.Duration {
	switch {
	case p.TTL != nil:
		return *p.TTL
	case p.Period > 0:
		return 3 * p.Period
	}
	return yearLong
}

// overlap is how long the old root token lives on: long enough for whatever
// was begun with it.
func (p rotationPolicy) overlap(timeout time.Duration) time.Duration {
	if p.Overlap != nil {
		return *p.Overlap
	}
	return 2 * timeout
}

// with returns the policy with what the request names changed.
func (p rotationPolicy) with(d *framework.FieldData) rotationPolicy {
	given := func(field string) *time.Duration {
		v, ok := d.GetOk(field)
		if !ok {
			return nil
		}
		length := time.Duration(v.(int)) * time.Second
		return &length
	}
	if v := given("rotation_period"); v != nil {
		p.Period = *v
	}
	if v := given("rotation_ttl"); v != nil {
		p.TTL = v
	}
	if v := given("rotation_overlap"); v != nil {
		p.Overlap = v
	}
	if v := given("expiry_warning"); v != nil {
		p.Warning = *v
	}
	return p
}

func (p rotationPolicy) validate() error {
	switch ttl := p.ttl(); {
	case p.Period < 0 || p.Warning < 0 || ttl < 0 || p.overlap(0) < 0:
		return errors.New("rotation_period, rotation_ttl, rotation_overlap and expiry_warning must not be negative")
	case max(p.Period, p.Warning, ttl, p.overlap(0)) > longestTTL:
		return errors.New("rotation_period, rotation_ttl, rotation_overlap and expiry_warning must not be longer than 100 years")
	case p.Period > 0 && p.Period < time.Hour:
		return errors.New("rotation_period must be at least 1h; 0 rotates only when asked to")
	case ttl > 0 && ttl < time.Hour:
		return errors.New("rotation_ttl must be at least 1h; 0 makes root tokens that never expire")
	case p.Period > 0 && ttl > 0 && ttl < 2*p.Period:
		return fmt.Errorf("rotation_ttl, %s, must be at least twice rotation_period, %s, so that a rotation that fails can be tried again before the root token dies", human(ttl), human(p.Period))
	}
	return nil
}

// A rotation is one that is under way: a new root token has been minted and is
// not in the config yet.
type rotation struct {
	Nonce     string // of the new token's record
	TokenID   string
	Token     issuer.Secret
	ExpiresAt time.Time // zero: never
	StartedAt time.Time
	OldID     string // the root token to be replaced
	OldNonce  string // of the record that the old token will have
}

// storedRotation is a rotation as it is stored.
type storedRotation struct {
	Version   int       `json:"version"`
	Nonce     string    `json:"nonce"`
	TokenID   string    `json:"token_id"`
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	StartedAt time.Time `json:"started_at"`
	OldID     string    `json:"old_id"`
	OldNonce  string    `json:"old_nonce"`
}

func (r rotation) entry() (*logical.StorageEntry, error) {
	return logical.StorageEntryJSON(rotationKey, storedRotation{
		rotationVersion, r.Nonce, r.TokenID, r.Token.Reveal(), r.ExpiresAt, r.StartedAt, r.OldID, r.OldNonce,
	})
}

func rotationFrom(e *logical.StorageEntry) (rotation, error) {
	var s storedRotation
	if err := json.Unmarshal(e.Value, &s); err != nil {
		return rotation{}, errors.New("the stored rotation is damaged") // no cause: it may quote a secret
	}
	if s.Version > rotationVersion {
		return rotation{}, fmt.Errorf("rotation: %w", newerVersion(s.Version))
	}
	return rotation{s.Nonce, s.TokenID, issuer.NewSecret(s.Token), s.ExpiresAt, s.StartedAt, s.OldID, s.OldNonce}, nil
}

// findRotation returns the rotation that is under way, and whether there is
// one.
func findRotation(ctx context.Context, s logical.Storage) (rotation, bool, error) {
	entry, err := s.Get(ctx, rotationKey)
	if err != nil || entry == nil {
		return rotation{}, false, err
	}
	r, err := rotationFrom(entry)
	return r, err == nil, err
}

var (
	errRotating  = errors.New("a rotation of the root token is under way already")
	errNoRootID  = errors.New("which token of the cluster the root token is, is not known, so it could not be revoked; set mgmt_token_id in config")
	errUnproven  = errors.New("the cluster does not accept the new root token yet")
	errGivenUp   = errors.New("the rotation is given up, and the new token will be revoked")
	errDisplaced = errors.New("the root token was changed by another request meanwhile; the new one will be revoked")
)

// rootRecipe is what root tokens are minted by.
var rootRecipe = role{Name: rootRole, Kind: Management}

// startRotation mints a new root token with the old one and stores both the
// token and the intent to use it. The record precedes the token, as always, so
// that a crash before the rotation is stored leaves nothing alive.
func (b *backend) startRotation(ctx context.Context, s logical.Storage, c config) (rotation, error) {
	if c.RootID == "" {
		return rotation{}, errNoRootID
	}
	now := b.now()
	t := terms{}
	if ttl := c.Rotation.ttl(); ttl > 0 {
		t.ExpiresAt = ceilSecond(now.Add(ttl)).UTC()
	}
	record := b.intent(c, order{role: rootRecipe, terms: t, text: "root token"}, now)
	if err := b.ledger.open(ctx, s, record, 0); err != nil {
		return rotation{}, err
	}
	defer b.ledger.close(record.Nonce)
	token, err := b.issue(ctx, c, record, rootRecipe)
	b.health.saw("mint", err, b.now())
	if err != nil {
		return rotation{}, b.abandon(ctx, s, record, err)
	}
	r := rotation{record.Nonce, token.ID, token.Secret, t.ExpiresAt, now, c.RootID, newNonce()}
	if err := b.storeRotation(ctx, s, r); err != nil {
		record.TokenID = token.ID
		return rotation{}, b.discard(ctx, s, record, err)
	}
	b.Logger().Info("a new root token is minted", "token_id", token.ID, "expires_at", timestampOrNever(t.ExpiresAt, "never"))
	return r, nil
}

func (b *backend) storeRotation(ctx context.Context, s logical.Storage, r rotation) error {
	entry, err := r.entry()
	if err != nil {
		return err
	}
	ctx, cancel := own(ctx)
	defer cancel()
	if err := s.Put(ctx, entry); err != nil {
		return fmt.Errorf("store the new root token: %w", err)
	}
	return nil
}

// spare keeps the ledger from acting on the new root token while the rotation
// is under way.
func (b *backend) spare(ctx context.Context, s logical.Storage, r rotation) error {
	_, err := b.ledger.change(ctx, s, rootRole, r.Nonce, func(record *record) error {
		record.TokenID, record.Due = r.TokenID, r.StartedAt.Add(2*rotationPatience)
		return nil
	})
	return err
}

// finishRotation proves the new root token and puts it into the config. It may
// be called again after any error: every step of it may have been done before.
// errUnproven says that it is too early.
func (b *backend) finishRotation(ctx context.Context, s logical.Storage, r rotation) error {
	c, err := loadConfig(ctx, s)
	if err != nil {
		return err
	}
	switch c.RootID {
	case r.TokenID: // the config was swapped, and the rest not done any more
		return b.closeRotation(ctx, s, r)
	case r.OldID:
	default:
		return errors.Join(errDisplaced, b.cancelRotation(ctx, s, r))
	}
	if err := b.spare(ctx, s, r); err != nil {
		return err
	}
	if err := b.proveRoot(ctx, c, r); err != nil {
		if b.now().After(r.StartedAt.Add(rotationPatience)) {
			return errors.Join(err, errGivenUp, b.cancelRotation(ctx, s, r))
		}
		return err
	}
	if err := b.oweOldRoot(ctx, s, c, r); err != nil {
		return err
	}
	switch err := b.swapRoot(ctx, s, r); {
	case errors.Is(err, errDisplaced):
		return errors.Join(err, b.cancelRotation(ctx, s, r))
	case err != nil:
		return err
	}
	b.Logger().Info("the root token is rotated", "token_id", r.TokenID, "previous_token_id", r.OldID)
	b.event(ctx, "root-rotate", "config/rotate-root", "token_id", r.TokenID, "previous_token_id", r.OldID)
	return b.closeRotation(ctx, s, r)
}

// proveRoot lists the cluster's tokens with the new root token.
func (b *backend) proveRoot(ctx context.Context, c config, r rotation) error {
	c.Root = r.Token
	err := b.issuerOf(c, Management).List(ctx, func(issuer.Info) error { return errProven })
	b.health.saw("prove the new root token", ignoreProven(err), b.now())
	if err != nil && !errors.Is(err, errProven) {
		return fmt.Errorf("%w: %w", errUnproven, upstream("list with the new root token", err))
	}
	return nil
}

// errProven ends a list whose first entry says enough.
var errProven = errors.New("proven")

func ignoreProven(err error) error {
	if errors.Is(err, errProven) {
		return nil
	}
	return err
}

// oweOldRoot records that the old root token must die once the overlap is over.
// Until the config is swapped the record is inert: no path revokes the root.
func (b *backend) oweOldRoot(ctx context.Context, s logical.Storage, c config, r rotation) error {
	now := b.now()
	return b.ledger.put(ctx, s, record{
		Kind: Management, Role: rootRole, Nonce: r.OldNonce, State: owed, TokenID: r.OldID,
		Description: "the previous root token", Fingerprint: c.Fingerprint,
		IssuedAt: c.RootSince, ExpiresAt: c.RootExpiresAt, Due: now.Add(c.Rotation.overlap(c.Timeout)),
	})
}

// swapRoot makes the new token the root, unless the root is no longer the one
// that it replaces.
func (b *backend) swapRoot(ctx context.Context, s logical.Storage, r rotation) error {
	b.configMu.Lock()
	defer b.configMu.Unlock()
	c, err := loadConfig(ctx, s)
	if err != nil {
		return err
	}
	if c.RootID != r.OldID {
		return errDisplaced
	}
	c.Root, c.RootID, c.RootExpiresAt, c.RootSince = r.Token, r.TokenID, r.ExpiresAt, b.now()
	entry, err := c.entry()
	if err != nil {
		return err
	}
	return s.Put(ctx, entry)
}

// closeRotation forgets a rotation whose token is the root now.
func (b *backend) closeRotation(ctx context.Context, s logical.Storage, r rotation) error {
	if err := b.ledger.drop(ctx, s, rootRole, r.Nonce); err != nil {
		return err
	}
	return s.Delete(ctx, rotationKey)
}

// cancelRotation gives the new token up: it is owed, and the old one is not. The
// rotation itself is forgotten last, so that a crash on the way begins again.
func (b *backend) cancelRotation(ctx context.Context, s logical.Storage, r rotation) error {
	if err := b.ledger.drop(ctx, s, rootRole, r.OldNonce); err != nil {
		return err
	}
	_, err := b.ledger.change(ctx, s, rootRole, r.Nonce, func(record *record) error {
		record.State, record.TokenID, record.Due = owed, r.TokenID, b.now()
		return nil
	})
	if err != nil && !errors.Is(err, errGone) {
		return err
	}
	b.Logger().Warn("a rotation of the root token is given up; the new token will be revoked", "token_id", r.TokenID)
	return s.Delete(ctx, rotationKey)
}
