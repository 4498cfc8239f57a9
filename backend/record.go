package backend

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// A state is where a token stands between the intent to mint it and the proof
// that it is dead. No record means known dead.
type state string

const (
	pending state = "pending" // it may exist: its mint has not been seen to end
	live    state = "live"    // it exists, and a lease holds it
	owed    state = "owed"    // it must die, and could not be killed yet
)

// Kinds of tokens that no lease holds, in the place of a role. No role can have
// such a name.
const (
	checkRole = "-config-check"
	rootRole  = "-root"
)

// recordVersion is written into every record. A record of a later version is
// not understood, and not touched.
const recordVersion = 1

// A record is what the ledger keeps of one token, under ledger/<role>/<nonce>.
// It never holds a secret:
//
//	{"version":1,"role":"automation","nonce":"…","state":"live","token_id":"…","due":"…", …}
type record struct {
	Version     int       `json:"version"`
	Kind        string    `json:"token_type"`
	Role        string    `json:"role"`
	Nonce       string    `json:"nonce"`
	State       state     `json:"state"`
	TokenID     string    `json:"token_id,omitempty"` // empty until the mint is seen to succeed
	Description string    `json:"description"`
	Fingerprint string    `json:"fingerprint"` // of the cluster that the token lives on
	DisplayName string    `json:"display_name,omitempty"`
	EntityID    string    `json:"entity_id,omitempty"`
	IssuedAt    time.Time `json:"issued_at"`           // when the mint began
	LeaseEnd    time.Time `json:"lease_end,omitzero"`  // as last granted
	ExpiresAt   time.Time `json:"expires_at,omitzero"` // when the token dies by itself; zero: never
	Due         time.Time `json:"due"`                 // when Vault must have said something by
	Absences    int       `json:"absences,omitempty"`  // how often a pending token was looked for in vain
	FailedAt    time.Time `json:"failed_at,omitzero"`  // the first failed attempt to kill it
	Attempts    int       `json:"attempts,omitempty"`  // failed ones
	LastFailure string    `json:"last_failure,omitempty"`
}

// key is where the record is stored.
func (r record) key() string { return recordKey(r.Role, r.Nonce) }

func recordKey(role, nonce string) string { return ledgerPrefix + role + "/" + nonce }

func (r record) entry() (*logical.StorageEntry, error) {
	r.Version = recordVersion
	return logical.StorageEntryJSON(r.key(), r)
}

func recordFrom(e *logical.StorageEntry) (record, error) {
	var r record
	if err := json.Unmarshal(e.Value, &r); err != nil {
		return r, fmt.Errorf("record %s: %w: %v", e.Key, errDamaged, err)
	}
	if r.Version > recordVersion {
		return r, fmt.Errorf("record %s: %w", e.Key, newerVersion(r.Version))
	}
	if r.key() != e.Key || checkKind(r.Kind) != nil {
		return r, fmt.Errorf("record %s: %w", e.Key, errDamaged)
	}
	return r, nil
}

var (
	errDamaged = errors.New("damaged in storage")
	errNewer   = errors.New("stored by a newer version of this plugin")
)

// newerVersion refuses what a newer plugin has stored.
func newerVersion(v int) error {
	return fmt.Errorf("%w (format %d): run that version or a later one", errNewer, v)
}
