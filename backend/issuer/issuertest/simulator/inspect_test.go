package simulator_test

import (
	"os"
	"strings"
	"testing"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
)

// violates fails unless a run was refused for a reason that contains want, with
// the cluster remembering it, and without a secret in what was said.
func (r *rig) violates(got result, want string, secrets ...string) {
	r.t.Helper()
	if got.exit != simulator.ExitViolation || !strings.Contains(got.stderr, want) {
		r.t.Errorf("want violation %q, got %+v", want, got)
	}
	all := strings.Join(r.Violations(), "\n")
	if !strings.Contains(all, want) {
		r.t.Errorf("the cluster remembers only %q, want %q", all, want)
	}
	for _, secret := range secrets {
		if strings.Contains(all+got.stdout+got.stderr, secret) {
			r.t.Errorf("a secret is in what the simulator says of %q", want)
		}
	}
}

func TestSecretsInArgumentsAreFound(t *testing.T) {
	r := newRig(t)
	minted := r.create("a")
	dead := r.create("b")
	r.Kill(dead.ID)
	given := r.AddToken(simulator.Token{Secret: "hand-made secret"})
	database := r.AddToken(simulator.Token{Kind: simulator.Database})
	for what, token := range map[string]simulator.Token{
		"root": r.Tokens()[0], "minted": minted, "dead": dead, "given": given, "database": database,
	} {
		before := len(r.Tokens())
		got := r.run("management", "create", "--description=M.V1."+token.Secret+"x")
		r.violates(got, "the secret of token "+token.ID+" stands in the arguments", token.Secret)
		if len(r.Tokens()) != before {
			t.Errorf("%s: the CLI acted all the same", what)
		}
	}
}

func TestSecretsInTheEnvironmentAreFound(t *testing.T) {
	r := newRig(t)
	minted := r.create("a")
	r.env = append(r.env, "COLOURS=red:"+minted.Secret)
	for _, args := range [][]string{{"management", "list"}, {"version"}, {"frob"}} {
		r.violates(r.run(args...), "the secret of token "+minted.ID+" stands in the environment variable COLOURS", minted.Secret)
	}
}

func TestAPrefixOfASecretIsNoSecret(t *testing.T) {
	r := newRig(t)
	prefix := r.create("a").Prefix
	if got := r.run("management", "create", "--description=like "+prefix); got.exit != 0 {
		t.Errorf("%+v", got)
	}
}

func TestForeignVariablesAreFound(t *testing.T) {
	for _, name := range []string{"INFLUXCTL_PROFILE", "INFLUXCTL_SHA256", "VAULT_TOKEN", "VAULT_ADDR"} {
		r := newRig(t)
		r.env = append(r.env, name+"=x")
		r.violates(r.run("management", "list"), "the environment has "+name)
	}
}

func TestDebugAndTraceAreFound(t *testing.T) {
	for _, flag := range []string{"--debug", "-trace", "--trace=true"} {
		r := newRig(t)
		r.violates(r.run(flag, "management", "list"), flag+" is given")
	}
}

func TestExposedProfilesAreFound(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		path  string
		wrong os.FileMode
		right os.FileMode
	}{{r.profile, 0o640, 0o600}, {r.dir, 0o750, 0o700}} {
		if err := os.Chmod(c.path, c.wrong); err != nil {
			t.Fatal(err)
		}
		r.violates(r.run("management", "list"), c.path+" has mode")
		if err := os.Chmod(c.path, c.right); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(r.profile, 0o400); err != nil {
		t.Fatal(err)
	}
	if got := r.run("management", "list"); got.exit != 0 {
		t.Errorf("a profile that is only readable: %+v", got)
	}
}

func TestOpenStandardInputIsFound(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	argv := r.globals("management", "list")
	r.violates(r.exec(argv, strings.NewReader("y\n")), "standard input")
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close(); writer.Close() })
	r.violates(r.exec(argv, reader), "standard input")
}

func TestViolationsAreFoundWithTheClusterOutOfReach(t *testing.T) {
	r := newRig(t)
	r.server.Close()
	r.env = append(r.env, "VAULT_TOKEN=x")
	for _, args := range [][]string{{"management", "list"}, {"version"}} {
		if got := r.run(args...); got.exit != simulator.ExitViolation {
			t.Errorf("%v: %+v", args, got)
		}
	}
}
