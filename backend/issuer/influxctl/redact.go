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
	text = withoutAll(secretShapes.ReplaceAllString(printable(text), redacted), secrets)
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

// partLength is how long a part of a secret may be and still be quoted. It is
// less than the prefix that lists show.
const partLength = 7

// withoutAll is without for every secret.
func withoutAll(text string, secrets []string) string {
	for _, s := range secrets {
		if s = strings.TrimSpace(printable(s)); s != "" {
			text = without(text, s)
		}
	}
	return text
}

// without takes secret out of text, and every part of it that is longer than
// partLength: a secret may be wrapped, or cut, where it is printed.
func without(text, secret string) string {
	length := min(partLength+1, len(secret))
	parts := map[string]bool{}
	for i := 0; i+length <= len(secret); i++ {
		parts[secret[i:i+length]] = true
	}
	var kept strings.Builder
	end := 0 // of what is dealt with
	for i := 0; i+length <= len(text); i++ {
		if !parts[text[i:i+length]] {
			continue
		}
		if i > end || i == 0 {
			kept.WriteString(text[end:i] + redacted)
		}
		end = i + length
	}
	return kept.String() + text[end:]
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
