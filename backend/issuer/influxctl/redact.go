package influxctl

import (
	"regexp"
	"strings"
)

// maxQuote bounds what an error quotes of the program's words.
const maxQuote = 200

// redacted stands where a secret stood, or what looked like one.
const redacted = "[redacted]"

var (
	// ansi matches terminal control sequences: CSI, OSC, and the short ones.
	ansi = regexp.MustCompile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)?|[@-Z\\\\^_])")

	secretShapes = regexp.MustCompile(strings.Join([]string{
		`(?s)-----BEGIN.*?(?:-----END[^-]*-----|$)`, // PEM, cut off or not
		`M\.V\d+\.\S+`,                   // management token
		`apiv\d+_\S+`,                    // database token
		`eyJ[\w-]+\.[\w-]*(?:\.[\w-]*)?`, // JWT
		`(?i)\bbearer\s+\S+`,             // whatever was sent as one
		`://[^/\s@]+@`,                   // credentials of a proxy
	}, "|"))

	longWord = regexp.MustCompile(`[\w+/=.-]{24,}`)
	upper    = regexp.MustCompile(`[A-Z]`)
	lower    = regexp.MustCompile(`[a-z]`)
	digit    = regexp.MustCompile(`[0-9]`)
)

// plain is text without terminal control sequences.
func plain(text []byte) string { return ansi.ReplaceAllString(string(text), "") }

// quote returns the beginning of text, on one line and without secrets: not
// those given, nor anything that looks like one. It errs on the side of taking
// away too much.
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

// printable drops what is neither printable ASCII nor white space, so that no
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
	}, ansi.ReplaceAllString(text, ""))
}
