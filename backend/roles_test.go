package backend_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRole_IsCheckedAndRead(t *testing.T) {
	e := newEngine(t)
	resp := e.write("roles/automation", nil)
	if !strings.Contains(strings.Join(resp.Warnings, " "), "not the maximum of the mount") {
		t.Errorf("max_ttl=0 is not explained: %v", resp.Warnings)
	}
	e.write("roles/automation", map[string]any{"max_ttl": "8h"})
	want := map[string]any{
		"ttl": 3600, "max_ttl": 28800, "description": "{{.RoleName}} {{.DisplayName}}", "max_active": 0, "renewable": true, "token_type": "management", "revoke_on": "lease",
		"effective_ttl": 3600, "effective_ttl_limit": "ttl of the role",
		"effective_max_ttl": 28800, "effective_max_ttl_limit": "max_ttl of the role",
	}
	if diff := cmp.Diff(want, e.read("roles/automation").Data); diff != "" {
		t.Error(diff)
	}
	resp = e.write("roles/automation", map[string]any{"max_ttl": "9000h"})
	if !strings.Contains(strings.Join(resp.Warnings, " "), "-max-lease-ttl") {
		t.Errorf("a value over the maximum of the mount is not explained: %v", resp.Warnings)
	}
	for _, c := range []struct {
		change map[string]any
		words  string
	}{
		{map[string]any{"ttl": "9001h"}, "must not be longer than max_ttl"},
		{map[string]any{"ttl": 0}, "ttl must be at least 1s"},
		{map[string]any{"ttl": "-1h"}, "ttl"},
		{map[string]any{"max_ttl": "-1h"}, "max_ttl"},
		{map[string]any{"max_ttl": "1000000h"}, "100 years"},
		{map[string]any{"ttl": "an hour"}, "ttl"},
		{map[string]any{"description": "{{.RoleName"}, "description:"},
		{map[string]any{"description": "{{.Nobody}}"}, "description:"},
		{map[string]any{"description": " "}, "description:"},
		{map[string]any{"description": "{{range 30000000000}}x{{end}}"}, "is not allowed in a description"},
		{map[string]any{"description": "{{define \"a\"}}{{template \"a\"}}{{end}}{{template \"a\"}}"}, "define is not allowed"},
		{map[string]any{"description": "{{$x := .RoleName}}{{$x}}"}, "variables are not allowed"},
		{map[string]any{"description": "{{random 100000000}}"}, "between 0 and 100"},
		{map[string]any{"description": "{{printf \"%1000000d\" 1}}"}, "printf is not allowed"},
		{map[string]any{"description": "{{.RoleName" + strings.Repeat(" | base64", 400) + "}}"}, "may call 8 functions"},
		{map[string]any{"description": "{{.RoleName | replace \"a\" \"aa\"}}"}, "replace is not allowed"},
		{map[string]any{"description": ""}, "description:"},
		{map[string]any{"description": strings.Repeat("x", 5000)}, "longer than 4096"},
		{map[string]any{"max_active": -1}, "max_active"},
		{map[string]any{"token_type": "operator"}, "token_type must be"},
		{map[string]any{"read_databases": "metrics"}, "are for token_type=database"},
		{map[string]any{"token_type": "database"}, "needs read_databases, write_databases or both"},
		{map[string]any{"token_type": "database", "write_databases": strings.Repeat("x", 65)}, "not the name of a database"},
		{map[string]any{"token_type": "database", "write_databases": []string{"a\nb"}}, "not the name of a database"},
	} {
		e.refuse(400, updateOp, "roles/automation", c.change, c.words)
	}
	e.refuse(400, createOp, "roles/"+strings.Repeat("x", 300), nil, "longer than 128")
	if keys := e.must(listOp, "roles/", nil).Data["keys"]; !cmp.Equal(keys, []string{"automation"}) {
		t.Errorf("roles %v", keys)
	}
	e.must(deleteOp, "roles/automation", nil)
	e.refuse(404, readOp, "roles/automation", nil)
}

// A description may use if, comments and the functions that are allowed.
func TestRole_DescriptionTemplate(t *testing.T) {
	e := ready(t, map[string]any{"description": "{{if .EntityID}}{{.EntityID | truncate 8 | uppercase}}{{else}}none{{end}} {{random 4}} {{/* why */}}{{timestamp \"2006\"}}"})
	if text := e.creds().Data["description"].(string); !strings.Contains(text, "] ENTITY-1 ") {
		t.Errorf("description %q", text)
	}
}
