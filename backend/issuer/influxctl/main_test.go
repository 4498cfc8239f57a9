//go:build linux

package influxctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
)

// The test binary acts as influxctl if it is called by that name: as one that
// follows a script in its directory, or else as the simulated one. It exits
// without the clean-up of the race detector, which takes a second.
func TestMain(m *testing.M) {
	if simulator.IsCLI(os.Args) {
		if s, err := readScript(os.Args[0]); err == nil {
			syscall.Exit(s.run(os.Args))
		}
		syscall.Exit(simulator.Main(os.Args))
	}
	if os.Args[0] == hostName {
		os.Exit(host(os.Args[1], os.Args[2]))
	}
	os.Exit(m.Run())
}

// hostName is the name by which the test binary acts as a program with a driver,
// as the plugin is.
const hostName = "driver-host"

func host(program, scratch string) int {
	d := New(Config{Path: program, Dir: scratch})
	if err := d.Open(issuer.Cluster{}).List(context.Background(), func(issuer.Info) error { return nil }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// A script says what a scripted influxctl does for each command: version, create,
// list or revoke.
type script map[string]step

// A step is one run.
type step struct {
	Stdout, Stderr string
	FloodStdout    bool // print a gigabyte
	FloodStderr    bool // print 16 MiB first
	Exit           int
	Killed         bool   // end by a signal
	Hang           bool   // after printing
	Grandchild     string // start a child that holds both pipes: "group", or "session" for one outside the process group
	Touch          string // create this file in the program's directory after printing
}

const scriptName = "script.json"

func readScript(program string) (s script, err error) {
	text, err := os.ReadFile(filepath.Join(filepath.Dir(program), scriptName))
	if err != nil {
		return nil, err
	}
	return s, json.Unmarshal(text, &s)
}

// A runRecord is what one run of a scripted influxctl has seen.
type runRecord struct {
	Argv, Env []string
	Pids      []int // its own and that of its child
	Stdin     bool  // there is standard input
	Profile   string
	Modes     []fs.FileMode // of the profile and its directory
}

func (s script) run(argv []string) int {
	if argv[len(argv)-1] == "hold" {
		<-time.After(time.Minute)
		return 0
	}
	do := s.step(argv)
	record := runRecord{Argv: argv, Env: os.Environ(), Pids: []int{os.Getpid()}}
	n, _ := os.Stdin.Read(make([]byte, 1))
	record.Stdin = n > 0
	if len(argv) > 2 && argv[1] == "--config" {
		text, err := os.ReadFile(argv[2])
		record.Profile = fmt.Sprint(string(text), err)
		for _, name := range []string{argv[2], filepath.Dir(argv[2])} {
			if info, err := os.Stat(name); err == nil {
				record.Modes = append(record.Modes, info.Mode().Perm())
			}
		}
	}
	if do.Grandchild != "" {
		record.Pids = append(record.Pids, hold(argv[0], do.Grandchild))
	}
	record.save(filepath.Dir(argv[0]))
	return do.perform(filepath.Dir(argv[0]))
}

// step returns what a run does. "revoke one" applies to a run of
// revoke with a single ID and goes before "revoke".
func (s script) step(argv []string) step {
	verb := verbOf(argv)
	if i := slices.Index(argv, "--force"); verb == "revoke" && i == len(argv)-2 {
		if do, ok := s["revoke one"]; ok {
			return do
		}
	}
	return s[verb]
}

func verbOf(argv []string) string {
	for i, arg := range argv {
		if arg == "management" {
			return argv[i+1]
		}
	}
	return argv[len(argv)-1]
}

func (do step) perform(dir string) int {
	if do.FloodStderr {
		fmt.Fprint(os.Stderr, strings.Repeat("log log log log\n", 1<<20))
	}
	fmt.Fprint(os.Stderr, do.Stderr)
	fmt.Fprint(os.Stdout, do.Stdout)
	for i := 0; do.FloodStdout && i < 1<<14; i++ {
		fmt.Fprint(os.Stdout, strings.Repeat("x", 1<<16))
	}
	if do.Touch != "" {
		_ = os.WriteFile(filepath.Join(dir, do.Touch), nil, 0o600)
	}
	if do.Killed {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	if do.Hang || do.Killed {
		<-time.After(time.Minute)
	}
	return do.Exit
}

// hold starts a process that only keeps the pipes open.
func hold(name, how string) int {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{name, "hold"}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: how == "session"}
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	return cmd.Process.Pid
}

// save writes the record to a new file.
func (p runRecord) save(dir string) {
	text, _ := json.Marshal(p)
	file, err := os.CreateTemp(dir, "run-*.tmp")
	if err != nil {
		panic(err)
	}
	_, _ = file.Write(text)
	file.Close()
	_ = os.Rename(file.Name(), strings.TrimSuffix(file.Name(), ".tmp")+".json")
}

// A fixture is a scripted influxctl and a driver for it.
type fixture struct {
	*testing.T
	*Driver
	program string
	scratch string // where profiles are written
	root    string
}

// currentVersion prints a version without warnings.
var currentVersion = step{Stdout: "influxctl v2.12.0 linux/amd64\n"}

func newFixture(t *testing.T, s script) *fixture {
	t.Helper()
	if _, ok := s["version"]; !ok {
		s["version"] = currentVersion
	}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, scriptName), text, 0o600); err != nil {
		t.Fatal(err)
	}
	f := &fixture{T: t, program: filepath.Join(dir, "influxctl"), scratch: t.TempDir(), root: "M.V1.rootROOTroot1234567890+/="}
	linkSelf(t, f.program)
	f.Driver = newDriver(t, Config{Path: f.program, Dir: f.scratch})
	return f
}

func newDriver(t *testing.T, cfg Config) *Driver {
	t.Helper()
	d := New(cfg)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// linkSelf gives the test binary another name.
func linkSelf(t *testing.T, name string) {
	t.Helper()
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, name)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// cluster returns a cluster that sets all of a profile.
func (s *fixture) cluster() issuer.Cluster {
	return issuer.Cluster{
		Product: issuer.Dedicated, AccountID: "aaaaaaaa-0000-4000-8000-000000000001", ClusterID: "bbbbbbbb-0000-4000-8000-000000000002",
		Root: issuer.NewSecret(s.root), ClientKey: issuer.NewSecret("-----BEGIN KEY-----\nk3yk3y\n-----END KEY-----\n"),
		CACert: "-----BEGIN CERTIFICATE-----\nca\n-----END CERTIFICATE-----\n", MaxParallel: 4, Timeout: 20 * time.Second,
	}
}

func (s *fixture) open() issuer.Issuer { return s.Open(s.cluster()) }

// runs returns the records of the runs of one command so far.
func (s *fixture) runs(verb string) (runs []runRecord) {
	s.Helper()
	names, err := filepath.Glob(filepath.Join(filepath.Dir(s.program), "run-*.json"))
	if err != nil {
		s.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		var p runRecord
		if err == nil {
			err = json.Unmarshal(text, &p)
		}
		if err != nil {
			s.Fatal(err)
		}
		if verbOf(p.Argv) == verb {
			runs = append(runs, p)
		}
	}
	return runs
}

// waitFor waits until a scripted run has touched a file.
func (s *fixture) waitFor(name string) {
	s.Helper()
	eventually(s.T, name+" is touched", func() bool {
		_, err := os.Stat(filepath.Join(filepath.Dir(s.program), name))
		return err == nil
	})
}

// nothingLeft fails if a process or a profile of any run is left.
func (s *fixture) nothingLeft() {
	s.Helper()
	for _, verb := range []string{"version", "create", "list", "revoke"} {
		for _, run := range s.runs(verb) {
			for _, pid := range run.Pids {
				eventually(s.T, fmt.Sprintf("process %d of %s ends", pid, verb), func() bool { return hasEnded(pid) })
			}
		}
	}
	if runs := runDirs(s.T, s.scratch); len(runs) > 0 {
		s.Errorf("left in the scratch directory: %v", runs)
	}
}

// runDirs returns the directories of single runs.
func runDirs(t *testing.T, scratch string) []string {
	t.Helper()
	runs, err := filepath.Glob(filepath.Join(scratch, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return runs
}

func hasEnded(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) || strings.Contains(string(stat), ") Z ")
}

// eventually waits until happened returns true. It polls, because another process
// decides.
func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !happened() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("did not happen: " + what)
		}
	}
}
