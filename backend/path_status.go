package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

func (b *backend) pathStatus() *framework.Path {
	return &framework.Path{
		Pattern:      "status",
		DisplayAttrs: display("read", "status"),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: operation(b.statusRead, "read", answers(http.StatusOK, map[string]*framework.FieldSchema{
				"version": {Type: framework.TypeString}, "mount_tag": {Type: framework.TypeString},
				"configured": {Type: framework.TypeBool, Required: true}, "cluster": {Type: framework.TypeString},
				"mgmt_token_id": {Type: framework.TypeString}, "mgmt_token_expires_at": {Type: framework.TypeString},
				"mgmt_token_since": {Type: framework.TypeString}, "mgmt_token_rotates_at": {Type: framework.TypeString},
				"rotation_to": {Type: framework.TypeString}, "rotation_since": {Type: framework.TypeString},
				"rotation_last_failure": {Type: framework.TypeString}, "rotation_failed_at": {Type: framework.TypeString}, "rotation_next_try_at": {Type: framework.TypeString},
				"cli_path": {Type: framework.TypeString}, "cli_version": {Type: framework.TypeString},
				"cli_sha256": {Type: framework.TypeString}, "cli_error": {Type: framework.TypeString},
				"last_success_at": {Type: framework.TypeString}, "last_failure_at": {Type: framework.TypeString}, "last_failure": {Type: framework.TypeString},
				"tokens_pending": {Type: framework.TypeInt, Required: true}, "tokens_live": {Type: framework.TypeInt, Required: true}, "tokens_owed": {Type: framework.TypeInt, Required: true},
				"owed":       {Type: framework.TypeStringSlice},
				"oldest_due": {Type: framework.TypeString}, "ledger_loaded": {Type: framework.TypeBool, Required: true}, "ledger_error": {Type: framework.TypeString},
			})),
		},
		HelpSynopsis: "Tell how the mount is doing, without asking the cluster.",
		HelpDescription: `
Shows the vendor's program and its version, how the cluster answered last (since
the plugin started), and the ledger: tokens_pending are mints whose outcome is
not known, tokens_live are held by a lease, tokens_owed must die and could not
be revoked yet. The counts are complete once ledger_loaded is true.
`,
	}
}

func (b *backend) statusRead(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	data := map[string]any{"version": b.version, "mount_tag": string(b.tag), "configured": true}
	c, err := loadConfig(ctx, req.Storage)
	switch {
	case errors.Is(err, errNoConfig):
		data["configured"] = false
	case err != nil:
		return fail(err)
	}
	resp := &logical.Response{Data: data}
	if err == nil {
		if err := b.describeRoot(ctx, req.Storage, c, resp); err != nil {
			return fail(err)
		}
	}
	b.describeLedger(ctx, req.Storage, data)
	b.health.describe(data)
	b.describeProgram(ctx, resp)
	return resp, nil
}

// describeRoot adds what is known of the root token, and how its rotation goes.
func (b *backend) describeRoot(ctx context.Context, s logical.Storage, c config, resp *logical.Response) error {
	data := resp.Data
	data["cluster"], data["mgmt_token_id"] = c.Fingerprint, c.RootID
	if c.RootID != "" {
		data["mgmt_token_expires_at"] = timestampOrNever(c.RootExpiresAt, "never")
	}
	for field, moment := range map[string]time.Time{
		"mgmt_token_since": c.RootSince, "mgmt_token_rotates_at": c.rotatesAt(),
	} {
		if !moment.IsZero() {
			data[field] = timestamp(moment)
		}
	}
	r, under, err := findRotation(ctx, s)
	if under {
		data["rotation_to"], data["rotation_since"] = r.TokenID, timestamp(r.StartedAt)
	}
	b.root.describe(data)
	if warning := c.expiryWarning(b.now()); warning != "" {
		resp.AddWarning(warning)
	}
	return err
}

// mostOwed bounds the debts that status tells the reasons of.
const mostOwed = 10

// describeLedger adds what the ledger holds, and what is owed and why.
func (b *backend) describeLedger(ctx context.Context, s logical.Storage, data map[string]any) {
	now := b.ledger.state()
	data["tokens_pending"], data["tokens_live"], data["tokens_owed"] = now.states[pending], now.states[live], now.states[owed]
	data["ledger_loaded"] = now.loaded
	if !now.oldestDue.IsZero() {
		data["oldest_due"] = timestamp(now.oldestDue)
	}
	switch {
	case now.newer != nil:
		data["ledger_error"] = now.newer.Error()
	case now.damaged > 0:
		data["ledger_error"] = fmt.Sprintf("%d records are damaged and left alone", now.damaged)
	}
	if now.states[owed] == 0 {
		return
	}
	debts := []string{}
	for _, e := range b.ledger.everything() {
		if e.state != owed || len(debts) == mostOwed {
			continue
		}
		r, err := b.ledger.get(ctx, s, e.role, e.nonce)
		if err != nil {
			continue
		}
		debts = append(debts, fmt.Sprintf("%s: token %s of role %s, expires %s, %d attempts: %s",
			r.Nonce, r.TokenID, r.Role, timestampOrNever(r.ExpiresAt, "never"), r.Attempts, r.LastFailure))
	}
	data["owed"] = debts
}

// describeProgram adds what is known of the vendor's program.
func (b *backend) describeProgram(ctx context.Context, resp *logical.Response) {
	driver, ok := b.drivers[Management].(issuer.ProgramDriver)
	if !ok {
		return
	}
	program, err := driver.Program(ctx)
	for field, value := range map[string]string{
		"cli_path": program.Path, "cli_version": program.Version, "cli_sha256": program.SHA256,
	} {
		if value != "" {
			resp.Data[field] = value
		}
	}
	if err != nil {
		resp.Data["cli_error"] = err.Error()
	}
	if program.Warning != "" {
		resp.AddWarning(program.Warning)
	}
}
