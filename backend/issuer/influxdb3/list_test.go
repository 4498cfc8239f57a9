package influxdb3

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/httpapi"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator/influxdb3server"
)

func TestList_ShowsAllKinds(t *testing.T) {
	for _, kind := range []func(*Drivers) issuer.Driver{(*Drivers).Management, (*Drivers).Database} {
		s := simulate(t, influxdb3server.Options{Product: issuer.Enterprise})
		s.sim.AddToken("expired", "", time.Now().Add(-time.Hour))
		s.sim.AddToken("limited", "", time.Time{}, "db:db:read")
		s.sim.AddToken("", "", time.Time{})
		infos, err := collect(t.Context(), kind(s.Drivers).Open(s.where()))
		if err != nil {
			t.Fatal(err)
		}
		want := s.sim.Tokens()
		if len(infos) != len(want) {
			t.Fatalf("%d of %d", len(infos), len(want))
		}
		for n, info := range infos {
			expected := issuer.Info{
				ID: want[n].Name, Description: want[n].Name, HashPrefix: want[n].Hash[:9],
				CreatedAt: want[n].CreatedAt.UTC(), ExpiresAt: want[n].Expiry.UTC(),
			}
			if want[n].Expiry.IsZero() {
				expected.ExpiresAt = time.Time{}
			}
			if diff := cmp.Diff(expected, info); diff != "" {
				t.Error("-want +got\n" + diff)
			}
			if info.Matches(issuer.NewSecret(rootSecret)) != (info.ID == rootName) {
				t.Errorf("%q matches the root credential: %v", info.ID, info.ID != rootName)
			}
		}
	}
}

func TestList_SendsOneQuery(t *testing.T) {
	var sent string
	s := newStage(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		sent = r.Method + " " + r.URL.String() + " " + r.Header.Get("Content-Type") + " " + string(text)
		_, _ = io.WriteString(w, "[]")
	}))
	if infos, err := collect(t.Context(), s.open()); err != nil || len(infos) > 0 {
		t.Error(infos, err)
	}
	const want = `POST /api/v3/query_sql application/json {"db":"_internal","q":"SELECT name, hash, created_at, expiry FROM system.tokens","format":"json"}`
	if sent != want {
		t.Error(sent)
	}
}

func TestList_EveryFault(t *testing.T) {
	type fault = influxdb3server.Fault
	for _, c := range []struct {
		name  string
		fault fault
		want  string
	}{
		{"the array is not closed", fault{Apply: true, Truncate: 1}, "doubt"},
		{"half an entry", fault{Apply: true, Truncate: 20}, "doubt"},
		{"an empty body", fault{Apply: true, Truncate: 1 << 30}, "doubt"},
		{"two arrays", fault{Status: 200, Body: "[][]"}, "doubt"},
		{"words after the array", fault{Status: 200, Body: "[] error"}, "doubt"},
		{"an object", fault{Status: 200, Body: `{"error":"x"}`}, "doubt"},
		{"null", fault{Status: 200, Body: "null"}, "doubt"},
		{"the page of a proxy", influxdb3server.ProxyAnswer("", 200), "doubt"},
		{"206", fault{Status: 206, Body: "[]"}, "doubt"},
		{"a very long entry", fault{Status: 200, Body: `[{"name":"` + strings.Repeat("a", httpapi.MaxAnswer) + `"}]`}, "doubt"},
		{"endless white space", fault{Status: 200, Body: "[" + strings.Repeat(" ", 3*httpapi.MaxAnswer) + "]"}, "doubt"},
		{"white space after the array", fault{Status: 200, Body: "[]" + strings.Repeat(" ", 3*httpapi.MaxAnswer)}, "doubt"},
		{"another cluster", fault{Apply: true, UUID: otherUUID}, "doubt"},
		{"no cluster-uuid", fault{Apply: true, Foreign: true}, "doubt"},
		{"connection cut", fault{Cut: true}, "doubt unreachable"},
		{"hang", fault{Hang: true}, "doubt unreachable"},
		{"401", fault{Status: 401}, "unauthorized"},
		{"403", fault{Status: 403}, "unauthorized"},
		{"400", fault{Status: 400, Body: "unsupported mime type"}, "invalid"},
		{"404 of a database", fault{Status: 404, Body: "database not found: _internal"}, "doubt"},
		{"405", fault{Status: 405}, "refused"},
		{"500", fault{Status: 500, Body: "query failed"}, "doubt"},
		{"503", fault{Status: 503}, "doubt unreachable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := simulate(t, influxdb3server.Options{Product: issuer.Cloud})
			c.fault.Op = influxdb3server.Query
			s.sim.Inject(c.fault)
			where := s.where()
			if c.fault.Hang {
				where.Timeout = 100 * time.Millisecond
			}
			if _, err := collect(t.Context(), s.Database().Open(where)); kindOf(err) != c.want {
				t.Errorf("%s, want %s: %v", kindOf(err), c.want, err)
			}
			if sent := s.requests(""); len(sent) != 1 && !c.fault.Cut {
				t.Errorf("sent: %q", sent)
			}
		})
	}
}

// A connection that breaks in the middle of a list is not the end of the list.
func TestList_ConnectionBreaks(t *testing.T) {
	s := newStage(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `[{"name":"a"},`)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	seen := 0
	err := s.open().List(t.Context(), func(issuer.Info) error { seen++; return nil })
	if kindOf(err) == "ok" || seen > 1 {
		t.Errorf("%d entries, %v", seen, err)
	}
}

func TestList_IsReadAsItArrives(t *testing.T) {
	s := simulate(t, influxdb3server.Options{})
	for n := range 5000 {
		s.sim.AddToken(strings.Repeat("x", n%200)+time.Duration(n).String(), "", time.Time{})
	}
	seen := 0
	if err := s.open().List(t.Context(), func(issuer.Info) error { seen++; return nil }); err != nil || seen != 5002 {
		t.Errorf("%d entries, %v", seen, err)
	}
	enough := errors.New("enough")
	if err := s.open().List(t.Context(), func(issuer.Info) error { return enough }); !errors.Is(err, enough) {
		t.Error(err)
	}
}
