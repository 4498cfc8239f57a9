package simulator_test

import (
	"os"
	"strings"
	"testing"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
)

// wantViolation checks that a run was refused for a reason that contains want,
// that the cluster has recorded it, and that no secret was printed.
func (r *rig) wantViolation(got result, want string, secrets ...string) {
	r.t.Helper()
	if got.exit != simulator.ExitViolation || !strings.Contains(got.stderr, want) {
		r.t.Errorf("want violation %q, got %+v", want, got)
	}
	all := strings.Join(r.Violations(), "\n")
	if !strings.Contains(all, want) {
		r.t.Errorf("the cluster has recorded only %q, want %q", all, want)
	}
	for _, secret := range secrets {
		if strings.Contains(all+got.stdout+got.stderr, secret) {
			r.t.Errorf("the output for %q contains a secret", want)
		}
	}
}

func TestViolation_SecretInArguments(t *testing.T) {
	r := newRig(t)
	created := r.create("a")
	dead := r.AddToken(simulator.Token{RevokedAt: r.clock.now()})
	given := r.AddToken(simulator.Token{Secret: "hand-made secret"})
	database := r.AddToken(simulator.Token{Kind: simulator.Database})
	for what, token := range map[string]simulator.Token{
		"root": r.Tokens()[0], "created": created, "dead": dead, "given": given, "database": database,
	} {
		before := len(r.Tokens())
		got := r.run("management", "create", "--description=M.V1."+token.Secret+"x")
		r.wantViolation(got, "the secret of token "+token.ID+" is in the arguments", token.Secret)
		if len(r.Tokens()) != before {
			t.Errorf("%s: the command was carried out", what)
		}
	}
}

func TestViolation_SecretInEnvironment(t *testing.T) {
	r := newRig(t)
	created := r.create("a")
	r.env = append(r.env, "COLORS=red:"+created.Secret)
	for _, args := range [][]string{{"management", "list"}, {"version"}, {"frob"}} {
		r.wantViolation(r.run(args...), "the secret of token "+created.ID+" is in the environment variable COLORS", created.Secret)
	}
}

func TestViolation_PrefixOfSecretIsAllowed(t *testing.T) {
	r := newRig(t)
	prefix := r.create("a").Prefix
	if got := r.run("management", "create", "--description=like "+prefix); got.exit != 0 {
		t.Errorf("%+v", got)
	}
}

func TestViolation_ForeignVariable(t *testing.T) {
	for _, name := range []string{"INFLUXCTL_PROFILE", "INFLUXCTL_SHA256", "VAULT_TOKEN", "VAULT_ADDR"} {
		r := newRig(t)
		r.env = append(r.env, name+"=x")
		r.wantViolation(r.run("management", "list"), "the environment has "+name+":")
	}
}

func TestViolation_DebugAndTrace(t *testing.T) {
	for _, flag := range []string{"--debug", "-trace", "--trace=true"} {
		r := newRig(t)
		r.wantViolation(r.run(flag, "management", "list"), flag+" is given")
	}
}

func TestViolation_ModeOfProfile(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		path  string
		wrong os.FileMode
		right os.FileMode
	}{{r.profile, 0o640, 0o600}, {r.dir, 0o750, 0o700}} {
		if err := os.Chmod(c.path, c.wrong); err != nil {
			t.Fatal(err)
		}
		r.wantViolation(r.run("management", "list"), c.path+" has mode")
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

func TestViolation_OpenStandardInput(t *testing.T) {
	r := newRig(t)
	argv := r.argv("management", "list")
	r.wantViolation(r.exec(argv, strings.NewReader("y\n")), "standard input")
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close(); writer.Close() })
	r.wantViolation(r.exec(argv, reader), "standard input")
}

func TestViolation_ClusterNotReachable(t *testing.T) {
	r := newRig(t)
	r.server.Close()
	r.env = append(r.env, "VAULT_TOKEN=x")
	for _, args := range [][]string{{"management", "list"}, {"version"}} {
		if got := r.run(args...); got.exit != simulator.ExitViolation {
			t.Errorf("%v: %+v", args, got)
		}
	}
}

// A person at a shell has variables of Vault, a terminal as standard input, and a
// profile with the default mode. The command works, and says what it ignores.
func TestInteractive_ServesAPerson(t *testing.T) {
	r := newRigWith(t, simulator.Sidecar{Interactive: true})
	id := r.create("a").ID
	r.env = append(r.env, "VAULT_ADDR=http://127.0.0.1:8200", "VAULT_TOKEN=x")
	if err := os.Chmod(r.profile, 0o644); err != nil {
		t.Fatal(err)
	}
	got := r.exec(r.argv("--debug", "management", "revoke", id), strings.NewReader("y\n"))
	if token, _ := r.Token(id); got.exit != 0 || token.Live {
		t.Errorf("%+v, token %+v", got, token)
	}
	want := "simulator: note: influxctl does not use VAULT_ADDR, VAULT_TOKEN. Its token is the mgmt_token of the profile, see --config.\n"
	if got.stderr != want {
		t.Errorf("standard error %q, want %q", got.stderr, want)
	}
	if found := r.Violations(); len(found) > 0 {
		t.Errorf("violations: %q", found)
	}
}

func TestInteractive_SecretIsAViolation(t *testing.T) {
	r := newRigWith(t, simulator.Sidecar{Interactive: true})
	token := r.create("a")
	r.env = append(r.env, "TOKEN="+token.Secret)
	r.wantViolation(r.run("management", "list"), "the secret of token "+token.ID+" is in the environment variable TOKEN, "+
		"which other processes can read; put the token into mgmt_token of the profile, and unset the variable", token.Secret)
}
