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

func (b *backend) pathStaticRoles() *framework.Path {
	return &framework.Path{
		Pattern:      "static-roles/?$",
		DisplayAttrs: display("list", "static-roles"),
		Fields:       pageFields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: operation(b.staticRolesList, "list", answers(http.StatusOK, map[string]*framework.FieldSchema{
				"keys": {Type: framework.TypeStringSlice},
			})),
		},
		HelpSynopsis:    "List the static roles.",
		HelpDescription: "A static role describes one token that many readers share. See static-roles/:name.",
	}
}

func (b *backend) pathStaticRole() *framework.Path {
	return &framework.Path{
		Pattern:        "static-roles/" + framework.GenericNameRegex("name"),
		DisplayAttrs:   display("", "static-role"),
		ExistenceCheck: b.staticRoleExists,
		Fields: map[string]*framework.FieldSchema{
			"name": {Type: framework.TypeString, Required: true, Description: "Name of the static role: letters, digits, - . and _, at most 128 characters."},
			"token_type": {
				Type: framework.TypeString, Default: Database, AllowedValues: []any{Management, adminType, Database},
				Description: "Type of the token. `database`: reads and writes data; not for product=core. `management` (or `admin`, which means the same): full administrative rights. Default: database.",
			},
			"read_databases":             {Type: framework.TypeCommaStringSlice, Description: "Databases that a database token may read, comma-separated; * means all."},
			"write_databases":            {Type: framework.TypeCommaStringSlice, Description: "Databases that a database token may write, comma-separated; * means all."},
			"description":                {Type: framework.TypeString, Default: defaultStaticDescription, Description: "Template for the description of the tokens, with the field .RoleName. Default: the name of the role."},
			"metadata":                   {Type: framework.TypeKVPairs, Description: "Map that is returned with the token."},
			"rotation_period":            {Type: framework.TypeDurationSecond, Description: "Time between two changes of the token, at least 10m. Excludes rotation_schedule; one of them is required."},
			"rotation_schedule":          {Type: framework.TypeString, Description: "Cron expression of five fields, in UTC, at which the token changes, for example \"0 3 * * SAT\". Activations must be at least 10m apart."},
			"rotation_window":            {Type: framework.TypeDurationSecond, Description: "How long after an activation of rotation_schedule the change may happen, at least 1h. If it cannot, it waits for the next activation. Default: no limit."},
			"rotation_grace_period":      {Type: framework.TypeDurationSecond, Description: "How long the previous token stays valid after a change, from 2m to half of the interval. Default: the larger of 5m and a tenth of the interval."},
			"token_ttl":                  {Type: framework.TypeDurationSecond, Description: "Life of a token from the time at which it becomes current. Default: two intervals and the grace period."},
			"disable_automated_rotation": {Type: framework.TypeBool, Description: "Change the token only on request, by rotate-role/:name. Default: false."},
			"defer_initial_creds":        {Type: framework.TypeBool, Description: "Do not issue the first token when the role is created. Default: false."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.CreateOperation: operation(b.staticRoleWrite, "write", okOrNoContent),
			logical.UpdateOperation: operation(b.staticRoleWrite, "write", okOrNoContent),
			logical.ReadOperation: operation(b.staticRoleRead, "read", answers(http.StatusOK, map[string]*framework.FieldSchema{
				"token_type": {Type: framework.TypeString}, "read_databases": {Type: framework.TypeStringSlice}, "write_databases": {Type: framework.TypeStringSlice},
				"description": {Type: framework.TypeString}, "metadata": {Type: framework.TypeMap},
				"rotation_period": {Type: framework.TypeInt}, "rotation_schedule": {Type: framework.TypeString}, "rotation_window": {Type: framework.TypeInt},
				"rotation_grace_period": {Type: framework.TypeInt}, "token_ttl": {Type: framework.TypeInt}, "disable_automated_rotation": {Type: framework.TypeBool},
				"last_vault_rotation": {Type: framework.TypeString}, "next_vault_rotation": {Type: framework.TypeString},
				"accessor": {Type: framework.TypeString}, "last_failure": {Type: framework.TypeString}, "failed_at": {Type: framework.TypeString},
			})),
			logical.DeleteOperation: operation(b.staticRoleDelete, "delete", okOrNoContent),
		},
		HelpSynopsis: "Write, read or delete a static role: the settings of one token that many readers share and that is replaced on a schedule.",
		HelpDescription: `
    vault write influxdb/static-roles/metrics write_databases=metrics rotation_period=24h
    vault read  influxdb/static-creds/metrics

All readers of static-creds/:name get the same token, without a lease. It is meant
for fleets: the number of tokens does not depend on the number of readers.

The next token is issued before it is needed. From the time of the change on,
readers get the next token. The previous one stays valid for rotation_grace_period.
A reader should read again when the ttl of the answer is over, and has that time to
do so.

A change of token_type, databases or description takes effect at the next change
of the token. Deleting the role revokes its tokens at once.
`,
	}
}

// defaultStaticDescription is the template of static roles without one.
const defaultStaticDescription = "static {{.RoleName}}"

func (b *backend) staticRolesList(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	names, err := req.Storage.List(ctx, staticRolePrefix)
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(pageOf(names, d)), nil
}

func (b *backend) staticRoleExists(ctx context.Context, req *logical.Request, d *framework.FieldData) (bool, error) {
	entry, err := req.Storage.Get(ctx, staticRolePrefix+d.Get("name").(string))
	return entry != nil, err
}

func (b *backend) staticRoleWrite(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	unlock, err := b.static.lock(ctx, name)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	old, exists, err := findStaticRole(ctx, req.Storage, name)
	if err != nil {
		return fail(err)
	}
	if !exists {
		old = staticRole{Name: name, TokenType: Database, Description: defaultStaticDescription}
	}
	r := old.with(d)
	if err := r.validate(); err != nil {
		return fail(badRequest("%v", err))
	}
	p, err := configuredProduct(ctx, req.Storage)
	if err == nil {
		err = p.checkType(r.tokenType())
	}
	if err != nil {
		return fail(err)
	}
	warnings := r.warnings(p)
	if !exists {
		if err := b.removeLeftovers(ctx, req.Storage, name); err != nil {
			return fail(err)
		}
	}
	defer b.static.checkNext(name, time.Time{}) // also after an error: the write may be stored all the same
	switch {
	case exists:
		err = b.changeStatic(ctx, req.Storage, old, r)
	case d.Get("defer_initial_creds").(bool):
		err = b.putStaticRole(ctx, req.Storage, r)
	default:
		var found string
		if found, err = b.createStatic(ctx, req.Storage, r); found != "" {
			warnings = append(warnings, found)
		}
	}
	if err != nil {
		return fail(fmt.Errorf("static role %s was not stored: %w", name, err))
	}
	b.Logger().Info("static role written", "role", name)
	b.event(ctx, "role-write", "static-roles/"+name, "role", name)
	return withWarnings(warnings), nil
}

func (b *backend) putStaticRole(ctx context.Context, s logical.Storage, r staticRole) error {
	defer b.static.forget(r.Name)
	entry, err := r.entry()
	if err != nil {
		return err
	}
	return s.Put(ctx, entry)
}

// createStatic issues the first token of a role and stores the role with it. If no
// token can be issued, nothing is stored.
func (b *backend) createStatic(ctx context.Context, s logical.Storage, r staticRole) (warning string, err error) {
	c, err := loadConfig(ctx, s)
	if err == nil {
		err = b.ledger.LoadRole(ctx, s, r.ledgerRole())
	}
	if err != nil {
		return "", err
	}
	creds, err := b.stageWith(ctx, s, c, r, staticCreds{}, floorSecond(b.now()), func(ctx context.Context) error {
		return b.putStaticRole(ctx, s, r)
	})
	if err != nil {
		return "", errors.Join(err, b.undoCreate(ctx, s, r))
	}
	switch _, err = b.proveSoon(ctx, s, c, r, creds); {
	case errors.Is(err, errTokenNotProved):
		return "The cluster does not accept the first token yet. It can be read as soon as the cluster accepts it; the engine checks every minute.", nil
	case err != nil: // but the role and the token are stored
		return fmt.Sprintf("The first token cannot be read yet: %v. The engine tries again every minute.", err), nil
	}
	return "", nil
}

// undoCreate removes what createStatic has stored of a role without a token.
func (b *backend) undoCreate(ctx context.Context, s logical.Storage, r staticRole) error {
	ctx, cancel := storeContext(ctx)
	defer cancel()
	b.static.checkNext(r.Name, time.Time{}) // if the following fails, the worker does it
	if err := s.Delete(ctx, staticRolePrefix+r.Name); err != nil {
		return err
	}
	return b.putStaticCreds(ctx, s, r.Name, staticCreds{})
}

// changeStatic stores a changed role. A staged token that the changed role would
// not issue is replaced, or becomes the current one if its time is near, and the next
// change is planned again. The role is stored
// after that, so that a request that failed can be repeated.
func (b *backend) changeStatic(ctx context.Context, s logical.Storage, old, r staticRole) error {
	if old.sameTokens(r) {
		return b.putStaticRole(ctx, s, r)
	}
	creds, err := b.reconcile(ctx, s, r)
	if err != nil {
		return err
	}
	if creds.at(b.now().Add(dropLead)) != creds.Current {
		if creds, err = b.switchNow(ctx, s, r, creds); err != nil {
			return err
		}
	}
	if creds.Current == nil {
		return b.putStaticRole(ctx, s, r)
	}
	current := *creds.Current
	if old.Schedule != r.Schedule || old.Disabled != r.Disabled || old.grace() != r.grace() {
		current.NextAt = b.planFrom(r, current)
	}
	creds.Current, creds.Next = &current, nil
	if err := b.putStaticCreds(ctx, s, r.Name, creds); err != nil {
		return err
	}
	if err := b.putStaticRole(ctx, s, r); err != nil {
		return err
	}
	return b.retireOthers(ctx, s, r, creds)
}

// planFrom plans the next change of a current token by a changed role, far enough
// in the future to stage its successor, unless the token expires before.
func (b *backend) planFrom(r staticRole, current staticToken) time.Time {
	at, now := b.plan(r, current.SwitchAt, current.ExpiresAt), b.now()
	if at.IsZero() || at.After(now.Add(stageLead)) {
		return at
	}
	if r.Schedule.Cron != "" {
		return b.plan(r, now.Add(stageLead), current.ExpiresAt)
	}
	return floorSecond(earlier(now.Add(stageLead), current.ExpiresAt.Add(-r.grace())))
}

// warnings explains effects of the role that its author may not expect.
func (r staticRole) warnings(p product) (w []string) {
	switch {
	case p.everyTokenAdmin:
		w = p.roleWarnings()
	case r.tokenType() == Management:
		w = append(w, "Every reader of this role gets a management token, which has full administrative rights. Use token_type=database for applications.")
	}
	if r.Disabled {
		w = append(w, "disable_automated_rotation is set: the token expires unless rotate-role/"+r.Name+" is called before.")
	}
	return w
}

func (b *backend) staticRoleRead(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	r, creds, ok, err := b.readStatic(ctx, req.Storage, d.Get("name").(string))
	if err != nil {
		return fail(err)
	}
	if !ok {
		return nil, nil
	}
	data := map[string]any{
		"token_type": r.TokenType, "description": r.Description, "metadata": r.Metadata,
		"rotation_grace_period": int(r.grace().Seconds()), "token_ttl": int(r.tokenTTL().Seconds()), "disable_automated_rotation": r.Disabled,
	}
	if r.tokenType() == Database {
		data["read_databases"], data["write_databases"] = nonNil(r.Read), nonNil(r.Write)
	}
	r.Schedule.describe(data)
	now := b.now()
	if current := creds.at(now); current != nil {
		data["accessor"], data["last_vault_rotation"] = current.Accessor, timestamp(current.SwitchAt)
	}
	if next := creds.nextSwitch(now); !next.IsZero() {
		data["next_vault_rotation"] = timestamp(next)
	}
	if f, failing := b.static.failures()[r.Name]; failing {
		data["last_failure"], data["failed_at"] = f.text, timestamp(f.at)
	}
	return &logical.Response{Data: data}, nil
}

// describe adds the fields of the schedule that are set.
func (s schedule) describe(data map[string]any) {
	if s.Cron == "" {
		data["rotation_period"] = int(s.Period.Seconds())
		return
	}
	data["rotation_schedule"] = s.Cron
	if s.Window > 0 {
		data["rotation_window"] = int(s.Window.Seconds())
	}
}

// nonNil returns an empty list in place of nil, which would be shown as <nil>.
func nonNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

func (b *backend) staticRoleDelete(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	name := d.Get("name").(string)
	unlock, err := b.static.lock(ctx, name)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	if err := b.ledger.Load(ctx, req.Storage); err != nil {
		return nil, err
	}
	b.static.checkNext(name, time.Time{}) // if the following fails, the worker does it
	if err := req.Storage.Delete(ctx, staticRolePrefix+name); err != nil {
		return nil, err
	}
	failed, err := b.removeStatic(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	b.Logger().Info("static role deleted", "role", name)
	b.event(ctx, "role-delete", "static-roles/"+name, "role", name)
	if len(failed) > 0 {
		return withWarnings([]string{fmt.Sprintf("%s of the role could not be revoked yet; the engine keeps trying, see status.", plural(len(failed), "token"))}), nil
	}
	return nil, nil
}

// releaseStatic prepares a token of a static role to be revoked on request. The
// staged token is taken out of the entry of its role first. The current token is
// refused: its readers would hold a revoked token.
func (b *backend) releaseStatic(ctx context.Context, s logical.Storage, r ledger.Record, name string) error {
	unlock, err := b.static.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	creds, err := loadStaticCreds(ctx, s, name)
	if err != nil {
		return err
	}
	switch current := creds.at(b.now().Add(dropLead)); {
	case current != nil && current.Accessor == r.Accessor:
		return conflict("this is the current token of static role %[1]s, or becomes it within a minute: replace it with `vault write rotate-role/%[1]s force=true` on this mount", name)
	case creds.Next != nil && creds.Next.Accessor == r.Accessor:
		creds.Next = nil
		b.static.checkNext(name, time.Time{})
		return b.putStaticCreds(ctx, s, name, creds)
	}
	return nil
}
