package issuer

import (
	"errors"
	"fmt"
	"io"
	"unique"
)

// redacted is what a Secret prints as, under every verb.
const redacted = "[redacted]"

// A Secret is a string that cannot be printed, logged or marshalled. It leaves
// only by Reveal, so that one search shows every exit. Two secrets compare
// with ==. The zero Secret is the empty one.
//
// The handle is more than a saving: fmt calls no method on what stands in an
// unexported field, and would print a plain string there. It prints a handle as
// an address.
type Secret struct{ handle unique.Handle[string] }

// NewSecret makes a secret of value.
func NewSecret(value string) Secret {
	if value == "" {
		return Secret{}
	}
	return Secret{unique.Make(value)}
}

// Reveal returns the secret itself.
func (s Secret) Reveal() string {
	if s.IsZero() {
		return ""
	}
	return s.handle.Value()
}

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return s == Secret{} }

// Format prints the same for every verb and flag.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// String is for those who do not go through fmt.
func (Secret) String() string { return redacted }

var errMarshal = errors.New("a secret is not to be marshalled")

// MarshalText always fails, and with it every encoder that asks for text.
func (Secret) MarshalText() ([]byte, error) { return nil, errMarshal }

// MarshalJSON always fails.
func (Secret) MarshalJSON() ([]byte, error) { return nil, errMarshal }

// MarshalBinary always fails, and with it encoding/gob.
func (Secret) MarshalBinary() ([]byte, error) { return nil, errMarshal }
