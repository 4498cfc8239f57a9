package backend

import (
	"context"
	"maps"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
)

func (b *backend) pathRoles() *framework.Path {
	return &framework.Path{
		Pattern:      "roles/?$",
		DisplayAttrs: display("list", "roles"),
		Fields:       pageFields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: operation(b.rolesList, "list", answers(http.StatusOK, map[string]*framework.FieldSchema{
				"keys": {Type: framework.TypeStringSlice},
			})),
		},
		HelpSynopsis:    "List the roles.",
		HelpDescription: "A role describes the tokens that callers may request. See roles/:name.",
	}
}

func (b *backend) pathRole() *framework.Path {
	return &framework.Path{
		Pattern:        "roles/" + framework.GenericNameRegex("name"),
		DisplayAttrs:   display("", "role"),
		ExistenceCheck: b.roleExists,
		Fields: map[string]*framework.FieldSchema{
			"name":        {Type: framework.TypeString, Required: true, Description: "Name of the role: letters, digits, - . and _, at most 128 characters."},
			"ttl":         {Type: framework.TypeDurationSecond, Default: int(defaultTTL.Seconds()), Description: "Length of a lease, and of a renewal. Default: 1h."},
			"max_ttl":     {Type: framework.TypeDurationSecond, Description: "Length of a lease with all its renewals. It decides the expiry of the token. Default: 0, the same as ttl, so that leases are not renewable."},
			"description": {Type: framework.TypeString, Default: defaultDescription, Description: "Template for the description of the tokens, with the fields .RoleName, .DisplayName, .EntityID and .MountPoint. It may contain `if` and some functions. The engine puts its tag in front and cuts the result to 100 characters. Default: role and display name."},
			"token_type": {
				Type: framework.TypeString, Default: Management, AllowedValues: []any{Management, adminType, Database},
				Description: "Type of the tokens. `management` (or `admin`, which means the same): full administrative rights. `database`: reads and writes data; not for product=core. Default: management.",
			},
			"read_databases":  {Type: framework.TypeCommaStringSlice, Description: "Databases that a database token may read, comma-separated; * means all."},
			"write_databases": {Type: framework.TypeCommaStringSlice, Description: "Databases that a database token may write, comma-separated; * means all."},
			"max_active":      {Type: framework.TypeInt, Description: "Number of tokens of the role that may exist at the same time. Default: 0, no limit."},
			"revoke_on": {
				Type: framework.TypeString, Default: revokeOnLease, AllowedValues: []any{revokeOnLease, ledger.RevokeOnExpiry},
				Description: "When the tokens are revoked. `lease`: when the lease ends. `expiry`: when the token expires, also if the lease ends earlier. Default: lease.",
			},
			"metadata": {Type: framework.TypeKVPairs, Description: "Map that is returned with each credential, as key=value or in JSON. The key deletion_time is not allowed. Default: none."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: operation(b.roleWrite, "write", okOrNoContent),
			logical.UpdateOperation: operation(b.roleWrite, "write", okOrNoContent),
			logical.ReadOperation: operation(b.roleRead, "read", answers(http.StatusOK, map[string]*framework.FieldSchema{
				"ttl": {Type: framework.TypeInt}, "max_ttl": {Type: framework.TypeInt},
				"description": {Type: framework.TypeString}, "max_active": {Type: framework.TypeInt},
				"effective_ttl": {Type: framework.TypeInt}, "effective_ttl_limit": {Type: framework.TypeString},
				"effective_max_ttl": {Type: framework.TypeInt}, "effective_max_ttl_limit": {Type: framework.TypeString},
				"renewable": {Type: framework.TypeBool}, "token_type": {Type: framework.TypeString},
				"read_databases": {Type: framework.TypeStringSlice}, "write_databases": {Type: framework.TypeStringSlice},
				"revoke_on": {Type: framework.TypeString}, "metadata": {Type: framework.TypeMap},
			})),
			logical.DeleteOperation: operation(b.roleDelete, "delete", noContent),
		},
		HelpSynopsis: "Write, read or delete a role: the settings of the tokens that callers may request.",
		HelpDescription: `
    vault write influxdb/roles/automation ttl=1h max_ttl=8h
    vault write influxdb/roles/telegraf token_type=database write_databases=metrics max_ttl=24h

The expiry of a token is fixed when the token is issued: 30 seconds after the
latest time at which the lease can end. max_ttl decides that time. Until then the
lease can be renewed. max_ttl=0 means the same as ttl: no renewals.

Reading a role shows what a credential would get now (effective_ttl,
effective_max_ttl, renewable) and which limit decides: that of the role, or the
maximum lease TTL of the mount.

By default a token is revoked when its lease ends. The lease also ends when the
Vault token that read it ends. With revoke_on=expiry the token stays valid until
its expiry, for example for a job that continues after its login has ended. The
lease then lasts for all of max_ttl and cannot be renewed. The token counts in
max_active until its expiry, and only deleting tokens/:accessor revokes it early.

Deleting a role does not end its leases. They can be revoked, but not renewed.
`,
	}
}

func (b *backend) rolesList(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	names, err := req.Storage.List(ctx, rolePrefix)
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(pageOf(names, d)), nil
}

func (b *backend) roleExists(ctx context.Context, req *logical.Request, d *framework.FieldData) (bool, error) {
	entry, err := req.Storage.Get(ctx, rolePrefix+d.Get("name").(string))
	return entry != nil, err
}

func (b *backend) roleWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	p, err := configuredProduct(ctx, req.Storage)
	if err != nil {
		return fail(err)
	}
	r, err := b.storeRole(ctx, req.Storage, d, p)
	if err != nil {
		return fail(err)
	}
	b.Logger().Info("role written", "role", r.Name, "ttl", shortDuration(r.TTL), "max_ttl", shortDuration(r.MaxTTL))
	b.event(ctx, "role-write", "roles/"+r.Name, "role", r.Name)
	return withWarnings(append(r.warnings(b.System().MaxLeaseTTL()), p.roleWarnings()...)), nil
}

// storeRole reads a role, changes the fields that the request names, and stores
// the result, if the configured product has such tokens.
func (b *backend) storeRole(ctx context.Context, s logical.Storage, d *framework.FieldData, p product) (role, error) {
	b.rolesMu.Lock()
	defer b.rolesMu.Unlock()
	name := d.Get("name").(string)
	r, ok, err := findRole(ctx, s, name)
	if err != nil {
		return r, err
	}
	if !ok {
		r = role{Name: name, TokenType: Management, TTL: defaultTTL, Description: defaultDescription, RevokeOn: revokeOnLease}
	}
	r = r.with(d)
	if err := r.validate(); err != nil {
		return r, badRequest("%v", err)
	}
	if err := p.checkType(r.tokenType()); err != nil {
		return r, err
	}
	entry, err := r.entry()
	if err != nil {
		return r, err
	}
	return r, s.Put(ctx, entry)
}

// with returns the role with the fields that the request names changed.
func (r role) with(d *framework.FieldData) role {
	if v, ok := d.GetOk("ttl"); ok {
		r.TTL = time.Duration(v.(int)) * time.Second
	}
	if v, ok := d.GetOk("max_ttl"); ok {
		r.MaxTTL = time.Duration(v.(int)) * time.Second
	}
	if v, ok := d.GetOk("description"); ok {
		r.Description = v.(string)
	}
	if v, ok := d.GetOk("max_active"); ok {
		r.MaxActive = v.(int)
	}
	if v, ok := d.GetOk("token_type"); ok {
		r.TokenType = v.(string)
	}
	if v, ok := d.GetOk("read_databases"); ok {
		r.Read = v.([]string)
	}
	if v, ok := d.GetOk("write_databases"); ok {
		r.Write = v.([]string)
	}
	if v, ok := d.GetOk("revoke_on"); ok {
		r.RevokeOn = v.(string)
	}
	if v, ok := d.GetOk("metadata"); ok {
		r.Metadata = maps.Clone(v.(map[string]string))
	}
	return r
}

func (b *backend) roleRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r, ok, err := findRole(ctx, req.Storage, d.Get("name").(string))
	if err != nil {
		return fail(err)
	}
	if !ok {
		return nil, nil
	}
	data := map[string]any{
		"ttl": int(r.TTL.Seconds()), "max_ttl": int(r.MaxTTL.Seconds()),
		"description": r.Description, "max_active": r.MaxActive, "token_type": r.TokenType, "revoke_on": r.RevokeOn,
	}
	if len(r.Metadata) > 0 {
		data["metadata"] = r.Metadata
	}
	if r.tokenType() == Database {
		data["read_databases"], data["write_databases"] = nonNil(r.Read), nonNil(r.Write)
	}
	now, err := newTerms(r, 0, b.System().MaxLeaseTTL(), b.now())
	if err != nil {
		return &logical.Response{Data: data, Warnings: []string{"The effective TTLs cannot be shown: " + err.Error()}}, nil
	}
	data["effective_ttl"], data["effective_ttl_limit"] = int(now.TTL.Seconds()), now.TTLLimit
	data["effective_max_ttl"], data["effective_max_ttl_limit"] = int(now.Cap.Seconds()), now.CapLimit
	data["renewable"] = now.renewable()
	return &logical.Response{Data: data}, nil
}

func (b *backend) roleDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	if err := b.deleteRole(ctx, req.Storage, name); err != nil {
		return nil, err
	}
	b.Logger().Info("role deleted", "role", name)
	b.event(ctx, "role-delete", "roles/"+name, "role", name)
	return nil, nil
}

func (b *backend) deleteRole(ctx context.Context, s logical.Storage, name string) error {
	b.rolesMu.Lock()
	defer b.rolesMu.Unlock()
	return s.Delete(ctx, rolePrefix+name)
}
