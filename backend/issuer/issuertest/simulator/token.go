package simulator

import (
	"time"

	"github.com/google/uuid"
)

// A Kind is what a token can be used for.
type Kind string

// The kinds of tokens.
const (
	Management Kind = "management" // administers the account
	Database   Kind = "database"   // reads and writes data
)

// A Permission allows a database token to do Action, read or write, on Resource,
// the name of a database or "*" for all.
type Permission struct {
	Action   string `json:"action"`
	Resource string `json:"resource"`
}

// A Token is what the cluster knows about a token, with its secret. It is a copy.
type Token struct {
	ID          string       `json:"id"`
	Kind        Kind         `json:"kind"`
	Root        bool         `json:"root,omitempty"` // made by NewCluster or AddRoot
	Secret      string       `json:"secret"`
	Prefix      string       `json:"prefix"`
	Description string       `json:"description,omitempty"`
	Permissions []Permission `json:"permissions,omitempty"`
	CreatedBy   string       `json:"created_by"`
	CreatedAt   time.Time    `json:"created_at,omitzero"`
	ExpiresAt   time.Time    `json:"expires_at,omitzero"` // zero: never
	RevokedAt   time.Time    `json:"revoked_at,omitzero"` // zero: not revoked
	Live        bool         `json:"live"`                // when the copy was taken
}

// A record is a token as the cluster stores it. The secret is stored only if a
// test has set it. Others are derived from the ID, so that a million tokens need
// little memory.
type record struct {
	id          uuid.UUID
	kind        Kind
	root        bool
	secret      string
	description string
	permissions []Permission
	created     time.Time
	expires     time.Time
	revoked     time.Time
}

// live reports whether the token is neither revoked nor expired at the time now.
func (r *record) live(now time.Time) bool {
	return r.revoked.IsZero() && (r.expires.IsZero() || now.Before(r.expires))
}

// mayWrite reports whether the token may write to database.
func (r *record) mayWrite(database string) bool {
	for _, p := range r.permissions {
		if p.Action == "write" && (p.Resource == "*" || p.Resource == database) {
			return true
		}
	}
	return false
}

// prefixLength is how many characters of the secret a list shows.
const prefixLength = len("M.V1.") + 4

// token returns r as a Token.
func (c *Cluster) token(r record) Token {
	secret := c.secretOf(r)
	return Token{
		ID:          r.id.String(),
		Kind:        r.kind,
		Root:        r.root,
		Secret:      secret,
		Prefix:      secret[:min(prefixLength, len(secret))],
		Description: r.description,
		Permissions: r.permissions,
		CreatedBy:   c.user.String(),
		CreatedAt:   r.created,
		ExpiresAt:   r.expires,
		RevokedAt:   r.revoked,
		Live:        r.live(c.now()),
	}
}
