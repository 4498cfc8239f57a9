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

// proofTime is how long a request waits for the cluster to accept the new root
// token, before it leaves that to the worker.
const proofTime = 20 * time.Second

func (b *backend) pathRotateRoot() *framework.Path {
	return &framework.Path{
		Pattern:      "config/rotate-root",
		DisplayAttrs: display("rotate", "root-token"),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: operation(b.rotateRoot, "rotate", answers(http.StatusOK, map[string]*framework.FieldSchema{
				"state":         {Type: framework.TypeString, Required: true},
				"mgmt_token_id": {Type: framework.TypeString, Required: true}, "mgmt_token_expires_at": {Type: framework.TypeString, Required: true},
				"previous_mgmt_token_id": {Type: framework.TypeString, Required: true}, "previous_revoked_after": {Type: framework.TypeString},
			})),
		},
		HelpSynopsis: "Replace the root token by a new one that only Vault knows.",
		HelpDescription: `
    vault write -f influxdb/config/rotate-root

Mints a new root token with the present one (it lives for rotation_ttl), proves
that the cluster accepts it, stores it, and revokes the old one with it once
rotation_overlap is over. A crash at any moment leaves a root token that works.

A fresh token may need minutes until the cluster accepts it. The answer then
says state=proving, the old root token stays in use, and the rotation is
finished by itself; status tells how it goes.

Which token of the cluster the root token is must be known, to revoke it: see
mgmt_token_id of config. Set rotation_period there to have this done
unattended.
`,
	}
}

func (b *backend) rotateRoot(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	if !b.root.working.TryLock() {
		return fail(logical.CodedError(http.StatusConflict, errRotating.Error()))
	}
	defer b.root.working.Unlock()
	c, err := loadConfig(ctx, req.Storage)
	if err != nil {
		return fail(err)
	}
	r, under, err := findRotation(ctx, req.Storage)
	if err == nil && !under {
		r, err = b.startRotation(ctx, req.Storage, c)
	}
	if err == nil {
		err = b.finishSoon(ctx, req.Storage, r)
	}
	b.noteRotation(ctx, err)
	resp := &logical.Response{Data: map[string]any{
		"state": "rotated", "mgmt_token_id": r.TokenID, "mgmt_token_expires_at": timestampOrNever(r.ExpiresAt, "never"),
		"previous_mgmt_token_id": r.OldID,
	}}
	switch {
	case err == nil:
		resp.Data["previous_revoked_after"] = timestamp(b.now().Add(c.Rotation.overlap(c.Timeout)))
		return resp, nil
	case errors.Is(err, errUnproven) && !errors.Is(err, errGivenUp):
		resp.Data["state"] = "proving"
		resp.AddWarning(fmt.Sprintf("The cluster does not accept the new root token yet. The old one stays in use until it does; this goes on by itself for up to %s, see status.", human(rotationPatience)))
		return resp, nil
	case errors.Is(err, errNoRootID):
		return fail(badRequest("%v", err))
	}
	return fail(fmt.Errorf("the root token was not rotated: %w", err))
}

// finishSoon finishes a rotation, looking again for a while whether the cluster
// accepts the new root token.
func (b *backend) finishSoon(ctx context.Context, s logical.Storage, r rotation) error {
	patience, cancel := context.WithTimeout(ctx, proofTime)
	defer cancel()
	for wait := time.Second / 4; ; wait *= 2 {
		err := b.finishRotation(ctx, s, r)
		if !errors.Is(err, errUnproven) || errors.Is(err, errGivenUp) {
			return err
		}
		select {
		case <-patience.Done():
			return err
		case <-time.After(wait):
		}
	}
}
