package influxdb3

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator/influxdb3server"
)

// Every fault that can happen to a delete: only 200 is success, and only the
// catalog of the configured cluster can say that a token is unknown.
func TestRevoke_EveryFault(t *testing.T) {
	type fault = influxdb3server.Fault
	const unknown = "the requested resource was not found: a"
	for _, c := range []struct {
		name  string
		fault fault
		want  string
		gone  bool
	}{
		{"no fault", fault{Op: influxdb3server.Ping}, "ok", true},
		{"connection cut before the effect", fault{Cut: true}, "doubt unreachable", false},
		{"hang before the effect", fault{Hang: true}, "doubt unreachable", false},
		{"hang after the effect", fault{Hang: true, Apply: true}, "doubt unreachable", true},
		{"500 after the effect", fault{Status: 500, Apply: true}, "doubt", true},
		{"503", fault{Status: 503}, "doubt unreachable", false},
		{"401", fault{Status: 401, Body: `{"error": "the request was not authenticated"}`}, "unauthorized", false},
		{"403", fault{Status: 403}, "unauthorized", false},
		{"404 of the catalog", fault{Status: 404, Body: unknown}, "unknown", false},
		{"404 of the router", fault{Status: 404, Body: "Not found"}, "refused", false},
		{"404 of a proxy", influxdb3server.ProxyAnswer("", 404), "doubt", false},
		{"503 of a proxy", influxdb3server.ProxyAnswer("", 503), "doubt unreachable", false},
		{"503 of another cluster", fault{Status: 503, UUID: otherUUID}, "doubt", false},
		{"404 of the catalog in a page", fault{Status: 404, Body: "<html>" + unknown}, "doubt", false},
		{"404 of a database", fault{Status: 404, Body: "database not found: a"}, "doubt", false},
		{"404 without a body", fault{Status: 404}, "doubt", false},
		{"404 of another cluster", fault{Status: 404, Body: unknown, UUID: otherUUID}, "doubt", false},
		{"404 without a cluster-uuid", fault{Status: 404, Body: unknown, Foreign: true}, "doubt", false},
		{"404 with a cluster-uuid that is none", fault{Status: 404, Body: unknown, UUID: "x"}, "doubt", false},
		{"401 of another cluster", fault{Status: 401, UUID: otherUUID}, "doubt", false},
		{"200 of another cluster", fault{Status: 200, UUID: otherUUID}, "doubt", false},
		{"200 of a proxy", influxdb3server.ProxyAnswer("", 200), "doubt", false},
		{"204", fault{Status: 204}, "doubt", false},
		{"202", fault{Status: 202}, "doubt", false},
		{"302", fault{Status: 302}, "doubt", false},
		{"400", fault{Status: 400, Body: "serde error: x"}, "invalid", false},
		{"405", fault{Status: 405, Body: "cannot delete operator token"}, "refused", false},
		{"409", fault{Status: 409}, "doubt", false},
		{"429", fault{Status: 429}, "doubt", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := simulate(t, influxdb3server.Options{})
			s.sim.AddToken("a", "", time.Time{})
			if c.fault.Op == "" {
				c.fault.Op = influxdb3server.Delete
			}
			s.sim.Inject(c.fault)
			where := s.where()
			where.Product = issuer.Core
			if c.fault.Hang {
				where.Timeout = 100 * time.Millisecond
			}
			err := s.Management().Open(where).Revoke(t.Context(), "a")["a"]
			if got := kindOf(err); got != c.want || s.has("a") == c.gone {
				t.Errorf("%s, want %s, gone: %v: %v", got, c.want, !s.has("a"), err)
			}
		})
	}
}

func TestRevoke_NamesAreEncoded(t *testing.T) {
	s := simulate(t, influxdb3server.Options{})
	names := []string{"[vault:a:b] c", "a&token_name=root", "a+b c%20", "/../?#", `"'\`, "ünïcode", "x=y;z", strings.Repeat("long ", 500)}
	for _, name := range names {
		s.sim.AddToken(name, "", time.Time{})
	}
	if failed := s.open().Revoke(t.Context(), names...); len(failed) > 0 {
		t.Error(failed)
	}
	if left := s.sim.Tokens(); len(left) != 2 {
		t.Errorf("left: %+v", left)
	}
}

// A blank is sent as %20, which every decoder of a query reads, also one that
// takes a plus sign for itself.
func TestRevoke_BlanksArePercentEncoded(t *testing.T) {
	var sent string
	s := newStage(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { sent = r.URL.RawQuery }))
	if failed := s.open().Revoke(t.Context(), "[a:b] c+d"); len(failed) > 0 {
		t.Error(failed)
	}
	if want := "token_name=%5Ba%3Ab%5D%20c%2Bd"; sent != want {
		t.Errorf("%s, want %s", sent, want)
	}
}

// If something on the way has changed the name, the catalog does not know that
// name, which says nothing about the token.
func TestRevoke_NotFoundIsAboutTheName(t *testing.T) {
	for message, want := range map[string]string{
		"the requested resource was not found: [a:b] c":           "unknown",
		"the requested resource was not found: token \"[a:b] c\"": "unknown",
		"the requested resource was not found: [a:b]+c":           "doubt",
		"the requested resource was not found: ":                  "doubt",
	} {
		s := newStage(t, answer(http.StatusNotFound, message))
		if err := s.open().Revoke(t.Context(), "[a:b] c")["[a:b] c"]; kindOf(err) != want {
			t.Errorf("%s: %s, want %s: %v", message, kindOf(err), want, err)
		}
	}
}

// A proxy may answer every request by 200 with a page. The answer to a delete has
// no body, and a server since 3.7.0 identifies itself.
func TestRevoke_OKWithABodyIsNoProof(t *testing.T) {
	for _, c := range []struct {
		name, version string
		fault         influxdb3server.Fault
		want          string
	}{
		{"an old server", "3.6.0", influxdb3server.Fault{Op: influxdb3server.Ping}, "ok"},
		{"a page instead of an old server", "3.6.0", influxdb3server.ProxyAnswer("", 200), "doubt"},
		{"a page", "", influxdb3server.ProxyAnswer("", 200), "doubt"},
		{"JSON", "", influxdb3server.Fault{Status: 200, Body: `{"status":"ok"}`, Foreign: true}, "doubt"},
		{"a body and a cluster-uuid", "", influxdb3server.Fault{Apply: true, Status: 200, Body: `{}`}, "ok"},
	} {
		s := simulate(t, influxdb3server.Options{Version: c.version})
		s.sim.AddToken("a", "", time.Time{})
		s.sim.Inject(c.fault)
		err := s.open().Revoke(t.Context(), "a")["a"] // the UUID is not known yet
		if kindOf(err) != c.want || s.has("a") == (c.want == "ok") {
			t.Errorf("%s: %s, want %s, gone: %v: %v", c.name, kindOf(err), c.want, !s.has("a"), err)
		}
	}
}

func TestRevoke_OperatorAndEmptyNameStay(t *testing.T) {
	s := simulate(t, influxdb3server.Options{})
	s.sim.AddToken("", "", time.Time{})
	failed := s.open().Revoke(t.Context(), "_admin", "")
	if kindOf(failed["_admin"]) != "refused" || !strings.Contains(failed["_admin"].Error(), "operator token") || kindOf(failed[""]) != "invalid" {
		t.Error(failed)
	}
	if len(s.sim.Tokens()) != 3 || len(s.requests("")) != 1 {
		t.Errorf("%d tokens left, sent %q", len(s.sim.Tokens()), s.requests(""))
	}
}

// A cluster without a UUID is judged by the text of the catalog alone.
func TestRevoke_OldServerWithoutUUID(t *testing.T) {
	s := simulate(t, influxdb3server.Options{Version: "3.6.0"})
	if err := s.open().Revoke(t.Context(), "a")["a"]; kindOf(err) != "unknown" {
		t.Error(err)
	}
	if got := s.open().(issuer.UUIDReporter).ReportedUUID(); got != "" {
		t.Error(got)
	}
	s.sim.SetVersion("3.7.0")
	if err := s.open().Revoke(t.Context(), "a")["a"]; kindOf(err) != "unknown" {
		t.Error(err)
	}
	if got := s.open().(issuer.UUIDReporter).ReportedUUID(); got != s.sim.UUID() {
		t.Errorf("learned after the upgrade: %q", got)
	}
}

// A server replaced by another one at the same address knows none of the tokens,
// which proves nothing.
func TestRevoke_ReplacedServer(t *testing.T) {
	s := simulate(t, influxdb3server.Options{})
	where := s.where()
	where.Product = issuer.Core
	where.UUID = otherUUID // of the one before
	i := s.Management().Open(where)
	_, listErr := collect(t.Context(), i)
	for name, err := range map[string]error{"revoke": i.Revoke(t.Context(), "a")["a"], "list": listErr} {
		if kindOf(err) != "doubt" || !strings.Contains(err.Error(), "another cluster") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := i.(issuer.UUIDReporter).ReportedUUID(); got != s.sim.UUID() {
		t.Errorf("reported: %q", got)
	}
}

func TestRevoke_RestoredBackupBringsTokensBack(t *testing.T) {
	s := simulate(t, influxdb3server.Options{})
	token, err := s.open().Issue(t.Context(), request("a"))
	if err != nil {
		t.Fatal(err)
	}
	backup := s.sim.Backup()
	for range 2 {
		if failed := s.open().Revoke(t.Context(), "a"); len(failed) > 0 || s.sim.Accepts(token.Secret.Reveal()) {
			t.Error(failed)
		}
		s.sim.Restore(backup)
		if infos, err := collect(t.Context(), s.open()); err != nil || !slices.ContainsFunc(infos, func(i issuer.Info) bool { return i.ID == "a" }) {
			t.Errorf("the list does not show the restored token: %+v, %v", infos, err)
		}
	}
}

// A node that lags answers 404 for a token that another node has just created,
// and does not accept it. UnknownAge and SpreadTime say that this proves nothing.
func TestRevoke_StaleNode(t *testing.T) {
	const lag = 10 * time.Second
	var shift atomic.Int64
	sim := influxdb3server.New(influxdb3server.Options{
		Product: influxdb3server.Enterprise, Alarm: t.Error,
		Now: func() time.Time { return time.Now().Add(time.Duration(shift.Load())) },
	})
	sim.AddToken(rootName, rootSecret, time.Time{})
	shift.Add(int64(lag))
	fresh, stale := newStage(t, sim), newStage(t, sim.AddNode(lag))
	where := stale.cluster(issuer.Enterprise)
	where.UUID = sim.UUID()
	i := stale.Management().Open(where)
	token, err := fresh.Management().Open(fresh.cluster(issuer.Enterprise)).Issue(t.Context(), request("a"))
	if err != nil {
		t.Fatal(err)
	}
	where.Root = token.Secret
	proved := stale.Management().Open(where)
	if _, err := collect(t.Context(), proved); kindOf(err) != "unauthorized" {
		t.Errorf("the stale node and the new token: %v", err)
	}
	if err := i.Revoke(t.Context(), "a")["a"]; kindOf(err) != "unknown" || !sim.Accepts(token.Secret.Reveal()) {
		t.Errorf("the stale node does not know the token, which exists: %v", err)
	}
	if traits := issuer.TraitsOf(i); traits.UnknownAge < 2*lag || traits.SpreadTime < 2*lag {
		t.Errorf("%+v", traits)
	}
	shift.Add(int64(lag))
	if _, err := collect(t.Context(), proved); err != nil {
		t.Error(err)
	}
	if failed := i.Revoke(t.Context(), "a"); len(failed) > 0 || sim.Accepts(token.Secret.Reveal()) {
		t.Error(failed)
	}
}

func TestRevoke_StopsWhenUnreachable(t *testing.T) {
	s := simulate(t, influxdb3server.Options{})
	s.sim.SetOutage(true)
	where := s.cluster(issuer.Core)
	where.MaxParallel = 2
	var ids []string
	for n := range 100 {
		ids = append(ids, fmt.Sprint(n))
	}
	failed := s.Management().Open(where).Revoke(t.Context(), ids...)
	if len(failed) != len(ids) {
		t.Errorf("%d of %d failed", len(failed), len(ids))
	}
	for id, err := range failed {
		if !errors.Is(err, issuer.ErrUnreachable) || errors.Is(err, issuer.ErrUnknown) || !strings.Contains(err.Error(), fmt.Sprintf("%q", id)) {
			t.Errorf("%s: %v", id, err)
		}
	}
	// net/http repeats a DELETE whose connection was lost, on a new connection.
	if sent := s.requests(http.MethodDelete); len(sent) > 20 {
		t.Errorf("%d requests", len(sent))
	}
}

// One ID's failure says nothing about the others.
func TestRevoke_OtherErrorsDoNotStop(t *testing.T) {
	s := simulate(t, influxdb3server.Options{})
	var ids []string
	for n := range 20 {
		ids = append(ids, fmt.Sprint(n))
		s.sim.AddToken(ids[n], "", time.Time{})
	}
	s.sim.Inject(influxdb3server.Fault{Op: influxdb3server.Delete, Times: 10, Status: 500})
	if failed := s.open().Revoke(t.Context(), append(ids, ids...)...); len(failed) != 10 || len(s.requests(http.MethodDelete)) != 20 {
		t.Errorf("%d failed after %d requests", len(failed), len(s.requests(http.MethodDelete)))
	}
}

// The limit holds for both kinds of token together.
func TestDrivers_ShareTheLimit(t *testing.T) {
	release := make(chan struct{})
	s := newStage(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	where := s.cluster(issuer.Enterprise)
	where.MaxParallel = 3
	var all sync.WaitGroup
	for _, d := range []issuer.Driver{s.Management(), s.Database()} {
		for n := range 4 {
			all.Go(func() { d.Open(where).Revoke(t.Context(), fmt.Sprint(n)) })
			all.Go(func() { _, _ = d.Open(where).Issue(t.Context(), request(fmt.Sprint(n))) })
		}
	}
	eventually(t, "three requests are under way", func() bool { return len(s.requests("")) == 3 })
	close(release)
	all.Wait()
	if s.peak != 3 || len(s.requests("")) != 16 {
		t.Errorf("%d at a time, %d in all", s.peak, len(s.requests("")))
	}
}
