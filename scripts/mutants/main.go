// Command mutants measures the tests: it plants one bug at a time into a copy of the
// tree and reports which of them the tests find.
//
// A bug is a file *.patch in this folder, with a header:
//
//	# The bug, in one line.
//	# source: where such a bug was seen
//	# test: ./backend -run TestRenew_Exact
//
// Without the line "test", the random walks of backend/simulation must find it, or
// their search of every pair of requests.
// Arguments select the patches whose names contain one of them. MUTANT_TIME (1m) is
// the time for each. The working tree is not touched.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

const patches = "scripts/mutants"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(selected []string) error {
	within, err := time.ParseDuration(cmp.Or(os.Getenv("MUTANT_TIME"), "1m"))
	if err != nil {
		return fmt.Errorf("MUTANT_TIME: %w", err)
	}
	mutants, err := readMutants(selected)
	if err != nil {
		return err
	}
	tree, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tree) }() // a leftover in a temporary folder is not a failure
	if err := copyTree(tree); err != nil {
		return err
	}
	fmt.Printf("%-36s %-10s %-6s %8s %8s %8s %7s  %s\n", "bug", "found", "check", "seed", "walks", "steps", "time", "what")
	var missed []string
	for _, m := range mutants {
		o, err := m.try(tree, within)
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s cannot be tried: %v\n", m.name, err)
		}
		if !o.found {
			missed = append(missed, m.name)
		}
		fmt.Printf("%-36s %s  %s\n", m.name, o, m.title)
	}
	fmt.Printf("%d of %d bugs were found\n", len(mutants)-len(missed), len(mutants))
	if len(missed) > 0 {
		return fmt.Errorf("not found: %s", strings.Join(missed, ", "))
	}
	return nil
}

// A mutant is a bug that can be planted.
type mutant struct {
	name, file, title string
	test              []string // arguments of go test; nil: the random walks
}

func readMutants(selected []string) (mutants []mutant, err error) {
	files, err := filepath.Glob(filepath.Join(patches, "*.patch"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	for _, file := range files {
		m := mutant{name: strings.TrimSuffix(filepath.Base(file), ".patch"), file: file}
		if len(selected) > 0 && !slices.ContainsFunc(selected, func(s string) bool { return strings.Contains(m.name, s) }) {
			continue
		}
		if err := m.readHeader(); err != nil {
			return nil, err
		}
		mutants = append(mutants, m)
	}
	if len(mutants) == 0 {
		return nil, errors.New("no such bug")
	}
	return mutants, nil
}

func (m *mutant) readHeader() error {
	text, err := os.ReadFile(m.file)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() && strings.HasPrefix(lines.Text(), "# ") {
		line := strings.TrimPrefix(lines.Text(), "# ")
		switch test, isTest := strings.CutPrefix(line, "test: "); {
		case isTest:
			m.test = strings.Fields(test)
		case m.title == "":
			m.title = line
		}
	}
	if m.title == "" {
		return fmt.Errorf("%s does not begin with a title", m.file)
	}
	return lines.Err()
}

// copyTree copies the files that git knows or would add.
func copyTree(to string) error {
	list, err := exec.Command("git", "ls-files", "-co", "--exclude-standard", "-z").Output()
	if err != nil {
		return fmt.Errorf("list the files: %w", err)
	}
	for _, name := range strings.Split(strings.TrimRight(string(list), "\x00"), "\x00") {
		if err := copyFile(name, filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	info, err := os.Stat(from)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.IsDir() {
		return nil // deleted in the working tree, or a link to a folder
	}
	if err != nil {
		return err
	}
	in, err := os.Open(from) //nolint:gosec // the name is from git
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // it was only read
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, info.Mode().Perm()) //nolint:gosec // the name is from git
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// An outcome says how the tests have found a mutant.
type outcome struct {
	found               bool
	how                 string
	check, seed         string
	walks, steps, taken string
}

func (o outcome) String() string {
	how := "NOT FOUND"
	if o.found {
		how = o.how
	}
	return fmt.Sprintf("%-10s %-6s %8s %8s %8s %7s", how, o.check, o.seed, o.walks, o.steps, o.taken)
}

// try plants the mutant and runs the tests.
func (m mutant) try(tree string, within time.Duration) (outcome, error) {
	patch, err := filepath.Abs(m.file)
	if err != nil {
		return outcome{}, err
	}
	if err := command(tree, "git", "apply", "-C1", patch); err != nil {
		return outcome{}, err
	}
	began := time.Now()
	o, err := m.find(tree, within)
	if m.test != nil || !o.found {
		o.taken = time.Since(began).Round(time.Second).String()
	}
	return o, errors.Join(err, command(tree, "git", "apply", "-C1", "-R", patch))
}

func command(dir string, name string, args ...string) error {
	cmd := exec.Command(name, args...) //nolint:gosec // git and go, with arguments of this program
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// The errors of the two tests of the simulation.
var (
	violation = regexp.MustCompile(`seed (\d+), product \w+, step \d+ of the walk, after (\d+) walks with (\d+) steps in (\S+): check (\w)`)
	inSearch  = regexp.MustCompile(`product \w+, schedule \[[\d ]*\]: check (\w)`)
)

// find runs the tests on a tree with the mutant.
func (m mutant) find(tree string, within time.Duration) (outcome, error) {
	if m.test != nil {
		return m.unitTest(tree)
	}
	binary := filepath.Join(tree, "walks.test")
	if err := command(tree, "go", "test", "-c", "-o", binary, "./backend/simulation"); err != nil {
		return outcome{}, err // a mutant must compile
	}
	o, err := simulate(tree, binary, 2*within+time.Minute, "TestWalk_FreshSeeds", "SIMULATE_FRESH="+within.String(), "SIMULATE_FIRST=1", "SIMULATE_SHORTEN=no")
	if o.found || err != nil {
		return o, err
	}
	return simulate(tree, binary, 10*time.Minute, "TestSearch_EveryPairOfRequests")
}

// simulate runs a test of the simulation, which fails if it finds the mutant.
func simulate(tree, binary string, within time.Duration, test string, env ...string) (outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "-test.run", test, "-test.v") //nolint:gosec // a test that this program has built
	cmd.Dir = tree
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if found := violation.FindSubmatch(out); found != nil {
		return outcome{true, "by a walk", string(found[5]), string(found[1]), string(found[2]), string(found[3]), string(found[4])}, nil
	}
	if found := inSearch.FindSubmatch(out); found != nil {
		return outcome{found: true, how: "by search", check: string(found[1])}, nil
	}
	switch {
	case err == nil:
		return outcome{}, nil
	case ctx.Err() != nil:
		return outcome{found: true, how: "it hangs"}, nil
	case bytes.Contains(out, []byte("panic: ")):
		return outcome{found: true, how: "it panics"}, nil
	}
	return outcome{}, fmt.Errorf("%w\n%s", err, out)
}

// unitTest runs the test that the mutant names.
func (m mutant) unitTest(tree string) (outcome, error) {
	if err := command(tree, "go", "vet", m.test[0]); err != nil {
		return outcome{}, err // a mutant must compile
	}
	err := command(tree, "go", append([]string{"test", "-count=1"}, m.test...)...)
	return outcome{found: err != nil, how: "by a test"}, nil
}
