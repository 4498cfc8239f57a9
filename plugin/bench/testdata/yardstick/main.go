// Command yardstick is the least that a secrets engine with leases can be. What
// the real engine costs is measured beside it; it is part of no release.
//
// A read of plain answers a UUID without a lease. A read of wide does so, too,
// with more fields, because Vault works for each of them. A read of bare answers a UUID
// under a lease. A read of kept does so, too, but stores a record before and
// completes it after, as the ledger does. A read of revoked tells how many leases
// Vault has had revoked.
package main

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
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

// An engine is one mount.
type engine struct {
	*framework.Backend
	revoked atomic.Int64
}

func factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	e := &engine{}
	e.Backend = &framework.Backend{
		BackendType: logical.TypeLogical,
		Secrets:     []*framework.Secret{{Type: secretType, Renew: renew, Revoke: e.revoke}},
		Paths: []*framework.Path{
			{Pattern: "plain", Callbacks: map[logical.Operation]framework.OperationFunc{logical.ReadOperation: e.plain}},
			{Pattern: "wide", Callbacks: map[logical.Operation]framework.OperationFunc{logical.ReadOperation: e.wide}},
			{Pattern: "bare", Callbacks: map[logical.Operation]framework.OperationFunc{logical.ReadOperation: e.bare}},
			{Pattern: "kept", Callbacks: map[logical.Operation]framework.OperationFunc{logical.ReadOperation: e.kept}},
			{Pattern: "revoked", Callbacks: map[logical.Operation]framework.OperationFunc{logical.ReadOperation: e.count}},
		},
	}
	return e, e.Setup(ctx, conf)
}

const (
	secretType = "uuid"

	wideFields = 14 // of an answer to a read of static-creds
)

func renew(_ context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return &logical.Response{Secret: req.Secret}, nil
}

func (e *engine) revoke(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	e.revoked.Add(1)
	return nil, nil
}

func (e *engine) count(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	return &logical.Response{Data: map[string]any{"count": e.revoked.Load()}}, nil
}

func (e *engine) plain(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	return &logical.Response{Data: map[string]any{"token_id": uuid.NewString()}}, nil
}

// wide answers as many fields as the engine answers to a read of a static role.
func (e *engine) wide(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	resp, err := e.plain(ctx, req, data)
	for i := range wideFields - 1 {
		resp.Data[fmt.Sprint("field_", i)] = "2026-01-01T00:00:00Z"
	}
	return resp, err
}

func (e *engine) bare(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	id := uuid.NewString()
	resp := e.Secret(secretType).Response(map[string]any{"token_id": id}, map[string]any{"id": id})
	resp.Secret.TTL, resp.Secret.MaxTTL, resp.Secret.Renewable = time.Hour, 8*time.Hour, true
	return resp, nil
}

func (e *engine) kept(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	resp, err := e.bare(ctx, req, data)
	if err != nil {
		return nil, err
	}
	key := "kept/" + resp.Data["token_id"].(string)
	if err := store(ctx, req.Storage, key, "issuing"); err != nil {
		return nil, err
	}
	if _, err := req.Storage.Get(ctx, key); err != nil {
		return nil, err
	}
	return resp, store(ctx, req.Storage, key, "active")
}

func store(ctx context.Context, s logical.Storage, key, state string) error {
	entry, err := logical.StorageEntryJSON(key, map[string]string{"state": state})
	if err != nil {
		return err
	}
	return s.Put(ctx, entry)
}
