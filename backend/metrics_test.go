package backend_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// scraped are metrics as Prometheus reads them, by name without the prefix.
type scraped map[string]*dto.MetricFamily

// metricsText reads metrics as Vault passes them on to a client.
func (e *engine) metricsText() []byte {
	e.t.Helper()
	resp, err := e.HandleRequest(e.t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "metrics", Storage: e.storage})
	if err != nil {
		e.t.Fatal(err)
	}
	if kind := resp.Data[logical.HTTPContentType]; kind != "text/plain; version=0.0.4; charset=utf-8" || resp.Data[logical.HTTPStatusCode] != http.StatusOK {
		e.t.Errorf("content type %v, status %v", kind, resp.Data[logical.HTTPStatusCode])
	}
	return resp.Data[logical.HTTPRawBody].([]byte)
}

func (e *engine) scrape() scraped {
	e.t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(e.metricsText()))
	if err != nil {
		e.t.Fatal(err)
	}
	found := scraped{}
	for name, family := range families {
		short, ok := strings.CutPrefix(name, "influxdb_secrets_")
		if !ok || family.GetHelp() == "" {
			e.t.Errorf("metric %s, help %q", name, family.GetHelp())
		}
		found[short] = family
	}
	return found
}

// value returns the value of a metric with labels, or "absent".
func (s scraped) value(name string, labels ...string) any {
	for _, m := range s[name].GetMetric() {
		var pairs []string
		for _, l := range m.Label {
			pairs = append(pairs, l.GetValue())
		}
		if strings.Join(pairs, " ") != strings.Join(labels, " ") {
			continue
		}
		switch s[name].GetType() {
		case dto.MetricType_COUNTER:
			return m.Counter.GetValue()
		case dto.MetricType_GAUGE:
			return m.Gauge.GetValue()
		default:
			return float64(m.Histogram.GetSampleCount())
		}
	}
	return "absent"
}

// counters returns the operations that have a count, as "operation result".
func (s scraped) counters() map[string]float64 {
	counts := map[string]float64{}
	for _, m := range s["operations_total"].GetMetric() {
		if n := m.Counter.GetValue(); n != 0 {
			counts[m.Label[0].GetValue()+" "+m.Label[1].GetValue()] = n
		}
	}
	return counts
}

var metricOperations = []string{"issue", "renew", "revoke", "defer", "orphan_revoke", "rotate_root", "rotate_static"}

func TestMetrics_CountersExistFromTheStart(t *testing.T) {
	e := newEngine(t)
	s := e.scrape()
	for _, operation := range metricOperations {
		for _, result := range []string{"success", "refused", "failed"} {
			if n := s.value("operations_total", operation, result); n != 0.0 {
				t.Errorf("%s %s: %v", operation, result, n)
			}
		}
	}
	for _, call := range []string{"issue", "revoke", "list", "inspect"} {
		if n := s.value("request_duration_seconds", call); n != 0.0 {
			t.Errorf("durations of %s: %v", call, n)
		}
	}
	for _, state := range []string{"issuing", "active", "revoking"} {
		for _, tokenType := range []string{"management", "database"} {
			for _, source := range []string{"role", "static_role", "root", "check"} {
				if n := s.value("tokens", state, tokenType, source); n != 0.0 {
					t.Errorf("tokens %s %s %s: %v", state, tokenType, source, n)
				}
			}
		}
	}
	for name, want := range map[string]any{
		"ledger_loaded": 1.0, "next_deadline_timestamp_seconds": "absent", "root_expiry_timestamp_seconds": "absent",
	} {
		if got := s.value(name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if s.value("build_info", "v1.2.3") != 1.0 {
		t.Errorf("build_info: %v", s["build_info"])
	}
}

// An incident makes one operation end in one way.
type incident struct {
	name string
	act  func(e *engine)
	want map[string]float64 // counts that the act adds, as "operation result"
}

func storageFails(e *engine, op logical.Operation, prefix string) {
	e.storage.setFault(func(when string, got logical.Operation, key string) error {
		if when == "before" && got == op && strings.HasPrefix(key, prefix) {
			return errInjected
		}
		return nil
	})
}

func failingHook(kinds ...error) issuertest.Hook {
	err := errDown
	for _, kind := range kinds {
		err = fmt.Errorf("%w: %w", err, kind)
	}
	return fails(err, issuertest.BeforeIssue, issuertest.BeforeRevoke, issuertest.BeforeList)
}

var incidents = []incident{
	{"issue", func(e *engine) { e.creds() }, map[string]float64{"issue success": 1}},
	{"issue over max_active", func(e *engine) {
		e.write("roles/automation", map[string]any{"max_active": 1})
		e.creds()
		e.try(readOp, "creds/automation", nil)
	}, map[string]float64{"issue success": 1, "issue refused": 1}},
	{"issue that the cluster refuses", func(e *engine) {
		e.cluster.SetHook(failingHook(issuer.ErrInvalid))
		e.try(readOp, "creds/automation", nil)
	}, map[string]float64{"issue refused": 1}},
	{"issue with a root credential that is not accepted", func(e *engine) {
		e.cluster.SetHook(failingHook(issuer.ErrUnauthorized))
		e.try(readOp, "creds/automation", nil)
	}, map[string]float64{"issue failed": 1}},
	{"issue on a cluster that is out of reach", func(e *engine) {
		e.cluster.SetHook(failingHook(issuer.ErrUnreachable, issuer.ErrRefused))
		e.try(readOp, "creds/automation", nil)
	}, map[string]float64{"issue failed": 1}},
	{"issue with an unknown outcome", func(e *engine) {
		e.cluster.SetHook(fails(errDown, issuertest.AfterIssue))
		e.try(readOp, "creds/automation", nil)
	}, map[string]float64{"issue failed": 1}},
	{"issue while the storage fails", func(e *engine) {
		storageFails(e, updateOp, "ledger/")
		e.try(readOp, "creds/automation", nil)
	}, map[string]float64{"issue failed": 1}},
	{"renew", func(e *engine) { e.tryRenew(e.creds()) }, map[string]float64{"issue success": 1, "renew success": 1}},
	{"renew after the role was deleted", func(e *engine) {
		h := e.creds()
		e.must(deleteOp, "roles/automation", nil)
		e.tryRenew(h)
	}, map[string]float64{"issue success": 1, "renew refused": 1}},
	{"renew while the storage fails", func(e *engine) {
		h := e.creds()
		storageFails(e, updateOp, "ledger/")
		e.tryRenew(h)
	}, map[string]float64{"issue success": 1, "renew failed": 1}},
	{"revoke", func(e *engine) { _ = e.revoke(e.creds()) }, map[string]float64{"issue success": 1, "revoke success": 1}},
	{"revoke in an outage, until it is deferred", func(e *engine) {
		h := e.creds()
		e.cluster.SetHook(down)
		_ = e.revoke(h)
		e.clock.advance(2 * time.Minute)
		_ = e.revoke(h)
	}, map[string]float64{"issue success": 1, "revoke failed": 2, "defer success": 1}},
	{"revoke while the storage fails", func(e *engine) {
		h := e.creds()
		storageFails(e, deleteOp, "ledger/")
		_ = e.revoke(h)
	}, map[string]float64{"issue success": 1, "revoke failed": 1}},
	{"a lost lease", func(e *engine) {
		e.creds()
		e.pass(62 * time.Minute)
	}, map[string]float64{"issue success": 1, "orphan_revoke success": 1, "revoke success": 1}},
	{"a lost lease while the storage fails", func(e *engine) {
		e.creds()
		e.tick()
		e.clock.advance(62 * time.Minute)
		storageFails(e, updateOp, "ledger/")
		e.tick()
	}, map[string]float64{"issue success": 1, "orphan_revoke failed": 1}},
	{"tidy", func(e *engine) {
		e.cluster.Add("[vault:"+e.tag+":AAAAAAAAAAAAAAAAAAAAAAAAAA] lost", e.clock.Now().Add(time.Hour))
		e.write("tidy", map[string]any{"dry_run": false, "revoke_unknown": e.tag})
	}, map[string]float64{"revoke success": 1}},
	{"config/check", func(e *engine) { e.write("config/check", nil) }, map[string]float64{"issue success": 1, "revoke success": 1}},
	{"rotation of the root credential", func(e *engine) { e.write("config/rotate-root", nil) },
		map[string]float64{"issue success": 1, "rotate_root success": 1}},
	{"rotation of the root credential in an outage", func(e *engine) {
		e.cluster.SetHook(down)
		e.try(updateOp, "config/rotate-root", nil)
	}, map[string]float64{"rotate_root failed": 1}},
	{"static role", func(e *engine) {
		e.write("static-roles/fleet", map[string]any{"write_databases": "metrics", "rotation_period": "1h"})
	}, map[string]float64{"issue success": 1, "rotate_static success": 1}},
	{"change of a static role in an outage", func(e *engine) {
		e.write("static-roles/fleet", map[string]any{"write_databases": "metrics", "rotation_period": "1h"})
		e.data.SetHook(failingHook(issuer.ErrUnreachable, issuer.ErrRefused))
		e.try(updateOp, "rotate-role/fleet", nil)
	}, map[string]float64{"issue success": 1, "rotate_static success": 1, "issue failed": 1, "rotate_static failed": 1}},
}

func TestMetrics_CountEveryResult(t *testing.T) {
	for _, c := range incidents {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "3h"})
				c.act(e)
				e.failNoMore()
				if got := e.scrape().counters(); fmt.Sprint(got) != fmt.Sprint(c.want) {
					t.Errorf("counted %v, want %v", got, c.want)
				}
			})
		})
	}
}

// A node that is not active does nothing, so it counts nothing.
func TestMetrics_StandbyCountsNothing(t *testing.T) {
	e := ready(t, nil)
	h := e.creds()
	e.loseRightToWrite()
	e.try(readOp, "creds/automation", nil)
	_ = e.revoke(h)
	e.tryRenew(h)
	e.setState(0)
	if got := e.scrape().counters(); fmt.Sprint(got) != fmt.Sprint(map[string]float64{"issue success": 1}) {
		t.Errorf("counted %v", got)
	}
}

func TestMetrics_TokensAndTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "3h"})
		e.write("roles/data", map[string]any{"token_type": "database", "read_databases": "metrics"})
		e.creds()
		e.read("creds/data")
		e.write("static-roles/fleet", map[string]any{"write_databases": "metrics", "rotation_period": "1h"})
		e.write("config/rotate-root", nil)
		s := e.scrape()
		for labels, want := range map[string]float64{
			"active management role": 1, "active database role": 1, "active database static_role": 1, "revoking management root": 1,
			"active management root": 0,
		} {
			if got := s.value("tokens", strings.Fields(labels)...); got != want {
				t.Errorf("tokens %s: %v, want %v", labels, got, want)
			}
		}
		for name, want := range map[string]string{
			"next_deadline_timestamp_seconds": e.read("status").Data["next_deadline"].(string),
			"root_expiry_timestamp_seconds":   e.read("config").Data["mgmt_token_expires_at"].(string),
		} {
			if at, err := time.Parse(time.RFC3339, want); err != nil || s.value(name) != float64(at.Unix()) {
				t.Errorf("%s: %v, want %s", name, s.value(name), want)
			}
		}
		next, err := time.Parse(time.RFC3339, e.read("static-creds/fleet").Data["next_vault_rotation"].(string))
		if err != nil || s.value("static_role_switch_timestamp_seconds", "fleet") != float64(next.Unix()) {
			t.Errorf("switch at %v, want %v (%v)", s.value("static_role_switch_timestamp_seconds", "fleet"), next, err)
		}
	})
}

// Counts that are not known are absent: zero would end alerts and scripts early.
func TestMetrics_LedgerNotLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.creds()
		e.restart()
		storageFails(e, listOp, "ledger/")
		s := e.scrape()
		if s.value("ledger_loaded") != 0.0 || s["tokens"] != nil || s["next_deadline_timestamp_seconds"] != nil {
			t.Errorf("ledger_loaded %v, tokens %v", s.value("ledger_loaded"), s["tokens"])
		}
		e.failNoMore()
		if s = e.scrape(); s.value("ledger_loaded") != 1.0 || s.value("tokens", "active", "management", "role") != 1.0 {
			t.Errorf("ledger_loaded %v, tokens %v", s.value("ledger_loaded"), s["tokens"])
		}
	})
}

// The role whose tokens nobody confirms is named before it reaches its limit.
func TestMetrics_UnsettledNearTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		e.write("roles/other", nil)
		e.cluster.SetHook(fails(errDown, issuertest.AfterIssue))
		for n := 1; n <= 50; n++ {
			e.try(readOp, "creds/automation", nil)
			want := any("absent")
			if n == 50 {
				want = 50.0
			}
			if n >= 49 {
				if got := e.scrape().value("unsettled", "automation"); got != want {
					t.Errorf("after %d: %v, want %v", n, got, want)
				}
			}
		}
		e.try(readOp, "creds/other", nil)
		if got := e.scrape().value("unsettled", "other"); got != "absent" {
			t.Errorf("a role with one unknown outcome: %v", got)
		}
	})
}

// Labels have few values, and none of them is a secret or names a token.
func TestMetrics_NoTokenInALabel(t *testing.T) {
	e := ready(t, map[string]any{"ttl": "1h"})
	h := e.creds()
	e.write("config/rotate-root", nil)
	e.cluster.SetHook(down)
	_ = e.revoke(h)
	text := string(e.metricsText())
	forbidden := append(e.cluster.Secrets(), e.tag, "automation", clusterID, accountID)
	for _, r := range e.ledger() {
		forbidden = append(forbidden, r.Accessor, r.TokenID)
	}
	for _, word := range forbidden {
		if strings.Contains(text, word) {
			t.Errorf("the metrics contain %.12s…", word)
		}
	}
	if lines := strings.Count(text, "\n"); lines > 150 {
		t.Errorf("%d lines for one role", lines)
	}
}

// Mounts that share a plugin process do not share metrics.
func TestMetrics_OfOneMount(t *testing.T) {
	one, other := ready(t, nil), ready(t, nil)
	one.creds()
	if got := other.scrape().counters(); len(got) != 0 {
		t.Errorf("the other mount counted %v", got)
	}
}

// A programDriver is a driver whose program can be missing.
type programDriver struct {
	issuer.Driver
	err error
}

func (d *programDriver) Program(context.Context) (issuer.Program, error) {
	return issuer.Program{Path: "/bin/program"}, d.err
}

// useDrivers replaces the engine by one with another driver of management tokens.
func (e *engine) useDrivers(management issuer.Driver) {
	e.t.Helper()
	b, err := backend.Factory(backend.Options{
		Version: "v1.2.3", Now: e.clock.Now,
		Drivers: backend.Drivers{issuer.Dedicated: {backend.Management: management}},
	})(e.t.Context(), &logical.BackendConfig{System: e.system, StorageView: e.storage, BackendUUID: "backend-uuid"})
	if err != nil {
		e.t.Fatal(err)
	}
	e.Backend = b
}

func TestMetrics_Program(t *testing.T) {
	e := newEngine(t)
	if got := e.scrape().value("program_ok"); got != "absent" {
		t.Errorf("without a program: %v", got)
	}
	driver := &programDriver{Driver: e.cluster}
	e.useDrivers(driver)
	for _, c := range []struct {
		err  error
		want float64
	}{{nil, 1}, {errDown, 0}} {
		driver.err = c.err
		if got := e.scrape().value("program_ok"); got != c.want {
			t.Errorf("program %v: %v, want %v", c.err, got, c.want)
		}
	}
}
