package influxctl

import (
	"errors"
	"strings"
	"testing"
)

const (
	id       = "0b0e5c7e-7a0b-4a53-9d0e-1f1c2d3e4f50"
	other    = "1b0e5c7e-7a0b-4a53-9d0e-1f1c2d3e4f51"
	secret   = "M.V1.+5Jkq0abcDEF/ghi=rest1234"
	warnings = "warn\tplease copy the token and store in a safe place\nwarn\tthis is the *only time* you will see the token\n"
	table    = `+-------------+--------------------------------------+
|          id | ` + id + ` |
| description | [vault:0123:accessor] ` + other + ` |
|  expires at | 2026-01-02T03:04:05Z                 |
|  revoked at |                                      |
+-------------+--------------------------------------+
`
	entryJSON = `"id":"` + id + `","account_id":"` + other + `","token_prefix":"M.V1.+5Jk","expires_at":{"seconds":1767323045},"description":"M.V1.in+a+description+1234","created_by":"` + other + `"`
)

func TestDecodeCreate_AcceptsAllForms(t *testing.T) {
	for name, c := range map[string]struct{ stdout, stderr, id string }{
		"bare, before 2.11":        {secret + "\n", warnings, ""},
		"table, since 2.11":        {table + secret + "\n", warnings, id},
		"table of line characters": {strings.NewReplacer("|", "│", "+-", "├─", "-", "─", "│ id", "│ ID").Replace("|  id | ") + id + " │\n" + secret, "", id},
		"warnings after the table": {table + warnings + secret, "", id},
		"carriage returns":         {strings.ReplaceAll(table+secret+"\n", "\n", "\r\n"), "", id},
		"colours":                  {"\x1b[33mwarn\x1b[0m\tcopy\n\x1b]0;title\x07\x1b[1m" + secret + "\x1b[0m\n", "", ""},
		"(a) flat":                 {`{` + entryJSON + `,"token":"` + secret + `"}`, "", id},
		"(a) access_token":         {`{` + entryJSON + `,"access_token":"` + secret + `"}`, "", id},
		"(a) unknown key":          {`{` + entryJSON + `,"key_material":"` + secret + `"}`, "", id},
		"(a) token_id":             {`{"token_id":"` + id + `","token":"` + secret + `"}`, "", id},
		"(a) no id":                {`{"token":"` + secret + `"}`, "", ""},
		"(b) wrapped":              {`{"token":{` + entryJSON + `},"secret":"` + secret + `"}`, "", id},
		"(b) with an account":      {`{"account":{"id":"` + other + `"},"token":{` + entryJSON + `},"secret":"` + secret + `"}`, "", id},
		"(c) array":                {`[{` + entryJSON + `,"token":"` + secret + `"}]`, "", id},
		"(d) camel":                {`{"id":"` + id + `","tokenPrefix":"M.V1.+5Jk","expiresAt":"2026-01-02T03:04:05Z","accessToken":"` + secret + `"}`, "", id},
		"(d) tokenId":              {`{"tokenId":"` + id + `","accessToken":"` + secret + `"}`, "", id},
		"(e) string":               {`"` + secret + `"`, "", ""},
		"(f) JSON, then token":     {`{` + entryJSON + "}\n" + secret + "\n", warnings, id},
		"(f) table, then JSON":     {table + `{"token":"` + secret + `"}`, warnings, id},
		"(f) all":                  {warnings + `{` + entryJSON + `,"token":"` + secret + `"}` + "\n" + table + secret + "\n", "", id},
		"a log in JSON":            {`{"level":"warn","msg":"copy the token"}` + "\n" + `{` + entryJSON + `,"token":"` + secret + `"}`, "", id},
		"a log in brackets":        {"[WARN] copy the token\n" + secret, "", ""},
		"pretty":                   {"{\n  \"id\": \"" + id + "\",\n  \"token\": \"" + secret + "\"\n}\n", "", id},
		"on standard error":        {"", warnings + secret + "\n", ""},
		"JSON on standard error":   {"\n", warnings + `{` + entryJSON + `,"token":"` + secret + `"}`, id},
		"two ids":                  {`{` + entryJSON + `,"token":"` + secret + `","token_id":"` + other + `"}`, "", ""},
		"an id that is no UUID":    {`{"id":"17","token":"` + secret + `"}`, "", ""},
	} {
		got, err := decodeCreate([]byte(c.stdout), []byte(c.stderr))
		if err != nil || got.Secret.Reveal() != secret || got.ID != c.id {
			t.Errorf("%s: id %q, right secret: %v, error %v", name, got.ID, got.Secret.Reveal() == secret, err)
		}
	}
}

func TestDecodeCreate_TokenOfAnotherForm(t *testing.T) {
	for _, future := range []string{"N.W2_abcDEF123abcDEF123abcDEF123abc=", "M.V27.abcDEF1234"} {
		for _, stdout := range []string{
			warnings + future + "\n",
			table + future,
			`{` + entryJSON + `,"token":"` + future + `"}`,
			`"` + future + `"`,
		} {
			got, err := decodeCreate([]byte(stdout), nil)
			if err != nil || got.Secret.Reveal() != future {
				t.Errorf("%s: %v", stdout, err)
			}
		}
	}
}

func TestDecodeCreate_NeedsExactlyOneToken(t *testing.T) {
	for name, c := range map[string]struct {
		stdout, stderr string
		want           error
	}{
		"nothing":       {"", "", errNoToken},
		"warnings":      {"", warnings, errNoToken},
		"null":          {"null\n", "", errNoToken},
		"table only":    {table, warnings, errNoToken},
		"entry only":    {`{` + entryJSON + `}`, "", errNoToken},
		"prefix only":   {"M.V1.+5Jk\n", "", errNoToken},
		"HTML":          {"<html><head><title>502</title></head>\n<body>Bad-Gateway-0123456789abcdefABCDEF</body></html>", "", errNoToken},
		"a UUID":        {id + "\n", "", errNoToken},
		"in a sentence": {"your token is " + secret + " keep it", "", errNoToken},
		"two tokens":    {secret + "\n" + "M.V1.another1234567890\n", "", errManyTokens},
		"two in JSON":   {`[{"token":"` + secret + `"},{"token":"M.V1.another1234567890"}]`, "", errManyTokens},
		"JSON and text": {`{"token":"` + secret + `"}` + "\nM.V1.another1234567890", "", errManyTokens},
		"broken JSON":   {`{"token":"` + secret, "", errNoToken},
	} {
		if got, err := decodeCreate([]byte(c.stdout), []byte(c.stderr)); !errors.Is(err, c.want) || got.ID != "" || !got.Secret.IsZero() {
			t.Errorf("%s: id %q, error %v", name, got.ID, err)
		}
	}
}

func FuzzDecodeCreate(f *testing.F) {
	f.Add([]byte(table+secret), []byte(warnings))
	f.Add([]byte(`{`+entryJSON+`,"token":"`+secret+`"}`), []byte{})
	f.Add([]byte("[WARN]\n[[[\""), []byte(secret))
	f.Fuzz(func(t *testing.T, stdout, stderr []byte) {
		token, err := decodeCreate(stdout, stderr)
		if (err == nil) == token.Secret.IsZero() {
			t.Errorf("secret empty: %v, error %v", token.Secret.IsZero(), err)
		}
		if err != nil && !errors.Is(err, errNoToken) && !errors.Is(err, errManyTokens) {
			t.Errorf("another error, which may quote the output: %v", err)
		}
		if token.ID != "" && !uuid.MatchString(token.ID) {
			t.Errorf("id %q", token.ID)
		}
	})
}
