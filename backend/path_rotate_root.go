package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// proofWait is how long a request waits for the cluster to accept the new root
// credential, before it leaves the rest to the worker.
const proofWait = 20 * time.Second

func (b *backend) pathRotateRoot() *framework.Path {
	return &framework.Path{
		Pattern:      "config/rotate-root",
		DisplayAttrs: display("rotate", "root-credential"),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: operation(b.rotateRoot, "rotate", answers(http.StatusOK, map[string]*framework.FieldSchema{
				"state":         {Type: framework.TypeString, Required: true},
				"mgmt_token_id": {Type: framework.TypeString}, "mgmt_token_expires_at": {Type: framework.TypeString}, "previous_mgmt_token_id": {Type: framework.TypeString},
				"admin_token_id": {Type: framework.TypeString}, "admin_token_expires_at": {Type: framework.TypeString}, "previous_admin_token_id": {Type: framework.TypeString},
				"previous_revoked_after": {Type: framework.TypeString},
				"next_vault_rotation":    {Type: framework.TypeString},
			})),
		},
		HelpSynopsis: "Replace the root credential by a new one that only Vault knows.",
		HelpDescription: `
    vault write -f influxdb/config/rotate-root

Issues a new root credential with the present one, proves that the cluster
accepts it, stores it in config, and revokes the old one after rotation_overlap.
The new one expires after rotation_ttl and is rotated again before it expires,
unless disable_automated_rotation is set. A crash at any moment leaves a root
credential that works.

Every other program that uses the old root credential stops working. Give other
programs credentials of their own first.

A cluster may take minutes until it accepts a new token. The answer then says
state=proving, the old root credential stays in use, and the engine continues the
rotation on its own. See status.

The rotation needs the ID of the old root credential. See mgmt_token_id of config.
The operator token _admin of InfluxDB 3 Core, Enterprise and Cloud cannot be
rotated: create a named admin token and write that to config.

The answer names the credentials in mgmt_token_id and previous_mgmt_token_id, or in
admin_token_id and previous_admin_token_id where config has admin_token.
`,
	}
}

func (b *backend) rotateRoot(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	if !b.root.rotating.TryLock() {
		return fail(conflict("%v", errRotating))
	}
	defer b.root.rotating.Unlock()
	c, err := loadConfig(ctx, req.Storage)
	if err != nil {
		return fail(err)
	}
	r, err := b.rotateNow(ctx, req.Storage, c)
	b.noteRotation(ctx, err)
	resp := &logical.Response{Data: map[string]any{
		"state": "rotated", c.rootField() + "_id": r.TokenID, c.rootField() + "_expires_at": timestampOrNever(r.ExpiresAt),
		"previous_" + c.rootField() + "_id": r.From.RootID,
	}}
	switch {
	case err == nil:
		resp.Data["previous_revoked_after"] = timestamp(b.now().Add(c.Rotation.overlap()))
		b.explainExpiry(ctx, req.Storage, r, resp)
		return resp, nil
	case errors.Is(err, errNotProved) && !errors.Is(err, errCancelled):
		resp.Data["state"] = "proving"
		resp.AddWarning(fmt.Sprintf("The cluster does not accept the new root credential yet. The old one stays in use until it does. The engine keeps trying for up to %s; see status.", shortDuration(proofTime)))
		return resp, nil
	case errors.Is(err, errNoRootID):
		return fail(badRequest("%v", err))
	}
	return fail(fmt.Errorf("the root credential was not rotated: %w", err))
}

// rotateNow continues the rotation that is under way, or starts one.
func (b *backend) rotateNow(ctx context.Context, s logical.Storage, c config) (rotation, error) {
	r, underWay, err := findRotation(ctx, s)
	if underWay {
		err = b.continueSoon(ctx, s, r)
		if !errors.Is(err, errCancelled) {
			return r, err
		}
		c, err = loadConfig(ctx, s) // and start another one, as the caller asks
	}
	if err == nil {
		r, err = b.startRotation(ctx, s, c)
	}
	if err == nil {
		err = b.continueSoon(ctx, s, r)
	}
	return r, err
}

// continueSoon continues a rotation, and waits a while for the cluster to accept
// the new root credential.
func (b *backend) continueSoon(ctx context.Context, s logical.Storage, r rotation) (err error) {
	_ = retry(ctx, proofWait, func() bool { // err says more than the end of the wait
		err = b.continueRotation(ctx, s, r)
		return !errors.Is(err, errNotProved) || errors.Is(err, errCancelled)
	})
	return err
}

// explainExpiry says when the new root credential expires and what happens then.
func (b *backend) explainExpiry(ctx context.Context, s logical.Storage, r rotation, resp *logical.Response) {
	c, err := loadConfig(ctx, s)
	if err != nil || r.ExpiresAt.IsZero() {
		return
	}
	next := c.nextRotation(b.now())
	if !next.IsZero() {
		resp.Data["next_vault_rotation"] = timestamp(next)
	}
	switch {
	case !r.From.RootExpiresAt.IsZero() || c.Rotation.regular() && !c.Rotation.Disabled:
	case next.IsZero():
		resp.AddWarning(fmt.Sprintf("The previous root credential never expired. The new one expires at %s, and nothing rotates it, because disable_automated_rotation is set. Rotate it before then, or the mount stops working.", timestamp(r.ExpiresAt)))
	default:
		resp.AddWarning(fmt.Sprintf("The previous root credential never expired. The new one expires at %s; the engine rotates it at %s. Set rotation_period or rotation_schedule in config to choose when.", timestamp(r.ExpiresAt), timestamp(next)))
	}
}
