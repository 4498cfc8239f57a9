//go:build linux

package influxctl

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/redact"
)

// A fact is something that no document tells of a cluster or its program. The
// driver works either way; who runs it on a real cluster learns here which way
// it is.
type fact struct {
	question string
	settle   func(*inquiry) (string, error)
}

var facts = []fact{
	{"what `influxctl version` prints", (*inquiry).version},
	{"may a management token mint others", (*inquiry).mints},
	{"what create prints with --format json", (*inquiry).createJSON},
	{"what create prints as a table", (*inquiry).createTable},
	{"how long a token is, how its prefix is cut", (*inquiry).tokenForm},
	{"what an entry of the list looks like", (*inquiry).entryShape},
	{"in what order tokens are listed", (*inquiry).order},
	{"who is said to have made a token that a token made", (*inquiry).maker},
	{"are descriptions kept, up to 100 characters", func(q *inquiry) (string, error) { return q.echo(100, "") }},
	{"are descriptions kept, of 300 characters", func(q *inquiry) (string, error) { return q.echo(300, "") }},
	{"are descriptions kept, beyond ASCII", func(q *inquiry) (string, error) { return q.echo(90, "größer") }},
	{"is the expiry kept to the second", (*inquiry).expiry},
	{"what an expiry in the past does", (*inquiry).past},
	{"how far the clocks are apart", (*inquiry).clock},
	{"when a fresh token is listed", (*inquiry).listed},
	{"when a fresh token is accepted", (*inquiry).accepted},
	{"when a revoked token is refused", (*inquiry).refused},
	{"what revoke says", (*inquiry).revoke},
	{"what revoking a second time says", (*inquiry).revokeTwice},
	{"what revoking an unknown id says", (*inquiry).revokeUnknown},
	{"what revoking a known and an unknown id does", (*inquiry).revokeBoth},
	{"may a token revoke itself", (*inquiry).revokeItself},
	{"is a revoked token still listed", (*inquiry).keepsRevoked},
	{"what a refused root token says", (*inquiry).badRoot},
}

// TestFactsOfTheClusterAtHand asks it, and prints what it answers.
func TestFactsOfTheClusterAtHand(t *testing.T) {
	q := newInquiry(t)
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	settled := 0
	for _, f := range facts {
		answer, err := f.settle(q)
		if err != nil {
			answer = "NOT SETTLED: " + redact.Quote(err.Error(), q.where.Root)
		} else {
			settled++
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\n", f.question, answer)
	}
	_ = table.Flush()
	if strings.Contains(text.String(), q.where.Root.Reveal()) || strings.Contains(text.String(), "M.V1.") {
		t.Fatal("the answers hold a token, and are not shown")
	}
	t.Logf("asked was %s\n%s%d of %d questions settled", q.name, text.String(), settled, len(facts))
	if !q.real && settled < len(facts) {
		t.Error("the simulator leaves questions open")
	}
}

// An inquiry asks one cluster, and leaves no token behind that it made.
type inquiry struct {
	*subject
	mark string // in the description of every token
	made int
}

func newInquiry(t *testing.T) *inquiry {
	q := &inquiry{subject: atHand(t), mark: "[conformance:" + rand.Text() + "]"}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		var ids []string
		err := q.issuer().List(ctx, func(info issuer.Info) error {
			if strings.HasPrefix(info.Description, q.mark) && !info.Dead(time.Now()) {
				ids = append(ids, info.ID)
			}
			return nil
		})
		if failed := q.issuer().Revoke(ctx, ids...); err != nil || len(failed) > 0 {
			t.Errorf("tokens described as %s may be alive: %v, %v", q.mark, err, failed)
		}
	})
	return q
}

func (q *inquiry) issuer() issuer.Issuer { return q.driver.Open(q.where) }

func (q *inquiry) describe() string {
	q.made++
	return fmt.Sprintf("%s %d", q.mark, q.made)
}

func soon() time.Time { return time.Now().Add(10 * time.Minute).Truncate(time.Second) }

func (q *inquiry) mint() (issuer.Token, error) {
	return q.issuer().Issue(q.Context(), issuer.Request{Description: q.describe(), ExpiresAt: soon()})
}

// A said is what one run of the program said.
type said struct {
	stdout, stderr string
	exit           int
}

// String tells of a run without its tokens.
func (s said) String() string {
	return fmt.Sprintf("exit status %d, output %q, errors %q", s.exit, redact.Quote(s.stdout), redact.Quote(s.stderr))
}

// run runs the program as the driver does, and returns what it said, unread.
func (q *inquiry) run(c issuer.Cluster, verb string, args ...string) (said, error) {
	_, img, err := q.driver.program.verified(q.Context())
	if err != nil {
		return said{}, err
	}
	home, err := q.driver.scratch.make()
	if err != nil {
		return said{}, err
	}
	defer discard(home)
	profile, err := writeProfile(home, c)
	if err != nil {
		return said{}, err
	}
	words := managementArgs(profile, c.Timeout, verb, args...)
	if verb == "version" {
		words = versionArgs
	}
	var stdout bytes.Buffer
	out, err := q.driver.launcher.run(q.Context(), job{image: img, args: words, home: home, read: func(r io.Reader) error {
		_, err := io.Copy(&stdout, r)
		return err
	}})
	if err != nil {
		return said{}, err
	}
	return said{redact.Plain(stdout.String()), redact.Plain(out.stderr), out.exit()}, nil
}

func (q *inquiry) version() (string, error) {
	got, err := q.run(q.where, "version")
	return got.String(), err
}

func (q *inquiry) mints() (string, error) {
	got, err := q.run(q.where, "create", createArgs(issuer.Request{Description: q.describe(), ExpiresAt: soon()})...)
	if err != nil || got.exit == 0 {
		return "yes", err
	}
	return "no: " + got.String(), nil
}

// createJSON shows the form of the answer, and of what stands beside it.
func (q *inquiry) createJSON() (string, error) {
	got, err := q.run(q.where, "create", createArgs(issuer.Request{Description: q.describe(), ExpiresAt: soon()})...)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("exit status %d, output %s, errors %q", got.exit, form(got.stdout), redact.Quote(got.stderr)), nil
}

func (q *inquiry) createTable() (string, error) {
	args := createArgs(issuer.Request{Description: q.describe(), ExpiresAt: soon()})
	got, err := q.run(q.where, "create", args[:len(args)-2]...) // without --format json
	return got.String(), err
}

func (q *inquiry) tokenForm() (string, error) {
	token, err := q.mint()
	if err != nil {
		return "", err
	}
	info, err := q.find(token.ID)
	return fmt.Sprintf("%d characters, the prefix has %d and is its beginning: %v", len(token.Secret.Reveal()), len(info.Prefix),
		strings.HasPrefix(token.Secret.Reveal(), info.Prefix)), err
}

var errNotListed = errors.New("not listed")

// find returns what the list says of a token.
func (q *inquiry) find(id string) (found issuer.Info, err error) {
	err = q.issuer().List(q.Context(), func(info issuer.Info) error {
		if info.ID == id {
			found = info
		}
		return nil
	})
	if err == nil && found.ID == "" {
		err = errNotListed
	}
	return found, err
}

// entries is the list as the program prints it.
func (q *inquiry) entries() ([]map[string]any, error) {
	got, err := q.run(q.where, "list", listArgs()...)
	if err != nil {
		return nil, err
	}
	var entries []map[string]any
	if err := json.Unmarshal([]byte(got.stdout), &entries); err != nil {
		return nil, fmt.Errorf("the list is not an array and nothing else, but %s", form(got.stdout))
	}
	return entries, nil
}

// entryShape shows the forms of all entries, each once.
func (q *inquiry) entryShape() (string, error) {
	entries, err := q.entries()
	forms := map[string]bool{}
	for _, e := range entries {
		forms[shape(e)] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(forms)), " or "), err
}

func (q *inquiry) order() (string, error) {
	var moments []time.Time
	err := q.issuer().List(q.Context(), func(info issuer.Info) error {
		moments = append(moments, info.CreatedAt)
		return nil
	})
	back := slices.Clone(moments)
	slices.Reverse(back)
	switch {
	case len(moments) < 2:
		return "", firstOf(err, errors.New("there is but one token"))
	case slices.IsSortedFunc(moments, time.Time.Compare):
		return "the oldest first", err
	case slices.IsSortedFunc(back, time.Time.Compare):
		return "the newest first", err
	}
	return "not by age", err
}

// firstOf is the first of errs that is one.
func firstOf(errs ...error) error {
	return errs[slices.IndexFunc(errs, func(err error) bool { return err != nil })]
}

func (q *inquiry) maker() (string, error) {
	entries, err := q.entries()
	makers := map[string]int{}
	for _, e := range entries {
		description, _ := e["description"].(string)
		if strings.HasPrefix(description, q.mark) {
			makers[fmt.Sprint(e["created_by"])]++
		}
	}
	if len(makers) > 0 && err == nil {
		return fmt.Sprintf("created_by is %q", slices.Sorted(maps.Keys(makers))), nil
	}
	return "", firstOf(err, errNotListed)
}

// echo asks for a description of a length, with some text at its end.
func (q *inquiry) echo(length int, end string) (string, error) {
	want := q.describe() + " \"quoted\" <&> "
	want += strings.Repeat("x", length-len(want)) + end
	token, err := q.issuer().Issue(q.Context(), issuer.Request{Description: want, ExpiresAt: soon()})
	if errors.Is(err, issuer.ErrRefused) {
		return "refused: " + err.Error(), nil
	}
	if err != nil {
		return "", err
	}
	info, err := q.find(token.ID)
	if info.Description == want {
		return "yes", err
	}
	return fmt.Sprintf("no: %d bytes came back as %q", len(want), info.Description), err
}

func (q *inquiry) expiry() (string, error) {
	want := soon()
	token, err := q.issuer().Issue(q.Context(), issuer.Request{Description: q.describe(), ExpiresAt: want})
	if err != nil {
		return "", err
	}
	info, err := q.find(token.ID)
	if info.ExpiresAt.Equal(want) {
		return "yes", err
	}
	return fmt.Sprintf("no: it is off by %s", info.ExpiresAt.Sub(want)), err
}

func (q *inquiry) past() (string, error) {
	got, err := q.run(q.where, "create", createArgs(issuer.Request{Description: q.describe(), ExpiresAt: time.Now().Add(-time.Hour)})...)
	return got.String(), err
}

func (q *inquiry) clock() (string, error) {
	before := time.Now()
	token, err := q.mint()
	if err != nil {
		return "", err
	}
	after := time.Now()
	info, err := q.find(token.ID)
	return fmt.Sprintf("between %s and %s", info.CreatedAt.Sub(after).Round(time.Millisecond), info.CreatedAt.Sub(before).Round(time.Millisecond)), err
}

// patience is how long a change of a token may take to be seen.
const patience = 2 * time.Minute

// until asks again and again, and says after what time the answer was yes.
func (q *inquiry) until(yes func() (bool, error)) (string, error) {
	began := time.Now()
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		switch ok, err := yes(); {
		case err != nil:
			return "", err
		case ok:
			return fmt.Sprintf("after %s at the latest", time.Since(began).Round(time.Millisecond)), nil
		case time.Since(began) > patience:
			return fmt.Sprintf("not within %s", patience), nil
		}
		select {
		case <-q.Context().Done():
			return "", q.Context().Err()
		case <-time.After(pause):
		}
	}
}

func (q *inquiry) listed() (string, error) {
	token, err := q.mint()
	if err != nil {
		return "", err
	}
	return q.until(func() (bool, error) {
		_, err := q.find(token.ID)
		if errors.Is(err, errNotListed) {
			return false, nil
		}
		return err == nil, err
	})
}

// accepts reports whether a token may list tokens.
func (q *inquiry) accepts(token issuer.Token) (bool, error) {
	where := q.where
	where.Root = token.Secret
	err := q.driver.Open(where).List(q.Context(), func(issuer.Info) error { return nil })
	if errors.Is(err, issuer.ErrUnauthorized) {
		return false, nil
	}
	return err == nil, err
}

func (q *inquiry) accepted() (string, error) {
	token, err := q.mint()
	if err != nil {
		return "", err
	}
	return q.until(func() (bool, error) { return q.accepts(token) })
}

func (q *inquiry) refused() (string, error) {
	token, err := q.mint()
	if err != nil {
		return "", err
	}
	if err := q.issuer().Revoke(q.Context(), token.ID)[token.ID]; err != nil {
		return "", err
	}
	return q.until(func() (bool, error) {
		ok, err := q.accepts(token)
		return !ok, err
	})
}

// revokeOf mints a token and returns what its revocations say, n of them.
func (q *inquiry) revokeOf(n int, others ...string) (issuer.Token, said, error) {
	token, err := q.mint()
	var got said
	for i := 0; i < n && err == nil; i++ {
		got, err = q.run(q.where, "revoke", revokeArgs(append([]string{token.ID}, others...))...)
	}
	return token, got, err
}

func (q *inquiry) revoke() (string, error) {
	_, got, err := q.revokeOf(1)
	return got.String(), err
}

func (q *inquiry) revokeTwice() (string, error) {
	_, got, err := q.revokeOf(2)
	return got.String(), err
}

const ghost = "00000000-dead-4bad-8bad-000000000000"

func (q *inquiry) revokeUnknown() (string, error) {
	got, err := q.run(q.where, "revoke", revokeArgs([]string{ghost})...)
	return got.String(), err
}

func (q *inquiry) revokeBoth() (string, error) {
	token, got, err := q.revokeOf(1, ghost)
	if err != nil {
		return "", err
	}
	info, err := q.find(token.ID)
	return fmt.Sprintf("the known one is dead: %v; %s", info.Dead(time.Now()), got), err
}

func (q *inquiry) revokeItself() (string, error) {
	token, err := q.mint()
	if err != nil {
		return "", err
	}
	if _, err := q.until(func() (bool, error) { return q.accepts(token) }); err != nil {
		return "", err
	}
	where := q.where
	where.Root = token.Secret
	got, err := q.run(where, "revoke", revokeArgs([]string{token.ID})...)
	return got.String(), err
}

func (q *inquiry) keepsRevoked() (string, error) {
	token, _, err := q.revokeOf(1)
	if err != nil {
		return "", err
	}
	switch info, err := q.find(token.ID); {
	case errors.Is(err, errNotListed):
		return "no", nil
	case err != nil:
		return "", err
	default:
		return fmt.Sprintf("yes, revoked_at set: %v", !info.RevokedAt.IsZero()), nil
	}
}

func (q *inquiry) badRoot() (string, error) {
	where := q.where
	where.Root = issuer.NewSecret("M.V1.not+the+root+token+Aa1")
	got, err := q.run(where, "list", listArgs()...)
	return got.String(), err
}

// form shows an answer's form, line by line where it is no JSON.
func form(text string) string {
	var parts []string
	for rest := strings.TrimSpace(text); rest != ""; rest = strings.TrimSpace(rest) {
		if value, after, ok := cutJSON(rest); ok {
			parts, rest = append(parts, shape(value)), after
			continue
		}
		line, after, _ := strings.Cut(rest, "\n")
		parts, rest = append(parts, redact.Quote(line)), after
	}
	return strings.Join(parts, " ⏎ ")
}

// shape shows the form of a JSON value: its keys, and kinds in the place of
// values.
func shape(value any) string {
	switch value := value.(type) {
	case map[string]any:
		var fields []string
		for _, key := range slices.Sorted(maps.Keys(value)) {
			fields = append(fields, key+":"+shape(value[key]))
		}
		return "{" + strings.Join(fields, ",") + "}"
	case []any:
		if len(value) == 0 {
			return "[]"
		}
		return fmt.Sprintf("[%s]×%d", shape(value[0]), len(value))
	case string:
		return kind(value)
	case nil:
		return "null"
	}
	return strings.TrimSuffix(fmt.Sprintf("%T", value), "64") // float, bool
}

// kind tells what a string is.
func kind(text string) string {
	_, err := time.Parse(time.RFC3339, text)
	switch {
	case uuid.MatchString(text):
		return "UUID"
	case managementToken.MatchString(text):
		return fmt.Sprintf("token(%d)", len(text))
	case err == nil:
		return "time"
	}
	return "text"
}
