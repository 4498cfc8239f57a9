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

func TestReadingAndRevokingAreTriedAgain(t *testing.T) {
	one := " " + shortPath + "/" + someID
	date := time.Now().Add(30 * time.Second).UTC().Format(http.TimeFormat)
	for _, c := range []struct {
		name    string
		answers []http.HandlerFunc // to the first request and those after it
		pauses  []time.Duration
		ok      bool
	}{
		{"at once", nil, nil, true},
		{"after trouble", []http.HandlerFunc{status(500, ""), status(502, ""), status(503, "")}, pauses, true},
		{"after too many", []http.HandlerFunc{status(429, "")}, pauses[:1], true},
		{"when it is time", []http.HandlerFunc{later(429, "7"), later(503, "1")}, []time.Duration{7 * time.Second, pauses[1]}, true},
		{"when a date has come", []http.HandlerFunc{later(429, date)}, []time.Duration{30 * time.Second}, true},
		{"when a date is past", []http.HandlerFunc{later(429, "Mon, 02 Jan 2006 15:04:05 GMT")}, pauses[:1], true},
		{"whatever the header is", []http.HandlerFunc{later(429, "soon"), later(429, "-1"), later(429, "1e9")}, pauses, true},
		{"but not for ever", []http.HandlerFunc{status(503, ""), status(503, ""), status(503, ""), status(503, "")}, pauses, false},
		{"nor after a long time", []http.HandlerFunc{later(429, "61")}, nil, false},
		{"nor after ages", []http.HandlerFunc{later(429, "99999999999999999999")}, pauses[:1], true}, // no number
		{"nor after a no", []http.HandlerFunc{status(403, "")}, nil, false},
	} {
		for verb, last := range map[string]http.HandlerFunc{"GET " + shortPath: text(`[]`), "DELETE" + one: status(204, "")} {
			s := newStage(t, script(map[string][]http.HandlerFunc{verb: append(append([]http.HandlerFunc{}, c.answers...), last), "GET" + one: {status(403, "")}}))
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
			if diff := cmp.Diff(c.pauses, s.pauses, about); diff != "" {
				t.Errorf("%s %s: pauses, -want +got\n%s", verb, c.name, diff)
			}
		}
	}
}

// about lets a second pass while a test runs.
var about = cmp.Comparer(func(a, b time.Duration) bool { return (a - b).Abs() <= time.Second })

func TestAMintIsNotTriedAgain(t *testing.T) {
	for code, want := range map[int]string{429: "refused", 500: "doubt", 503: "doubt"} {
		s := newStage(t, later(code, "1"))
		if _, err := s.issue(s.open(), "d"); is(err) != want || len(s.requests("")) != 1 || len(s.pauses) > 0 {
			t.Errorf("%d: %v after %q", code, err, s.requests(""))
		}
	}
}

func TestAPauseThatOutlastsTheCallerIsNotMade(t *testing.T) {
	s := newStage(t, later(503, "20"))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := collect(ctx, s.open()); is(err) != "doubt" || len(s.requests("")) != 1 || len(s.pauses) > 0 {
		t.Errorf("%v after %q and %v", err, s.requests(""), s.pauses)
	}
}

func TestAnEndDuringAPauseTellsWhatTheClusterSaid(t *testing.T) {
	s := newStage(t, status(503, "we are busy"))
	ctx, cancel := context.WithCancel(t.Context())
	s.Driver.options.Pause = func(context.Context, time.Duration) error { cancel(); return ctx.Err() }
	if _, err := collect(ctx, s.open()); is(err) != "doubt" || len(s.requests("")) != 1 {
		t.Errorf("%v after %q", err, s.requests(""))
	}
}

func TestEveryTryHasTheTimeoutForItself(t *testing.T) {
	stalled := make(chan struct{})
	s := newStage(t, func(http.ResponseWriter, *http.Request) { <-stalled })
	t.Cleanup(func() { close(stalled) })
	where := s.cluster(issuer.Clustered)
	where.Timeout = 50 * time.Millisecond
	start := time.Now()
	if _, err := collect(t.Context(), s.Open(where)); is(err) != "doubt" || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if took := time.Since(start); took < where.Timeout || took > 10*time.Second {
		t.Errorf("after %v", took)
	}
}
