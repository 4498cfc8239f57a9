package boundedjson

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

type entry struct {
	ID string `json:"id"`
}

func readArray(r io.Reader, limit int) (ids []string, rest string, err error) {
	tail, err := Array(r, limit, func(e entry) error { ids = append(ids, e.ID); return nil })
	if err != nil {
		return ids, "", err
	}
	text, err := io.ReadAll(tail)
	return ids, string(text), err
}

func TestArray_YieldsEntriesAndTheRest(t *testing.T) {
	for _, c := range []struct {
		text string
		ids  []string
		rest string
	}{
		{` [ ] `, nil, " "},
		{`[{"id":"a"},{"id":"b"}]`, []string{"a", "b"}, ""},
		{"[{\"id\":\"a\"}]\nwarn\tlog line\n", []string{"a"}, "\nwarn\tlog line\n"},
		{`[][]`, nil, `[]`},
	} {
		for _, r := range []io.Reader{strings.NewReader(c.text), iotest.OneByteReader(strings.NewReader(c.text)), iotest.DataErrReader(strings.NewReader(c.text))} {
			ids, rest, err := readArray(r, 100)
			if diff := cmp.Diff(c.ids, ids); diff != "" || rest != c.rest || err != nil {
				t.Errorf("%s: rest %q, %v, -want +got\n%s", c.text, rest, err, diff)
			}
		}
	}
}

func TestArray_RefusesWhatMayNotBeComplete(t *testing.T) {
	lost := errors.New("connection lost")
	for name, c := range map[string]struct {
		in   io.Reader
		want error
	}{
		"nothing":          {strings.NewReader(""), ErrSyntax},
		"null":             {strings.NewReader("null"), ErrSyntax},
		"an object":        {strings.NewReader(`{"a":[]}`), ErrSyntax},
		"HTML":             {strings.NewReader(`<html>[]`), ErrSyntax},
		"no end":           {strings.NewReader(`[{"id":"a"}`), ErrSyntax},
		"half an entry":    {strings.NewReader(`[{"id":"a"},{"i`), ErrSyntax},
		"wrong type":       {strings.NewReader(`[{"id":5}]`), ErrSyntax},
		"a long entry":     {strings.NewReader(`[{"id":"` + strings.Repeat("a", 100) + `"}]`), ErrTooLong},
		"white space":      {strings.NewReader(`[` + strings.Repeat(" ", 10_000) + `]`), ErrTooLong},
		"connection error": {io.MultiReader(strings.NewReader(`[{"id":"a"},`), iotest.ErrReader(lost)), lost},
	} {
		if _, _, err := readArray(c.in, 100); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestArray_ErrorOfYieldEndsIt(t *testing.T) {
	enough, calls := errors.New("enough"), 0
	_, err := Array(strings.NewReader(`[{},{}]`), 100, func(entry) error { calls++; return enough })
	if err != enough || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

// All entries together may be longer than one may be.
func TestArray_LimitIsForOneEntry(t *testing.T) {
	ids, _, err := readArray(strings.NewReader("["+strings.Repeat(`{"id":"abcdef"},`, 999)+`{"id":"abcdef"}]`), 20)
	if err != nil || len(ids) != 1000 {
		t.Errorf("%d entries, %v", len(ids), err)
	}
}

func TestValue_ReadsOneValue(t *testing.T) {
	var e entry
	if err := Value(strings.NewReader(` {"id":"a","more":1} `), 100, &e); err != nil || e.ID != "a" {
		t.Errorf("%+v, %v", e, err)
	}
	for text, want := range map[string]error{
		``:                             ErrSyntax,
		`{"id":"a"}{}`:                 ErrSyntax,
		`{"id":7337}`:                  ErrSyntax,
		`{"id"`:                        ErrSyntax,
		strings.Repeat(" ", 101):       ErrTooLong,
		`{}` + strings.Repeat(" ", 99): ErrTooLong,
	} {
		if err := Value(strings.NewReader(text), 100, &e); !errors.Is(err, want) || strings.Contains(err.Error(), "7337") {
			t.Errorf("%q: %v, want %v", text, err, want)
		}
	}
}

func TestEnd_AllowsWhiteSpaceOnly(t *testing.T) {
	for text, want := range map[string]error{"": nil, " \r\n\t": nil, " x": ErrSyntax, "[]": ErrSyntax, strings.Repeat(" ", 9999): ErrTooLong} {
		if err := End(strings.NewReader(text), 100); err != want {
			t.Errorf("%.10q: %v, want %v", text, err, want)
		}
	}
}

func FuzzArray(f *testing.F) {
	f.Add([]byte(`[{"id":"a"},{"id":"b"}] x`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		n := 0
		rest, err := Array(strings.NewReader(string(text)), 1<<10, func(json.RawMessage) error { n++; return nil })
		if err != nil {
			return
		}
		tail, _ := io.ReadAll(rest)
		var whole []json.RawMessage
		if err := json.Unmarshal(text[:len(text)-len(tail)], &whole); err != nil || len(whole) != n {
			t.Errorf("%d entries of %d, %v", n, len(whole), err)
		}
	})
}
