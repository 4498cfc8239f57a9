package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// youth is how old a token must be before the cluster's not knowing it proves
// it dead: a fresh token may not have spread yet.
const youth = 10 * time.Minute

// gone is how long after its expiry a token is certainly dead, whatever the
// clocks of Vault and cluster say.
const gone = 2 * margin

var (
	errOtherCluster = errors.New("the token lives on another cluster than the one configured now")
	errIsRoot       = errors.New("the token is the root token now")
	errAbsent       = errors.New("the cluster does not list the token")
	errTooYoung     = errors.New("the cluster does not know the token yet")
)

// kill makes the record's token dead. No error means that it is known to be
// dead: revoked, or past its expiry. Whenever that cannot be told, there is an
// error.
func (b *backend) kill(ctx context.Context, s logical.Storage, r record) error {
	if b.now().After(r.ExpiresAt.Add(gone)) {
		return nil
	}
	c, err := b.clusterOf(ctx, s, r)
	if err != nil {
		return err
	}
	ids := []string{r.TokenID}
	if r.TokenID == "" {
		if ids, err = b.find(ctx, c, r.Nonce); err != nil {
			return err
		}
	}
	for _, id := range ids {
		if err := b.revokeToken(ctx, c, r, id); err != nil {
			return err
		}
	}
	return nil
}

// clusterOf returns the config, if it is of the cluster that the token lives
// on.
func (b *backend) clusterOf(ctx context.Context, s logical.Storage, r record) (config, error) {
	c, err := loadConfig(ctx, s)
	if err == nil && c.Fingerprint != r.Fingerprint {
		err = errOtherCluster
	}
	return c, err
}

// find returns the live tokens whose description bears the nonce, or errAbsent.
func (b *backend) find(ctx context.Context, c config, nonce string) (ids []string, err error) {
	now := b.now()
	err = b.issuerOf(c).List(ctx, func(info issuer.Info) error {
		if n, ok := b.tag.nonce(info.Description); ok && n == nonce && !info.Dead(now) {
			ids = append(ids, info.ID)
		}
		return nil
	})
	b.health.saw("list", err, now)
	if err != nil {
		return nil, upstream("look for the token", err)
	}
	if len(ids) == 0 {
		return nil, errAbsent
	}
	return ids, nil
}

// revokeToken revokes one token of the record, unless it is the root.
func (b *backend) revokeToken(ctx context.Context, c config, r record, id string) error {
	if id == c.RootID {
		return errIsRoot
	}
	began := b.now()
	err := b.issuerOf(c).Revoke(ctx, id)[id]
	if errors.Is(err, issuer.ErrUnknown) {
		if err = nil; began.Before(r.IssuedAt.Add(youth)) {
			err = errTooYoung
		}
	}
	b.health.saw("revoke", err, b.now())
	if err != nil {
		return fmt.Errorf("revoke token %s: %w", id, err)
	}
	b.Logger().Info("token revoked", "role", r.Role, "token_id", id, "duration", b.now().Sub(began))
	return nil
}
