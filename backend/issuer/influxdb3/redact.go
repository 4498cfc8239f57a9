package influxdb3

import (
	"regexp"
	"strings"
)

// maxQuote bounds what an error quotes of the server's text.
const maxQuote = 200

// redacted replaces a secret, and what looks like one.
const redacted = "[redacted]"

var (
	secretShapes = regexp.MustCompile(strings.Join([]string{
		`apiv\d+_\S*`,          // token
		`M\.V\d+\.\S*`,         // management token of another product
		`eyJ[\w-]+\.[\w-]*\S*`, // JWT
		`(?i)\bbearer\s+\S+`,
		`-----BEGIN[\s\S]*`,         // PEM
		`://[^/\s@]*@`,              // credentials of a proxy
		`(?i)"token"\s*:\s*[\s\S]*`, // an answer to a create
	}, "|"))

	longWord = regexp.MustCompile(`[\w+/=.-]{24,}`)
	upper    = regexp.MustCompile(`[A-Z]`)
	lower    = regexp.MustCompile(`[a-z]`)
	digit    = regexp.MustCompile(`[0-9]`)
)

// quote returns the beginning of text on one line of printable ASCII and without
// secrets: neither those given nor anything that looks like one. It may remove
// too much.
func quote(text string, secrets ...string) string {
	text = printable(text)
	for _, s := range secrets {
		if s = strings.TrimSpace(printable(s)); s != "" {
			text = strings.ReplaceAll(text, s, redacted)
		}
	}
	text = secretShapes.ReplaceAllString(text, redacted)
	text = longWord.ReplaceAllStringFunc(text, func(word string) string {
		if upper.MatchString(word) && lower.MatchString(word) && digit.MatchString(word) {
			return redacted
		}
		return word
	})
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxQuote {
		text = text[:maxQuote] + "…"
	}
	return text
}

// printable drops what no message needs, so that no invisible character splits a
// secret.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || ' ' <= r && r <= '~' {
			return r
		}
		return -1
	}, text)
}
