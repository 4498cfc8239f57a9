// Package redact removes secrets from text that drivers quote in errors, such as
// what a server or a program wrote. It removes the secrets that the caller names,
// every part of them that is long enough to help a reader, and whatever looks
// like a credential. It rather removes too much than too little.
package redact

import (
	"regexp"
	"strings"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

const (
	// Mark replaces a secret.
	Mark = "[redacted]"

	// MaxQuote is the largest number of bytes that Quote returns, without the
	// ellipsis.
	MaxQuote = 200

	// partLength is the length of the longest part of a secret that may remain.
	// It is less than the length of the token prefix that lists show.
	partLength = 7
)

var (
	// terminalControl matches the control sequences CSI and OSC, and the short
	// ones.
	terminalControl = regexp.MustCompile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)?|[@-Z\\\\^_])")

	secretShapes = regexp.MustCompile(strings.Join([]string{
		`(?s)-----BEGIN.*?(?:-----END[^-]*-----|$)`, // PEM, also without its end
		`M\.V\d+\.\S*`,                      // management token
		`apiv\d+_\S*`,                       // database token, InfluxDB 3 token
		`eyJ[\w-]+\.[\w-]*\S*`,              // JWT
		`(?i)\b(?:bearer|basic)\s+\S+`,      // credential of a header
		`://[^/\s@]*@`,                      // credentials in the URL of a proxy
		`(?i)"?access_?token"?[\s\S]*`,      // answer that holds a new token
		`(?i)"(?:token|secret)"\s*:[\s\S]*`, // the same
	}, "|"))

	longWord = regexp.MustCompile(`[\w+/=.-]{24,}`)
	upper    = regexp.MustCompile(`[A-Z]`)
	lower    = regexp.MustCompile(`[a-z]`)
	digit    = regexp.MustCompile(`[0-9]`)
)

// LooksRandom reports whether word has upper case letters, lower case letters
// and digits, as an encoded secret has.
func LooksRandom(word string) bool {
	return upper.MatchString(word) && lower.MatchString(word) && digit.MatchString(word)
}

// Plain returns text without terminal control sequences.
func Plain(text string) string { return terminalControl.ReplaceAllString(text, "") }

// Quote returns the beginning of text on one line of printable ASCII, without
// secrets and without anything that looks like one.
func Quote(text string, secrets ...issuer.Secret) string {
	text = Known(secretShapes.ReplaceAllString(printable(text), Mark), secrets...)
	text = longWord.ReplaceAllStringFunc(text, func(word string) string {
		if LooksRandom(word) {
			return Mark
		}
		return word
	})
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > MaxQuote {
		text = text[:MaxQuote] + "…"
	}
	return text
}

// Known returns text without the given secrets and without their parts that are
// longer than seven bytes.
func Known(text string, secrets ...issuer.Secret) string {
	for _, s := range secrets {
		if secret := strings.TrimSpace(printable(s.Reveal())); secret != "" {
			text = withoutParts(text, secret)
		}
	}
	return text
}

// withoutParts replaces every part of secret that is longer than partLength. A
// program may have wrapped or cut the secret where it printed it.
func withoutParts(text, secret string) string {
	length := min(partLength+1, len(secret))
	parts := map[string]bool{}
	for i := 0; i+length <= len(secret); i++ {
		parts[secret[i:i+length]] = true
	}
	var kept strings.Builder
	end := 0 // of the text that is already copied or replaced
	for i := 0; i+length <= len(text); i++ {
		if !parts[text[i:i+length]] {
			continue
		}
		if i > end || i == 0 {
			kept.WriteString(text[end:i] + Mark)
		}
		end = i + length
	}
	return kept.String() + text[end:]
}

// printable removes what is neither printable ASCII nor white space, so that no
// invisible character splits a secret.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || ' ' <= r && r <= '~':
			return r
		case r == '\r':
			return '\n'
		}
		return -1
	}, Plain(text))
}
