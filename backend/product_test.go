package backend_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

const (
	host   = "db.example.com"
	uuidA  = "aaaaaaaa-0000-4000-8000-000000000001"
	uuidB  = "bbbbbbbb-0000-4000-8000-000000000002"
	dbRole = "database"
)

// namedProducts are the products where tokens have names.
var namedProducts = []string{issuer.Core, issuer.Enterprise, issuer.Cloud}

// named reports whether tokens have names in the product.
func (e *engine) named() bool { return slices.Contains(namedProducts, e.product) }

// traitsOf are the traits of the driver of InfluxDB 3 Core, Enterprise and Cloud.
func traitsOf(product string) issuer.Traits {
	t := issuer.Traits{KeepsExpired: true, OneList: true, UnknownAge: issuer.DefaultUnknownAge, SpreadTime: time.Minute}
	if product == issuer.Core {
		t.UnknownAge, t.SpreadTime = -1, 0
	}
	return t
}

// says fails the test unless one of the texts has all the words.
func says(t *testing.T, texts []string, words ...string) {
	t.Helper()
	all := strings.Join(texts, "\n")
	for _, word := range words {
		if !strings.Contains(all, word) {
			t.Errorf("%q does not say %q", all, word)
		}
	}
}

func TestProduct_ConfigIsReadBack(t *testing.T) {
	for _, product := range namedProducts {
		e := newEngineOf(t, product)
		e.cluster.SetServer(issuer.Server{Product: product, Version: "3.11.5", UUID: uuidA}, nil)
		e.configure(map[string]any{"request_timeout": "20s"})
		port := "8181"
		if product == issuer.Cloud {
			port = "443"
		}
		want := map[string]any{
			"product": product, "host": host, "port": port, "cluster_uuid": uuidA,
			"admin_token_id": "root", "admin_token_expires_at": "never", "ca_cert": "", "client_cert": "", "insecure_tls": false, "disable_tls": false,
			"request_timeout": 20, "max_parallel": 4, "mount_tag": e.tag, "disable_automated_rotation": false,
			"rotation_period": 0, "rotation_ttl": 8760 * 3600, "rotation_overlap": 100, "expiry_warning": 7 * 24 * 3600,
		}
		if diff := cmp.Diff(want, e.read("config").Data); diff != "" {
			t.Errorf("%s: %s", product, diff)
		}
		status := e.read("status").Data
		if status["admin_token_id"] != "root" || status["mgmt_token_id"] != nil || status["admin_token_since"] == nil || status["cluster"] != product+"/"+host+":"+port {
			t.Errorf("status: %v", status)
		}
		e.write("config", map[string]any{"port": port}) // is no new place
		if status["cli_path"] != nil || status["cli_error"] != nil {
			t.Errorf("%s needs no program: %v", product, status)
		}
	}
}

func TestProduct_ParameterOfAnotherProductIsRefused(t *testing.T) {
	for _, product := range namedProducts {
		e := newEngineOf(t, product)
		for field, c := range map[string]struct{ value, words string }{
			"account_id": {accountID, "host"}, "cluster_id": {clusterID, "host"}, "api_url": {"https://a.example.com", "host and port"},
			"mgmt_token": {"M.V1.x", "admin_token"}, "mgmt_token_id": {clusterID, "admin_token"},
		} {
			e.refuse(400, createOp, "config", e.config(map[string]any{field: c.value}), field+" is not a parameter of product="+product, c.words)
		}
		e.refuse(400, createOp, "config", e.config(map[string]any{"admin_token": nil}), "admin_token is required")
		e.refuse(400, createOp, "config", e.config(map[string]any{"host": nil}), "host is required for product="+product)
		e.refuse(400, createOp, "config", e.config(map[string]any{"admin_token": "M.V1.of-dedicated"}), "admin_token is a management token of InfluxDB Cloud Dedicated")
		e.refuse(400, createOp, "config", e.config(map[string]any{"admin_token": []any{"hunter2"}}), "admin_token must be given once")
		if n := len(e.cluster.Opened()); n > 0 {
			t.Errorf("%s: a refused request opened %d clusters", product, n)
		}
	}
	e := newEngine(t)
	for _, product := range []string{issuer.Dedicated, issuer.Clustered} {
		e.refuse(400, createOp, "config", e.config(map[string]any{"product": product, "host": "h", "mgmt_token": nil, "admin_token": "M.V1.x"}),
			"admin_token is not a parameter of product="+product, "mgmt_token")
	}
	e.refuse(400, createOp, "config", e.config(map[string]any{"product": nil}), "core (InfluxDB 3 Core)", "dedicated (InfluxDB Cloud Dedicated)")
}

func TestProduct_PlainText(t *testing.T) {
	for _, c := range []struct {
		product, host string
		status        int
		warns         bool
	}{
		{issuer.Core, "db.example.com", 200, true},
		{issuer.Enterprise, "10.0.0.1", 200, true},
		{issuer.Core, "127.0.0.1", 200, false},
		{issuer.Enterprise, "localhost", 200, false},
		{issuer.Core, "::1", 200, false},
		{issuer.Cloud, "127.0.0.1", 200, false},
		{issuer.Cloud, "db.example.com", 400, false},
	} {
		e := newEngineOf(t, c.product)
		data := e.config(map[string]any{"host": c.host, "disable_tls": true})
		if c.status == 400 {
			e.refuse(400, createOp, "config", data, "disable_tls", "plain text")
			continue
		}
		warnings := strings.Join(e.write("config", data).Warnings, "\n")
		if got := strings.Contains(warnings, "plain text"); got != c.warns {
			t.Errorf("%s at %s: warnings %q", c.product, c.host, warnings)
		}
	}
}

func TestProduct_CredentialHasAnAddress(t *testing.T) {
	for _, c := range []struct {
		product string
		change  map[string]any
		url     any
	}{
		{issuer.Dedicated, nil, nil},
		{issuer.Dedicated, map[string]any{"host": "c.example.com"}, "https://c.example.com"},
		{issuer.Dedicated, map[string]any{"product": "clustered", "host": "c.example.com", "port": "8443"}, "https://c.example.com:8443"},
		{issuer.Core, nil, "https://db.example.com:8181"},
		{issuer.Core, map[string]any{"host": "127.0.0.1", "port": 80, "disable_tls": true}, "http://127.0.0.1:80"},
		{issuer.Enterprise, map[string]any{"host": "fd00::1"}, "https://[fd00::1]:8181"},
		{issuer.Cloud, nil, "https://db.example.com:443"},
	} {
		e := newEngineOf(t, c.product)
		e.configure(c.change)
		e.write("roles/automation", nil)
		got := e.creds().Data
		if got["url"] != c.url {
			t.Errorf("%s %v: url %v, want %v", c.product, c.change, got["url"], c.url)
		}
		if _, has := got["account_id"]; has == e.named() {
			t.Errorf("%s: account_id in %v", c.product, got)
		}
	}
}

func TestProduct_ServerIsInspected(t *testing.T) {
	e := newEngineOf(t, issuer.Core)
	e.cluster.SetServer(issuer.Server{}, fmt.Errorf("the server is InfluxDB 3 Enterprise, and not InfluxDB 3 Core: %w", issuer.ErrInvalid))
	e.refuse(400, createOp, "config", e.config(), "nothing was stored", "InfluxDB 3 Enterprise")
	e.cluster.SetServer(issuer.Server{Warning: "the server is of version 3.2.0: upgrade it"}, nil)
	says(t, e.write("config", e.config()).Warnings, "The server is of version 3.2.0: upgrade it.", "full administrator")
	check := e.write("config/check", nil)
	says(t, check.Warnings, "The server is of version 3.2.0")

	e.cluster.SetHook(fails(errDown, issuertest.BeforeInspect))
	e.refuse(502, updateOp, "config", map[string]any{"max_parallel": 3}, "nothing was stored", "out of reach")
	e.write("config", map[string]any{"max_parallel": 3, "verify": false})
}

func TestProduct_OperatorTokenIsNeverRotated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngineOf(t, issuer.Enterprise)
		operator := e.cluster.Add("_admin", time.Time{})
		resp := e.write("config", e.config(map[string]any{"admin_token": operator.Secret.Reveal(), "rotation_period": "24h"}))
		says(t, resp.Warnings, "_admin", "named admin token")
		if config := e.read("config").Data; config["admin_token_id"] != "_admin" || config["next_vault_rotation"] != nil {
			t.Errorf("config: %v", config)
		}
		e.refuse(400, updateOp, "config/rotate-root", nil, "_admin", "influxdb3 create token --admin")
		e.write("roles/automation", nil)
		e.passInSteps(time.Hour, 60*time.Hour)
		e.rootWorks()
		if n := len(e.records()); n != 0 || !e.cluster.Alive(operator.Secret) {
			t.Errorf("%d records; the operator token must stay", n)
		}
	})
}

func TestProduct_RotationPolicy(t *testing.T) {
	for _, product := range namedProducts {
		e := newEngineOf(t, product)
		e.refuse(400, createOp, "config", e.config(map[string]any{"rotation_ttl": 0}), "rotation_ttl must not be 0", "expiry")
		e.refuse(400, createOp, "config", e.config(map[string]any{"rotation_ttl": "90000h"}), "rotation_ttl is 90000h", "longest life")
		e.configure()
		e.write("config", map[string]any{"rotation_overlap": "10s"})
		if got := e.read("config").Data["rotation_overlap"]; got != 10 {
			t.Errorf("rotation_overlap %v, want what was written", got)
		}
	}
}

func TestProduct_CoreHasNoDatabaseTokens(t *testing.T) {
	reason := []string{"InfluxDB 3 Core has no database tokens", "full administrator", "token_type=management"}
	database := map[string]any{"token_type": dbRole, "read_databases": "a"}
	e := newEngineOf(t, issuer.Core)
	e.write("roles/early", database) // the product is not known yet
	e.configure()
	e.refuse(400, readOp, "creds/early", nil, reason...)
	e.refuse(400, updateOp, "roles/late", database, reason...)
	e.refuse(400, updateOp, "static-roles/late", map[string]any{"read_databases": "a", "rotation_period": "1h"}, reason...)
	e.refuse(400, updateOp, "config/check", map[string]any{"token_type": dbRole}, reason...)
	e.refuse(400, updateOp, "tidy", map[string]any{"token_type": dbRole}, reason...)
	says(t, e.write("roles/automation", nil).Warnings, "full administrator")
	if n := e.data.Calls(issuertest.BeforeIssue); n > 0 || len(e.records()) > 0 {
		t.Errorf("%d database tokens were issued, records %v", n, e.records())
	}
	for _, warning := range readyOf(t, issuer.Enterprise, nil).write("roles/other", database).Warnings {
		if strings.Contains(warning, "full administrator") {
			t.Error("Enterprise has tokens with fewer rights")
		}
	}
}

func TestProduct_AdminMeansManagement(t *testing.T) {
	for _, product := range []string{issuer.Dedicated, issuer.Core, issuer.Enterprise} {
		e := readyOf(t, product, map[string]any{"token_type": "admin"})
		if got := e.read("roles/automation").Data["token_type"]; got != "admin" {
			t.Errorf("a role answers what was written, not %v", got)
		}
		h := e.creds()
		if h.Data["token_type"] != "management" || e.data.Calls(issuertest.BeforeIssue) > 0 {
			t.Errorf("credential: %v", h.Data["token_type"])
		}
		if got := e.read("tokens/" + h.Data["accessor"].(string)).Data["token_type"]; got != "management" {
			t.Errorf("record: %v", got)
		}
		e.refuse(400, updateOp, "roles/other", map[string]any{"token_type": "admin", "read_databases": "a"}, "read_databases")
		e.write("config/check", map[string]any{"token_type": "admin"})
		if got := e.write("tidy", map[string]any{"token_type": "admin"}).Data["in_ledger"]; got != 1 {
			t.Errorf("tidy: %v records", got)
		}
		if err := e.revoke(h); err != nil || e.alive() != 0 {
			t.Errorf("%v, %d alive", err, e.alive())
		}
		e.write("static-roles/shared", map[string]any{"token_type": "admin", "rotation_period": "1h"})
		if got := e.read("static-creds/shared").Data["token_type"]; got != "management" {
			t.Errorf("static credential: %v", got)
		}
	}
}

func TestProduct_ChangeDropsParametersOfTheOldOne(t *testing.T) {
	e := newEngineOf(t, issuer.Core)
	e.write("config", map[string]any{"product": "clustered", "host": host, "account_id": accountID, "api_url": "https://a.example.com", "mgmt_token": "M.V1.x", "verify": false})
	e.refuse(400, updateOp, "config", map[string]any{"product": "core"}, "admin_token is required")
	e.write("config", map[string]any{"product": "core", "admin_token": e.root.Secret.Reveal()})
	config := e.read("config").Data
	if config["account_id"] != nil || config["api_url"] != nil || config["port"] != "8181" || config["admin_token_id"] != "root" {
		t.Errorf("config: %v", config)
	}
	for _, c := range e.cluster.Opened() {
		if c.AccountID+c.APIURL != "" {
			t.Errorf("the driver got %+v", c)
		}
	}
}

func TestProduct_LeasedTokenIsNoRootCredential(t *testing.T) {
	e := readyOf(t, issuer.Enterprise, nil)
	h := e.creds()
	e.refuse(400, updateOp, "config", map[string]any{"admin_token": h.secret().Reveal()}, "admin_token", "issued by this secrets engine")
	e.refuse(400, updateOp, "config", map[string]any{"admin_token": "apiv3_wrong"}, "nothing was stored")
	dead := e.cluster.Add("expired", e.clock.Now().Add(-time.Hour))
	e.refuse(400, updateOp, "config", map[string]any{"admin_token": dead.Secret.Reveal()}, "nothing was stored")
}
