package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
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
				"admin_token_id": {Type: framework.TypeString}, "admin_token_expires_at": {Type: framework.TypeString},
				"mgmt_token_since": {Type: framework.TypeString}, "admin_token_since": {Type: framework.TypeString}, "last_vault_rotation": {Type: framework.TypeString}, "next_vault_rotation": {Type: framework.TypeString},
				"rotation_to": {Type: framework.TypeString}, "rotation_since": {Type: framework.TypeString},
				"rotation_last_failure": {Type: framework.TypeString}, "rotation_failed_at": {Type: framework.TypeString}, "rotation_next_try_at": {Type: framework.TypeString},
				"cli_path": {Type: framework.TypeString}, "cli_version": {Type: framework.TypeString},
				"cli_sha256": {Type: framework.TypeString}, "cli_error": {Type: framework.TypeString},
				"last_success_at": {Type: framework.TypeString}, "last_failure_at": {Type: framework.TypeString}, "last_failure": {Type: framework.TypeString},
				"ledger_loaded": {Type: framework.TypeBool, Required: true}, "ledger_error": {Type: framework.TypeString},
				"tokens_issuing": {Type: framework.TypeInt}, "tokens_active": {Type: framework.TypeInt}, "tokens_revoking": {Type: framework.TypeInt},
				"tokens_on_other_clusters": {Type: framework.TypeInt},
				"revoking":                 {Type: framework.TypeStringSlice}, "next_deadline": {Type: framework.TypeString},
			})),
		},
		HelpSynopsis: "Show the health of the mount, without asking the cluster.",
		HelpDescription: `
Shows influxctl and its version, the last answers of the cluster since the plugin
started, the root credential, and the ledger:

  ledger_loaded    whether the following counts are known; otherwise they are absent
  tokens_issuing   tokens whose creation is not confirmed
  tokens_active    tokens that a lease, a static role or revoke_on=expiry holds
  tokens_revoking  tokens that must be revoked and have not been revoked yet

tokens_on_other_clusters counts the tokens, of all states, that were issued on
another cluster than the one in config.
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
	b.describeLedger(ctx, req.Storage, c, req.MountPoint, resp)
	b.health.describe(data)
	b.describeProgram(ctx, c.Product, resp)
	return resp, nil
}

// describeRoot adds what is known about the root credential and its rotation.
func (b *backend) describeRoot(ctx context.Context, s logical.Storage, c config, resp *logical.Response) error {
	data := resp.Data
	data["cluster"] = c.Fingerprint
	c.describeRoot(data, b.now())
	if !c.RootSince.IsZero() {
		data[c.rootField()+"_since"] = timestamp(c.RootSince)
	}
	r, underWay, err := findRotation(ctx, s)
	if underWay {
		data["rotation_to"], data["rotation_since"] = r.TokenID, timestamp(r.StartedAt)
	}
	b.root.describe(data, underWay || c.rotationDue(b.now()))
	if warning := c.expiryWarning(b.now()); warning != "" {
		resp.AddWarning(warning)
	}
	return err
}

const (
	// maxRevoking is the number of tokens that status lists with their failure.
	maxRevoking = 10

	// statusLoadTime is how long status and metrics wait for the ledger to be loaded.
	statusLoadTime = time.Second
)

// summary returns the summary of the ledger, and whether it is known. It loads the
// ledger, but does not wait long for that.
func (b *backend) summary(ctx context.Context, s logical.Storage) (ledger.Summary, bool, error) {
	loading, cancel := context.WithTimeout(ctx, statusLoadTime)
	defer cancel()
	err := b.ledger.TryLoad(loading, s)
	summary, loaded := b.ledger.Summary()
	return summary, loaded, err
}

// describeLedger adds the counts of the ledger, if they are known.
func (b *backend) describeLedger(ctx context.Context, s logical.Storage, c config, mount string, resp *logical.Response) {
	data := resp.Data
	summary, loaded, err := b.summary(ctx, s)
	data["ledger_loaded"] = loaded
	if !loaded {
		resp.AddWarning("The ledger is not loaded yet, so the tokens cannot be counted. Read status again in a minute.")
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			data["ledger_error"] = err.Error()
		}
		return
	}
	states, elsewhere := map[ledger.State]int{}, 0
	for _, count := range summary.Counts {
		states[count.State] += count.N
		if count.Fingerprint != c.Fingerprint {
			elsewhere += count.N
		}
	}
	data["tokens_issuing"], data["tokens_active"], data["tokens_revoking"] = states[ledger.Issuing], states[ledger.Active], states[ledger.Revoking]
	if elsewhere > 0 {
		data["tokens_on_other_clusters"] = elsewhere
		resp.AddWarning(fmt.Sprintf("The ledger holds %s of a cluster that is not configured any more. The mount cannot revoke tokens there. Their records are deleted after they have expired, except those of InfluxDB 3 Core, Enterprise and Cloud, where expired tokens stay until they are deleted. If the cluster is gone for good, delete each record with `vault write %stokens/<accessor> forget=true`; `vault list -detailed %stokens/detailed` shows which they are.", plural(elsewhere, "token"), mount, mount))
	}
	if !summary.NextDeadline.IsZero() {
		data["next_deadline"] = timestamp(summary.NextDeadline)
	}
	switch {
	case summary.Newer != nil:
		data["ledger_error"] = summary.Newer.Error()
	case summary.Damaged > 0:
		data["ledger_error"] = plural(summary.Damaged, "record") + " in the ledger cannot be read and are not changed"
	}
	if states[ledger.Revoking] > 0 {
		data["revoking"] = b.describeRevoking(ctx, s)
	}
}

// describeRevoking describes tokens that could not be revoked yet.
func (b *backend) describeRevoking(ctx context.Context, s logical.Storage) []string {
	lines := []string{}
	for _, e := range b.ledger.All() {
		if len(lines) == maxRevoking {
			break
		}
		if e.State != ledger.Revoking {
			continue
		}
		r, err := b.ledger.Get(ctx, s, e.Role, e.Accessor)
		if err != nil {
			continue
		}
		lines = append(lines, fmt.Sprintf("%s: token %s of role %s, expires %s, %s: %s",
			r.Accessor, r.TokenID, r.Role, timestampOrNever(r.ExpiresAt), plural(r.Attempts, "attempt"), r.LastFailure))
	}
	return lines
}

// describeProgram adds what is known about the vendor's program, if the product
// needs one.
func (b *backend) describeProgram(ctx context.Context, product string, resp *logical.Response) {
	driver := b.programDriver(product)
	if driver == nil {
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
