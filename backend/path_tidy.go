package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// mostExamples bounds the ids that tidy names of each kind.
const mostExamples = 100

func (b *backend) pathTidy() *framework.Path {
	return &framework.Path{
		Pattern:      "tidy",
		DisplayAttrs: display("tidy", ""),
		Fields: map[string]*framework.FieldSchema{
			"token_type":     kindField,
			"dry_run":        {Type: framework.TypeBool, Default: true, Description: "Only tell what would be done."},
			"revoke_unknown": {Type: framework.TypeString, Description: "Also revoke live tokens that bear this mount's tag and stand in no record. Must be the mount's tag itself, as status shows it: the tokens of a Vault restored from this one's backup bear the same."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: operation(b.tidy, "tidy", answers(http.StatusOK, map[string]*framework.FieldSchema{
				"dry_run": {Type: framework.TypeBool, Required: true}, "listed": {Type: framework.TypeInt, Required: true},
				"foreign": {Type: framework.TypeInt, Required: true}, "in_ledger": {Type: framework.TypeInt, Required: true},
				"unknown": {Type: framework.TypeInt, Required: true}, "unknown_ids": {Type: framework.TypeStringSlice, Required: true},
				"dead": {Type: framework.TypeInt, Required: true}, "dead_ids": {Type: framework.TypeStringSlice, Required: true},
				"not_listed": {Type: framework.TypeInt, Required: true}, "not_listed_ids": {Type: framework.TypeStringSlice, Required: true},
				"revoked": {Type: framework.TypeInt, Required: true}, "forgotten": {Type: framework.TypeInt, Required: true},
			})),
		},
		HelpSynopsis: "Compare the ledger with the cluster's list, and mend the differences.",
		HelpDescription: `
    vault write -f influxdb/tidy
    vault write influxdb/tidy dry_run=false
    vault write influxdb/tidy dry_run=false revoke_unknown=<mount tag>

Looks at one kind of token, the management tokens unless token_type=database
says otherwise. Tells of three differences: unknown, live tokens that bear this mount's tag and
stand in no record; dead, tokens in the ledger that the cluster lists as revoked
or expired; not_listed, tokens in the ledger that the cluster does not list,
which proves nothing, for a list may lag.

With dry_run=false the records of dead tokens are forgotten. Unknown tokens are
revoked only if the mount's tag is typed out in revoke_unknown. Tokens without
the tag, and the root token, are never touched.
`,
	}
}

// A comparison is what the cluster's list says of the ledger.
type comparison struct {
	listed, foreign int
	held            int                // records in the ledger
	unknown         []string           // ids
	dead            []indexed          // in the ledger
	missing         map[string]indexed // by nonce: in the ledger, not listed yet
}

func (b *backend) tidy(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	confirmed := d.Get("revoke_unknown").(string)
	if confirmed != "" && confirmed != string(b.tag) {
		return fail(badRequest("revoke_unknown must be this mount's tag, %s, typed out as confirmation", b.tag))
	}
	c, err := loadConfig(ctx, req.Storage)
	if err != nil {
		return fail(err)
	}
	if err := b.ledger.load(ctx, req.Storage); err != nil {
		return nil, err
	}
	kind := d.Get("token_type").(string)
	if err := checkKind(kind); err != nil {
		return fail(err)
	}
	found, err := b.compare(ctx, c, kind)
	if err != nil {
		return fail(err)
	}
	dry, revoked, forgotten := d.Get("dry_run").(bool), 0, 0
	var failures error
	if !dry {
		forgotten, failures = b.forgetDead(ctx, req.Storage, found.dead)
		if confirmed != "" {
			n, err := b.revokeUnknown(ctx, req.Storage, kind, found.unknown)
			revoked, failures = n, errors.Join(failures, err)
		}
		b.Logger().Info("tidied", "listed", found.listed, "revoked", revoked, "forgotten", forgotten)
	}
	resp := found.response(dry, revoked, forgotten)
	if failures != nil {
		resp.AddWarning("Not all could be done: " + failures.Error())
	}
	return resp, nil
}

// compare streams the cluster's list past the ledger.
func (b *backend) compare(ctx context.Context, c config, kind string) (comparison, error) {
	now := b.now()
	found := comparison{missing: map[string]indexed{}}
	nonces := map[string]string{} // by token id, for a root token that an operator made bears no tag
	for _, e := range b.ledger.all() {
		if e.kind == kind {
			found.missing[e.nonce] = e
			nonces[e.tokenID] = e.nonce
		}
	}
	found.held = len(found.missing)
	err := b.issuerOf(c, kind).List(ctx, func(info issuer.Info) error {
		found.listed++
		nonce, ours := b.tag.nonce(info.Description)
		if held, ok := nonces[info.ID]; ok {
			nonce, ours = held, true
		}
		_, known := b.ledger.roleOf(nonce)
		e, missing := found.missing[nonce]
		switch {
		case !ours:
			found.foreign++
		case missing:
			delete(found.missing, nonce)
			if info.Dead(now) {
				found.dead = append(found.dead, e)
			}
		case !known && !info.Dead(now) && info.ID != c.RootID:
			found.unknown = append(found.unknown, info.ID)
		}
		return nil
	})
	b.health.saw("list", err, now)
	return found, upstream("list the cluster's tokens", err)
}

func (b *backend) forgetDead(ctx context.Context, s logical.Storage, dead []indexed) (n int, err error) {
	for _, e := range dead {
		if failed := b.ledger.drop(ctx, s, e.role, e.nonce); failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		n++
	}
	return n, err
}

// revokeUnknown revokes tokens that bear the mount's tag and stand in no
// record, all but the root.
func (b *backend) revokeUnknown(ctx context.Context, s logical.Storage, kind string, ids []string) (n int, err error) {
	if len(ids) == 0 {
		return 0, nil
	}
	unknown := map[string]record{}
	for _, id := range ids {
		unknown[id] = record{Nonce: id, TokenID: id, Role: "unknown"}
	}
	failed := b.revokeTokens(ctx, s, kind, unknown)
	for id, cause := range failed {
		err = errors.Join(err, fmt.Errorf("%s: %w", id, cause))
	}
	return len(ids) - len(failed), err
}

func (found comparison) response(dry bool, revoked, forgotten int) *logical.Response {
	ids := func(entries []indexed) (ids []string) {
		for _, e := range entries {
			ids = append(ids, e.tokenID)
		}
		return ids
	}
	var missing []indexed
	for _, e := range found.missing {
		missing = append(missing, e)
	}
	return &logical.Response{Data: map[string]any{
		"dry_run": dry, "listed": found.listed, "foreign": found.foreign, "in_ledger": found.held,
		"unknown": len(found.unknown), "unknown_ids": examples(found.unknown),
		"dead": len(found.dead), "dead_ids": examples(ids(found.dead)),
		"not_listed": len(missing), "not_listed_ids": examples(ids(missing)),
		"revoked": revoked, "forgotten": forgotten,
	}}
}

// examples keeps an answer small.
func examples(ids []string) []string {
	return append([]string{}, ids[:min(len(ids), mostExamples)]...)
}
