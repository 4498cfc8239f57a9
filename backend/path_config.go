package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

func (b *backend) pathConfig() *framework.Path {
	return &framework.Path{
		Pattern:        "config",
		DisplayAttrs:   display("", "configuration"),
		ExistenceCheck: b.configExists,
		Fields: map[string]*framework.FieldSchema{
			"product": {
				Type:          framework.TypeString,
				Description:   "What the cluster is: `dedicated` (InfluxDB 3 Cloud Dedicated) or `clustered` (InfluxDB Clustered).",
				AllowedValues: []any{issuer.Dedicated, issuer.Clustered},
			},
			"account_id": {Type: framework.TypeString, Description: "The account's UUID. Required for product=dedicated."},
			"cluster_id": {Type: framework.TypeString, Description: "The cluster's UUID. Required for product=dedicated."},
			"host":       {Type: framework.TypeString, Description: "The cluster's host name, without scheme or port. Required for product=clustered."},
			"port":       {Type: framework.TypeString, Description: "The cluster's port. Default: what influxctl takes, 443."},
			"api_url":    {Type: framework.TypeString, Description: "Where the HTTP Management API is, which mints database tokens: an origin, like https://cluster.example.com. Default: InfluxData's console for product=dedicated, the host for product=clustered."},
			"mgmt_token": {
				Type:         framework.TypeString,
				Description:  "The root token: the management token that mints and revokes the others. Never returned. Must be given anew whenever the place it is sent to changes.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Management token", Sensitive: true},
			},
			"mgmt_token_id": {Type: framework.TypeString, Description: "The root token's id, a UUID. Found by itself if exactly one live token of the cluster begins as mgmt_token does."},
			"ca_cert":       {Type: framework.TypeString, Description: "Certificates, in PEM, that the cluster's own must chain to. Default: the system's."},
			"client_cert":   {Type: framework.TypeString, Description: "A certificate, in PEM, to show to the cluster."},
			"client_key": {
				Type:         framework.TypeString,
				Description:  "The private key of client_cert, in PEM. Never returned.",
				DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
			},
			"insecure_tls":     {Type: framework.TypeBool, Description: "Accept any certificate of the cluster. Whoever can answer in its place gets the root token."},
			"disable_tls":      {Type: framework.TypeBool, Description: "Speak plain text to the cluster; product=clustered only."},
			"request_timeout":  {Type: framework.TypeDurationSecond, Default: int(defaultConfig.Timeout.Seconds()), Description: "How long one request to the cluster may take: 1s to 40s."},
			"max_parallel":     {Type: framework.TypeInt, Default: defaultConfig.MaxParallel, Description: "How many requests to the cluster may run at a time: 1 to 64. The limit counts over all mounts of the plugin process."},
			"rotation_period":  {Type: framework.TypeDurationSecond, Description: "How often the root token is rotated by itself, from 1h. 0, the default: only when asked to by config/rotate-root."},
			"rotation_ttl":     {Type: framework.TypeDurationSecond, Description: "How long a new root token lives. Default: three rotation periods, 8760h where there is no period. 0: for ever."},
			"rotation_overlap": {Type: framework.TypeDurationSecond, Description: "How long the old root token lives on after a rotation. Default: twice request_timeout."},
			"expiry_warning":   {Type: framework.TypeDurationSecond, Default: int(defaultConfig.Rotation.Warning.Seconds()), Description: "How long before the root token's expiry it is rotated early or, where it cannot be rotated by itself, warned of."},
			"verify":           {Type: framework.TypeBool, Default: true, Description: "List the cluster's tokens with the new settings first, and store nothing if that fails."},
			"same_cluster":     {Type: framework.TypeBool, Description: "The new host, port or ids name the same cluster as before: the tokens in the ledger live on it."},
			"force":            {Type: framework.TypeBool, Query: true, Description: "Move to another cluster, or delete the config, although the ledger holds tokens. Nothing can revoke those from this mount afterwards; they live until they expire."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: operation(b.configWrite, "configure", noContent),
			logical.UpdateOperation: operation(b.configWrite, "configure", noContent),
			logical.ReadOperation: operation(b.configRead, "read", answers(http.StatusOK, map[string]*framework.FieldSchema{
				"product": {Type: framework.TypeString}, "account_id": {Type: framework.TypeString}, "cluster_id": {Type: framework.TypeString},
				"host": {Type: framework.TypeString}, "port": {Type: framework.TypeString}, "api_url": {Type: framework.TypeString},
				"mgmt_token_id": {Type: framework.TypeString}, "mgmt_token_expires_at": {Type: framework.TypeString},
				"ca_cert": {Type: framework.TypeString}, "client_cert": {Type: framework.TypeString},
				"insecure_tls": {Type: framework.TypeBool}, "disable_tls": {Type: framework.TypeBool},
				"request_timeout": {Type: framework.TypeDurationSecond}, "max_parallel": {Type: framework.TypeInt},
				"rotation_period": {Type: framework.TypeDurationSecond}, "rotation_ttl": {Type: framework.TypeDurationSecond},
				"rotation_overlap": {Type: framework.TypeDurationSecond}, "expiry_warning": {Type: framework.TypeDurationSecond},
				"mount_tag": {Type: framework.TypeString},
			})),
			logical.DeleteOperation: operation(b.configDelete, "delete", noContent),
		},
		HelpSynopsis: "Configure the cluster that this mount mints tokens on, and the root token it mints them with.",
		HelpDescription: `
One mount serves one cluster. Writing names only what is to change; the rest
stays. Before anything is stored, the cluster's tokens are listed with the new
settings (verify=false leaves that out), and a refusal stores nothing.

    vault write influxdb/config product=dedicated \
        account_id=… cluster_id=… mgmt_token=@root-token

The root token is stored seal-wrapped and never returned. It goes only to the
place it was configured with: whoever changes product, host, port, api_url,
ca_cert, insecure_tls or disable_tls must know the token and give it anew.

While the ledger holds tokens, the mount stays with its cluster: moving it, or
deleting the config, needs force=true, or same_cluster=true if the cluster has
only got another name. Reading works with the cluster out of reach.
`,
	}
}

func (b *backend) configExists(ctx context.Context, req *logical.Request, _ *framework.FieldData) (bool, error) {
	entry, err := req.Storage.Get(ctx, configKey)
	return entry != nil, err
}

func (b *backend) configWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	before, err := req.Storage.Get(ctx, configKey)
	if err != nil {
		return nil, err
	}
	old := defaultConfig
	if before != nil {
		if old, err = configFrom(before); err != nil {
			return fail(err)
		}
	}
	c := old.with(d)
	if c.Root != old.Root {
		c.RootSince = b.now()
	}
	if err := b.permit(ctx, req.Storage, &c, old, d); err != nil {
		return fail(err)
	}
	warnings := c.warnings()
	if d.Get("verify").(bool) {
		found, err := b.verify(ctx, &c)
		if err != nil {
			return fail(fmt.Errorf("nothing was stored: %w", err))
		}
		warnings = append(warnings, found...)
	}
	if err := b.storeConfig(ctx, req.Storage, before, c); err != nil {
		return fail(err)
	}
	b.root.look(time.Time{})
	b.Logger().Info("config written", "product", c.Product, "cluster", c.Fingerprint, "root_token_id", c.RootID)
	b.event(ctx, "config-write", "config", "cluster", c.Fingerprint)
	if len(warnings) == 0 {
		return nil, nil
	}
	return &logical.Response{Warnings: warnings}, nil
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
			c.RootID, c.RootExpiresAt = "", time.Time{}
		}
		c.Root = root
	}
	if v, ok := d.GetOk("mgmt_token_id"); ok {
		c.RootID, c.RootExpiresAt = strings.TrimSpace(v.(string)), time.Time{}
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

// permit judges the change from old to c without asking the cluster, and gives
// c its fingerprint: the old one for as long as it is the same cluster.
func (b *backend) permit(ctx context.Context, s logical.Storage, c *config, old config, d *framework.FieldData) error {
	if err := c.validate(); err != nil {
		return badRequest("%v", err)
	}
	if _, given := d.GetOk("mgmt_token"); !given && c.place() != old.place() {
		return badRequest("this changes where the root token is sent; give mgmt_token anew in the same request (a stored root token never goes to a new place)")
	}
	first := old.Fingerprint == ""
	if !first && (c.fingerprint() == old.fingerprint() || d.Get("same_cluster").(bool)) {
		return nil
	}
	c.Fingerprint = c.fingerprint()
	if first || c.Fingerprint == old.Fingerprint || d.Get("force").(bool) {
		return nil
	}
	return b.mustHoldNothing(ctx, s, "move to another cluster", "same_cluster=true if the cluster only has a new name, or ")
}

// mustHoldNothing refuses what would leave the ledger's tokens behind.
func (b *backend) mustHoldNothing(ctx context.Context, s logical.Storage, what, or string) error {
	empty, err := b.ledger.isEmpty(ctx, s)
	if err != nil || empty {
		return err
	}
	return badRequest("cannot %s: the ledger holds tokens that only the present config can revoke. "+
		"Revoke them first (`vault lease revoke -prefix` on this mount's creds, then wait until status shows no tokens live, owed or pending), "+
		"or give %sforce=true to leave them alive until they expire", what, or)
}

// verify lists the cluster's tokens with c, and learns what the list tells of
// the root token.
func (b *backend) verify(ctx context.Context, c *config) (warnings []string, err error) {
	now, found := b.now(), []issuer.Info(nil)
	err = b.issuerOf(*c, Management).List(ctx, func(info issuer.Info) error {
		if c.isRoot(info, now) && len(found) < 2 {
			found = append(found, info)
		}
		return nil
	})
	b.health.saw("list", err, now)
	if err != nil {
		return nil, upstream("list the cluster's tokens", err)
	}
	switch {
	case len(found) == 1:
		c.RootID, c.RootExpiresAt = found[0].ID, found[0].ExpiresAt
		if c.RootExpiresAt.IsZero() {
			warnings = append(warnings, "The root token never expires. Rotate it (`vault write -f` this mount's config/rotate-root) for one that does and that only Vault knows.")
		}
		if found[0].Dead(now) || !strings.HasPrefix(c.Root.Reveal(), found[0].Prefix) {
			return nil, badRequest("mgmt_token_id is not the id of mgmt_token")
		}
	case c.RootID != "":
		warnings = append(warnings, "The cluster lists no token with the id mgmt_token_id.")
	default:
		warnings = append(warnings, "Which of the cluster's tokens mgmt_token is could not be told; set mgmt_token_id, or its expiry stays unknown.")
	}
	return warnings, nil
}

// isRoot reports whether info is the root token: by its id if that is known,
// else by how it begins.
func (c config) isRoot(info issuer.Info, now time.Time) bool {
	if c.RootID != "" {
		return info.ID == c.RootID
	}
	return info.Prefix != "" && strings.HasPrefix(c.Root.Reveal(), info.Prefix) && !info.Dead(now)
}

// storeConfig replaces the stored config, unless another request has done so
// since before was read.
func (b *backend) storeConfig(ctx context.Context, s logical.Storage, before *logical.StorageEntry, c config) error {
	entry, err := c.entry()
	if err != nil {
		return err
	}
	b.configMu.Lock()
	defer b.configMu.Unlock()
	present, err := s.Get(ctx, configKey)
	if err != nil {
		return err
	}
	if (present == nil) != (before == nil) || present != nil && !bytes.Equal(present.Value, before.Value) {
		return logical.CodedError(http.StatusConflict, "the config was changed by another request meanwhile; read it and try again")
	}
	return s.Put(ctx, entry)
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
		"mount_tag": string(b.tag),
	}
	if c.RootID != "" {
		data["mgmt_token_expires_at"] = timestampOrNever(c.RootExpiresAt, "never")
	}
	resp := &logical.Response{Data: data}
	if warning := c.expiryWarning(b.now()); warning != "" {
		resp.AddWarning(warning)
	}
	return resp, nil
}

func (b *backend) configDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	if !d.Get("force").(bool) {
		if err := b.mustHoldNothing(ctx, req.Storage, "delete the config", ""); err != nil {
			return fail(err)
		}
	}
	b.configMu.Lock()
	defer b.configMu.Unlock()
	if err := req.Storage.Delete(ctx, configKey); err != nil {
		return nil, err
	}
	b.Logger().Info("config deleted")
	b.event(ctx, "config-delete", "config")
	return nil, nil
}

// timestamp is how every answer shows a time.
func timestamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// timestampOrNever is for times that may not be set.
func timestampOrNever(t time.Time, never string) string {
	if t.IsZero() {
		return never
	}
	return timestamp(t)
}
