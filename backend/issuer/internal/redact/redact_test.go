package redact

import (
	"strings"
	"testing"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

func TestQuote_RemovesSecrets(t *testing.T) {
	const pem = "-----BEGIN KEY-----\nAAA\n-----END KEY-----\n"
	root, key := issuer.NewSecret("short-root"), issuer.NewSecret(pem)
	for text, want := range map[string]string{
		"bad token M.V1.abc+/= here":                    "bad token [redacted] here",
		"M.V12.a apiv1_xyz done":                        "[redacted] [redacted] done",
		"M.V1. apiv3_ cut":                              "[redacted] [redacted] cut",
		"jwt eyJhbGciOi.eyJz-dWI_.c2ln done":            "jwt [redacted] done",
		"root short-root!":                              "root [redacted]!",
		"key: " + pem + "after":                         "key: [redacted] after",
		"key: -----BEGIN KEY-----\nAAA":                 "key: [redacted]",
		"word abcdefABCDEF0123456789abcd end":           "word [redacted] end",
		"Authorization: Bearer abc":                     "Authorization: [redacted]",
		"Authorization: Basic abc":                      "Authorization: [redacted]",
		"http://user:pass@proxy:3128":                   "http[redacted]proxy:3128",
		`made {"id":"a","accessToken":"plain"}`:         `made {"id":"a",[redacted]`,
		`made {"id":1, "token" : "plain", "name":"n"}`:  `made {"id":1, [redacted]`,
		"M.V1.sec\x1b[1mret\x1b[0m\u200btail":           "[redacted]",
		"M.V1.sec\x00\x07ret":                           "[redacted]",
		"short\u00ad-root":                              "[redacted]",
		"cut off: ort-root":                             "cut off: [redacted]",
		"cut off: rt-root":                              "cut off: rt-root",
		"wrapped: short-ro\nhort-root":                  "wrapped: [redacted] [redacted]",
		"AAA\n-----END KEY":                             "[redacted]",
		"two\r\nlines\tand more":                        "two lines and more",
		"id 0b0e5c7e-7a0b-4a53-9d0e-1f1c2d3e4f50 stays": "id 0b0e5c7e-7a0b-4a53-9d0e-1f1c2d3e4f50 stays",
		"the token is not known":                        "the token is not known",
		"":                                              "",
		strings.Repeat("ab ", 99):                       strings.Repeat("ab ", 66) + "ab…",
		strings.Repeat("x ", 99) + "M.V1.secret":        strings.TrimSuffix(strings.Repeat("x ", 100), "x ") + "[r…",
	} {
		if got := Quote(text, root, key, issuer.Secret{}); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// Wherever a secret is, whatever is around it, and wherever it is broken, no
// part of it that is longer than partLength remains.
func FuzzQuote(f *testing.F) {
	const root = "M.V1.+5Jkq0abcDEFghi/rest1234XyZ98765pqrSTUvwx+0OnLmKj=="
	for _, c := range []struct {
		before, between, after string
		at                     int
	}{
		{"token ", "", " refused", 0}, {"\x1b[", "\x1b[1m", "\x1b[0m", 30}, {"\x1b]", "\n", "", 20}, {"-----BEGIN ", "\r\n| ", "", 40},
		{"://", "@", "@", 33}, {"eyJ", ".", "\xff", 9}, {"apiv1_", "\u200b", "M.V1.", 50}, {"short", " ", "[redacted]", 10},
		{"Bearer ", "\u200b", " was not accepted", 3}, {"\x00", "", "\u200b", 9},
	} {
		f.Add(c.before, c.between, c.after, c.at)
	}
	f.Fuzz(func(t *testing.T, before, between, after string, at int) {
		if at < 0 || at > len(root) {
			return
		}
		got := Quote(before+root[:at]+between+root[at:]+after, issuer.NewSecret(root))
		for i := 0; i+partLength < len(root); i++ {
			if part := root[i : i+partLength+1]; strings.Contains(got, part) {
				t.Errorf("%q quotes %q", got, part)
			}
		}
		if len(got) > MaxQuote+len("…") || printable(strings.TrimSuffix(got, "…")) != strings.TrimSuffix(got, "…") {
			t.Errorf("%q is too long, or cannot be printed", got)
		}
	})
}

// A credential that nobody named is removed because of its form.
func FuzzQuote_UnnamedToken(f *testing.F) {
	f.Add("Bearer ", " was not accepted", 3)
	f.Add("\x00", "\u200b", 9)
	f.Fuzz(func(t *testing.T, before, after string, split int) {
		const secret = "apiv1_5Ecr3t/5Ecr3t+5Ecr3t="
		at := min(max(split, 0), len(secret))
		for _, text := range []string{before + secret + after, before + secret[:at] + "\u200b" + secret[at:] + after} {
			if got := Quote(text); strings.Contains(got, "5Ecr3t") && !strings.Contains(before+after, "5Ecr3t") {
				t.Errorf("%q", got)
			}
		}
	})
}
