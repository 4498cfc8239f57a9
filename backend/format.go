package backend

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// timestamp formats a time for answers.
func timestamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// timestampOrNever formats a time that may not be set.
func timestampOrNever(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return timestamp(t)
}

// shortDuration formats a duration as people write it: 15m, not 15m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// logDuration formats a measured duration for a log, where the logger would print
// a number of nanoseconds.
func logDuration(d time.Duration) string { return d.Round(time.Millisecond).String() }

// printable replaces every character that is not printable ASCII, so that a
// table, a shell and a log show the text unchanged.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError || r > '~':
			return '?'
		case r < ' ':
			return ' '
		}
		return r
	}, text)
}

// sentence writes a phrase of a driver as a sentence.
func sentence(phrase string) string {
	if phrase == "" {
		return ""
	}
	return strings.ToUpper(phrase[:1]) + strings.TrimSuffix(phrase[1:], ".") + "."
}

// shorten limits the length of a caller's text that an error message repeats.
func shorten(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return fmt.Sprintf("%s… (%d bytes)", s[:most], len(s))
}

// shortFailure limits the length of an error that is stored in a record.
func shortFailure(err error) string {
	const most = 300
	text := printable(err.Error())
	if len(text) > most {
		text = text[:most] + "..."
	}
	return text
}

// plural returns "1 token", "2 tokens".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// ceilSecond rounds t up to a whole second.
func ceilSecond(t time.Time) time.Time {
	if down := t.Truncate(time.Second); down.Before(t) {
		return down.Add(time.Second)
	}
	return t
}

// backoff returns first, doubled attempts times, but at most longest.
func backoff(first, longest time.Duration, attempts int) time.Duration {
	return min(longest, first<<min(attempts, 20))
}
