package issuertest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

func TestFake_Conforms(t *testing.T) {
	Run(t, func(*testing.T) Subject { return subjectOf(NewFake(time.Now)) })
}

func TestNamedFake_Conforms(t *testing.T) {
	traits := issuer.Traits{KeepsExpired: true, UnknownAge: -1, OneList: true}
	Run(t, func(*testing.T) Subject { return subjectOf(NewNamedFake(time.Now, traits)) })
}

func subjectOf(fake *Fake, root issuer.Token) Subject {
	return Subject{
		Issuer:  fake.Open(issuer.Cluster{Root: root.Secret}),
		Refused: fake.Open(issuer.Cluster{Root: issuer.NewSecret("wrong")}),
		Secrets: []issuer.Secret{root.Secret},
		Usable:  func(_ context.Context, s issuer.Secret) (bool, error) { return fake.Alive(s), nil },
	}
}

// The optional interfaces are there only for products that have them: the
// engine decides by them.
func TestFake_OptionalInterfaces(t *testing.T) {
	for _, c := range []struct {
		fake *Fake
		want bool
	}{
		{first(NewFake(time.Now)), false},
		{first(NewNamedFake(time.Now, issuer.Traits{})), true},
	} {
		iss := c.fake.Open(issuer.Cluster{})
		_, namer := iss.(issuer.Namer)
		_, describer := iss.(issuer.Describer)
		_, inspector := iss.(issuer.Inspector)
		if namer != c.want || describer != c.want || inspector != c.want {
			t.Errorf("Namer %v, Describer %v, Inspector %v, want all %v", namer, describer, inspector, c.want)
		}
	}
}

func first(f *Fake, _ issuer.Token) *Fake { return f }

// SetUnknown covers one token and a node that does not know new tokens yet.
func TestFakeRevoke_UnknownWhileYoung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, root := NewFake(time.Now)
		iss := fake.Open(issuer.Cluster{Root: root.Secret})
		old, err := iss.Issue(t.Context(), issuer.Request{Description: "old"})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		young, err := iss.Issue(t.Context(), issuer.Request{Description: "young"})
		if err != nil {
			t.Fatal(err)
		}
		fake.SetUnknown(func(info issuer.Info) bool { return time.Since(info.CreatedAt) < time.Minute })
		failed := iss.Revoke(t.Context(), old.ID, young.ID)
		if len(failed) != 1 || !errors.Is(failed[young.ID], issuer.ErrUnknown) || !fake.Alive(young.Secret) {
			t.Errorf("revoke: %v, the young token is alive: %v", failed, fake.Alive(young.Secret))
		}
		time.Sleep(time.Minute)
		if failed := iss.Revoke(t.Context(), young.ID); len(failed) > 0 || fake.Alive(young.Secret) {
			t.Errorf("revoke a minute later: %v", failed)
		}
	})
}

func TestNamedFakeList_LagsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, root := NewNamedFake(time.Now, issuer.Traits{})
		time.Sleep(time.Minute)
		iss := fake.Open(issuer.Cluster{Root: root.Secret})
		fake.SetLag(time.Second)
		names := func() (names []string) {
			err := iss.List(t.Context(), func(info issuer.Info) error { names = append(names, info.ID); return nil })
			if err != nil {
				t.Fatal(err)
			}
			return names
		}
		fake.Add("a", time.Time{})
		if got := names(); !slices.Equal(got, []string{"root"}) {
			t.Errorf("at once: %q", got)
		}
		time.Sleep(time.Second)
		fake.Kill("a")
		if got := names(); !slices.Equal(got, []string{"root", "a"}) {
			t.Errorf("just revoked: %q", got)
		}
		time.Sleep(time.Second)
		if got := names(); !slices.Equal(got, []string{"root"}) {
			t.Errorf("a second later: %q", got)
		}
	})
}

// With OneList, every token type lists, revokes and reserves the names of all.
func TestNamedFake_OneListCoversAllTypes(t *testing.T) {
	fake, root := NewNamedFake(time.Now, issuer.Traits{OneList: true})
	other := NewFakeOf(fake)
	admin, data := fake.Open(issuer.Cluster{Root: root.Secret}), other.Open(issuer.Cluster{Root: root.Secret})
	token, err := data.Issue(t.Context(), issuer.Request{Description: "d", Read: []string{"db"}})
	if err != nil {
		t.Fatal(err)
	}
	if read, _ := other.Grants(token.ID); !slices.Equal(read, []string{"db"}) {
		t.Errorf("grants: %q", read)
	}
	if _, err := admin.Issue(t.Context(), issuer.Request{Description: "d"}); !errors.Is(err, errNameTaken) {
		t.Errorf("issue the name as another type: %v", err)
	}
	var names []string
	if err := admin.List(t.Context(), func(info issuer.Info) error { names = append(names, info.ID); return nil }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(names, []string{"root", "d"}) {
		t.Errorf("list: %q", names)
	}
	if failed := admin.Revoke(t.Context(), "d"); len(failed) > 0 || other.Alive(token.Secret) {
		t.Errorf("revoke: %v", failed)
	}
}

func TestNamedFake_Inspect(t *testing.T) {
	fake, root := NewNamedFake(time.Now, issuer.Traits{})
	want := issuer.Server{Product: issuer.Core, Version: "3.8.4", UUID: "u"}
	fake.SetServer(want, nil)
	inspect := func(secret issuer.Secret) (issuer.Server, error) {
		return fake.Open(issuer.Cluster{Root: secret}).(issuer.Inspector).Inspect(t.Context())
	}
	if got, err := inspect(root.Secret); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := inspect(issuer.NewSecret("wrong")); !errors.Is(err, issuer.ErrUnauthorized) {
		t.Errorf("with a wrong root credential: %v", err)
	}
	fake.SetServer(issuer.Server{}, issuer.ErrInvalid)
	if _, err := inspect(root.Secret); !errors.Is(err, issuer.ErrInvalid) {
		t.Errorf("error: %v", err)
	}
}
