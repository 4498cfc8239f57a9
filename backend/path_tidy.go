package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
)

// maxExamples is the number of tokens that tidy names in each group.
const maxExamples = 100

func (b *backend) pathTidy() *framework.Path {
	return &framework.Path{
		Pattern:      "tidy",
		DisplayAttrs: display("tidy", ""),
		Fields: map[string]*framework.FieldSchema{
			"token_type":     typeField,
			"dry_run":        {Type: framework.TypeBool, Default: true, Description: "Report only; change nothing. Default: true."},
			"revoke_unknown": {Type: framework.TypeString, Description: "Also revoke valid tokens that have the tag of this mount and no record. The value must be the tag of the mount, as status shows it: a Vault that was restored from a backup of this one uses the same tag."},
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
		HelpSynopsis: "Compare the ledger with the tokens of the cluster, and resolve the differences.",
		HelpDescription: `
    vault write -f influxdb/tidy
    vault write influxdb/tidy dry_run=false
    vault write influxdb/tidy dry_run=false revoke_unknown=<mount tag>

Compares tokens of one type: management, unless token_type=database is given.
InfluxDB 3 Core, Enterprise and Cloud list all types together, and all are
compared. The answer counts and names

  unknown     valid tokens with the tag of this mount and without a record. With
              InfluxDB 3 Core, Enterprise and Cloud also expired ones: they stay on
              the server until they are deleted
  dead        tokens in the ledger that the cluster lists as revoked. An expiry
              that has passed does not count, because the clock may be wrong
  not_listed  tokens in the ledger that the cluster does not list; this proves
              nothing, because a list may lag

With dry_run=false the records of dead tokens are deleted. Unknown tokens are
revoked only if revoke_unknown is the tag of the mount. Tokens without the tag,
and the root credential, are never revoked.
`,
	}
}

// A comparison is the difference between the ledger and the list of the cluster.
type comparison struct {
	listed, foreign int
	held            int                     // records
	unknown         []string                // IDs
	dead            []ledger.Entry          // in the ledger
	missing         map[string]ledger.Entry // in the ledger and not listed, by accessor
}

func (b *backend) tidy(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	confirmation := d.Get("revoke_unknown").(string)
	if confirmation != "" && confirmation != string(b.tag) {
		return fail(badRequest("revoke_unknown must be the tag of this mount, %s, as a confirmation", b.tag))
	}
	tokenType, err := requestedType(d)
	if err != nil {
		return fail(err)
	}
	c, err := loadConfig(ctx, req.Storage)
	if err != nil {
		return fail(err)
	}
	if err := b.ledger.Load(ctx, req.Storage); err != nil {
		return nil, err
	}
	if confirmation != "" && b.ledger.HasUnreadable() {
		return fail(conflict("revoke_unknown is refused: the ledger holds records that this version cannot read, and their tokens would be revoked under valid leases. See ledger_error in status"))
	}
	found, err := b.compare(ctx, c, tokenType)
	if err != nil {
		return fail(err)
	}
	dry, revoked, forgotten := d.Get("dry_run").(bool), 0, 0
	var failures error
	if !dry {
		forgotten, failures = b.forgetDead(ctx, req.Storage, found.dead)
		if confirmation != "" {
			n, err := b.revokeUnknown(ctx, req.Storage, c, tokenType, found.unknown)
			revoked, failures = n, errors.Join(failures, err)
		}
		b.Logger().Info("tidy finished", "listed", found.listed, "revoked", revoked, "forgotten", forgotten)
	}
	resp := found.response(dry, revoked, forgotten)
	if failures != nil {
		resp.AddWarning("Some tokens could not be handled: " + failures.Error())
	}
	return resp, nil
}

// compare compares the list of the cluster with the ledger.
func (b *backend) compare(ctx context.Context, c config, tokenType string) (comparison, error) {
	now, client := b.now(), b.issuerOf(c, tokenType)
	found := comparison{missing: map[string]ledger.Entry{}}
	accessors := map[string]string{} // by token ID: a root credential of an operator has no tag
	for _, e := range b.ledger.Settled() {
		if (e.TokenType == tokenType || client.traits().OneList) && e.Fingerprint == c.Fingerprint {
			found.missing[e.Accessor] = e
			accessors[e.TokenID] = e.Accessor
		}
	}
	found.held = len(found.missing)
	err := client.List(ctx, func(info issuer.Info) error {
		found.listed++
		accessor, ours := b.tag.accessor(info.Description)
		if held, ok := accessors[info.ID]; ok {
			accessor, ours = held, true
		}
		e, missing := found.missing[accessor]
		twin := e.TokenID != "" && e.TokenID != info.ID // another token with the same tag, which proves nothing about this one
		gone := client.traits().Gone(info, now)
		switch {
		case !ours:
			found.foreign++
		case missing && !twin:
			delete(found.missing, accessor)
			if !info.RevokedAt.IsZero() { // an expiry is no proof: our clock may have jumped
				found.dead = append(found.dead, e)
			}
		case !gone && info.ID != c.RootID && (twin || !b.ledger.MayHold(accessor)):
			found.unknown = append(found.unknown, info.ID)
		}
		return nil
	})
	return found, err
}

// forgetDead drops the records of tokens that the cluster lists as revoked. It
// keeps those that became something else since they were compared.
func (b *backend) forgetDead(ctx context.Context, s logical.Storage, dead []ledger.Entry) (n int, err error) {
	for _, e := range dead {
		failed := b.ledger.DropIf(ctx, s, e.Role, e.Accessor, func(r ledger.Record) error {
			if r.TokenID != e.TokenID {
				return fmt.Errorf("the record of token %s was changed meanwhile", e.Accessor)
			}
			return nil
		})
		if failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		if name, ok := strings.CutPrefix(e.Role, staticPrefix); ok {
			b.static.checkNext(name, time.Time{}) // the token may be the current one, which must be replaced
		}
		n++
	}
	return n, err
}

// revokeUnknown revokes tokens that have the tag of the mount and no record.
func (b *backend) revokeUnknown(ctx context.Context, s logical.Storage, c config, tokenType string, ids []string) (n int, err error) {
	unknown := map[string][]string{"": ids}
	failed := b.revokeIDs(ctx, s, b.issuerOf(c, tokenType), c, unknown)
	for _, id := range ids {
		b.metrics.count(opRevoke, failed[id])
		if failed[id] != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", id, failed[id]))
		}
	}
	return len(ids) - len(failed), err
}

func (found comparison) response(dry bool, revoked, forgotten int) *logical.Response {
	var missing []ledger.Entry
	for _, e := range found.missing {
		missing = append(missing, e)
	}
	return &logical.Response{Data: map[string]any{
		"dry_run": dry, "listed": found.listed, "foreign": found.foreign, "in_ledger": found.held,
		"unknown": len(found.unknown), "unknown_ids": examples(found.unknown),
		"dead": len(found.dead), "dead_ids": examples(namesOf(found.dead)),
		"not_listed": len(missing), "not_listed_ids": examples(namesOf(missing)),
		"revoked": revoked, "forgotten": forgotten,
	}}
}

// namesOf returns the IDs of tokens, or the accessors of those without an ID.
func namesOf(entries []ledger.Entry) (names []string) {
	for _, e := range entries {
		if e.TokenID != "" {
			names = append(names, e.TokenID)
		} else {
			names = append(names, "accessor "+e.Accessor)
		}
	}
	return names
}

// examples limits the number of names in an answer.
func examples(names []string) []string {
	return append([]string{}, names[:min(len(names), maxExamples)]...)
}
