package vaulttest

import (
	"fmt"
	"time"
)

// The words of the engine's API that the tests depend on. They stand here only,
// so that a renamed field is changed in one place.

// States of a token in the ledger.
const (
	StateIssuing  = "issuing"
	StateActive   = "active"
	StateRevoking = "revoking"
)

// DetailedList is the path that lists the ledger with information about each token.
const DetailedList = "tokens/detailed"

// AccessorField is the name under which a record stores its accessor, and
// DeadlineField the one under which it stores its deadline.
const (
	AccessorField = "accessor"
	DeadlineField = "deadline"
)

// RootDescription is the end of the description of a root credential that the
// engine has issued, after the tag.
const RootDescription = "root credential"

// A Status is the part of the answer of the path status that the tests use.
// A count is nil if the answer leaves it out.
type Status struct {
	Tag          string `json:"mount_tag"`
	RootID       string `json:"mgmt_token_id"`
	NextRootID   string `json:"rotation_to"` // while a rotation is under way
	LedgerLoaded bool   `json:"ledger_loaded"`
	Issuing      *int   `json:"tokens_issuing"`
	Active       *int   `json:"tokens_active"`
	Revoking     *int   `json:"tokens_revoking"`
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

// Check compares the counts with a list of the ledger, made at about the same
// time while nobody used the mount. While the ledger is not loaded the counts
// must be missing.
func (s Status) Check(ledger map[string]TokenInfo) error {
	states := map[string]int{}
	for _, info := range ledger {
		states[info.State]++
	}
	for state, count := range map[string]*int{StateIssuing: s.Issuing, StateActive: s.Active, StateRevoking: s.Revoking} {
		switch {
		case s.LedgerLoaded && (count == nil || *count != states[state]):
			return fmt.Errorf("status counts %d tokens in state %s, the ledger lists %d", Count(count), state, states[state])
		case !s.LedgerLoaded && count != nil:
			return fmt.Errorf("status counts %d tokens in state %s before the ledger is loaded", *count, state)
		}
	}
	return nil
}

// A TokenInfo is what the path tokens/:accessor answers, and what the list of
// tokens says about each. The list has no Deadline.
type TokenInfo struct {
	State    string    `json:"state"`
	TokenID  string    `json:"token_id"`
	Deadline time.Time `json:"deadline"`
}
