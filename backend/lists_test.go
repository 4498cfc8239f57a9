package backend_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"
)

func TestLists_TakeAfterAndLimit(t *testing.T) {
	e := newEngine(t)
	e.configure()
	for _, name := range []string{"cc", "a", "b", "d"} {
		e.write("roles/"+name, nil)
		e.write("static-roles/"+name, map[string]any{"write_databases": "x", "rotation_period": "1h"})
		e.read("creds/" + name)
	}
	names := []string{"a", "b", "cc", "d"}
	var accessors []string
	for _, r := range e.ledger() {
		accessors = append(accessors, r.Accessor)
	}
	slices.Sort(accessors)
	for path, all := range map[string][]string{"roles/": names, "static-roles/": names, "tokens/": accessors, "tokens/detailed/": accessors} {
		for _, c := range []struct {
			data map[string]any
			want []string
		}{
			{nil, all},
			{map[string]any{"limit": -1}, all},
			{map[string]any{"limit": "2"}, all[:2]}, // query parameters are strings
			{map[string]any{"limit": 100}, all},
			{map[string]any{"after": all[1]}, all[2:]},
			{map[string]any{"after": all[1] + "!"}, all[2:]}, // which does not exist
			{map[string]any{"after": all[0], "limit": 1}, all[1:2]},
		} {
			resp := e.must(listOp, path, c.data)
			if diff := cmp.Diff(c.want, resp.Data["keys"]); diff != "" {
				t.Errorf("%s %v: %s", path, c.data, diff)
			}
			info, detailed := resp.Data["key_info"].(map[string]any)
			if detailed != (path == "tokens/detailed/") || detailed && len(info) != len(c.want) {
				t.Errorf("%s %v: key_info %v", path, c.data, info)
			}
		}
		e.refuse(400, listOp, path, map[string]any{"limit": "few"}, "limit must be a whole number")
		e.refuse(404, listOp, path, map[string]any{"after": "zzzz"})
	}
	info := e.must(listOp, "tokens/detailed/", nil).Data["key_info"].(map[string]any)[accessors[0]].(map[string]any)
	for _, field := range []string{"token_type", "role", "state", "token_id", "expires_at", "cluster"} {
		if info[field] == nil || info[field] == "" {
			t.Errorf("key_info has no %s: %v", field, info)
		}
	}
}

func TestForget_RecordsOfAClusterThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, nil)
		h := e.creds()
		accessor := h.Data["accessor"].(string)
		path := "tokens/" + accessor
		e.refuse(409, updateOp, path, map[string]any{"forget": true}, "configured cluster", "delete")
		e.refuse(400, updateOp, path, nil, "forget=true")
		_, move := e.otherCluster()
		e.configure(move, map[string]any{"force": true})
		warnings := strings.Join(e.read("status").Warnings, " ")
		for _, words := range []string{"1 token of a cluster", "vault write influxdb/tokens/<accessor> forget=true", "influxdb/tokens/detailed"} {
			if !strings.Contains(warnings, words) {
				t.Errorf("status does not say %q: %s", words, warnings)
			}
		}
		held := e.creds()
		e.refuse(409, updateOp, "tokens/"+held.Data["accessor"].(string), map[string]any{"forget": true}, "configured cluster")
		e.refuse(400, updateOp, "tokens/AAAA", map[string]any{"forget": true}, "no record")
		e.write(path, map[string]any{"forget": true})
		if len(e.records()) != 1 || e.read("status").Data["tokens_on_other_clusters"] != nil {
			t.Errorf("records %v", e.records())
		}
		if !e.cluster.Alive(h.secret()) {
			t.Error("forgetting a token revoked it")
		}
		if err := e.revoke(h); err != nil {
			t.Errorf("the lease of a forgotten token: %v", err)
		}
	})
}

func TestForget_WithoutAConfig(t *testing.T) {
	e := ready(t, nil)
	h := e.creds()
	e.must(deleteOp, "config", map[string]any{"force": true})
	e.write("tokens/"+h.Data["accessor"].(string), map[string]any{"forget": true})
	if len(e.records()) != 0 {
		t.Errorf("records %v", e.records())
	}
}

func TestFields_WrongTypes(t *testing.T) {
	e := ready(t, nil)
	for _, c := range []struct {
		path, field string
		value       any
		words       string
	}{
		{"config", "max_parallel", "lots", "max_parallel must be a whole number"},
		{"config", "request_timeout", "soon", "request_timeout must be a duration such as 30s"},
		{"config", "disable_tls", "maybe", "disable_tls must be true or false"},
		{"roles/automation", "ttl", "-1h", "ttl must be a duration"},
		{"roles/automation", "metadata", "word", "metadata must be a map"},
		{"roles/new", "max_active", "many", "max_active must be a whole number"},
		{"creds/automation", "ttl", "long", "ttl must be a duration"},
		{"config", "mgmt_token", []any{"M.V1.SECRET", "M.V1.SECRET"}, "mgmt_token must be given once"},
		{"config", "host", []any{"one", "two"}, "host must be a string, given once"},
	} {
		e.refuse(400, updateOp, c.path, map[string]any{c.field: c.value}, c.words)
		if _, text := e.try(updateOp, c.path, map[string]any{c.field: c.value}); strings.Contains(text, "strconv") || strings.Contains(text, "SECRET") {
			t.Errorf("%s %s: %s", c.path, c.field, text)
		}
	}
}

func TestNames_ThatNoObjectCanHave(t *testing.T) {
	e := ready(t, nil)
	for _, path := range []string{"roles/my role", "roles/a/b", "roles/-check", "creds/my role", "static-roles/a/b", "static-creds/ä", "rotate-role/a b", "tokens/a b"} {
		for _, op := range []logical.Operation{readOp, updateOp, deleteOp} {
			if strings.HasPrefix(path, "creds/") && op == deleteOp {
				continue
			}
			e.refuse(400, op, path, nil, "is not a valid name", "letters, digits")
		}
	}
}

// Vault shows an example in a help text with its indentation.
func TestHelp_KeepsTheIndentOfExamples(t *testing.T) {
	e := newEngine(t)
	for _, path := range []string{"config", "config/check", "roles/x", "creds/x", "tokens/x", "tidy", "metrics", "static-roles/x"} {
		resp, err := e.HandleRequest(t.Context(), &logical.Request{Operation: logical.HelpOperation, Path: path, Storage: e.storage})
		if err != nil {
			t.Fatal(err)
		}
		help := fmt.Sprint(resp.Data["help"])
		for line := range strings.Lines(help) {
			if strings.HasPrefix(line, "vault ") || strings.HasPrefix(line, "curl ") {
				t.Errorf("%s: an example without indent: %s", path, line)
			}
		}
	}
}

// Vault's own warning speaks of an "effective max_ttl", which is no setting.
func TestRenew_WarnsOfTheLimitOfAnIncrement(t *testing.T) {
	e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "8h"})
	h := e.creds()
	for _, c := range []struct {
		age, increment time.Duration
		want           string
	}{
		{0, 0, ""},
		{0, time.Hour, ""},
		{0, 10 * time.Hour, "The requested increment, 10h, was cut to 1h by the ttl of the role."},
		{7*time.Hour + 30*time.Minute, time.Hour, "because the token expires at " + h.Data["expires_at"].(string)},
	} {
		e.clock.advance(c.age)
		resp, err := e.renew(h, c.increment)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(resp.Warnings, " "); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("increment %s at %s: %q, want %q", c.increment, c.age, got, c.want)
		}
	}
}
