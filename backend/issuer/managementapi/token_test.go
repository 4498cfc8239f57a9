package managementapi

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/boundedjson"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/httpapi"
)

func TestDecodeList_DocumentedEntries(t *testing.T) {
	at := time.Date(2023, 12, 21, 17, 32, 28, 0, time.UTC)
	for _, c := range []struct {
		name, text string
		want       []issuer.Info
	}{
		{"empty", ` [ ] `, nil},
		{"only an id", `[{"id":"a"}]`, []issuer.Info{{ID: "a"}}},
		{"all", `[{"accountId":"x","clusterId":"y","id":"a","description":"d","permissions":[{"action":"read","resource":"*"}],` +
			`"createdAt":"2023-12-21T17:32:28.123Z","expiresAt":"2023-12-21T18:32:28+01:00","revokedAt":"2023-12-21T17:32:28Z"},{"id":"b"}]`,
			[]issuer.Info{{ID: "a", Description: "d", CreatedAt: at.Add(123 * time.Millisecond), ExpiresAt: at, RevokedAt: at}, {ID: "b"}}},
		{"times that are not set", `[{"id":"a","expiresAt":null,"revokedAt":""},{"id":"b","expiresAt":"0001-01-01T00:00:00Z","revokedAt":"1970-01-01T00:00:00Z"}]`,
			[]issuer.Info{{ID: "a"}, {ID: "b"}}},
		{"unknown fields", `[{"id":"a","more":{"id":"b"},"most":[1e999]}]`, []issuer.Info{{ID: "a"}}},
	} {
		for _, in := range []io.Reader{strings.NewReader(c.text), iotest.OneByteReader(strings.NewReader(c.text)), iotest.DataErrReader(strings.NewReader(c.text))} {
			var got []issuer.Info
			err := decodeList(in, func(info issuer.Info) error { got = append(got, info); return nil })
			if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
				t.Errorf("%s: %v, -want +got\n%s", c.name, err, diff)
			}
		}
	}
}

func TestDecodeList_RefusesIncompleteLists(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       error
	}{
		{"nothing", ``, boundedjson.ErrSyntax},
		{"null", `null`, boundedjson.ErrSyntax},
		{"an object", `{"tokens":[]}`, boundedjson.ErrSyntax},
		{"a web page", `<html>[]</html>`, boundedjson.ErrSyntax},
		{"a text", `"[]"`, boundedjson.ErrSyntax},
		{"the end is missing", `[{"id":"a"}`, boundedjson.ErrSyntax},
		{"an entry breaks off", `[{"id":"a"},{"id`, io.ErrUnexpectedEOF},
		{"an extra comma", `[{"id":"a"},]`, boundedjson.ErrSyntax},
		{"a second list", `[{"id":"a"}][]`, boundedjson.ErrSyntax},
		{"text after it", `[] and more`, boundedjson.ErrSyntax},
		{"no id", `[{"description":"d"}]`, errNoID},
		{"a null", `[null]`, errNoID},
		{"an id with a path", `[{"id":"a/../b"}]`, errNoID},
		{"a number for an id", `[{"id":5}]`, boundedjson.ErrSyntax},
		{"a list in a list", `[["a"]]`, boundedjson.ErrSyntax},
		{"an invalid time", `[{"id":"a","revokedAt":"yesterday"}]`, errUnclearTime},
		{"a time in seconds", `[{"id":"a","expiresAt":1767323045}]`, errUnclearTime},
		{"a long entry", `[{"id":"a","description":"` + strings.Repeat("a", httpapi.MaxAnswer) + `"}]`, boundedjson.ErrTooLong},
		{"much white space", `[` + strings.Repeat(" ", 3*httpapi.MaxAnswer) + `]`, boundedjson.ErrTooLong},
	} {
		err := decodeList(strings.NewReader(c.text), func(issuer.Info) error { return nil })
		if err == nil || c.want != io.ErrUnexpectedEOF && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestDecodeList_LimitIsForOneEntry(t *testing.T) {
	entry := `{"id":"a","description":"` + strings.Repeat("d", httpapi.MaxAnswer-100) + `"}`
	n := 0
	err := decodeList(strings.NewReader("["+strings.Repeat(entry+",", 5)+entry+"]"), func(issuer.Info) error { n++; return nil })
	if err != nil || n != 6 {
		t.Errorf("%d entries, %v", n, err)
	}
}

func TestDecode_ErrorsQuoteNothing(t *testing.T) {
	for _, text := range []string{
		`[{"id":"a","revokedAt":"s3cret"}]`, `[{"id":73370000001}]`, `[{"id":"s3cret/"}]`, `s3cret`, `[{"id":"a"} s3cret]`, `[{"id":"a","createdAt":{"s3cret":1}}]`,
	} {
		list := decodeList(strings.NewReader(text), func(issuer.Info) error { return nil })
		_, token := decodeToken(strings.NewReader(strings.Trim(text, "[]")))
		for _, err := range []error{list, token} {
			if err != nil && (strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "7337")) {
				t.Errorf("%s: %v", text, err)
			}
		}
		if list == nil {
			t.Errorf("%s: no error", text)
		}
	}
}

func FuzzDecodeList(f *testing.F) {
	f.Add([]byte(`[{"id":"a","description":"d","createdAt":"2023-12-21T17:32:28.000Z","expiresAt":null,"revokedAt":""}]`))
	f.Add([]byte(`[{"id":"a"},null]`))
	f.Add([]byte(` [ ] `))
	f.Add([]byte(`[][]`))
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
			if !plausibleID(info.ID) {
				t.Errorf("id %q", info.ID)
			}
		}
	})
}

func FuzzDecodeToken(f *testing.F) {
	f.Add([]byte(`{"id":"a","accessToken":"apiv1_x","expiresAt":"2023-12-21T17:32:28Z"}`))
	f.Add([]byte(`{"id":"a"}{}`))
	f.Add([]byte(`null`))
	c := &cluster{Cluster: issuer.Cluster{Root: issuer.NewSecret(rootCredential)}}
	f.Fuzz(func(t *testing.T, text []byte) {
		created, err := decodeToken(strings.NewReader(string(text)))
		if err != nil {
			return
		}
		if !json.Valid(text) {
			t.Error("not JSON")
		}
		r := issuer.Request{ExpiresAt: time.Now().Add(time.Hour)}
		if c.checkCreated(created, r) == nil && (created.AccessToken == "" || !plausibleID(created.ID) || created.ExpiresAt.IsZero()) {
			t.Errorf("%+v", created)
		}
	})
}
