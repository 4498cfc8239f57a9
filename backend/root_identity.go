package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

var (
	errNoRootID = errors.New("the ID of the root credential is unknown, so it could not be revoked")
	errLeased   = errors.New("this token was issued by this secrets engine, so it is revoked when its lease or rotation ends. " +
		"Create a credential of its own for the engine, as an administrator, outside of Vault, and write that one")
)

// noRootID is errNoRootID with what to do about it.
func (c config) noRootID() error {
	return fmt.Errorf("%w; %s", errNoRootID, c.product().credential.unidentified)
}

// A rootIdentity is what one list of the cluster says about the root credential.
type rootIdentity struct {
	ID        string // empty if it was not found
	ExpiresAt time.Time
	Known     bool // ID and ExpiresAt are confirmed by the list
}

// identifyRoot lists the tokens of the cluster with c and finds the root
// credential among them: by c.RootID if it is set, otherwise as the only valid
// token whose visible part matches. It returns a 400 if c.RootID is the ID of
// another token, and if the root credential is a token that an engine issued.
func (b *backend) identifyRoot(ctx context.Context, c config) (rootIdentity, error) {
	now, matches := b.now(), []issuer.Info(nil)
	var named *issuer.Info
	err := b.issuerOf(c, Management).List(ctx, func(info issuer.Info) error {
		if c.RootID != "" && info.ID == c.RootID {
			named = &info
		}
		if info.Matches(c.Root) && !info.Dead(now) && len(matches) < 2 {
			matches = append(matches, info)
		}
		return nil
	})
	if err != nil {
		return rootIdentity{}, err
	}
	var root issuer.Info
	switch {
	case named != nil && (named.Dead(now) || !named.Matches(c.Root) && (named.Prefix != "" || named.HashPrefix != "")):
		return rootIdentity{}, badRequest("%[1]s_id %[2]s is not the ID of %[1]s", c.rootField(), c.RootID)
	case named != nil:
		root = *named
	case c.RootID != "":
		return rootIdentity{}, nil // the matches are other tokens
	case len(matches) == 1:
		root = matches[0]
	default:
		return rootIdentity{}, nil
	}
	if tagPattern.MatchString(root.Description) && c.RootAccessor == "" {
		return rootIdentity{}, badRequest("%s: %v", c.rootField(), errLeased)
	}
	return rootIdentity{ID: root.ID, ExpiresAt: root.ExpiresAt, Known: true}, nil
}

// verify proves that the cluster accepts the root credential of c, and stores in
// c what it learned about it.
func (b *backend) verify(ctx context.Context, c *config) (warnings []string, err error) {
	id, err := b.identifyRoot(ctx, *c)
	switch {
	case err != nil:
		return nil, err
	case !id.Known && c.RootID != "":
		c.RootKnown = false
		return []string{fmt.Sprintf("The cluster lists no token with the ID %s (%s_id).", c.RootID, c.rootField())}, nil
	case !id.Known:
		return []string{fmt.Sprintf("The root credential could not be identified among the tokens of the cluster. Its expiry is unknown and it cannot be rotated. To be able to rotate it, %s.", c.product().credential.unidentified)}, nil
	}
	c.RootID, c.RootExpiresAt, c.RootKnown = id.ID, id.ExpiresAt, true
	if id.ExpiresAt.IsZero() && !c.isOperator(id.ID) {
		warnings = append(warnings, "The root credential never expires. Rotate it (`vault write -f` this mount's config/rotate-root) to replace it by one that expires and that only Vault knows.")
	}
	return warnings, nil
}

// isOperator reports whether id is the token of the product that cannot be rotated.
func (c config) isOperator(id string) bool {
	operator := c.product().operator
	return operator != "" && id == operator
}

// rootExpiry formats the expiry of the root credential for answers.
func (c config) rootExpiry() string {
	if !c.RootKnown {
		return "unknown"
	}
	return timestampOrNever(c.RootExpiresAt)
}
