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

// A fact is something about the cluster or the program that is not documented.
// The driver works with every answer. A run on a real cluster shows which answer
// is right.
type fact struct {
	question string
	answer   func(*prober) (string, error)
}

var facts = []fact{
	{"what `influxctl version` prints", (*prober).version},
	{"may a management token create others", (*prober).createsTokens},
	{"what create prints with --format json", (*prober).createJSON},
	{"what create prints as a table", (*prober).createTable},
	{"how long a token and its prefix are", (*prober).tokenForm},
	{"what an entry of the list looks like", (*prober).entryShape},
	{"in what order tokens are listed", (*prober).order},
	{"what created_by is for a token that a token created", (*prober).createdBy},
	{"are descriptions of 100 characters kept", func(q *prober) (string, error) { return q.echo(100, "") }},
	{"are descriptions of 300 characters kept", func(q *prober) (string, error) { return q.echo(300, "") }},
	{"are descriptions with other characters than ASCII kept", func(q *prober) (string, error) { return q.echo(90, "größer") }},
	{"is the expiry kept to the second", (*prober).expiry},
	{"what an expiry in the past does", (*prober).pastExpiry},
	{"how much the clocks differ", (*prober).clockDifference},
	{"when a new token is listed", (*prober).listed},
	{"when a new token is accepted", (*prober).accepted},
	{"when a revoked token is refused", (*prober).refused},
	{"what revoke prints", (*prober).revoke},
	{"what revoking a second time prints", (*prober).revokeTwice},
	{"what revoking an unknown id prints", (*prober).revokeUnknown},
	{"what revoking a known and an unknown id does", (*prober).revokeBoth},
	{"may a token revoke itself", (*prober).revokeItself},
	{"is a revoked token still listed", (*prober).keepsRevoked},
	{"what is printed for a refused root credential", (*prober).refusedRoot},
}

// TestRealCluster_Facts prints the answers of the cluster.
func TestRealCluster_Facts(t *testing.T) {
	q := newProber(t)
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	answered := 0
	for _, f := range facts {
		answer, err := f.answer(q)
		if err != nil {
			answer = "NO ANSWER: " + redact.Quote(err.Error(), q.target.Root)
		} else {
			answered++
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\n", f.question, answer)
	}
	_ = table.Flush()
	if strings.Contains(text.String(), q.target.Root.Reveal()) || strings.Contains(text.String(), "M.V1.") {
		t.Fatal("the answers hold a token and are not printed")
	}
	t.Logf("tested %s\n%s%d of %d questions answered", q.name, text.String(), answered, len(facts))
	if !q.real && answered < len(facts) {
		t.Error("the simulator does not answer all questions")
	}
}

// A prober asks one cluster, and revokes all tokens that it has created.
type prober struct {
	*testCluster
	mark    string // in the description of every token
	created int
}

func newProber(t *testing.T) *prober {
	q := &prober{testCluster: openTestCluster(t), mark: "[conformance:" + rand.Text() + "]"}
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
			t.Errorf("tokens with the description %s may be active: %v, %v", q.mark, err, failed)
		}
	})
	return q
}

func (q *prober) issuer() issuer.Issuer { return q.driver.Open(q.target) }

func (q *prober) describe() string {
	q.created++
	return fmt.Sprintf("%s %d", q.mark, q.created)
}

func soon() time.Time { return time.Now().Add(10 * time.Minute).Truncate(time.Second) }

func (q *prober) issue() (issuer.Token, error) {
	return q.issuer().Issue(q.Context(), issuer.Request{Description: q.describe(), ExpiresAt: soon()})
}

// A runOutput is what one run of the program printed.
type runOutput struct {
	stdout, stderr string
	exit           int
}

// String returns the output without tokens.
func (s runOutput) String() string {
	return fmt.Sprintf("exit status %d, output %q, errors %q", s.exit, redact.Quote(s.stdout), redact.Quote(s.stderr))
}

// run runs the program as the driver does, and returns its output.
func (q *prober) run(c issuer.Cluster, verb string, args ...string) (runOutput, error) {
	_, img, err := q.driver.program.verified(q.Context())
	if err != nil {
		return runOutput{}, err
	}
	home, err := q.driver.scratch.make()
	if err != nil {
		return runOutput{}, err
	}
	defer discard(home)
	profile, err := writeProfile(home, c)
	if err != nil {
		return runOutput{}, err
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
		return runOutput{}, err
	}
	return runOutput{redact.Plain(stdout.String()), redact.Plain(out.stderr), out.exit()}, nil
}

func (q *prober) version() (string, error) {
	got, err := q.run(q.target, "version")
	return got.String(), err
}

func (q *prober) createsTokens() (string, error) {
	got, err := q.run(q.target, "create", createArgs(issuer.Request{Description: q.describe(), ExpiresAt: soon()})...)
	if err != nil || got.exit == 0 {
		return "yes", err
	}
	return "no: " + got.String(), nil
}

// createJSON returns the form of the output.
func (q *prober) createJSON() (string, error) {
	got, err := q.run(q.target, "create", createArgs(issuer.Request{Description: q.describe(), ExpiresAt: soon()})...)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("exit status %d, output %s, errors %q", got.exit, form(got.stdout), redact.Quote(got.stderr)), nil
}

func (q *prober) createTable() (string, error) {
	args := createArgs(issuer.Request{Description: q.describe(), ExpiresAt: soon()})
	got, err := q.run(q.target, "create", args[:len(args)-2]...) // without --format json
	return got.String(), err
}

func (q *prober) tokenForm() (string, error) {
	token, err := q.issue()
	if err != nil {
		return "", err
	}
	info, err := q.find(token.ID)
	return fmt.Sprintf("%d characters, the prefix has %d and is its beginning: %v", len(token.Secret.Reveal()), len(info.Prefix),
		strings.HasPrefix(token.Secret.Reveal(), info.Prefix)), err
}

var errNotListed = errors.New("not listed")

// find returns the entry of a token in the list.
func (q *prober) find(id string) (found issuer.Info, err error) {
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

// entries returns the list as the program prints it.
func (q *prober) entries() ([]map[string]any, error) {
	got, err := q.run(q.target, "list", listArgs()...)
	if err != nil {
		return nil, err
	}
	var entries []map[string]any
	if err := json.Unmarshal([]byte(got.stdout), &entries); err != nil {
		return nil, fmt.Errorf("the list is not only an array, but %s", form(got.stdout))
	}
	return entries, nil
}

// entryShape returns the different forms of the entries.
func (q *prober) entryShape() (string, error) {
	entries, err := q.entries()
	forms := map[string]bool{}
	for _, e := range entries {
		forms[shape(e)] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(forms)), " or "), err
}

func (q *prober) order() (string, error) {
	var moments []time.Time
	err := q.issuer().List(q.Context(), func(info issuer.Info) error {
		moments = append(moments, info.CreatedAt)
		return nil
	})
	reversed := slices.Clone(moments)
	slices.Reverse(reversed)
	switch {
	case len(moments) < 2:
		return "", firstOf(err, errors.New("there is only one token"))
	case slices.IsSortedFunc(moments, time.Time.Compare):
		return "oldest first", err
	case slices.IsSortedFunc(reversed, time.Time.Compare):
		return "newest first", err
	}
	return "not by age", err
}

// firstOf returns the first error that is not nil.
func firstOf(errs ...error) error {
	return errs[slices.IndexFunc(errs, func(err error) bool { return err != nil })]
}

func (q *prober) createdBy() (string, error) {
	entries, err := q.entries()
	creators := map[string]int{}
	for _, e := range entries {
		description, _ := e["description"].(string)
		if strings.HasPrefix(description, q.mark) {
			creators[fmt.Sprint(e["created_by"])]++
		}
	}
	if len(creators) > 0 && err == nil {
		return fmt.Sprintf("created_by is %q", slices.Sorted(maps.Keys(creators))), nil
	}
	return "", firstOf(err, errNotListed)
}

// echo tests a description of the given length that ends with end.
func (q *prober) echo(length int, end string) (string, error) {
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

func (q *prober) expiry() (string, error) {
	want := soon()
	token, err := q.issuer().Issue(q.Context(), issuer.Request{Description: q.describe(), ExpiresAt: want})
	if err != nil {
		return "", err
	}
	info, err := q.find(token.ID)
	if info.ExpiresAt.Equal(want) {
		return "yes", err
	}
	return fmt.Sprintf("no: the difference is %s", info.ExpiresAt.Sub(want)), err
}

func (q *prober) pastExpiry() (string, error) {
	got, err := q.run(q.target, "create", createArgs(issuer.Request{Description: q.describe(), ExpiresAt: time.Now().Add(-time.Hour)})...)
	return got.String(), err
}

func (q *prober) clockDifference() (string, error) {
	before := time.Now()
	token, err := q.issue()
	if err != nil {
		return "", err
	}
	after := time.Now()
	info, err := q.find(token.ID)
	return fmt.Sprintf("between %s and %s", info.CreatedAt.Sub(after).Round(time.Millisecond), info.CreatedAt.Sub(before).Round(time.Millisecond)), err
}

// maxDelay is how long a change of a token may take to become visible.
const maxDelay = 2 * time.Minute

// until repeats a question until the answer is yes, and returns how long that
// took.
func (q *prober) until(ask func() (bool, error)) (string, error) {
	start := time.Now()
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		switch ok, err := ask(); {
		case err != nil:
			return "", err
		case ok:
			return fmt.Sprintf("after %s at the latest", time.Since(start).Round(time.Millisecond)), nil
		case time.Since(start) > maxDelay:
			return fmt.Sprintf("not within %s", maxDelay), nil
		}
		select {
		case <-q.Context().Done():
			return "", q.Context().Err()
		case <-time.After(pause):
		}
	}
}

func (q *prober) listed() (string, error) {
	token, err := q.issue()
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

// accepts reports whether the cluster lets a token list tokens.
func (q *prober) accepts(token issuer.Token) (bool, error) {
	target := q.target
	target.Root = token.Secret
	err := q.driver.Open(target).List(q.Context(), func(issuer.Info) error { return nil })
	if errors.Is(err, issuer.ErrUnauthorized) {
		return false, nil
	}
	return err == nil, err
}

func (q *prober) accepted() (string, error) {
	token, err := q.issue()
	if err != nil {
		return "", err
	}
	return q.until(func() (bool, error) { return q.accepts(token) })
}

func (q *prober) refused() (string, error) {
	token, err := q.issue()
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

// revokeOf issues a token, revokes it n times and returns the last output.
func (q *prober) revokeOf(n int, others ...string) (issuer.Token, runOutput, error) {
	token, err := q.issue()
	var got runOutput
	for i := 0; i < n && err == nil; i++ {
		got, err = q.run(q.target, "revoke", revokeArgs(append([]string{token.ID}, others...))...)
	}
	return token, got, err
}

func (q *prober) revoke() (string, error) {
	_, got, err := q.revokeOf(1)
	return got.String(), err
}

func (q *prober) revokeTwice() (string, error) {
	_, got, err := q.revokeOf(2)
	return got.String(), err
}

func (q *prober) revokeUnknown() (string, error) {
	got, err := q.run(q.target, "revoke", revokeArgs([]string{unknownID})...)
	return got.String(), err
}

func (q *prober) revokeBoth() (string, error) {
	token, got, err := q.revokeOf(1, unknownID)
	if err != nil {
		return "", err
	}
	info, err := q.find(token.ID)
	return fmt.Sprintf("the known token is revoked: %v; %s", info.Dead(time.Now()), got), err
}

func (q *prober) revokeItself() (string, error) {
	token, err := q.issue()
	if err != nil {
		return "", err
	}
	if _, err := q.until(func() (bool, error) { return q.accepts(token) }); err != nil {
		return "", err
	}
	target := q.target
	target.Root = token.Secret
	got, err := q.run(target, "revoke", revokeArgs([]string{token.ID})...)
	return got.String(), err
}

func (q *prober) keepsRevoked() (string, error) {
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

func (q *prober) refusedRoot() (string, error) {
	target := q.target
	target.Root = issuer.NewSecret("M.V1.not+the+root+token+Aa1")
	got, err := q.run(target, "list", listArgs()...)
	return got.String(), err
}

// form returns the form of an output: the shape of its JSON values, and the lines
// between them.
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

// shape returns the form of a JSON value: its keys, with kinds instead of values.
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

// kind returns what kind of string text is.
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
