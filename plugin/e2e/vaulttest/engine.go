package vaulttest

import "time"

// The words of the engine's API that the tests depend on. They stand here only,
// so that a renamed field is changed in one place.

// States of a token in the ledger.
const (
	StateIssuing  = "pending"
	StateActive   = "live"
	StateRevoking = "owed"
)

// AccessorField is the name under which a record stores its accessor, and
// DeadlineField the one under which it stores its deadline.
const (
	AccessorField = "nonce"
	DeadlineField = "due"
)

// A Status is the part of the answer of the path status that the tests use.
// A count is nil if the answer leaves it out.
type Status struct {
	Tag          string `json:"mount_tag"`
	RootID       string `json:"mgmt_token_id"`
	NextRootID   string `json:"rotation_to"` // while a rotation is under way
	LedgerLoaded bool   `json:"ledger_loaded"`
	Issuing      *int   `json:"tokens_pending"`
	Active       *int   `json:"tokens_live"`
	Revoking     *int   `json:"tokens_owed"`
}

// Count returns the value of a count, and 0 if the answer left it out.
func Count(count *int) int {
	if count == nil {
		return 0
	}
	return *count
}

// Empty reports whether the status says that the ledger holds no token. It is
// false while the ledger is not loaded or a count is missing.
func (s Status) Empty() bool {
	for _, count := range []*int{s.Issuing, s.Active, s.Revoking} {
		if count == nil || *count > 0 {
			return false
		}
	}
	return s.LedgerLoaded
}

// A TokenInfo is what the path tokens/:accessor answers, and what the list of
// tokens says about each. The list has no Deadline.
type TokenInfo struct {
	State     string    `json:"state"`
	TokenID   string    `json:"token_id"`
	ExpiresAt time.Time `json:"expires_at"`
	Deadline  time.Time `json:"due"`
}
