package issuer

import (
	"errors"
	"fmt"
	"io"
	"unique"
)

// redacted is what every fmt verb prints for a Secret.
const redacted = "[redacted]"

// A Secret is a string that cannot be printed, logged or marshaled. Only Reveal
// returns it, so a search for Reveal finds every use. Two secrets can be
// compared with ==. The zero value is the empty secret.
//
// The value is behind a handle because fmt does not call methods of values in
// unexported fields: it would print a plain string, but prints a handle as an
// address.
type Secret struct{ handle unique.Handle[string] }

// NewSecret returns a Secret that holds value.
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

// String returns the redacted text, for callers that do not use fmt.
func (Secret) String() string { return redacted }

var errMarshal = errors.New("a secret must not be marshaled")

// MarshalText always fails, so that every encoder that uses it fails.
func (Secret) MarshalText() ([]byte, error) { return nil, errMarshal }

// MarshalJSON always fails.
func (Secret) MarshalJSON() ([]byte, error) { return nil, errMarshal }

// MarshalBinary always fails, so that encoding/gob fails.
func (Secret) MarshalBinary() ([]byte, error) { return nil, errMarshal }
