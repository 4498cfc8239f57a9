package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
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
				Description:   "The product: " + listProducts() + ".",
				AllowedValues: productNames(),
			},
			"account_id": {Type: framework.TypeString, Description: "UUID of the account. Required for product=dedicated."},
			"cluster_id": {Type: framework.TypeString, Description: "UUID of the cluster. Required for product=dedicated."},
			"host":       {Type: framework.TypeString, Description: "Host name or address of the cluster, where applications read and write data, without scheme or port. Required, except for product=dedicated, where it is only returned with each credential."},
			"port":       {Type: framework.TypeString, Description: "Port of the cluster. Default: 8181 for product=core and enterprise, 443 otherwise."},
			"api_url":    {Type: framework.TypeString, Description: "Origin of the HTTP Management API, which issues database tokens, for example https://cluster.example.com. Default: InfluxData's console for product=dedicated, the host for product=clustered."},
			"mgmt_token": {
				Type:         framework.TypeString,
				Description:  "The root credential of product=dedicated and clustered: the management token with which the engine issues and revokes the others. Never returned. A request that changes where it is sent must contain it.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Management token", Sensitive: true},
			},
			"admin_token": {
				Type:         framework.TypeString,
				Description:  "The root credential of product=core, enterprise and cloud: the named admin token with which the engine issues and revokes the others. Never returned. A request that changes where it is sent must contain it.",
				DisplayAttrs: &framework.DisplayAttributes{Name: "Admin token", Sensitive: true},
			},
			"mgmt_token_id": {Type: framework.TypeString, Description: "UUID of mgmt_token. Default: found in the list of the cluster, if exactly one valid token has the first characters of mgmt_token."},
			"ca_cert":       {Type: framework.TypeString, Description: "CA certificates of the cluster, in PEM. Default: those of the operating system."},
			"client_cert":   {Type: framework.TypeString, Description: "Client certificate for the cluster, in PEM."},
			"client_key": {
				Type:         framework.TypeString,
				Description:  "Private key of client_cert, in PEM. Never returned.",
				DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
			},
			"insecure_tls":               {Type: framework.TypeBool, Description: "Do not verify the certificate of the cluster. Anyone who can answer in its place receives the root credential. Default: false."},
			"disable_tls":                {Type: framework.TypeBool, Description: "Use plain text; not for product=dedicated, and for product=cloud with a loopback address only. Default: false."},
			"request_timeout":            {Type: framework.TypeDurationSecond, Default: int(defaultConfig.Timeout.Seconds()), Description: "Time limit of one request to the cluster, 1s to 40s. Default: 30s."},
			"max_parallel":               {Type: framework.TypeInt, Default: defaultConfig.MaxParallel, Description: "Number of requests to the cluster at the same time, 1 to 64. Mounts share this limit if they have the same product, account and cluster ID, address, TLS settings and max_parallel. Default: 4."},
			"rotation_period":            {Type: framework.TypeDurationSecond, Description: "Time between rotations of the root credential, at least 1h. Default: 0, no periodic rotation."},
			"rotation_schedule":          {Type: framework.TypeString, Description: "Cron expression of five fields, in UTC, at which the root credential is rotated, for example \"0 3 * * SAT\". Activations must be at least 1h apart. Excludes rotation_period. Default: none."},
			"rotation_window":            {Type: framework.TypeDurationSecond, Description: "How long after an activation of rotation_schedule the rotation may begin, at least 1h. If it cannot, it waits for the next activation. Default: 0, no limit."},
			"disable_automated_rotation": {Type: framework.TypeBool, Description: "Rotate the root credential only on request. Default: false. The engine then rotates it after rotation_period or at rotation_schedule. It also rotates it before it expires, if one of the two is set or if the engine issued it."},
			"rotation_ttl":               {Type: framework.TypeDurationSecond, Description: "Life of a new root credential, at least twice the longest rotation interval. Default: three times that interval, or 8760h without rotation_period and rotation_schedule. 0: it never expires, which is not allowed for product=core, enterprise and cloud."},
			"rotation_overlap":           {Type: framework.TypeDurationSecond, Description: "How long the previous root credential stays valid after a rotation. Default: 100s, which is longer than any request that uses it."},
			"expiry_warning":             {Type: framework.TypeDurationSecond, Default: int(defaultConfig.Rotation.Warning.Seconds()), Description: "How long before its expiry the root credential is rotated, or answers warn if nothing rotates it. It is rotated at least 1h before, or after half of its life. Default: 168h."},
			"verify":                     {Type: framework.TypeBool, Default: true, Description: "List the tokens of the cluster with the new settings first, and store nothing if that fails. Default: true."},
			"same_cluster":               {Type: framework.TypeBool, Description: "Declares that the new host, port or IDs are new names of the configured cluster. Default: false."},
			"force":                      {Type: framework.TypeBool, Query: true, Description: "Move to another cluster, or delete the config, although the ledger holds tokens. This mount cannot revoke those tokens afterwards; they stay valid until they expire. Default: false."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: operation(b.configWrite, "configure", okOrNoContent),
			logical.UpdateOperation: operation(b.configWrite, "configure", okOrNoContent),
			logical.ReadOperation: operation(b.configRead, "read", answers(http.StatusOK, map[string]*framework.FieldSchema{
				"product": {Type: framework.TypeString}, "account_id": {Type: framework.TypeString}, "cluster_id": {Type: framework.TypeString},
				"host": {Type: framework.TypeString}, "port": {Type: framework.TypeString}, "api_url": {Type: framework.TypeString},
				"mgmt_token_id": {Type: framework.TypeString}, "mgmt_token_expires_at": {Type: framework.TypeString},
				"admin_token_id": {Type: framework.TypeString}, "admin_token_expires_at": {Type: framework.TypeString}, "cluster_uuid": {Type: framework.TypeString},
				"ca_cert": {Type: framework.TypeString}, "client_cert": {Type: framework.TypeString},
				"insecure_tls": {Type: framework.TypeBool}, "disable_tls": {Type: framework.TypeBool},
				"request_timeout": {Type: framework.TypeInt}, "max_parallel": {Type: framework.TypeInt},
				"rotation_period": {Type: framework.TypeInt}, "rotation_schedule": {Type: framework.TypeString}, "rotation_window": {Type: framework.TypeInt}, "rotation_ttl": {Type: framework.TypeInt},
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
    vault write influxdb/config product=enterprise host=… admin_token=@token

One mount serves one cluster. A write changes the fields that it names and
nothing else. Before anything is stored, the tokens of the cluster are listed
with the new settings (unless verify=false). If that fails, nothing is stored.

The root credential is stored seal-wrapped and never returned. It is sent only to
the address that it was written for: a request that changes product, host, port,
api_url, ca_cert, insecure_tls or disable_tls must contain mgmt_token, or
admin_token, again.

While the ledger holds tokens of the cluster, moving to another cluster or
deleting the config needs force=true. If the same cluster has a new name, use
same_cluster=true instead; this is not needed if config shows a cluster_uuid and
the server sends the same UUID. A read of config does not ask the cluster.
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

	inspected bool // new.UUID is what the server says; otherwise the server was not asked
	replaced  bool // the server at the same address is another cluster
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
	if ch.new, err = ch.old.with(d); err != nil {
		return fail(badRequest("%v", err))
	}
	if ch.new.Root != ch.old.Root {
		ch.new.RootSince, ch.new.RootAccessor = b.now(), ""
	}
	if err := b.permit(ctx, req.Storage, &ch, d); err != nil {
		return fail(err)
	}
	retired := b.retiredRoots()
	warnings, err := b.prove(ctx, &ch, d)
	if err != nil {
		return fail(err)
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

// prove identifies the cluster of a change and verifies the root credential, unless
// the request says otherwise. It returns all warnings about the new config.
func (b *backend) prove(ctx context.Context, ch *configChange, d *framework.FieldData) (warnings []string, err error) {
	verify, warnings := d.Get("verify").(bool), ch.new.warnings()
	refused := func(err error) error { return fmt.Errorf("nothing was stored: %w", err) }
	ch.new.UUID = "" // until it is known again
	if verify {
		found, err := b.inspect(ctx, ch)
		if err != nil {
			return nil, refused(err)
		}
		warnings = append(warnings, found...)
	}
	if err := ch.identify(d.Get("same_cluster").(bool)); err != nil {
		return nil, err
	}
	if err := b.permitLeaving(*ch); err != nil {
		return nil, err
	}
	if verify {
		found, err := b.verify(ctx, &ch.new)
		if err != nil {
			return nil, refused(err)
		}
		warnings = append(warnings, found...)
	}
	return append(warnings, ch.new.product().warnings(ch.new.RootID)...), nil
}

// withWarnings returns an answer without data, or nil without warnings.
func withWarnings(warnings []string) *logical.Response {
	if len(warnings) == 0 {
		return nil
	}
	return &logical.Response{Warnings: warnings}
}

// with returns the config with the fields that the request names changed. Fields
// that the product does not have are cleared. It is an error if the request names
// one of those.
func (c config) with(d *framework.FieldData) (config, error) {
	given := func(field string) string { return strings.TrimSpace(d.Get(field).(string)) }
	credential := c.rootField()
	if product := given("product"); product != "" {
		c.Product = product
	}
	p := c.product()
	if p.credential.name != credential {
		c.Root, c.RootID, c.RootKnown, c.RootExpiresAt = issuer.Secret{}, "", false, time.Time{}
	}
	for field, target := range map[string]*string{
		"account_id": &c.AccountID, "cluster_id": &c.ClusterID,
		"host": &c.Host, "port": &c.Port, "api_url": &c.APIURL, "ca_cert": &c.CACert, "client_cert": &c.ClientCert,
	} {
		if _, ok := d.GetOk(field); ok || p.foreign[field] != "" {
			*target = given(field)
		}
	}
	for _, field := range slices.Sorted(maps.Keys(p.foreign)) {
		if given(field) != "" {
			return c, p.refuseForeign(field)
		}
	}
	if v, ok := d.GetOk(p.credential.name); ok {
		root := issuer.NewSecret(strings.TrimSpace(v.(string)))
		if root != c.Root {
			c.RootID, c.RootKnown, c.RootExpiresAt = "", false, time.Time{}
		}
		c.Root = root
	}
	if v, ok := d.GetOk("mgmt_token_id"); ok && p.foreign["mgmt_token_id"] == "" {
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
	return c, nil
}

// permit checks a change without the cluster.
func (b *backend) permit(ctx context.Context, s logical.Storage, ch *configChange, d *framework.FieldData) error {
	if err := ch.new.validate(); err != nil {
		return badRequest("%v", err)
	}
	_, rootGiven := d.GetOk(ch.new.rootField())
	if !rootGiven && ch.new.place() != ch.old.place() {
		return badRequest("this changes where the root credential is sent: give %[1]s again in the same request. "+
			"If no one knows it, because it was rotated, create a new %[2]s as an administrator, outside of Vault, and give that as %[1]s", ch.new.rootField(), ch.new.product().credential.noun)
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
	return nil
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
		if e.Role == rootRole && e.TokenID != "" {
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
	return conflict("%scannot %s: the ledger holds tokens that only the present config can revoke. "+
		"Revoke them first (`vault lease revoke -prefix` on this mount's creds, then wait until status shows ledger_loaded true and no tokens), "+
		"or give %sforce=true to leave them valid until they expire", ch.whyOther(), what, or)
}

// changeConfig stores a change, unless the config was changed since it was read.
// Everything that must be true at the moment of the write is checked under the
// lock that the write takes: a token that is issued at the same time stores its
// record first and then reads the config under this lock.
func (b *backend) changeConfig(ctx context.Context, s logical.Storage, ch configChange) (warnings []string, err error) {
	retired := b.retired(ch.old, ch.old.RootAccessor, ch.old.Rotation.overlap())
	if err := b.storeChange(ctx, s, ch, retired); err != nil {
		return nil, err
	}
	b.root.checkSoon()
	b.static.checkAll()
	b.retryRevocations(ch)
	if ch.replacesRoot() && ch.leavesCluster() {
		if err := b.revokeItself(ctx, s, ch.old, retired); err != nil {
			b.Logger().Warn("token not revoked", "role", rootRole, "accessor", retired.Accessor, "token_id", retired.TokenID, "error", err)
			warnings = append(warnings, fmt.Sprintf("The previous root credential %s could not be revoked (%v). The mount cannot revoke it any more; revoke it as an administrator. It expires at %s.",
				retired.TokenID, err, timestampOrNever(retired.ExpiresAt)))
		}
	}
	return warnings, nil
}

// retryRevocations makes the records due whose tokens can be revoked again, because
// their cluster is configured again.
func (b *backend) retryRevocations(ch configChange) {
	if ch.delete || ch.new.Fingerprint == ch.old.Fingerprint {
		return
	}
	now := b.now()
	for _, e := range b.ledger.All() {
		if e.State != ledger.Active && e.Fingerprint == ch.new.Fingerprint && e.Deadline.After(now.Add(issueWindow)) {
			b.ledger.Postpone(e.Accessor, now)
		}
	}
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
		err = s.Delete(ctx, configKey)
	} else {
		err = putConfig(ctx, s, ch.new)
	}
	if err != nil && ch.isStored(ctx, s) {
		err = nil
	}
	return err
}

// isStored reports whether the change is stored. A write may be reported as failed and
// stored all the same; what follows from the change must then be done, too.
func (ch configChange) isStored(ctx context.Context, s logical.Storage) bool {
	present, err := s.Get(ctx, configKey)
	switch {
	case err != nil:
		return false
	case ch.delete || present == nil:
		return ch.delete && present == nil
	}
	wanted, err := ch.new.entry()
	return err == nil && bytes.Equal(present.Value, wanted.Value)
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
		"product": c.Product, "host": c.Host, "port": c.port(), "ca_cert": c.CACert, "client_cert": c.ClientCert,
		"insecure_tls": c.InsecureTLS, "disable_tls": c.DisableTLS,
		"request_timeout": int(c.Timeout.Seconds()), "max_parallel": c.MaxParallel,
		"rotation_period": int(c.Rotation.Schedule.Period.Seconds()), "rotation_ttl": int(c.Rotation.ttl().Seconds()),
		"rotation_overlap": int(c.Rotation.overlap().Seconds()), "expiry_warning": int(c.Rotation.Warning.Seconds()),
		"disable_automated_rotation": c.Rotation.Disabled, "mount_tag": string(b.tag),
	}
	for field, value := range map[string]string{"account_id": c.AccountID, "cluster_id": c.ClusterID, "api_url": c.APIURL} {
		if c.product().foreign[field] == "" {
			data[field] = value
		}
	}
	if c.UUID != "" {
		data["cluster_uuid"] = c.UUID
	}
	c.Rotation.Schedule.describe(data)
	c.describeRoot(data, b.now())
	resp := &logical.Response{Data: data}
	if warning := c.expiryWarning(b.now()); warning != "" {
		resp.AddWarning(warning)
	}
	return resp, nil
}

// describeRoot adds what is known about the root credential to an answer.
func (c config) describeRoot(data map[string]any, now time.Time) {
	data[c.rootField()+"_id"] = c.RootID
	if c.RootID != "" {
		data[c.rootField()+"_expires_at"] = c.rootExpiry()
	}
	if c.RootAccessor != "" {
		data["last_vault_rotation"] = timestamp(c.RootSince)
	}
	if next := c.nextRotation(now); !next.IsZero() {
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
