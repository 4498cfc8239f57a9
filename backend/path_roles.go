package backend

import (
	"context"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathRoles() *framework.Path {
	return &framework.Path{
		Pattern:      "roles/?$",
		DisplayAttrs: display("list", "roles"),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: operation(b.rolesList, "list", answers(http.StatusOK, map[string]*framework.FieldSchema{
				"keys": {Type: framework.TypeStringSlice},
			})),
		},
		HelpSynopsis:    "List the roles.",
		HelpDescription: "A role is a named recipe for tokens. See roles/:name.",
	}
}

func (b *backend) pathRole() *framework.Path {
	return &framework.Path{
		Pattern:        "roles/" + framework.GenericNameRegex("name"),
		DisplayAttrs:   display("", "role"),
		ExistenceCheck: b.roleExists,
		Fields: map[string]*framework.FieldSchema{
			"name":        {Type: framework.TypeString, Required: true, Description: "The role's name: letters, digits, - . and _, at most 128."},
			"ttl":         {Type: framework.TypeDurationSecond, Default: int(defaultTTL.Seconds()), Description: "How long a lease lasts, and the most that a renewal grants."},
			"max_ttl":     {Type: framework.TypeDurationSecond, Description: "How long a lease can last with all its renewals, and so how far away the token's own expiry lies. 0, the default: same as ttl, so that leases are not renewable."},
			"description": {Type: framework.TypeString, Default: defaultDescription, Description: "A template for the tokens' description, over .RoleName, .DisplayName, .EntityID and .MountPoint; if, truncate, uppercase and a few more functions, no loops. The engine puts its tag before it and cuts it to what the tag leaves of 100 characters."},
			"token_type": {
				Type: framework.TypeString, Default: Management, AllowedValues: []any{Management, Database},
				Description: "What kind of token: `management`, with full administrative power, or `database`, which reads and writes data.",
			},
			"read_databases":  {Type: framework.TypeCommaStringSlice, Description: "The databases that a database token may read, comma-separated; * for all."},
			"write_databases": {Type: framework.TypeCommaStringSlice, Description: "The databases that a database token may write, comma-separated; * for all."},
			"max_active":      {Type: framework.TypeInt, Description: "How many tokens of the role may exist at a time. 0, the default: no limit."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: operation(b.roleWrite, "write", noContent),
			logical.UpdateOperation: operation(b.roleWrite, "write", noContent),
			logical.ReadOperation: operation(b.roleRead, "read", answers(http.StatusOK, map[string]*framework.FieldSchema{
				"ttl": {Type: framework.TypeDurationSecond}, "max_ttl": {Type: framework.TypeDurationSecond},
				"description": {Type: framework.TypeString}, "max_active": {Type: framework.TypeInt},
				"effective_ttl": {Type: framework.TypeDurationSecond}, "effective_ttl_limit": {Type: framework.TypeString},
				"effective_max_ttl": {Type: framework.TypeDurationSecond}, "effective_max_ttl_limit": {Type: framework.TypeString},
				"renewable": {Type: framework.TypeBool}, "token_type": {Type: framework.TypeString},
				"read_databases": {Type: framework.TypeStringSlice}, "write_databases": {Type: framework.TypeStringSlice},
			})),
			logical.DeleteOperation: operation(b.roleDelete, "delete", noContent),
		},
		HelpSynopsis: "Describe a kind of token that callers may ask for.",
		HelpDescription: `
    vault write influxdb/roles/automation ttl=1h max_ttl=8h
    vault write influxdb/roles/telegraf token_type=database write_databases=metrics max_ttl=24h

A token can never be extended, so its own expiry is set at its birth to the last
moment its lease can have, max_ttl away, and a little more. A lease is renewed
within that. max_ttl=0 means the same as ttl: no renewal, and the token dies
with its only lease.

Reading shows what a credential would get now (effective_ttl,
effective_max_ttl, renewable) and which limit decided: the role's, or the
mount's maximum lease TTL.

Deleting a role leaves its leases alive; they can be revoked, not renewed.
`,
	}
}

func (b *backend) rolesList(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	names, err := req.Storage.List(ctx, rolePrefix)
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(names), nil
}

func (b *backend) roleExists(ctx context.Context, req *logical.Request, d *framework.FieldData) (bool, error) {
	entry, err := req.Storage.Get(ctx, rolePrefix+d.Get("name").(string))
	return entry != nil, err
}

func (b *backend) roleWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	b.rolesMu.Lock()
	defer b.rolesMu.Unlock()
	name := d.Get("name").(string)
	r, ok, err := findRole(ctx, req.Storage, name)
	if err != nil {
		return fail(err)
	}
	if !ok {
		r = role{Name: name, Kind: Management, TTL: defaultTTL, Description: defaultDescription}
	}
	r = r.with(d)
	if err := r.validate(); err != nil {
		return fail(badRequest("%v", err))
	}
	entry, err := r.entry()
	if err != nil {
		return nil, err
	}
	if err := req.Storage.Put(ctx, entry); err != nil {
		return nil, err
	}
	b.Logger().Info("role written", "role", r.Name, "ttl", human(r.TTL), "max_ttl", human(r.MaxTTL))
	b.event(ctx, "role-write", "roles/"+r.Name, "role", r.Name)
	if warnings := r.warnings(b.System().MaxLeaseTTL()); len(warnings) > 0 {
		return &logical.Response{Warnings: warnings}, nil
	}
	return nil, nil
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
		r.Kind = v.(string)
	}
	if v, ok := d.GetOk("read_databases"); ok {
		r.Read = v.([]string)
	}
	if v, ok := d.GetOk("write_databases"); ok {
		r.Write = v.([]string)
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
		"description": r.Description, "max_active": r.MaxActive, "token_type": r.Kind,
	}
	if r.Kind == Database {
		data["read_databases"], data["write_databases"] = r.Read, r.Write
	}
	now, err := newTerms(r, 0, b.System().MaxLeaseTTL(), b.now())
	if err != nil {
		return &logical.Response{Data: data, Warnings: []string{"What a credential would get now is not shown: " + err.Error()}}, nil
	}
	data["effective_ttl"], data["effective_ttl_limit"] = int(now.TTL.Seconds()), now.TTLLimit
	data["effective_max_ttl"], data["effective_max_ttl_limit"] = int(now.Cap.Seconds()), now.CapLimit
	data["renewable"] = now.renewable()
	return &logical.Response{Data: data}, nil
}

func (b *backend) roleDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	b.rolesMu.Lock()
	defer b.rolesMu.Unlock()
	name := d.Get("name").(string)
	if err := req.Storage.Delete(ctx, rolePrefix+name); err != nil {
		return nil, err
	}
	b.Logger().Info("role deleted", "role", name)
	b.event(ctx, "role-delete", "roles/"+name, "role", name)
	return nil, nil
}
