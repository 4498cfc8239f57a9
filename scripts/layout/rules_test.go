package main

import (
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
)

func TestAnImportThatNoRuleAllowsIsAProblem(t *testing.T) {
	for _, c := range []struct {
		from, to string // below the module if they start with a slash
		ok       bool
	}{
		{"/cmd/vault-plugin-secrets-influxdb", "/plugin", true},
		{"/cmd/influxsim", "/backend/issuer/issuertest/simulator", true},
		{"/cmd/influxsim", "/cmd/vault-plugin-secrets-influxdb", false},
		{"/cmd/influxsim", "/backend", false},
		{"/cmd/influxsim", "os", true},
		{"/cmd/influxsim", "github.com/urfave/cli/v2", false},
		{"/plugin", "/backend", true},
		{"/plugin", "/backend/issuer", true},
		{"/plugin", "/backend/issuer/influxctl", true},
		{"/plugin", "/backend/issuer/issuertest/simulator", false},
		{"/plugin", "/backend/issuer/issuertest", false},
		{"/backend", "/backend/issuer", true},
		{"/backend", "github.com/hashicorp/vault/sdk/logical", true},
		{"/backend/ledger", "/backend", true},
		{"/backend", "/backend/issuer/influxctl", false},
		{"/backend", "/backend/issuer/issuertest", false},
		{"/backend", "/plugin", false},
		{"/backend", "os/exec", false},
		{"/backend", "net/http", false},
		{"/backend/ledger", "net/http", false},
		{"/backend", "net/url", true},
		{"/backend/issuer", "errors", true},
		{"/backend/issuer", "github.com/hashicorp/go-hclog", false},
		{"/backend/issuer", "/backend", false},
		{"/backend/issuer/issuertest", "/backend/issuer", true},
		{"/backend/issuer/issuertest", "/backend/issuer/influxctl", false},
		{"/backend/issuer/influxctl", "/backend/issuer", true},
		{"/backend/issuer/influxctl", "os/exec", true},
		{"/backend/issuer/influxctl", "github.com/pelletier/go-toml/v2", true},
		{"/backend/issuer/influxctl", "/backend", false},
		{"/backend/issuer/influxctl", "/backend/issuer/issuertest/simulator", false},
		{"/backend/issuer/influxctl", "github.com/hashicorp/vault/sdk/logical", false},
		{"/backend/issuer/influxctl", "github.com/hashicorp/go-hclog", false},
		{"/plugin", "/backend/issuer/managementapi", true},
		{"/backend", "/backend/issuer/managementapi", false},
		{"/backend/issuer/managementapi", "/backend/issuer", true},
		{"/backend/issuer/managementapi", "net/http", true},
		{"/backend/issuer/managementapi", "os/exec", false},
		{"/backend/issuer/managementapi", "github.com/hashicorp/go-cleanhttp", true},
		{"/backend/issuer/managementapi", "github.com/hashicorp/vault/sdk/logical", false},
		{"/backend/issuer/managementapi", "/backend/issuer/influxctl", false},
		{"/backend/issuer/managementapi", "/backend", false},
		{"/backend/issuer/issuertest/simulator", "github.com/urfave/cli/v2", true},
		{"/backend/issuer/issuertest/simulator", "/backend/issuer", false},
		{"/backend/issuer/issuertest/simulator", "/backend/issuer/influxctl", false},
		{"/backend/issuer/issuertest/simulator", "/backend", false},
		{"/helpers", "errors", false},
		{"", "errors", false},
	} {
		from, to := module+c.from, c.to
		if to[0] == '/' {
			to = module + to
		}
		problems := checkImports([]pkg{{ImportPath: from, Imports: []string{to}}})
		if ok := len(problems) == 0; ok != c.ok {
			t.Errorf("%s imports %s: problems %q", from, to, problems)
		}
	}
}

func TestOfADeniedPackageOnlyHarmlessNamesMayBeUsed(t *testing.T) {
	for _, c := range []struct {
		source string
		ok     bool
	}{
		{`import "net/http"; var x = http.StatusOK`, true},
		{`import "net/http"; var x, y = http.StatusText(200), http.DefaultClient`, false},
		{`import "net/http"; type http2 struct{ http.Client }`, false},
		{`import web "net/http"; var x = web.StatusOK`, false},
		{`import . "net/http"; var x = StatusOK`, false},
		{`import _ "net/http"`, false},
		{`import "os/exec"; var x = exec.StatusOK`, false},
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x; "+c.source, 0)
		if err != nil {
			t.Fatal(err)
		}
		imported := strings.Trim(file.Imports[0].Path.Value, `"`)
		p := pkg{ImportPath: module + "/backend", Imports: []string{imported}, Used: map[string][]string{}}
		p.use(file)
		if problems := checkImports([]pkg{p}); (len(problems) == 0) != c.ok {
			t.Errorf("%s: problems %q", c.source, problems)
		}
	}
}

func TestTheSimulatorHasNoPlaceInThePluginBinary(t *testing.T) {
	fine := []pkg{{ImportPath: "os"}, {ImportPath: module + "/backend"}, {ImportPath: module + "/backend/issuer/influxctl"}}
	if got := checkBinary(fine); len(got) > 0 {
		t.Errorf("problems %q where there are none", got)
	}
	for _, path := range []string{
		module + "/backend/issuer/issuertest/simulator",
		module + "/backend/issuer/issuertest",
		"github.com/urfave/cli/v2",
	} {
		if got := checkBinary(append(fine, pkg{ImportPath: path})); len(got) != 1 {
			t.Errorf("%s: problems %q", path, got)
		}
	}
}

func TestAStrangerAtTheTopLevelIsAProblem(t *testing.T) {
	got := checkTopLevel([]string{".golangci.yml", "README.md", "backend", "internal"})
	if want := []string{"the top level must not hold internal"}; !slices.Equal(got, want) {
		t.Errorf("problems %q, want %q", got, want)
	}
}
