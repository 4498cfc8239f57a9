package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
)

func (b *backend) pathConfig() *framework.Path {
	return &framework.Path{
		Pattern:        "config",
		DisplayAttrs:   display("", "configuration"),
		ExistenceCheck: b.configExists,
		Fields: map[string]*framework.FieldSchema{
			"product": {
				Type:          framework.TypeString,
				Description:   "The product: `dedicated` (InfluxDB Cloud Dedicated) or `clustered` (InfluxDB Clustered).",
				AllowedValues: []any{issuer.Dedicated, issuer.Clustered},
			},
			"account_id": {Type: framework.TypeString, Description: "UUID of the account. Required for product=dedicated."},
			"cluster_id": {Type: framework.TypeString, Description: "UUID of the cluster. Required for product=dedicated."},
			"host":       {Type: framework.TypeString, Description: "Host name of the cluster, without scheme or port. Required for product=clustered. For product=dedicated it is optional, and returned with each credential."},
			"port":       {Type: framework.TypeString, Description: "Port of the cluster. Default: the default of influxctl, 443."},
			"api_url":    {Type: framework.TypeString, Description: "Origin of the HTTP Management API, which issues database tokens, for example https://cluster.example.com. Default: InfluxData's console for product=dedicated, the host for product=clustered."},
			"mgmt_token": {
				Type:         framework.TypeString,
				Description:  "The root credential: the management token that issues and revokes the others. Never returned. Must be given again in a request that changes where it is sent.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Management token", Sensitive: true},
			},
			"mgmt_token_id": {Type: framework.TypeString, Description: "ID of the root credential, a UUID. Default: found in the list of the cluster, if exactly one valid token begins like mgmt_token."},
			"ca_cert":       {Type: framework.TypeString, Description: "CA certificates of the cluster, in PEM. Default: those of the operating system."},
			"client_cert":   {Type: framework.TypeString, Description: "Client certificate for the cluster, in PEM."},
			"client_key": {
				Type:         framework.TypeString,
				Description:  "Private key of client_cert, in PEM. Never returned.",
				DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
			},
			"insecure_tls":               {Type: framework.TypeBool, Description: "Do not verify the certificate of the cluster. Anyone who can answer in its place receives the root credential. Default: false."},
			"disable_tls":                {Type: framework.TypeBool, Description: "Use plain text; product=clustered only. Default: false."},
			"request_timeout":            {Type: framework.TypeDurationSecond, Default: int(defaultConfig.Timeout.Seconds()), Description: "Time limit of one request to the cluster, 1s to 40s. Default: 30s."},
			"max_parallel":               {Type: framework.TypeInt, Default: defaultConfig.MaxParallel, Description: "Number of requests to the cluster at the same time, 1 to 64. Default: 4."},
			"rotation_period":            {Type: framework.TypeDurationSecond, Description: "Time between rotations of the root credential, at least 1h. Default: 0, no periodic rotation."},
			"disable_automated_rotation": {Type: framework.TypeBool, Description: "Rotate the root credential only on request. Default: false, which rotates it after rotation_period, and before it expires if the engine issued it."},
			"rotation_ttl":               {Type: framework.TypeDurationSecond, Description: "Life of a new root credential. Default: three rotation periods, or 8760h without a period. 0: it never expires."},
			"rotation_overlap":           {Type: framework.TypeDurationSecond, Description: "How long the previous root credential stays valid after a rotation. Default: twice request_timeout."},
			"expiry_warning":             {Type: framework.TypeDurationSecond, Default: int(defaultConfig.Rotation.Warning.Seconds()), Description: "How long before its expiry the root credential is rotated, or a warning is given if nothing rotates it. Default: 168h."},
			"verify":                     {Type: framework.TypeBool, Default: true, Description: "List the tokens of the cluster with the new settings first, and store nothing if that fails. Default: true."},
			"same_cluster":               {Type: framework.TypeBool, Description: "The new host, port or IDs are other names of the configured cluster. Default: false."},
			"force":                      {Type: framework.TypeBool, Query: true, Description: "Move to another cluster, or delete the config, although the ledger holds tokens. This mount cannot revoke those tokens afterwards; they stay valid until they expire. Default: false."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: operation(b.configWrite, "configure", okOrNoContent),
			logical.UpdateOperation: operation(b.configWrite, "configure", okOrNoContent),
			logical.ReadOperation: operation(b.configRead, "read", answers(http.StatusOK, map[string]*framework.FieldSchema{
				"product": {Type: framework.TypeString}, "account_id": {Type: framework.TypeString}, "cluster_id": {Type: framework.TypeString},
				"host": {Type: framework.TypeString}, "port": {Type: framework.TypeString}, "api_url": {Type: framework.TypeString},
				"mgmt_token_id": {Type: framework.TypeString}, "mgmt_token_expires_at": {Type: framework.TypeString},
				"ca_cert": {Type: framework.TypeString}, "client_cert": {Type: framework.TypeString},
				"insecure_tls": {Type: framework.TypeBool}, "disable_tls": {Type: framework.TypeBool},
				"request_timeout": {Type: framework.TypeInt}, "max_parallel": {Type: framework.TypeInt},
				"rotation_period": {Type: framework.TypeInt}, "rotation_ttl": {Type: framework.TypeInt},
				"rotation_overlap": {Type: framework.TypeInt}, "expiry_warning": {Type: framework.TypeInt},
				"disable_automated_rotation": {Type: framework.TypeBool},
				"last_vault_rotation":        {Type: framework.TypeString}, "next_vault_rotation": {Type: framework.TypeString},
				"mount_tag": {Type: framework.TypeString},
			})),
			logical.DeleteOperation: operation(b.configDelete, "delete", okOrNoContent),
		},
		HelpSynopsis: "Configure the cluster of this mount and its root credential.",
		HelpDescription: `
    vault write influxdb/config product=dedicated \
        account_id=… cluster_id=… mgmt_token=@token

One mount serves one cluster. A write changes the fields that it names and
nothing else. Before anything is stored, the tokens of the cluster are listed
with the new settings (unless verify=false). If that fails, nothing is stored.

The root credential is stored seal-wrapped and never returned. It is sent only to
the place that it was written for: a request that changes product, host, port,
api_url, ca_cert, insecure_tls or disable_tls must contain mgmt_token again.

While the ledger holds tokens of the cluster, moving to another cluster or
deleting the config needs force=true. If the cluster only has a new name, use
same_cluster=true. Reading works while the cluster is out of reach.
`,
	}
}

func (b *backend) configExists(ctx context.Context, req *logical.Request, _ *framework.FieldData) (bool, error) {
	entry, err := req.Storage.Get(ctx, configKey)
	return entry != nil, err
}

// A configChange is a write or a delete of the config.
type configChange struct {
	before *logical.StorageEntry // nil if there was no config
	old    config
	new    config
	delete bool
	force  bool
}

// replacesRoot reports whether the change replaces a root credential that the
// engine issued itself, so that the ledger must revoke it.
func (ch configChange) replacesRoot() bool {
	return ch.old.RootAccessor != "" && (ch.delete || ch.new.Root != ch.old.Root)
}

// leavesCluster reports whether the mount cannot use the old cluster afterwards.
func (ch configChange) leavesCluster() bool {
	return ch.before != nil && (ch.delete || ch.new.Fingerprint != ch.old.Fingerprint)
}

func (b *backend) configWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	before, err := req.Storage.Get(ctx, configKey)
	if err != nil {
		return nil, err
	}
	ch := configChange{before: before, old: defaultConfig, force: d.Get("force").(bool)}
	if before != nil {
		if ch.old, err = configFrom(before); err != nil {
			return fail(err)
		}
	}
	ch.new = ch.old.with(d)
	if ch.new.Root != ch.old.Root {
		ch.new.RootSince, ch.new.RootAccessor = b.now(), ""
	}
	if err := b.permit(ctx, req.Storage, &ch, d); err != nil {
		return fail(err)
	}
	warnings, retired := ch.new.warnings(), b.retiredRoots()
	if d.Get("verify").(bool) {
		found, err := b.verify(ctx, &ch.new)
		if err != nil {
			return fail(fmt.Errorf("nothing was stored: %w", err))
		}
		warnings = append(warnings, found...)
	}
	if ch.new.Root != ch.old.Root && retired[ch.new.RootID] {
		return fail(conflict("%s is being revoked, because a rotation has replaced it: create a new credential as an administrator, outside of Vault", ch.new.rootField()))
	}
	found, err := b.changeConfig(ctx, req.Storage, ch)
	if err != nil {
		return fail(err)
	}
	b.Logger().Info("config written", "product", ch.new.Product, "cluster", ch.new.Fingerprint, "root_credential_id", ch.new.RootID)
	b.event(ctx, "config-write", "config", "cluster", ch.new.Fingerprint)
	return withWarnings(append(warnings, found...)), nil
}

// withWarnings returns an answer without data, or nil without warnings.
func withWarnings(warnings []string) *logical.Response {
	if len(warnings) == 0 {
		return nil
	}
	return &logical.Response{Warnings: warnings}
}

// with returns the config with the fields that the request names changed.
func (c config) with(d *framework.FieldData) config {
	for field, target := range map[string]*string{
		"product": &c.Product, "account_id": &c.AccountID, "cluster_id": &c.ClusterID,
		"host": &c.Host, "port": &c.Port, "api_url": &c.APIURL, "ca_cert": &c.CACert, "client_cert": &c.ClientCert,
	} {
		if v, ok := d.GetOk(field); ok {
			*target = strings.TrimSpace(v.(string))
		}
	}
	if v, ok := d.GetOk("mgmt_token"); ok {
		root := issuer.NewSecret(strings.TrimSpace(v.(string)))
		if root != c.Root {
			c.RootID, c.RootKnown, c.RootExpiresAt = "", false, time.Time{}
		}
		c.Root = root
	}
	if v, ok := d.GetOk("mgmt_token_id"); ok {
		c.RootID, c.RootKnown, c.RootExpiresAt = strings.TrimSpace(v.(string)), false, time.Time{}
	}
	if v, ok := d.GetOk("client_key"); ok {
		c.ClientKey = issuer.NewSecret(strings.TrimSpace(v.(string)))
	}
	if v, ok := d.GetOk("insecure_tls"); ok {
		c.InsecureTLS = v.(bool)
	}
	if v, ok := d.GetOk("disable_tls"); ok {
		c.DisableTLS = v.(bool)
	}
	if v, ok := d.GetOk("request_timeout"); ok {
		c.Timeout = time.Duration(v.(int)) * time.Second
	}
	if v, ok := d.GetOk("max_parallel"); ok {
		c.MaxParallel = v.(int)
	}
	c.Rotation = c.Rotation.with(d)
	return c
}

// permit checks a change without the cluster, and sets the new fingerprint: the
// old one if the cluster stays the same.
func (b *backend) permit(ctx context.Context, s logical.Storage, ch *configChange, d *framework.FieldData) error {
	if err := ch.new.validate(); err != nil {
		return badRequest("%v", err)
	}
	_, rootGiven := d.GetOk("mgmt_token")
	if !rootGiven && ch.new.place() != ch.old.place() {
		return badRequest("this changes where the root credential is sent: give %[1]s again in the same request. "+
			"If no one knows it, because it was rotated, create a new management token as an administrator, outside of Vault, and give that as %[1]s", ch.new.rootField())
	}
	if ch.old.RootAccessor != "" && !rootGiven && ch.new.RootID != ch.old.RootID {
		return badRequest("mgmt_token_id cannot be changed: the engine issued the root credential and knows its ID")
	}
	if err := b.ledger.Load(ctx, s); err != nil {
		return err
	}
	if ch.new.RootAccessor == "" && b.isLedgerToken(ch.new.RootID) {
		return badRequest("%s: %v", ch.new.rootField(), errLeased)
	}
	ch.new.Fingerprint = ch.new.currentFingerprint()
	sameNames := ch.new.Fingerprint == ch.old.currentFingerprint()
	if ch.before != nil && (sameNames || d.Get("same_cluster").(bool)) {
		ch.new.Fingerprint = ch.old.Fingerprint
	}
	return b.permitLeaving(*ch)
}

// isLedgerToken reports whether the ledger has a record of a token with this ID
// that a role issued.
func (b *backend) isLedgerToken(id string) bool {
	return id != "" && slices.ContainsFunc(b.ledger.All(), func(e ledger.Entry) bool { return e.TokenID == id && e.Role != rootRole })
}

// retiredRoots returns the IDs of the root credentials that the ledger holds. They
// are read before a new root credential is verified: afterwards, one of them may
// be revoked already and its record gone. The ledger must be loaded.
func (b *backend) retiredRoots() map[string]bool {
	ids := map[string]bool{}
	for _, e := range b.ledger.All() {
		if e.Role == rootRole {
			ids[e.TokenID] = true
		}
	}
	return ids
}

// permitLeaving refuses a change after which the mount could not revoke the
// tokens in the ledger. The ledger must be loaded.
func (b *backend) permitLeaving(ch configChange) error {
	if !ch.leavesCluster() || ch.force || !b.ledger.Holds(ch.old.Fingerprint) {
		return nil
	}
	what, or := "delete the config", ""
	if !ch.delete {
		what, or = "move to another cluster", "same_cluster=true if it is the same cluster under a new name, or "
	}
	return conflict("cannot %s: the ledger holds tokens that only the present config can revoke. "+
		"Revoke them first (`vault lease revoke -prefix` on this mount's creds, then wait until status shows ledger_loaded true and no tokens), "+
		"or give %sforce=true to leave them valid until they expire", what, or)
}

// changeConfig stores a change, unless the config was changed since it was read.
// Everything that must be true at the moment of the write is checked under the
// lock that the write takes: a token that is issued at the same time stores its
// record first and then reads the config under this lock.
func (b *backend) changeConfig(ctx context.Context, s logical.Storage, ch configChange) (warnings []string, err error) {
	retired := b.retired(ch.old, ch.old.RootAccessor, ch.old.Rotation.overlap(ch.old.Timeout))
	if err := b.storeChange(ctx, s, ch, retired); err != nil {
		return nil, err
	}
	b.root.checkNext(time.Time{})
	b.static.checkAll()
	if ch.replacesRoot() && ch.leavesCluster() {
		if err := b.revokeItself(ctx, s, ch.old, retired); err != nil {
			b.Logger().Warn("token not revoked", "role", rootRole, "accessor", retired.Accessor, "token_id", retired.TokenID, "error", err)
			warnings = append(warnings, fmt.Sprintf("The previous root credential %s could not be revoked (%v). The mount cannot revoke it any more; revoke it as an administrator. It expires at %s.",
				retired.TokenID, err, timestampOrNever(retired.ExpiresAt)))
		}
	}
	return warnings, nil
}

func (b *backend) storeChange(ctx context.Context, s logical.Storage, ch configChange, retired ledger.Record) error {
	b.configMu.Lock()
	defer b.configMu.Unlock()
	present, err := s.Get(ctx, configKey)
	if err != nil {
		return err
	}
	if (present == nil) != (ch.before == nil) || present != nil && !bytes.Equal(present.Value, ch.before.Value) {
		return conflict("the config was changed by another request meanwhile; read it and try again")
	}
	if err := b.permitLeaving(ch); err != nil {
		return err
	}
	if ch.replacesRoot() {
		if err := b.ledger.Put(ctx, s, retired); err != nil {
			return err
		}
	}
	if ch.delete {
		return s.Delete(ctx, configKey)
	}
	return putConfig(ctx, s, ch.new)
}

func (b *backend) configRead(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	c, err := loadConfig(ctx, req.Storage)
	if errors.Is(err, errNoConfig) {
		return nil, nil
	}
	if err != nil {
		return fail(err)
	}
	data := map[string]any{
		"product": c.Product, "account_id": c.AccountID, "cluster_id": c.ClusterID, "host": c.Host, "port": c.Port, "api_url": c.APIURL,
		"mgmt_token_id": c.RootID, "ca_cert": c.CACert, "client_cert": c.ClientCert,
		"insecure_tls": c.InsecureTLS, "disable_tls": c.DisableTLS,
		"request_timeout": int(c.Timeout.Seconds()), "max_parallel": c.MaxParallel,
		"rotation_period": int(c.Rotation.Period.Seconds()), "rotation_ttl": int(c.Rotation.ttl().Seconds()),
		"rotation_overlap": int(c.Rotation.overlap(c.Timeout).Seconds()), "expiry_warning": int(c.Rotation.Warning.Seconds()),
		"disable_automated_rotation": c.Rotation.Disabled, "mount_tag": string(b.tag),
	}
	c.describeRoot(data)
	resp := &logical.Response{Data: data}
	if warning := c.expiryWarning(b.now()); warning != "" {
		resp.AddWarning(warning)
	}
	return resp, nil
}

// describeRoot adds what is known about the root credential to an answer.
func (c config) describeRoot(data map[string]any) {
	data["mgmt_token_id"] = c.RootID
	if c.RootID != "" {
		data["mgmt_token_expires_at"] = c.rootExpiry()
	}
	if c.RootAccessor != "" {
		data["last_vault_rotation"] = timestamp(c.RootSince)
	}
	if next := c.nextRotation(); !next.IsZero() {
		data["next_vault_rotation"] = timestamp(next)
	}
}

func (b *backend) configDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	before, err := req.Storage.Get(ctx, configKey)
	if err != nil || before == nil {
		return nil, err
	}
	ch := configChange{before: before, delete: true, force: d.Get("force").(bool)}
	if ch.old, err = configFrom(before); err != nil && !ch.force {
		return fail(err)
	}
	if err := b.ledger.Load(ctx, req.Storage); err != nil {
		return nil, err
	}
	warnings, err := b.changeConfig(ctx, req.Storage, ch)
	if err != nil {
		return fail(err)
	}
	b.Logger().Info("config deleted")
	b.event(ctx, "config-delete", "config")
	return withWarnings(warnings), nil
}
