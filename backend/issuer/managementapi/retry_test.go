package managementapi

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// pauses are the pauses between requests, if the server asks for none.
var pauses = []time.Duration{500 * time.Millisecond, 2 * time.Second, 4 * time.Second}

// later answers with a status and a Retry-After.
func later(code int, retryAfter string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", retryAfter)
		complain(w, code, "later")
	}
}

func TestRetry_ListAndRevoke(t *testing.T) {
	one := " " + shortPath + "/" + someID
	date := time.Now().Add(30 * time.Second).UTC().Format(http.TimeFormat)
	for _, c := range []struct {
		name    string
		answers []http.HandlerFunc // to the first request and those after it
		pauses  []time.Duration
		ok      bool
	}{
		{"first try", nil, nil, true},
		{"after server errors", []http.HandlerFunc{status(500, ""), status(502, ""), status(503, "")}, pauses, true},
		{"after a rate limit", []http.HandlerFunc{status(429, "")}, pauses[:1], true},
		{"after the seconds of Retry-After", []http.HandlerFunc{later(429, "7"), later(503, "1")}, []time.Duration{7 * time.Second, pauses[1]}, true},
		{"after the date of Retry-After", []http.HandlerFunc{later(429, date)}, []time.Duration{30 * time.Second}, true},
		{"after a date in the past", []http.HandlerFunc{later(429, "Mon, 02 Jan 2006 15:04:05 GMT")}, pauses[:1], true},
		{"with an invalid Retry-After", []http.HandlerFunc{later(429, "soon"), later(429, "-1"), later(429, "1e9")}, pauses, true},
		{"at most three times", []http.HandlerFunc{status(503, ""), status(503, ""), status(503, ""), status(503, "")}, pauses, false},
		{"not after more than a minute", []http.HandlerFunc{later(429, "61")}, nil, false},
		{"with a Retry-After that is too large", []http.HandlerFunc{later(429, "99999999999999999999")}, pauses[:1], true}, // not a valid number
		{"not after a refusal", []http.HandlerFunc{status(403, "")}, nil, false},
	} {
		for verb, last := range map[string]http.HandlerFunc{"GET " + shortPath: text(`[]`), "DELETE" + one: status(204, "")} {
			s := newFixture(t, script(map[string][]http.HandlerFunc{verb: append(append([]http.HandlerFunc{}, c.answers...), last), "GET" + one: {status(403, "")}}))
			now := time.Now().Truncate(time.Second)
			s.Driver.options.Now = func() time.Time { return now }
			var err error
			if verb[0] == 'G' {
				_, err = collect(t.Context(), s.open())
			} else {
				err = s.open().Revoke(t.Context(), someID)[someID]
			}
			if (err == nil) != c.ok {
				t.Errorf("%s %s: %v", verb, c.name, err)
			}
			if diff := cmp.Diff(c.pauses, s.pauses, roughly); diff != "" {
				t.Errorf("%s %s: pauses, -want +got\n%s", verb, c.name, diff)
			}
		}
	}
}

// roughly allows for a second that passes during a test.
var roughly = cmp.Comparer(func(a, b time.Duration) bool { return (a - b).Abs() <= time.Second })

func TestRetry_IssueIsSentOnce(t *testing.T) {
	for code, want := range map[int]string{429: "refused", 500: "doubt", 503: "doubt"} {
		s := newFixture(t, later(code, "1"))
		if _, err := s.issue(s.open(), "d"); kindOf(err) != want || len(s.requests("")) != 1 || len(s.pauses) > 0 {
			t.Errorf("%d: %v after %q", code, err, s.requests(""))
		}
	}
}

func TestRetry_NoPauseBeyondTheDeadline(t *testing.T) {
	s := newFixture(t, later(503, "20"))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := collect(ctx, s.open()); kindOf(err) != "doubt" || len(s.requests("")) != 1 || len(s.pauses) > 0 {
		t.Errorf("%v after %q and %v", err, s.requests(""), s.pauses)
	}
}

func TestRetry_CanceledPauseReturnsTheAnswer(t *testing.T) {
	s := newFixture(t, status(503, "we are busy"))
	ctx, cancel := context.WithCancel(t.Context())
	s.Driver.options.Pause = func(context.Context, time.Duration) error { cancel(); return ctx.Err() }
	if _, err := collect(ctx, s.open()); kindOf(err) != "doubt" || len(s.requests("")) != 1 {
		t.Errorf("%v after %q", err, s.requests(""))
	}
}

func TestRetry_TimeoutIsForOneRequest(t *testing.T) {
	stalled := make(chan struct{})
	s := newFixture(t, func(http.ResponseWriter, *http.Request) { <-stalled })
	t.Cleanup(func() { close(stalled) })
	target := s.cluster(issuer.Clustered)
	target.Timeout = 50 * time.Millisecond
	start := time.Now()
	if _, err := collect(t.Context(), s.Open(target)); kindOf(err) != "doubt" || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if elapsed := time.Since(start); elapsed < target.Timeout || elapsed > 10*time.Second {
		t.Errorf("after %v", elapsed)
	}
}
