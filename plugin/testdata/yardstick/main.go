// Command yardstick is the least that a secrets engine with leases can be. What
// the real engine costs is measured beside it; it is part of no release.
//
// A read of bare answers a UUID under a lease. A read of kept does so, too, but
// stores a record before and completes it after, as the ledger does.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin"
)

func main() {
	if err := plugin.ServeMultiplex(&plugin.ServeOpts{BackendFactoryFunc: factory}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// leased is the kind of secret that is leased.
var leased = &framework.Secret{
	Type: "uuid",
	Renew: func(_ context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
		return &logical.Response{Secret: req.Secret}, nil
	},
	Revoke: func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
		return nil, nil
	},
}

func factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	b := &framework.Backend{
		BackendType: logical.TypeLogical,
		Secrets:     []*framework.Secret{leased},
		Paths: []*framework.Path{
			{Pattern: "bare", Callbacks: map[logical.Operation]framework.OperationFunc{logical.ReadOperation: bare}},
			{Pattern: "kept", Callbacks: map[logical.Operation]framework.OperationFunc{logical.ReadOperation: kept}},
		},
	}
	return b, b.Setup(ctx, conf)
}

func bare(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	id := uuid.NewString()
	resp := leased.Response(map[string]any{"token_id": id}, map[string]any{"id": id})
	resp.Secret.TTL, resp.Secret.MaxTTL, resp.Secret.Renewable = time.Hour, 8*time.Hour, true
	return resp, nil
}

func kept(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	resp, err := bare(ctx, req, data)
	if err != nil {
		return nil, err
	}
	key := "kept/" + resp.Data["token_id"].(string)
	if err := store(ctx, req.Storage, key, "pending"); err != nil {
		return nil, err
	}
	if _, err := req.Storage.Get(ctx, key); err != nil {
		return nil, err
	}
	return resp, store(ctx, req.Storage, key, "live")
}

func store(ctx context.Context, s logical.Storage, key, state string) error {
	entry, err := logical.StorageEntryJSON(key, map[string]string{"state": state})
	if err != nil {
		return err
	}
	return s.Put(ctx, entry)
}
