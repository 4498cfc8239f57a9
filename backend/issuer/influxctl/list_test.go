package influxctl

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

func listOf(text string) (infos []issuer.Info, err error) {
	in := io.Reader(strings.NewReader(text))
	if len(text) < 1000 { // slow for long texts
		in = iotest.OneByteReader(in)
	}
	err = decodeList(in, func(info issuer.Info) error {
		infos = append(infos, info)
		return nil
	})
	return infos, err
}

func TestDecodeList_DocumentedEntries(t *testing.T) {
	const text = `[{"id":"0b0e","account_id":"aaaa","token_prefix":"M.V1.+5Jk","expires_at":{"seconds":1767323045},
  "created_at":{"seconds":1767236645,"nanos":622095000},"description":"\u003ca\u003e \u0026 b","created_by":"cccc"},
 {"id":"1b0e","account_id":"aaaa","token_prefix":"M.V1.ynmf","revoked_at":{"seconds":1767240000,"nanos":1000},
  "created_at":{"seconds":1767236000},"description":"old","created_by":null},
 {"id":"2b0e","description":null,"unknown_key":[{}]},
 {"id":"3b0e","tokenPrefix":"M.V1.abcd","createdAt":"2026-01-02T03:04:05.5+01:00","expiresAt":"2026-01-02T03:04:05Z","revokedAt":"2026-01-02T03:04:06Z"}]
`
	got, err := listOf(text)
	if err != nil {
		t.Fatal(err)
	}
	want := []issuer.Info{
		{ID: "0b0e", Description: "<a> & b", Prefix: "M.V1.+5Jk", CreatedAt: time.Unix(1767236645, 622095000).UTC(), ExpiresAt: time.Unix(1767323045, 0).UTC()},
		{ID: "1b0e", Description: "old", Prefix: "M.V1.ynmf", CreatedAt: time.Unix(1767236000, 0).UTC(), RevokedAt: time.Unix(1767240000, 1000).UTC()},
		{ID: "2b0e"},
		{ID: "3b0e", Prefix: "M.V1.abcd", CreatedAt: time.Date(2026, 1, 2, 2, 4, 5, 5e8, time.UTC), ExpiresAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), RevokedAt: time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTimestamp_NotSet(t *testing.T) {
	for _, unset := range []string{
		`null`, `{}`, `""`, `{"seconds":0}`, `{"seconds":-62135596800}`, `{"seconds":0,"nanos":5}`, `{"seconds":null}`,
		`"1970-01-01T00:00:00Z"`, `"0001-01-01T00:00:00Z"`, `"1970-01-01T00:00:00.000Z"`,
	} {
		got, err := listOf(`[{"id":"a","expires_at":` + unset + `,"revoked_at":` + unset + `}]`)
		if err != nil || len(got) != 1 || got[0] != (issuer.Info{ID: "a"}) {
			t.Errorf("%s: %+v, %v", unset, got, err)
		}
	}
}

func TestTimestamp_CannotBeRead(t *testing.T) {
	for _, bad := range []string{
		`"yesterday"`, `1767323045`, `true`, `[]`, `{"seconds":"x"}`, `{"seconds":99999999999999}`, `{"seconds":1,"nanos":-1}`,
		`{"seconds":1,"nanos":1000000000}`, `{"seconds":1.5}`, `"2026-01-02"`,
	} {
		if got, err := listOf(`[{"id":"a","revoked_at":` + bad + `}]`); !errors.Is(err, errUnclearTime) || len(got) > 0 {
			t.Errorf("%s: %+v, %v", bad, got, err)
		}
	}
}

func TestDecodeList_EmptyOrWithLogLines(t *testing.T) {
	for text, want := range map[string]int{
		"": 0, " \n\n": 0, "null": 0, "null\n": 0, "\n null \n\n": 0, "[]": 0, "[ ]\n": 0, "[\n\n]": 0,
		"warn\tsomething\n[WARN] more\n[{\"id\":\"a\"}]\n":  1,
		"warn\tsomething\nnull\n":                           0,
		"[{\"id\":\"a\"}]\nwarn\tsomething\n\n":             1,
		"null\n\ninfo done":                                 0,
		strings.Repeat("\n", 500) + "[{\"id\":\"a\"}]":      1,
		strings.Repeat("x", 200_000) + "\n[{\"id\":\"a\"}]": 1,
	} {
		if got, err := listOf(text); err != nil || len(got) != want {
			t.Errorf("%.60q: %v, %v", text, got, err)
		}
	}
}

func TestDecodeList_RefusesOtherOutput(t *testing.T) {
	for text, want := range map[string]error{
		"warn\tonly\n":                          errNotList,
		"<html>\n</html>":                       errNotList,
		`{"tokens":[{"id":"a"}]}`:               errNotList,
		`"null"`:                                errNotList,
		"nullify":                               errNotList,
		"null\n[]":                              errNotList,
		`[`:                                     errNotList,
		`[{"id":"a"}`:                           errNotList,
		`[{"id":"a"},`:                          errNotList,
		`[{"id":"a"},]`:                         errNotList,
		`[{"id":"a"},{"id":"`:                   errNotList,
		`[{"id":"a"}][{"id":"b"}]`:              errNotList,
		"[{\"id\":\"a\"}]\n[{\"id\":\"b\"}]":    errNotList,
		`[{"id":"a"}]}`:                         errNotList,
		`[{"id":7}]`:                            errNotList,
		`[{"description":"no id"}]`:             errEntryNoID,
		`[null]`:                                errNotList, // not a list with one entry
		`["a"]`:                                 errNotList,
		`[{"id":""}]`:                           errEntryNoID,
		strings.Repeat("x", maxEntry+1):         errNotList,
		strings.Repeat("line\n", maxLines+1):    errNotList,
		"[]" + strings.Repeat("\n", maxLines+1): errNotList,
	} {
		if _, err := listOf(text); !errors.Is(err, want) {
			t.Errorf("%.60q: %v, want %v", text, err, want)
		}
	}
}

func TestDecodeList_LimitsAnEntry(t *testing.T) {
	for _, long := range []string{
		`[{"id":"` + strings.Repeat("x", 2*maxEntry),
		`[{"id":"a"},` + strings.Repeat(" ", 2*maxEntry) + `{"id":"b"}]`,
		`[{` + strings.Repeat(" ", 2*maxEntry) + `"id":"b"}]`,
	} {
		err := decodeList(strings.NewReader(long), func(issuer.Info) error { return nil })
		if !errors.Is(err, errLongEntry) {
			t.Errorf("%.20s: %v", long, err)
		}
	}
}

func TestDecodeList_ReturnsReadErrors(t *testing.T) {
	broken := errors.New("broken")
	for _, text := range []string{"", "[", `[{"id":"a"}`, `[{"id":"a"}]`, "null", "words\n"} {
		err := decodeList(io.MultiReader(strings.NewReader(text), iotest.ErrReader(broken)), func(issuer.Info) error { return nil })
		if !errors.Is(err, broken) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A repeater repeats a chunk of entries.
type repeater struct {
	entry []byte
	left  int
	rest  []byte
}

func (e *repeater) Read(p []byte) (int, error) {
	if len(e.rest) == 0 {
		if e.left == 0 {
			return 0, io.EOF
		}
		e.left--
		e.rest = e.entry
		if e.left == 0 {
			e.rest = []byte(`{"id":"last"}]`)
		}
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

func TestDecodeList_UsesBoundedMemory(t *testing.T) {
	const n = 200
	chunk := bytes.Repeat([]byte(`{"id":"0b0e5c7e","token_prefix":"M.V1.+5Jk","description":"a description of usual length"},`), 1000)
	in := io.MultiReader(strings.NewReader("["), &repeater{entry: chunk, left: n})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	seen := 0
	if err := decodeList(in, func(issuer.Info) error { seen++; return nil }); err != nil || seen != (n-1)*1000+1 {
		t.Fatalf("%d entries, %v", seen, err)
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 20<<20 {
		t.Errorf("%d bytes", grown)
	}
}

func FuzzDecodeList(f *testing.F) {
	for _, text := range []string{"[]", "null", "warn\n[{\"id\":\"a\"}]\n", `[{"id":"a","expires_at":{"seconds":1}}]`, `[{"id":"a","expires_at":"2026-01-02T03:04:05Z"},`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		err := decodeList(bytes.NewReader(text), func(info issuer.Info) error {
			if info.ID == "" {
				t.Error("an entry without id")
			}
			for _, moment := range []time.Time{info.CreatedAt, info.ExpiresAt, info.RevokedAt} {
				if !moment.IsZero() && moment.Unix() <= 0 {
					t.Errorf("time %v", moment)
				}
			}
			return nil
		})
		if err != nil && !errors.Is(err, errNotList) && !errors.Is(err, errLongEntry) && !errors.Is(err, errEntryNoID) && !errors.Is(err, errUnclearTime) {
			t.Errorf("another error, which may quote the output: %v", err)
		}
	})
}
