package influxctl

import (
	"strings"
	"testing"
)

func TestNothingSecretIsQuoted(t *testing.T) {
	const root, pem = "short-root", "-----BEGIN KEY-----\nAAA\n-----END KEY-----\n"
	for text, want := range map[string]string{
		"bad token M.V1.abc+/= here":                    "bad token [redacted] here",
		"M.V12.a apiv1_xyz done":                        "[redacted] [redacted] done",
		"jwt eyJhbGciOi.eyJz-dWI_.c2ln, done":           "jwt [redacted], done",
		"root short-root!":                              "root [redacted]!",
		"key: " + pem + "after":                         "key: [redacted] after",
		"key: -----BEGIN KEY-----\nAAA":                 "key: [redacted]",
		"word abcdefABCDEF0123456789abcd end":           "word [redacted] end",
		"Authorization: Bearer abc":                     "Authorization: [redacted]",
		"http://user:pass@proxy:3128":                   "http[redacted]proxy:3128",
		"M.V1.sec\x1b[1mret\x1b[0m\u200btail":           "[redacted]",
		"M.V1.sec\x00\x07ret":                           "[redacted]",
		"short\u00ad-root":                              "[redacted]",
		"cut off: ort-root":                             "cut off: [redacted]",
		"cut off: rt-root":                              "cut off: rt-root",
		"wrapped: short-ro\nhort-root":                  "wrapped: [redacted] [redacted]",
		"AAA\n-----END KEY":                             "[redacted]",
		"two\r\nlines\tand more":                        "two lines and more",
		"id 0b0e5c7e-7a0b-4a53-9d0e-1f1c2d3e4f50 stays": "id 0b0e5c7e-7a0b-4a53-9d0e-1f1c2d3e4f50 stays",
		"":                                       "",
		strings.Repeat("ab ", 99):                strings.Repeat("ab ", 66) + "ab…",
		strings.Repeat("x ", 99) + "M.V1.secret": strings.TrimSuffix(strings.Repeat("x ", 100), "x ") + "[r…",
	} {
		if got := quote(text, root, pem, ""); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// Wherever a secret stands, whatever is around it, and wherever it is broken,
// no part of it that says anything is quoted.
func FuzzQuote(f *testing.F) {
	const root = "M.V1.+5Jkq0abcDEFghi/rest1234XyZ98765pqrSTUvwx+0OnLmKj=="
	for _, c := range []struct {
		before, between, after string
		at                     int
	}{
		{"token ", "", " refused", 0}, {"\x1b[", "\x1b[1m", "\x1b[0m", 30}, {"\x1b]", "\n", "", 20}, {"-----BEGIN ", "\r\n| ", "", 40},
		{"://", "@", "@", 33}, {"eyJ", ".", "\xff", 9}, {"apiv1_", "\u200b", "M.V1.", 50}, {"short", " ", "[redacted]", 10},
	} {
		f.Add(c.before, c.between, c.after, c.at)
	}
	f.Fuzz(func(t *testing.T, before, between, after string, at int) {
		if at < 0 || at > len(root) {
			return
		}
		got := quote(before+root[:at]+between+root[at:]+after, root)
		for i := 0; i+partLength < len(root); i++ {
			if part := root[i : i+partLength+1]; strings.Contains(got, part) {
				t.Errorf("%q quotes %q", got, part)
			}
		}
		if len(got) > maxQuote+len("…") || printable(strings.TrimSuffix(got, "…")) != strings.TrimSuffix(got, "…") {
			t.Errorf("%q is too long, or cannot be printed", got)
		}
	})
}
