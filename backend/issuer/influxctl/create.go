package influxctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/redact"
)

// The output of `management create` is documented in part and differs between
// versions (docs/vendor-facts.md, "create-output"): a bare token with two
// warnings; a table before it; with --format json, for which there is no sample,
// presumably an entry of the list with the secret in it or beside it. All forms
// are accepted, also mixed, from standard output or else from standard error.

var (
	errNoToken    = errors.New("the answer holds no token")
	errManyTokens = errors.New("the answer holds more than one token")
)

const (
	// prefixLength is the length of the token prefix that lists show, which has
	// the form of a token: docs/vendor-facts.md, "token-form".
	prefixLength = 9

	// maxValues limits how often the decoder tries to read JSON in one answer.
	maxValues = 64
)

var (
	managementToken = regexp.MustCompile(`^M\.V\d+\.[\w+/=.-]+$`)

	// futureToken matches a token of another form, if nothing else in the answer
	// is a token: one long word of base64 that looks random, see mayBeToken.
	futureToken = regexp.MustCompile(`^[\w+/=.-]{32,}$`)

	uuid = regexp.MustCompile(`^[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$`)

	// idRow matches the row of a table that shows the ID, whatever characters
	// draw the table.
	idRow = regexp.MustCompile(`(?im)^[^\w\n]*id[^\w\n]+([0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12})[^\w\n]*$`)

	// expiryRow matches the row of a table that shows the expiry.
	expiryRow = regexp.MustCompile(`(?i)^\W*expires[ _]at\W+(\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d))\W*$`)

	// logLine matches the beginning of the program's log lines.
	logLine = regexp.MustCompile(`(?i)^\W*(?:trace|debug|info|warn|warning|error)\b`)

	secretKeys = []string{"token", "access_token", "accessToken", "token_string", "tokenString", "secret", "management_token", "managementToken"}
	prefixKeys = []string{"token_prefix", "tokenPrefix", "prefix"}
	idKeys     = []string{"id", "token_id", "tokenId"}
	expiryKeys = []string{"expires_at", "expiresAt"}

	// entryKeys are keys of an object that describes a token.
	entryKeys = slices.Concat(secretKeys, prefixKeys, expiryKeys, []string{"description", "created_at", "createdAt"})
)

// A createdToken is a token that was created.
type createdToken struct {
	issuer.Token
	expiries []time.Time // that the answer shows and that can be read, and that of the list; zero: never
}

// checkExpiry returns an error if the answer or the list shows another expiry than the
// requested one. A lease could end after a token that expires earlier, and nothing
// would end a token that never expires if it cannot be revoked.
func (t createdToken) checkExpiry(r issuer.Request) error {
	for _, at := range t.expiries {
		switch {
		case r.ExpiresAt.IsZero() || at.Sub(r.ExpiresAt).Abs() <= time.Second:
			continue
		case at.IsZero():
			return errors.New("it created a token that never expires: install a newer influxctl")
		}
		return fmt.Errorf("it created a token that expires at %s instead of %s: if the cluster limits the life of tokens, choose a shorter max_ttl (rotation_period of a static role, rotation_ttl of the root credential)",
			at.UTC().Format(time.RFC3339), r.ExpiresAt.UTC().Format(time.RFC3339))
	}
	return nil
}

// decodeCreate returns the token that was created. The ID is empty if the answer
// holds none, or more than one. An error never quotes the answer.
func decodeCreate(stdout, stderr []byte) (createdToken, error) {
	for _, text := range []string{redact.Plain(string(stdout)), redact.Plain(string(stderr))} {
		a := readAnswer(strings.ReplaceAll(text, "\r", "\n"))
		secret, err := a.secret()
		if errors.Is(err, errNoToken) {
			continue
		}
		if err != nil {
			return createdToken{}, err
		}
		return createdToken{issuer.Token{ID: a.id(), Secret: issuer.NewSecret(secret)}, a.expiries}, nil
	}
	return createdToken{}, errNoToken
}

// An answer is what the output of create holds.
type answer struct {
	tokens []string // in the form of a management token, or of its prefix
	others []string // that may be tokens of another form
	ids    []string

	expiries []time.Time
}

// readAnswer reads JSON values and the lines of text between them.
func readAnswer(text string) *answer {
	a := &answer{}
	for attempts := 0; text != ""; {
		text = strings.TrimLeft(text, " \t\n")
		if attempts < maxValues && strings.IndexAny(text, `{["`) == 0 {
			attempts++
			if value, rest, ok := cutJSON(text); ok {
				a.addValue("", value)
				text = rest
				continue
			}
		}
		var line string
		line, text, _ = strings.Cut(text, "\n")
		a.addLine(strings.TrimSpace(line))
	}
	return a
}

// cutJSON decodes the JSON value at the beginning of text.
func cutJSON(text string) (value any, rest string, ok bool) {
	decoder := json.NewDecoder(strings.NewReader(text))
	if err := decoder.Decode(&value); err != nil {
		return nil, text, false
	}
	return value, text[decoder.InputOffset():], true
}

// addLine adds a line of text: the row of a table with the ID or the expiry, or a
// token alone.
func (a *answer) addLine(line string) {
	expiry := expiryRow.FindStringSubmatch(line)
	switch m := idRow.FindStringSubmatch(line); {
	case m != nil:
		a.ids = append(a.ids, m[1])
	case expiry != nil:
		a.addExpiry(expiry[1])
	case !logLine.MatchString(line):
		a.addString(line)
	}
}

// addString adds a string that may be a token.
func (a *answer) addString(s string) {
	switch {
	case managementToken.MatchString(s):
		a.tokens = append(a.tokens, s)
	case mayBeToken(s):
		a.others = append(a.others, s)
	}
}

// addValue adds the tokens and IDs in a JSON value, which belongs to key.
func (a *answer) addValue(key string, value any) {
	switch value := value.(type) {
	case string:
		if key == "" || slices.Contains(secretKeys, key) {
			a.addString(value)
		} else if managementToken.MatchString(value) && key != "description" && !slices.Contains(prefixKeys, key) {
			a.tokens = append(a.tokens, value)
		}
	case []any:
		for _, v := range value {
			a.addValue(key, v)
		}
	case map[string]any:
		a.addEntry(value)
		for k, v := range value {
			a.addValue(k, v)
		}
	}
}

// addExpiry adds a time in one of the forms of a list. It ignores one that is not set
// or cannot be read.
func (a *answer) addExpiry(value any) {
	text, err := json.Marshal(value)
	var t timestamp
	if err == nil && t.UnmarshalJSON(text) == nil && t != (timestamp{}) {
		a.expiries = append(a.expiries, t.time())
	}
}

// addEntry adds the ID and the expiry of an object that describes a token.
func (a *answer) addEntry(object map[string]any) {
	if !slices.ContainsFunc(entryKeys, func(key string) bool { _, ok := object[key]; return ok }) {
		return
	}
	for _, key := range idKeys {
		if id, ok := object[key].(string); ok && uuid.MatchString(id) {
			a.ids = append(a.ids, id)
		}
	}
	for _, key := range expiryKeys {
		a.addExpiry(object[key])
	}
}

// secret returns the only token in the answer.
func (a *answer) secret() (string, error) {
	found := longest(a.tokens)
	if len(found) == 0 {
		found = longest(a.others)
	}
	switch len(found) {
	case 0:
		return "", errNoToken
	case 1:
		return found[0], nil
	}
	return "", errManyTokens
}

// id returns the only ID in the answer, or nothing.
func (a *answer) id() string {
	slices.Sort(a.ids)
	if ids := slices.Compact(a.ids); len(ids) == 1 {
		return ids[0]
	}
	return ""
}

// longest removes repetitions, beginnings of other tokens, and what is not longer
// than a prefix.
func longest(tokens []string) []string {
	slices.Sort(tokens)
	tokens = slices.Compact(tokens)
	var kept []string
	for i, t := range tokens { // sorted: a token that begins with t follows t
		continued := i+1 < len(tokens) && strings.HasPrefix(tokens[i+1], t)
		if !continued && len(t) > prefixLength {
			kept = append(kept, t)
		}
	}
	return kept
}

// mayBeToken reports whether s may be a token of a form that is not known yet.
func mayBeToken(s string) bool {
	return futureToken.MatchString(s) && !uuid.MatchString(s) && redact.LooksRandom(s)
}
