package backend

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
)

// overdueTTL is the ttl of an answer whose token should have been replaced already:
// the reader asks again after that time.
const overdueTTL = time.Minute

func (b *backend) pathStaticCreds() *framework.Path {
	return &framework.Path{
		Pattern:      "static-creds/" + framework.GenericNameRegex("name"),
		DisplayAttrs: display("read", "static-credentials"),
		Fields: map[string]*framework.FieldSchema{
			"name": {Type: framework.TypeString, Required: true, Description: "Name of the static role."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			// A read needs no write and no cluster, so any node serves it.
			logical.ReadOperation: &framework.PathOperation{
				Callback:     b.staticCredsRead,
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "read"},
				Responses: answers(http.StatusOK, map[string]*framework.FieldSchema{
					"token": {Type: framework.TypeString, Required: true}, "token_id": {Type: framework.TypeString, Required: true}, "accessor": {Type: framework.TypeString, Required: true},
					"token_type": {Type: framework.TypeString, Required: true}, "description": {Type: framework.TypeString, Required: true}, "expires_at": {Type: framework.TypeString, Required: true},
					"product": {Type: framework.TypeString, Required: true}, "account_id": {Type: framework.TypeString}, "cluster_id": {Type: framework.TypeString}, "url": {Type: framework.TypeString},
					"host": {Type: framework.TypeString, Required: true}, "port": {Type: framework.TypeString, Required: true}, "metadata": {Type: framework.TypeMap},
					"rotation_period": {Type: framework.TypeInt, Required: true}, "rotation_schedule": {Type: framework.TypeString}, "rotation_window": {Type: framework.TypeInt},
					"last_vault_rotation": {Type: framework.TypeString, Required: true}, "next_vault_rotation": {Type: framework.TypeString},
					"ttl": {Type: framework.TypeInt, Required: true},
				}),
			},
		},
		HelpSynopsis: "Read the current token of a static role.",
		HelpDescription: `
    vault read influxdb/static-creds/metrics

Returns the same token to all readers, without a lease. Read again after ttl
seconds: the token is then replaced, or expires 30 seconds later. If it should have
been replaced already, ttl is at most 60, with a warning. The previous token stays
valid for the grace period of the role.
`,
	}
}

func (b *backend) staticCredsRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	r, creds, ok, err := b.readStatic(ctx, req.Storage, name)
	if err != nil {
		return fail(err)
	}
	if !ok {
		return fail(badRequest("there is no static role %q on this mount; list the static roles with `vault list`", shorten(name)))
	}
	warning := b.staticExpiryWarning(ctx, req.Storage, r)
	now := b.now() // after the last access to the storage, which may take time: ttl counts from now
	current := creds.at(now)
	switch {
	case current == nil && creds.Next != nil:
		return fail(badRequest("static role %s has no token yet: the cluster does not accept the first one yet; try again in a minute", name))
	case current == nil:
		return fail(badRequest("static role %[1]s has no token yet: issue the first one with `vault write -f rotate-role/%[1]s` on this mount", name))
	case !now.Before(current.servedUntil()):
		return fail(upstream("read the token of static role "+name, fmt.Errorf("it expires at %s and was not replaced in time; see static-roles/%s and status", timestamp(current.ExpiresAt), name)))
	}
	return r.answer(creds, now, warning), nil
}

// staticExpiryWarning returns how long before the expiry of a token that nothing
// replaces answers begin to warn.
func (b *backend) staticExpiryWarning(ctx context.Context, s logical.Storage, r staticRole) time.Duration {
	if r.Disabled {
		if c, err := loadConfig(ctx, s); err == nil {
			return c.Rotation.Warning
		}
	}
	return defaultConfig.Rotation.Warning
}

// answer returns the answer to a read at now. Between two changes, only ttl differs
// between answers: the Vault Secrets Operator restarts workloads if any other field
// differs.
func (r staticRole) answer(creds staticCreds, now time.Time, warning time.Duration) *logical.Response {
	current, next := creds.at(now), creds.nextSwitch(now)
	data := map[string]any{
		"token": current.Token.Reveal(), "token_id": current.TokenID, "accessor": current.Accessor,
		"token_type": current.TokenType, "description": current.Description, "expires_at": timestamp(current.ExpiresAt),
		"last_vault_rotation": timestamp(current.SwitchAt),
		"rotation_period":     int(r.currentInterval(*current).Seconds()),
	}
	current.Address.add(data)
	if len(r.Metadata) > 0 {
		data["metadata"] = r.Metadata
	}
	if r.Schedule.Cron != "" {
		data["rotation_schedule"] = r.Schedule.Cron
	}
	if r.Schedule.Window > 0 {
		data["rotation_window"] = int(r.Schedule.Window.Seconds())
	}
	resp := &logical.Response{Data: data}
	until := current.servedUntil()
	if !next.IsZero() {
		data["next_vault_rotation"], until = timestamp(next), next
	}
	ttl := ceilSeconds(until.Sub(now))
	if !next.IsZero() && !now.Before(next) {
		ttl = ceilSeconds(min(overdueTTL, current.servedUntil().Sub(now)))
		resp.AddWarning(fmt.Sprintf("This token should have been replaced at %s. It expires at %s, and is returned until 30 seconds before. See static-roles/%s for the reason.", timestamp(next), timestamp(current.ExpiresAt), r.Name))
	}
	data["ttl"] = ttl
	if r.Disabled && !now.Before(current.ExpiresAt.Add(-warning)) {
		resp.AddWarning(fmt.Sprintf("This token expires at %s, and disable_automated_rotation is set. Replace it with `vault write -f rotate-role/%s` on this mount.", timestamp(current.ExpiresAt), r.Name))
	}
	return resp
}

// currentInterval is the time from the last change to the next planned one. It is
// never less than a second: the Vault Secrets Operator and Vault Agent need it.
func (r staticRole) currentInterval(t staticToken) time.Duration {
	interval := r.Schedule.Period
	if r.Schedule.Cron != "" {
		interval = r.Schedule.next(t.SwitchAt).Sub(t.SwitchAt)
	}
	return max(interval, time.Second)
}

// ceilSeconds rounds up to whole seconds.
func ceilSeconds(d time.Duration) int {
	return int((d + time.Second - 1) / time.Second)
}

func (b *backend) pathRotateRole() *framework.Path {
	return &framework.Path{
		Pattern:      "rotate-role/" + framework.GenericNameRegex("name"),
		DisplayAttrs: display("rotate", "static-role"),
		Fields: map[string]*framework.FieldSchema{
			"name":  {Type: framework.TypeString, Required: true, Description: "Name of the static role."},
			"force": {Type: framework.TypeBool, Description: "Revoke the previous token at once, without the grace period. Default: false."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: operation(b.rotateRole, "rotate", answers(http.StatusOK, map[string]*framework.FieldSchema{
				"accessor": {Type: framework.TypeString, Required: true}, "token_id": {Type: framework.TypeString, Required: true},
				"last_vault_rotation": {Type: framework.TypeString, Required: true}, "next_vault_rotation": {Type: framework.TypeString},
				"previous_revoked_after": {Type: framework.TypeString},
			})),
		},
		HelpSynopsis: "Replace the token of a static role now.",
		HelpDescription: `
    vault write -f influxdb/rotate-role/metrics
    vault write influxdb/rotate-role/metrics force=true

Readers get the next token at once: the one that is staged, or else a new one. The
previous token stays valid for the grace period, unless force=true. With
rotation_period, the period begins again; a rotation_schedule does not change.
`,
	}
}

func (b *backend) rotateRole(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	unlock, err := b.static.lock(ctx, name)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	r, ok, err := findStaticRole(ctx, req.Storage, name)
	if err == nil && !ok {
		err = badRequest("there is no static role %q on this mount; list the static roles with `vault list`", shorten(name))
	}
	if err == nil {
		err = b.ledger.Load(ctx, req.Storage)
	}
	if err != nil {
		return fail(err)
	}
	creds, err := b.rotateStatic(ctx, req.Storage, r)
	if err == nil && creds.Next != nil {
		err = fmt.Errorf("the clock of this node was set back during the change; the new token becomes current at %s", timestamp(creds.Next.SwitchAt))
	}
	b.static.checkNext(name, time.Time{})
	if err != nil {
		b.metrics.count(opRotateStatic, err)
		b.event(ctx, "static-rotate-fail", "static-roles/"+name, "role", name)
		return fail(upstream("replace the token of static role "+name, err))
	}
	b.static.succeeded(name)
	current := creds.Current
	resp := &logical.Response{Data: map[string]any{
		"accessor": current.Accessor, "token_id": current.TokenID, "last_vault_rotation": timestamp(current.SwitchAt),
	}}
	if next := creds.nextSwitch(b.now()); !next.IsZero() {
		resp.Data["next_vault_rotation"] = timestamp(next)
	}
	force, until := d.Get("force").(bool), time.Time{} // until the last of the previous tokens is revoked
	for _, e := range b.ledger.OfRole(r.ledgerRole()) {
		if e.Accessor != current.Accessor && e.State == ledger.Active && e.Fingerprint == current.Fingerprint {
			until = later(until, e.Deadline)
		}
	}
	if !until.IsZero() {
		if force {
			until = b.now()
		}
		resp.Data["previous_revoked_after"] = timestamp(until)
	}
	b.revokePrevious(ctx, req.Storage, r, current.Accessor, force, resp)
	return resp, nil
}

// revokePrevious revokes the tokens of the role that the current one has replaced:
// all of them with force, otherwise those whose grace period is over. One of them
// is the older of two previous tokens. It must not wait for the worker, because it
// counts against the limit of the next rotation.
func (b *backend) revokePrevious(ctx context.Context, s logical.Storage, r staticRole, current string, force bool, resp *logical.Response) {
	var records []ledger.Record
	for _, e := range b.ledger.OfRole(r.ledgerRole()) {
		if e.Accessor == current || b.ledger.InFlight(e.Accessor) || !force && e.Deadline.After(b.now()) {
			continue
		}
		record, err := b.ledger.Change(ctx, s, e.Role, e.Accessor, func(record *ledger.Record) error {
			b.revokeNow(record)
			return nil
		})
		if err == nil {
			records = append(records, record)
		}
	}
	if failed := b.settle(ctx, s, records...); len(failed) > 0 {
		resp.AddWarning("A previous token could not be revoked yet. The engine keeps trying; see status.")
	}
}
