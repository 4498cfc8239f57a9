// Command layout checks that the tree has the shape that was agreed on: which
// package may import which, what the plugin binary may hold, and what may stand
// at the top level. It prints what is wrong and fails if anything is.
//
// It runs from the root of the repository: go run ./scripts/layout
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

func main() {
	problems, err := check()
	if err != nil {
		fmt.Fprintln(os.Stderr, "layout:", err)
		os.Exit(2)
	}
	for _, p := range problems {
		fmt.Fprintln(os.Stderr, "layout:", p)
	}
	if len(problems) > 0 {
		os.Exit(1)
	}
}

func check() ([]string, error) {
	packages, err := list("./...")
	if err != nil {
		return nil, err
	}
	for i := range packages {
		if err := packages[i].findUsed(); err != nil {
			return nil, err
		}
	}
	linked, err := list("-deps", "./cmd/vault-plugin-secrets-influxdb")
	if err != nil {
		return nil, err
	}
	names, err := topLevel()
	if err != nil {
		return nil, err
	}
	problems := checkImports(packages)
	problems = append(problems, checkBinary(linked)...)
	return append(problems, checkTopLevel(names)...), nil
}

// A pkg is what `go list` tells of a package. Imports of tests are not in it:
// tests may import what they like.
type pkg struct {
	ImportPath string
	Imports    []string
	Dir        string
	GoFiles    []string

	Used map[string][]string `json:"-"` // names used, such as net/http.StatusOK, by import path
}

// findUsed fills in Used from the source.
func (p *pkg) findUsed() error {
	p.Used = map[string][]string{}
	for _, name := range p.GoFiles {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, 0)
		if err != nil {
			return err
		}
		p.use(file)
	}
	return nil
}

// use adds the names that one file uses. Those of a renamed import, by name or
// by dot, are not found.
func (p *pkg) use(file *ast.File) {
	imported := map[string]string{}
	for _, spec := range file.Imports {
		if importPath, err := strconv.Unquote(spec.Path.Value); err == nil && spec.Name == nil {
			imported[path.Base(importPath)] = importPath
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if selector, ok := n.(*ast.SelectorExpr); ok {
			if id, ok := selector.X.(*ast.Ident); ok && imported[id.Name] != "" {
				from := imported[id.Name]
				p.Used[from] = append(p.Used[from], from+"."+selector.Sel.Name)
			}
		}
		return true
	})
}

// list asks the go command for packages.
func list(args ...string) ([]pkg, error) {
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,Dir,GoFiles"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list %s: %w", strings.Join(args, " "), err)
	}
	var packages []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		switch err := dec.Decode(&p); {
		case errors.Is(err, io.EOF):
			return packages, nil
		case err != nil:
			return nil, fmt.Errorf("read the answer of go list: %w", err)
		}
		packages = append(packages, p)
	}
}

// topLevel names what stands at the root, but for what git ignores there.
func topLevel() ([]string, error) {
	text, err := os.ReadFile(".gitignore")
	if err != nil {
		return nil, err
	}
	ignored := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		ignored[strings.Trim(line, "/\n")] = true
	}
	entries, err := os.ReadDir(".")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !ignored[e.Name()] {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
