package issuer_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// A token is issued, listed and revoked.
func Example() {
	ctx := context.Background()
	driver, root := issuertest.NewFake(time.Now)
	iss := driver.Open(issuer.Cluster{Product: issuer.Dedicated, Root: root.Secret})

	token, err := iss.Issue(ctx, issuer.Request{
		Description: "[vault:m1:7f3c] for a deployment",
		ExpiresAt:   time.Now().Add(time.Hour).Truncate(time.Second),
	})
	if err != nil {
		fmt.Println("issue token:", err)
		return
	}
	err = iss.List(ctx, func(info issuer.Info) error {
		if info.ID == token.ID {
			fmt.Println("listed:", info.Description)
		}
		return nil
	})
	if err != nil {
		fmt.Println("list tokens:", err)
		return
	}
	for id, err := range iss.Revoke(ctx, token.ID) {
		fmt.Println("revoke token", id, err)
	}
	fmt.Println("accepted by the cluster:", driver.Alive(token.Secret))
	// Output:
	// listed: [vault:m1:7f3c] for a deployment
	// accepted by the cluster: false
}

// Only an error that wraps ErrRefused proves that no token exists. After any
// other error the token may exist. List finds it by its description.
func ExampleIssuer_issueOutcomeUnknown() {
	ctx := context.Background()
	driver, root := issuertest.NewFake(time.Now)
	iss := driver.Open(issuer.Cluster{Root: root.Secret})
	driver.SetHook(func(_ context.Context, step issuertest.Step) error {
		if step == issuertest.AfterIssue {
			return errors.New("connection reset")
		}
		return nil
	})

	_, err := iss.Issue(ctx, issuer.Request{Description: "[vault:m1:7f3c]"})
	fmt.Println(err, "- refused:", errors.Is(err, issuer.ErrRefused))

	var ids []string
	err = iss.List(ctx, func(info issuer.Info) error {
		if info.Description == "[vault:m1:7f3c]" {
			ids = append(ids, info.ID)
		}
		return nil
	})
	if err != nil {
		fmt.Println("list tokens:", err) // says nothing about the token
		return
	}
	fmt.Println("tokens to revoke:", len(ids), "- failed:", len(iss.Revoke(ctx, ids...)))
	// Output:
	// connection reset - refused: false
	// tokens to revoke: 1 - failed: 0
}

// Revoke returns an error for each ID whose token may still be accepted. An
// error that wraps ErrUnknown proves that the token does not exist only if the
// token is old enough.
func ExampleIssuer_revoke() {
	ctx := context.Background()
	driver, root := issuertest.NewFake(time.Now)
	iss := driver.Open(issuer.Cluster{Root: root.Secret})
	const id = "0b0e5c7e-7a0b-4a53-9d0e-1f1c2d3e4f50"

	failed := iss.Revoke(ctx, id)
	fmt.Println(failed[id])
	fmt.Println("unknown:", errors.Is(failed[id], issuer.ErrUnknown))
	fmt.Println("proof after:", issuer.TraitsOf(iss).UnknownAge)
	// Output:
	// revoke 0b0e5c7e-7a0b-4a53-9d0e-1f1c2d3e4f50: no such token
	// unknown: true
	// proof after: 10m0s
}

// Where the client names tokens, the ID is known before the token is issued. If
// the answer is lost, the token is revoked by its ID, without a list.
func ExampleNamer() {
	ctx := context.Background()
	driver, root := issuertest.NewNamedFake(time.Now, issuer.Traits{KeepsExpired: true, UnknownAge: -1})
	namer := driver.Open(issuer.Cluster{Product: issuer.Core, Root: root.Secret}).(issuer.Namer)

	request := issuer.Request{Description: "[vault:m1:7f3c]", ExpiresAt: time.Now().Add(time.Hour)}
	id := namer.IDOf(request) // stored before Issue is called
	_, err := namer.Issue(ctx, request)
	fmt.Println("issued:", id, err)
	fmt.Println("failed:", len(namer.Revoke(ctx, id)))
	// Output:
	// issued: [vault:m1:7f3c] <nil>
	// failed: 0
}

// A Secret is printed redacted by every verb, and no encoder writes it. Only
// Reveal returns its text.
func ExampleSecret() {
	secret := issuer.NewSecret("M.V1.example")
	fmt.Printf("%v %q %+v\n", secret, secret, issuer.Token{ID: "id", Secret: secret})
	fmt.Println(len(secret.Reveal()))
	// Output:
	// [redacted] [redacted] {ID:id Secret:[redacted]}
	// 12
}
