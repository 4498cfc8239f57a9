//go:build linux

package influxctl

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

func checksum(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// writeProgram writes a file that the driver takes for the program.
func writeProgram(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "influxctl")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// printsLatest is a program that prints a current version.
const printsLatest = "#!/bin/sh\necho 2.12.0\n"

func TestProgram_IsFoundAndDescribed(t *testing.T) {
	s := newFixture(t, script{})
	t.Setenv("PATH", filepath.Dir(s.program))
	sum := checksum(t, s.program)
	for _, cfg := range []Config{
		{Path: s.program},
		{},
		{Path: s.program, SHA256: " " + strings.ToUpper(sum) + "\n"},
	} {
		cfg.Dir = s.scratch
		got, err := newDriver(t, cfg).Program(t.Context())
		if want := (issuer.Program{Path: s.program, SHA256: sum, Version: "2.12.0"}); err != nil || got != want {
			t.Errorf("%+v: %+v, %v", cfg, got, err)
		}
	}
	s.nothingLeft()
}

func TestProgram_ErrorsSayWhatToDo(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	usable := writeProgram(t, printsLatest, 0o755)
	for name, c := range map[string]struct {
		cfg   Config
		words string
		want  issuer.Program
	}{
		"not on PATH":    {Config{}, "INFLUXCTL_PATH", issuer.Program{}},
		"missing":        {Config{Path: "/nowhere/influxctl"}, "INFLUXCTL_PATH", issuer.Program{}},
		"relative":       {Config{Path: "bin/influxctl"}, "INFLUXCTL_PATH", issuer.Program{}},
		"a directory":    {Config{Path: t.TempDir()}, "is a directory", issuer.Program{}},
		"a device":       {Config{Path: os.DevNull}, "INFLUXCTL_PATH", issuer.Program{}},
		"not executable": {Config{Path: writeProgram(t, printsLatest, 0o600)}, "not executable", issuer.Program{}},
		"bad checksum":   {Config{Path: usable, SHA256: "abc"}, "64 hexadecimal digits", issuer.Program{Path: usable}},
		"other checksum": {Config{Path: usable, SHA256: strings.Repeat("0", 64)}, checksum(t, usable), issuer.Program{Path: usable}},
	} {
		c.cfg.Dir = t.TempDir()
		got, err := newDriver(t, c.cfg).Program(t.Context())
		if !errors.Is(err, issuer.ErrRefused) || !strings.Contains(err.Error(), c.words) || got != c.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestProgram_RefusesAWrongVersion(t *testing.T) {
	for name, c := range map[string]struct{ text, words string }{
		"too old":           {"#!/bin/sh\necho influxctl v2.9.6\n", "2.9.6 is too old"},
		"of another system": {"\x7fELF nonsense", "built for this machine"},
		"long output":       {"#!/bin/sh\nyes\n", "more than"},
	} {
		path := writeProgram(t, c.text, 0o755)
		got, err := newDriver(t, Config{Path: path, Dir: t.TempDir()}).Program(t.Context())
		if !errors.Is(err, issuer.ErrRefused) || !strings.Contains(err.Error(), c.words) || got.Path != path || got.SHA256 != checksum(t, path) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestProgram_WarnsAboutOldVersions(t *testing.T) {
	for output, c := range map[string]struct{ version, words string }{
		"influxctl 2.9.7":                {"2.9.7", "old"},
		"influxctl v2.10.5 linux/amd64":  {"2.10.5", "list"},
		"influxctl v2.11.0 linux/amd64":  {"2.11.0", ""},
		"\x1b[1minfluxctl\x1b[0m 3.0.10": {"3.0.10", ""},
		"influxctl (devel)":              {"", "could not be read"},
		"devel linux/arm64":              {"", "could not be read"},
		"v2.12 (3f0b35c)":                {"", "could not be read"},
	} {
		s := newFixture(t, script{"version": {Stderr: output}})
		got, err := s.Program(t.Context())
		if err != nil || got.Version != c.version || !strings.Contains(got.Warning, c.words) || (got.Warning == "") != (c.words == "") {
			t.Errorf("%q: %+v, %v", output, got, err)
		}
	}
}

// A program that always succeeds, such as /bin/true, would otherwise list no
// tokens and revoke everything.
func TestProgram_RefusesAnotherProgram(t *testing.T) {
	for name, do := range map[string]step{
		"prints nothing":          {},
		"prints its arguments":    {Stdout: "version\n"},
		"fails":                   {Stdout: "influxctl v2.12.0 linux/amd64\n", Exit: 1},
		"is killed":               {Stdout: "influxctl v2.12.0 linux/amd64\n", Killed: true},
		"complains, exit 0":       {Stderr: "unknown command\n"},
		"fails without a version": {Stderr: "cannot open version", Exit: 2},
	} {
		s := newFixture(t, script{"version": do})
		got, err := s.Program(t.Context())
		if !errors.Is(err, issuer.ErrRefused) || !strings.Contains(fmt.Sprint(err), "INFLUXCTL_PATH") || got.Path != s.program {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if failed := s.open().Revoke(t.Context(), "an-id"); failed["an-id"] == nil || len(s.runs("revoke")) > 0 {
			t.Errorf("%s: revoke: %v", name, failed)
		}
	}
}

func TestProgram_ChecksAgainAfterAFailure(t *testing.T) {
	path := writeProgram(t, "#!/bin/sh\necho 2.0.0\n", 0o755)
	d := newDriver(t, Config{Path: path, Dir: t.TempDir()})
	if _, err := d.Program(t.Context()); err == nil {
		t.Fatal("no error for an old version")
	}
	if err := os.WriteFile(path, []byte(printsLatest), 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Program(t.Context()); err != nil || got.Version != "2.12.0" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestProgram_RunsTheBytesThatWereChecked(t *testing.T) {
	for name, change := range map[string]func(*program){
		"in memory":     func(*program) {},
		"in a file":     func(p *program) { p.copiers = p.copiers[1:] },
		"memory denied": func(p *program) { p.copiers[0] = unstartable },
	} {
		path := writeProgram(t, "#!/bin/sh\n[ $1 = version ] && echo 2.12.0 || echo '[]'\n", 0o755)
		temporary := t.TempDir()
		t.Setenv("TMPDIR", temporary)
		d := New(Config{Path: path, SHA256: checksum(t, path), Dir: t.TempDir()})
		change(d.program)
		if _, err := d.Program(t.Context()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := d.Open(issuer.Cluster{}).List(t.Context(), func(issuer.Info) error { return nil }); err != nil {
			t.Errorf("%s: after the file was replaced: %v", name, err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", name, left, err)
		}
	}
}

// Some systems remove files from the directory for temporary files that are old.
func TestProgram_CopyThatDisappearedIsMadeAgain(t *testing.T) {
	s := newFixture(t, script{"list": {Stdout: "[]"}})
	t.Setenv("TMPDIR", t.TempDir())
	s.Driver.program.copiers = s.Driver.program.copiers[1:]
	list := func() error {
		return s.open().List(t.Context(), func(issuer.Info) error { return nil })
	}
	if err := list(); err != nil {
		t.Fatal(err)
	}
	discard(s.Driver.program.image.dir)
	if err := list(); !errors.Is(err, issuer.ErrRefused) {
		t.Errorf("without the copy: %v", err)
	}
	if err := list(); err != nil {
		t.Errorf("after that: %v", err)
	}
}

// unstartable makes a copy that cannot be executed.
func unstartable(src *os.File) (*image, error) {
	sum, err := copyHashed(io.Discard, src)
	return &image{path: os.DevNull, name: src.Name(), sha256: sum}, err
}

func TestCopyToMemory_CannotBeChanged(t *testing.T) {
	src, err := os.Open(writeProgram(t, printsLatest, 0o755))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	img, err := copyToMemory(src)
	if err != nil {
		t.Fatal(err)
	}
	defer img.close()
	if _, err := img.file.WriteAt([]byte("x"), 0); err == nil {
		t.Error("written to")
	}
	if err := img.file.Truncate(0); err == nil {
		t.Error("truncated")
	}
}

func TestCopyToFile_IsPrivate(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	src, err := os.Open(writeProgram(t, printsLatest, 0o755))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	d := New(Config{Dir: t.TempDir()})
	img, err := d.program.copyToFile(src)
	if err != nil {
		t.Fatal(err)
	}
	defer img.close()
	for path, want := range map[string]os.FileMode{img.path: 0o500, img.dir: 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
}

func TestProgram_IsCheckedOnceForManyCallers(t *testing.T) {
	s := newFixture(t, script{})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := s.Program(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := len(s.runs("version")); n != 1 {
		t.Errorf("%d runs", n)
	}
}

func TestProgram_WaitEndsWithItsContext(t *testing.T) {
	s := newFixture(t, script{"version": {Hang: true, Touch: "begun"}})
	first, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := s.Program(first)
		ended <- err
	}()
	s.waitFor("begun")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Program(ctx); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, issuer.ErrRefused) {
		t.Error(err)
	}
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) || !errors.Is(err, issuer.ErrRefused) {
		t.Error(err)
	}
	s.nothingLeft()
}
