package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// A State says what is known about a token that has a record.
type State string

// The states of a record. See the package documentation for their transitions.
const (
	Issuing  State = "issuing"  // the token may exist; its creation has not been confirmed
	Active   State = "active"   // the token exists, and a lease or a static role holds it, or it may outlive its lease
	Revoking State = "revoking" // the token must be revoked and has not been revoked yet
)

// States are all states.
var States = []State{Issuing, Active, Revoking}

// RevokeOnExpiry is the RevokeOn of a token that stays valid until its expiry if
// its lease ends early. The record is then active without a lease, with its
// expiry as the deadline.
const RevokeOnExpiry = "expiry"

// recordVersion is the format that this version writes. Records of a newer
// format are never changed.
const recordVersion = 1

// A Record describes one token. It is stored under ledger/<role>/<accessor> and
// never holds a secret:
//
//	{"version":1,"role":"automation","accessor":"…","state":"active","token_id":"…","deadline":"…", …}
type Record struct {
	Version     int       `json:"version"`
	TokenType   string    `json:"token_type"`
	Role        string    `json:"role"` // or a name that no role can have, for tokens of the engine itself
	Accessor    string    `json:"accessor"`
	State       State     `json:"state"`
	TokenID     string    `json:"token_id,omitempty"` // empty until it is known
	Description string    `json:"description"`
	Fingerprint string    `json:"fingerprint"` // of the cluster that the token was issued on
	DisplayName string    `json:"display_name,omitempty"`
	EntityID    string    `json:"entity_id,omitempty"`
	IssuedAt    time.Time `json:"issued_at"`             // when the issue began
	ConfirmedAt time.Time `json:"confirmed_at,omitzero"` // when the cluster's answer arrived; zero: never
	LeaseEnd    time.Time `json:"lease_end,omitzero"`    // as last granted
	RevokeOn    string    `json:"revoke_on,omitempty"`   // RevokeOnExpiry, or empty: when the lease ends
	DetachedAt  time.Time `json:"detached_at,omitzero"`  // when the lease ended and the token did not, see RevokeOnExpiry
	RetiredAt   time.Time `json:"retired_at,omitzero"`   // when a root credential was replaced, from which its deadline counts
	ExpiresAt   time.Time `json:"expires_at,omitzero"`   // of the token; zero: never
	Deadline    time.Time `json:"deadline"`              // by which Vault must have renewed or revoked the token
	Absences    int       `json:"absences,omitempty"`    // lists in which an issuing token was not found
	FailedAt    time.Time `json:"failed_at,omitzero"`    // first failed attempt to revoke it
	Attempts    int       `json:"attempts,omitempty"`    // failed attempts
	LastFailure string    `json:"last_failure,omitempty"`
}

func (r Record) key() string { return recordKey(r.Role, r.Accessor) }

func recordKey(role, accessor string) string { return Prefix + role + "/" + accessor }

func (r Record) entry() (*logical.StorageEntry, error) {
	r.Version = recordVersion
	return logical.StorageEntryJSON(r.key(), r)
}

func recordFrom(e *logical.StorageEntry) (Record, error) {
	var r Record
	if err := json.Unmarshal(e.Value, &r); err != nil {
		return r, fmt.Errorf("record %s: %w: %v", e.Key, ErrDamaged, err)
	}
	if r.Version > recordVersion {
		return r, fmt.Errorf("record %s: %w (format %d): run that version or a later one", e.Key, ErrNewer, r.Version)
	}
	if r.key() != e.Key || r.TokenType == "" {
		return r, fmt.Errorf("record %s: %w", e.Key, ErrDamaged)
	}
	return r, nil
}

var (
	// ErrNotFound means that there is no record: the token is known not to be
	// accepted by the cluster.
	ErrNotFound = errors.New("the ledger holds no record of the token")

	// ErrDamaged means that a stored record cannot be decoded. It is never
	// changed.
	ErrDamaged = errors.New("damaged in storage")

	// ErrNewer means that a newer version of the plugin stored the record. It
	// is never changed.
	ErrNewer = errors.New("stored by a newer version of this plugin")

	// ErrMaxActive means that a role has as many tokens as its max_active
	// allows.
	ErrMaxActive = errors.New("max_active is reached")

	// ErrUnsettled means that a role has too many tokens whose creation is
	// neither confirmed nor disproved.
	ErrUnsettled = errors.New("too many tokens with an unknown outcome")
)
