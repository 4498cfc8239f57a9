package influxdb3

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/httpapi"
)

func TestDecodeList_ReadsRows(t *testing.T) {
	at := time.Date(2026, 6, 20, 4, 5, 6, 0, time.UTC)
	for _, c := range []struct {
		name, text string
		want       []issuer.Info
	}{
		{"empty", ` [ ] ` + "\n", nil},
		{"the least", `[{"name":"a"}]`, []issuer.Info{{ID: "a", Description: "a"}}},
		{"all columns", `[{"token_id":0,"name":"a","hash":"0123456ab","created_at":"2026-06-20T04:05:06.789","description":"x","updated_at":"2026-06-20T04:05:06","expiry":"2026-06-20T04:05:06","permissions":"*:*:*"}]`,
			[]issuer.Info{{ID: "a", Description: "a", HashPrefix: "0123456ab", CreatedAt: at.Add(789 * time.Millisecond), ExpiresAt: at}}},
		{"times with a zone", `[{"name":"a","created_at":"2026-06-20T04:05:06Z","expiry":"2026-06-20T06:05:06.000+02:00"}]`,
			[]issuer.Info{{ID: "a", Description: "a", CreatedAt: at, ExpiresAt: at}}},
		{"nulls", `[{"name":"a","hash":null,"created_at":null,"expiry":null}]`, []issuer.Info{{ID: "a", Description: "a"}}},
		{"an expiry in the far future", `[{"name":"a","expiry":"+262142-12-31T23:59:59.999"},{"name":"b","expiry":"292278994-08-17T07:12:55"}]`,
			[]issuer.Info{{ID: "a", Description: "a"}, {ID: "b", Description: "b"}}},
		{"a hash that is none", `[{"name":"a","hash":"apiv3_x"},{"name":"b","hash":"ab"}]`, []issuer.Info{{ID: "a", Description: "a"}, {ID: "b", Description: "b"}}},
		{"an empty name", `[{"name":""}]`, []issuer.Info{{}}},
		{"strange names", `[{"name":"\u0000\n\"]}"},{"name":"` + strings.Repeat("n", 1<<19) + `"}]`,
			[]issuer.Info{{ID: "\x00\n\"]}", Description: "\x00\n\"]}"}, {ID: strings.Repeat("n", 1<<19), Description: strings.Repeat("n", 1<<19)}}},
	} {
		for _, in := range []func() *strings.Reader{func() *strings.Reader { return strings.NewReader(c.text) }} {
			var got []issuer.Info
			err := decodeList(iotest.HalfReader(in()), func(info issuer.Info) error { got = append(got, info); return nil })
			if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
				t.Errorf("%s: %v, -want +got\n%s", c.name, err, diff)
			}
		}
	}
}

func TestDecodeList_RefusesWhatMayNotBeComplete(t *testing.T) {
	lost := errors.New("connection lost")
	for name, text := range map[string]string{
		"nothing": ``, "null": `null`, "an object": `{"results":[]}`, "a page": `<html>[]</html>`, "a text": `"[]"`,
		"no end": `[{"name":"a"}`, "half an entry": `[{"name":"a"},{"na`, "a comma too many": `[{"name":"a"},]`,
		"a second array": `[][]`, "a closing bracket": `[]]`, "words after it": `[] x`, "lines": `{"name":"a"}` + "\n" + `{"name":"b"}`,
		"no name": `[{"hash":"0123"}]`, "a null name": `[{"name":null}]`, "a null entry": `[null]`, "a name that is a number": `[{"name":5}]`,
		"arrays in an array": `[["a"]]`, "a strange time": `[{"name":"a","expiry":"yesterday"}]`, "a time in numbers": `[{"name":"a","expiry":1767323045}]`,
		"a long entry": `[{"name":"` + strings.Repeat("a", httpapi.MaxAnswer) + `"}]`, "white space": `[` + strings.Repeat(" ", 3*httpapi.MaxAnswer) + `]`,
	} {
		if err := decodeList(strings.NewReader(text), func(issuer.Info) error { return nil }); err == nil || strings.Contains(err.Error(), "yesterday") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := decodeList(iotest.ErrReader(lost), func(issuer.Info) error { return nil }); !errors.Is(err, lost) {
		t.Error(err)
	}
}

// All entries together may be longer than one may be.
func TestDecodeList_LimitIsForOneEntry(t *testing.T) {
	entry, n := `{"name":"`+strings.Repeat("a", httpapi.MaxAnswer-100)+`"}`, 0
	err := decodeList(strings.NewReader("["+strings.Repeat(entry+",", 5)+entry+"]"), func(issuer.Info) error { n++; return nil })
	if err != nil || n != 6 {
		t.Errorf("%d entries, %v", n, err)
	}
}

func FuzzDecodeList(f *testing.F) {
	f.Add([]byte(`[{"token_id":0,"name":"_admin","hash":"0123456ab","created_at":"2026-06-20T04:05:06.789","permissions":"*:*:*"}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var got []issuer.Info
		err := decodeList(strings.NewReader(string(text)), func(info issuer.Info) error { got = append(got, info); return nil })
		if err != nil {
			return
		}
		var whole []json.RawMessage
		if err := json.Unmarshal(text, &whole); err != nil || len(whole) != len(got) || whole == nil {
			t.Errorf("%d entries of %d, %v", len(got), len(whole), err)
		}
		for _, info := range got {
			if info.ID != info.Description || !info.RevokedAt.IsZero() || info.Prefix != "" {
				t.Errorf("%+v", info)
			}
		}
	})
}

func FuzzDecodeCreated(f *testing.F) {
	f.Add([]byte(`{"id":2,"name":"a","token":"apiv3_x","hash":"00","created_at":"2026-06-20T04:05:06.789Z","expiry":"2026-06-20T05:05:06.789Z"}`))
	c := &cluster{Cluster: issuer.Cluster{Root: issuer.NewSecret(rootSecret)}}
	wish := time.Date(2026, 6, 20, 5, 5, 6, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text []byte) {
		made, err := decodeCreated(strings.NewReader(string(text)))
		if err != nil {
			return
		}
		if !json.Valid(text) {
			t.Error("not JSON")
		}
		if c.checkCreated(made, order{Name: "a", ExpirySecs: 3600}, wish) != nil {
			return
		}
		if *made.Name != "a" || !plausibleSecret(made.Token) || made.Expiry.Sub(wish).Abs() > maxClockSkew {
			t.Errorf("%+v", made)
		}
	})
}

func FuzzParseVersion(f *testing.F) {
	f.Add("3.8.4")
	f.Fuzz(func(t *testing.T, text string) {
		v, ok := parseVersion(text)
		if again, okAgain := parseVersion(v.String()); ok && (!okAgain || again != v) {
			t.Errorf("%q: %v, %v", text, v, again)
		}
	})
}
