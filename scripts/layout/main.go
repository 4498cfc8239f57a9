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
	"io"
	"os"
	"os/exec"
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
}

// list asks the go command for packages.
func list(args ...string) ([]pkg, error) {
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports"}, args...)...)
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
