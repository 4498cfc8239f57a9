//go:build linux

package influxctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

const newToken = "M.V1.newNEW123newNEW123newNEW123+/="

// created is the output of create with an ID.
const created = `{"id":"0b0e5c7e-7a0b-4a53-9d0e-1f1c2d3e4f50","token":"` + newToken + `"}`

func (s *fixture) issue(ctx context.Context) (issuer.Token, error) {
	return s.open().Issue(ctx, issuer.Request{Description: "-desc \"quoted\"", ExpiresAt: time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)})
}

func (s *fixture) mustNotQuote(err error) {
	s.Helper()
	for _, secret := range []string{newToken, s.root, "k3yk3y"} {
		if strings.Contains(fmt.Sprint(err), secret) {
			s.Errorf("the error quotes a secret: %v", err)
		}
	}
}

func TestManage_ArgumentsEnvironmentAndProfile(t *testing.T) {
	t.Setenv("INFLUXCTL_PROFILE", "other")
	t.Setenv("VAULT_TOKEN", "hvs.secret")
	t.Setenv("HTTPS_PROXY", "http://proxy.invalid:3128")
	t.Setenv("LANG", "C.UTF-8")
	s := newFixture(t, script{"create": {Stdout: created}})
	token, err := s.issue(t.Context())
	if err != nil || token.Secret.Reveal() != newToken || token.ID != "0b0e5c7e-7a0b-4a53-9d0e-1f1c2d3e4f50" {
		t.Fatalf("%+v, %v", token, err)
	}
	run := s.runs("create")[0]
	home := filepath.Dir(run.Argv[2])
	if diff := cmp.Diff([]string{
		s.program, "--config", filepath.Join(home, "profile.toml"), "--profile", "vault", "--timeout", "20s",
		"management", "create", `--description=-desc "quoted"`, "--expires-at=2031-02-03T04:05:06Z", "--format", "json",
	}, run.Argv); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{
		"HOME=" + home, "XDG_CONFIG_HOME=" + home + "/config", "XDG_CACHE_HOME=" + home + "/cache",
		"XDG_DATA_HOME=" + home + "/data", "XDG_STATE_HOME=" + home + "/state", "NO_COLOR=1", "TERM=dumb",
		"LANG=C.UTF-8", "HTTPS_PROXY=http://proxy.invalid:3128",
	}, slices.DeleteFunc(run.Env, func(v string) bool { return isInherited(v, "HTTPS_PROXY", "LANG") })); diff != "" {
		t.Error(diff)
	}
	if run.Stdin || !strings.HasPrefix(home, s.scratch) || !slices.Equal(run.Modes, []os.FileMode{0o600, 0o700}) {
		t.Errorf("stdin %v, home %s, modes %v", run.Stdin, home, run.Modes)
	}
	if !strings.Contains(run.Profile, s.root) || !strings.Contains(run.Profile, filepath.Join(home, "key.pem")) {
		t.Errorf("profile:\n%s", run.Profile)
	}
	s.nothingLeft()
}

// isInherited reports whether a variable comes from the environment of the test
// itself, except those in but.
func isInherited(variable string, but ...string) bool {
	name, _, _ := strings.Cut(variable, "=")
	return slices.Contains(inheritedVariables, name) && !slices.Contains(but, name)
}

// The answers show an expiry that is not the requested one, or none.
func TestIssue_ComparesTheExpiry(t *testing.T) {
	list := `[{"id":"` + id + `","token_prefix":"M.V1.+5Jk","description":"-desc \"quoted\"","expires_at":{"seconds":%d}}]`
	want := time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC) // of fixture.issue
	for name, c := range map[string]struct{ create, list string }{
		"table":           {"| id | " + id + " |\n|  expires at | %s |\n" + secret, ""},
		"structure":       {`{"token":{"id":"` + id + `","expires_at":{"seconds":%d}},"secret":"` + secret + `"}`, ""},
		"RFC 3339":        {`{"id":"` + id + `","accessToken":"` + secret + `","expiresAt":"%s"}`, ""},
		"list, no id":     {secret, list},
		"list and expiry": {"|  expires at | %s |\n" + secret, list},
	} {
		for _, at := range []time.Time{want.Add(-time.Minute), want.Add(-time.Second), want, want.Add(time.Minute)} {
			fill := strings.NewReplacer("%d", fmt.Sprint(at.Unix()), "%s", at.Format(time.RFC3339)).Replace
			s := newFixture(t, script{"create": {Stdout: fill(c.create)}, "list": {Stdout: fill(c.list)}})
			token, err := s.issue(t.Context())
			right := at.Sub(want).Abs() <= time.Second
			if (err == nil) != right || err == nil && token.ID != id || errors.Is(err, issuer.ErrRefused) || err != nil && !strings.Contains(err.Error(), "rotation_ttl") {
				t.Errorf("%s, expires at %v: %v", name, at, err)
			}
			s.mustNotQuote(err)
		}
	}
	s := newFixture(t, script{"create": {Stdout: secret}, "list": {Stdout: strings.Replace(list, `,"expires_at":{"seconds":%d}`, "", 1)}})
	if _, err := s.issue(t.Context()); err == nil || errors.Is(err, issuer.ErrRefused) || !strings.Contains(err.Error(), "never expires") {
		t.Errorf("no expiry in the list: %v", err)
	}
	for _, unset := range []string{`"expires_at":{}`, `"expires_at":null`, `"expiresAt":""`, `"expiresAt":"soon"`, `"expires_at":17`} {
		s := newFixture(t, script{"create": {Stdout: `{"id":"` + id + `",` + unset + `,"token":"` + secret + `"}`}})
		if _, err := s.issue(t.Context()); err != nil {
			t.Errorf("%s: %v", unset, err)
		}
	}
}

func TestManage_HangEndsWithItsContext(t *testing.T) {
	for _, grandchild := range []string{"", "group"} {
		s := newFixture(t, script{"create": {Stdout: created, Hang: true, Grandchild: grandchild, Touch: "begun"}})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			s.waitFor("begun")
			cancel()
		}()
		_, err := s.issue(ctx)
		if !errors.Is(err, context.Canceled) || errors.Is(err, issuer.ErrRefused) || errors.Is(err, issuer.ErrUnreachable) {
			t.Errorf("grandchild %q: %v", grandchild, err)
		}
		s.mustNotQuote(err)
		s.nothingLeft()
	}
}

func TestManage_HangEndsAtItsDeadline(t *testing.T) {
	s := newFixture(t, script{"create": {Hang: true}})
	target := s.cluster()
	target.Timeout = 100 * time.Millisecond
	start := time.Now()
	_, err := s.Open(target).Issue(t.Context(), issuer.Request{Description: "desc", ExpiresAt: time.Now()})
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, issuer.ErrRefused) || !errors.Is(err, issuer.ErrUnreachable) {
		t.Error(err)
	}
	if elapsed := time.Since(start); elapsed < target.Timeout+overtime || elapsed > target.Timeout+overtime+5*time.Second {
		t.Errorf("after %v", elapsed)
	}
	s.nothingLeft()
}

func TestManage_GrandchildThatHoldsThePipes(t *testing.T) {
	for _, grandchild := range []string{"group", "session"} {
		s := newFixture(t, script{"create": {Stdout: created, Grandchild: grandchild}, "list": {Stdout: "[]", Grandchild: grandchild}})
		start := time.Now()
		if token, err := s.issue(t.Context()); err != nil || token.Secret.Reveal() != newToken {
			t.Errorf("%s: %v", grandchild, err)
		}
		if err := s.open().List(t.Context(), func(issuer.Info) error { return nil }); err != nil {
			t.Errorf("%s: %v", grandchild, err)
		}
		if elapsed := time.Since(start); elapsed > 10*time.Second {
			t.Errorf("%s: after %v", grandchild, elapsed)
		}
		if grandchild == "group" { // a child outside the process group is not killed
			s.nothingLeft()
			continue
		}
		for _, run := range slices.Concat(s.runs("create"), s.runs("list")) {
			grandchild, err := os.FindProcess(run.Pids[1])
			if err == nil {
				err = grandchild.Kill()
			}
			if err != nil {
				t.Error(err)
			}
		}
	}
}

// What a process has written is read also if this process was paused after it had
// seen the end of the other one.
func TestOutput_ReadsWhatIsThereAfterTheDelay(t *testing.T) {
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer out.Close() // a child of the process holds it
	if _, err := out.WriteString("text"); err != nil {
		t.Fatal(err)
	}
	o := &output{File: in}
	if err := in.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(o); err != nil || string(text) != "text" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestManage_LimitsStandardOutput(t *testing.T) {
	s := newFixture(t, script{
		"create": {Stdout: newToken, FloodStdout: true},
		"revoke": {FloodStdout: true},
		"list":   {Stdout: "[", FloodStdout: true},
	})
	_, err := s.issue(t.Context())
	if err == nil || errors.Is(err, issuer.ErrRefused) {
		t.Errorf("create: %v", err)
	}
	s.mustNotQuote(err)
	if err := s.open().Revoke(t.Context(), "an-id")["an-id"]; err == nil {
		t.Error("revoke succeeded")
	}
	if err := s.open().List(t.Context(), func(issuer.Info) error { return nil }); err == nil {
		t.Error("list succeeded")
	}
	s.nothingLeft()
}

func TestManage_LimitsStandardError(t *testing.T) {
	s := newFixture(t, script{"create": {Stdout: created, FloodStderr: true}})
	if _, err := s.issue(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestManage_ErrorHoldsNoToken(t *testing.T) {
	s := newFixture(t, script{"create": {Stdout: created, Stderr: "made " + newToken + " with M.V1.rootROOTroot1234567890+/= and -----BEGIN KEY-----\nk3yk3y\n-----END KEY-----\n", Exit: 1}})
	_, err := s.issue(t.Context())
	if err == nil || errors.Is(err, issuer.ErrRefused) {
		t.Error(err)
	}
	s.mustNotQuote(err)
}

func TestManage_RefusalMayRepeatTheRootCredential(t *testing.T) {
	s := newFixture(t, script{"create": {Stderr: "code = Unauthenticated desc = invalid token M.V1.rootROOTroot1234567890+/=", Exit: 1}})
	_, err := s.issue(t.Context())
	if !errors.Is(err, issuer.ErrUnauthorized) {
		t.Error(err)
	}
	s.mustNotQuote(err)
}

func TestIssue_DoubtIsNoRefusal(t *testing.T) {
	for name, do := range map[string]step{
		"killed":             {Killed: true},
		"panic":              {Exit: 2, Stderr: "code = Unauthenticated"},
		"no output":          {},
		"html":               {Stdout: "<html><body>Bad Gateway</body></html>\n"},
		"two tokens":         {Stdout: newToken + "\nM.V1.another1234567890another123\n"},
		"exit 1 with text":   {Exit: 1, Stderr: "something went wrong"},
		"a new token":        {Exit: 1, Stderr: "code = Unauthenticated desc = of " + newToken},
		"root only":          {Stdout: `{"id":"0b0e5c7e-7a0b-4a53-9d0e-1f1c2d3e4f50","token":"M.V1.rootROOTroot1234567890+/="}`},
		"token, then exit 1": {Stdout: created, Exit: 1},
	} {
		s := newFixture(t, script{"create": do, "list": {Stdout: "[]"}})
		token, err := s.issue(t.Context())
		if err == nil || errors.Is(err, issuer.ErrRefused) || token != (issuer.Token{}) {
			t.Errorf("%s: %v, %v", name, token, err)
		}
		s.mustNotQuote(err)
	}
}

func TestIssue_UnknownCommandIsARefusal(t *testing.T) {
	s := newFixture(t, script{"create": {Exit: 3, Stderr: "No help topic for 'management'"}})
	if _, err := s.issue(t.Context()); !errors.Is(err, issuer.ErrRefused) {
		t.Error(err)
	}
}

func TestList_FailedRunIsAnError(t *testing.T) {
	entry := `[{"id":"a"}]`
	s := newFixture(t, script{"list": {Stdout: entry, Exit: 1, Stderr: "code = Unauthenticated"}})
	seen := 0
	err := s.open().List(t.Context(), func(issuer.Info) error { seen++; return nil })
	if !errors.Is(err, issuer.ErrUnauthorized) || seen != 1 {
		t.Errorf("%d entries, %v", seen, err)
	}
}

// A program that reports a failure and ends with status 0 has not printed the list,
// although no output is an empty list.
func TestList_EmptyWithAFailureIsNoList(t *testing.T) {
	for _, stdout := range []string{"", "[]", "null"} {
		s := newFixture(t, script{"list": {Stdout: stdout, Stderr: "error\trpc error: code = Unavailable desc = connection refused\n"}})
		err := s.open().List(t.Context(), func(issuer.Info) error { return nil })
		if err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("%q: %v", stdout, err)
		}
	}
	s := newFixture(t, script{"list": {Stdout: `[{"id":"a"}]`, Stderr: "error: XDG_RUNTIME_DIR is not set\n"}})
	if err := s.open().List(t.Context(), func(issuer.Info) error { return nil }); err != nil {
		t.Errorf("a list that is there: %v", err)
	}
}

func TestList_ErrorOfYieldEndsTheProcess(t *testing.T) {
	s := newFixture(t, script{"list": {Stdout: `[{"id":"a"},{"id":"b"},` + strings.Repeat(" ", 1<<16), Hang: true}})
	enough := errors.New("enough")
	err := s.open().List(t.Context(), func(issuer.Info) error { return enough })
	if err != enough {
		t.Error(err)
	}
	s.nothingLeft()
}

func TestManage_DoneContextStartsNothing(t *testing.T) {
	s := newFixture(t, script{"create": {Stdout: created}, "list": {Stdout: "[]"}})
	if _, err := s.Program(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.issue(ctx); !errors.Is(err, issuer.ErrRefused) || !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := s.open().Revoke(ctx, "an-id")["an-id"]; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if n := len(s.runs("create")) + len(s.runs("revoke")) + len(s.runs("list")); n > 0 {
		t.Errorf("%d runs", n)
	}
}

func TestManage_WaitForASlotEndsWithItsContext(t *testing.T) {
	s := newFixture(t, script{"list": {Hang: true, Touch: "begun"}, "create": {Stdout: created}})
	target := s.cluster()
	target.MaxParallel = 1
	listing, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Open(target).List(listing, func(issuer.Info) error { return nil }) }()
	s.waitFor("begun")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Open(target).Issue(ctx, issuer.Request{Description: "desc", ExpiresAt: time.Now()}); !errors.Is(err, issuer.ErrRefused) {
		t.Error(err)
	}
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if n := len(s.runs("create")); n > 0 {
		t.Errorf("%d runs of create", n)
	}
}

func TestRevoke_LastCallerEndsTheRun(t *testing.T) {
	s := newFixture(t, script{"revoke": {Hang: true, Grandchild: "group", Touch: "begun"}, "list": {Stdout: "[]"}})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		s.waitFor("begun")
		cancel()
	}()
	if err := s.open().Revoke(ctx, "an-id")["an-id"]; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	s.nothingLeft()
}

func TestRevoke_ImplausibleIDIsNotRun(t *testing.T) {
	s := newFixture(t, script{})
	bad := []string{"", "--debug", "two words", "line\n", strings.Repeat("x", 1<<20), newToken + " "}
	failed := s.open().Revoke(t.Context(), bad...)
	if len(failed) != len(bad) {
		t.Errorf("failed: %v", failed)
	}
	for _, err := range failed {
		s.mustNotQuote(err)
		if len(err.Error()) > 300 {
			t.Errorf("%d bytes: %.40v", len(err.Error()), err)
		}
	}
	if n := len(s.runs("revoke")); n > 0 {
		t.Errorf("%d runs", n)
	}
}

func TestScratch_SweepsAfterAKilledProcess(t *testing.T) {
	s := newFixture(t, script{"list": {Hang: true, Touch: "begun"}})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	host := exec.CommandContext(t.Context(), self)
	host.Args = []string{hostName, s.program, s.scratch}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	s.waitFor("begun")
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = host.Wait() // killed
	if left := runDirs(t, s.scratch); len(left) != 1 {
		t.Fatalf("left %v: not killed in time", left)
	}
	if _, err := s.Program(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.nothingLeft()
	if sessions, err := os.ReadDir(s.scratch); err != nil || len(sessions) != 1 {
		t.Errorf("%d session directories, %v, want the driver's own", len(sessions), err)
	}
}
