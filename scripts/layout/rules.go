package main

import (
	"fmt"
	"slices"
	"strings"
)

const module = "github.com/influxdb3-vault/vault-plugin-secrets-influxdb"

// A rule says what the packages below a directory may import. Of several that
// match, the longest directory decides. Packages of one rule may import each
// other, unless alone is set.
type rule struct {
	dir     string
	own     []string // directories of this module whose packages are allowed
	foreign []string // prefixes of allowed import paths outside of it; "*": any
	std     bool     // the standard library is allowed,
	denied  []string // but for these packages,
	names   []string // of which these prefixes of names ("net/http.Status") may be used all the same
	alone   bool
}

var rules = []rule{
	{dir: "cmd", std: true, own: []string{"plugin", "backend/issuer/issuertest/simulator"}, alone: true},
	{dir: "scripts", std: true, alone: true},
	{dir: "scripts/release", std: true, foreign: []string{"github.com/CycloneDX/", "github.com/google/uuid"}},
	{
		dir: "plugin", std: true, foreign: []string{"*"},
		own: []string{"backend", "backend/issuer", "backend/issuer/influxctl", "backend/issuer/managementapi"},
	},
	{
		dir: "backend", std: true, foreign: []string{"*"},
		own:    []string{"backend/issuer"},
		denied: []string{"os/exec", "net/http"},
		names:  []string{"net/http.Status"},
	},
	{dir: "backend/issuer", std: true},
	{dir: "backend/issuer/issuertest", std: true, own: []string{"backend/issuer"}, foreign: []string{"github.com/google/"}},
	{
		dir: "backend/issuer/influxctl", std: true,
		own:     []string{"backend/issuer"},
		foreign: []string{"github.com/pelletier/go-toml/", "golang.org/x/"},
	},
	{
		dir: "backend/issuer/managementapi", std: true,
		own:     []string{"backend/issuer"},
		foreign: []string{"github.com/hashicorp/go-cleanhttp", "golang.org/x/"},
		denied:  []string{"os/exec"},
	},
	{
		dir: "backend/issuer/issuertest/simulator", std: true,
		foreign: []string{
			"github.com/google/uuid", "github.com/pelletier/go-toml/", "github.com/urfave/cli/",
			"go.etcd.io/bbolt", "golang.org/x/",
		},
	},
}

// notLinked lists prefixes of what must never reach the plugin binary.
var notLinked = []string{
	module + "/backend/issuer/issuertest",
	module + "/scripts",
	"github.com/CycloneDX/",
	"github.com/getkin/kin-openapi/",
	"github.com/google/go-cmp/",
	"github.com/hashicorp/vault/api",
	"github.com/rogpeppe/go-internal/",
	"github.com/urfave/cli/",
	"go.etcd.io/bbolt",
}

// topLevelNames is all that may stand at the root, beside dot-files.
var topLevelNames = []string{
	"CHANGELOG.md", "LICENSE", "Makefile", "README.md", "backend", "cmd", "docs", "examples", "go.mod", "go.sum",
	"plugin", "scripts",
}

// checkImports says which imports of packages no rule allows.
func checkImports(packages []pkg) []string {
	var problems []string
	for _, p := range packages {
		r, ok := ruleOf(p.ImportPath)
		if !ok {
			problems = append(problems, p.ImportPath+" is of no known kind: give it a rule")
			continue
		}
		for _, path := range p.Imports {
			if !r.allows(path) && !r.allowsNames(p.Used[path]) {
				problems = append(problems, fmt.Sprintf("%s must not import %s", p.ImportPath, path))
			}
		}
	}
	return problems
}

// ruleOf finds the rule of a package of this module.
func ruleOf(path string) (found rule, ok bool) {
	for _, r := range rules {
		if below(path, module+"/"+r.dir) && len(r.dir) > len(found.dir) {
			found, ok = r, true
		}
	}
	return found, ok
}

func (r rule) allows(path string) bool {
	switch {
	case below(path, module):
		target, _ := ruleOf(path)
		return slices.Contains(r.own, target.dir) || r.dir == target.dir && !r.alone
	case standard(path):
		return r.std && !slices.Contains(r.denied, path)
	}
	return slices.ContainsFunc(r.foreign, func(prefix string) bool {
		return prefix == "*" || strings.HasPrefix(path, prefix)
	})
}

// allowsNames reports whether what is used of a denied package, which is at
// least something, is harmless.
func (r rule) allowsNames(used []string) bool {
	return len(used) > 0 && !slices.ContainsFunc(used, func(name string) bool {
		return !slices.ContainsFunc(r.names, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
	})
}

// below reports whether an import path is that of a directory or of one in it.
func below(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}

// standard reports whether a path is the standard library's: its first element
// is no host name.
func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

// checkBinary says which of the packages linked into the plugin binary have no
// place there.
func checkBinary(linked []pkg) []string {
	var problems []string
	for _, p := range linked {
		for _, prefix := range notLinked {
			if strings.HasPrefix(p.ImportPath, prefix) {
				problems = append(problems, "the plugin binary must not link "+p.ImportPath)
			}
		}
	}
	return problems
}

// checkTopLevel says which names have no place at the root.
func checkTopLevel(names []string) []string {
	var problems []string
	for _, name := range names {
		if !strings.HasPrefix(name, ".") && !slices.Contains(topLevelNames, name) {
			problems = append(problems, "the top level must not hold "+name)
		}
	}
	return problems
}
