package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	staticRolePrefix  = "static-role/"
	staticRoleVersion = 1

	// staticPrefix comes before the name of a static role where the ledger has the
	// name of a role. No role can have such a name.
	staticPrefix = "-static-"
)

const (
	minStaticInterval = 10 * time.Minute
	minGrace          = 2 * time.Minute // a reader may need a minute to read again
	defaultGrace      = 5 * time.Minute
	maxMetadata       = 64 // entries
)

// A staticRole describes one token that all readers share and that is replaced
// on a schedule.
type staticRole struct {
	Name        string
	TokenType   string // as it was written: a word for Management or Database
	Read, Write []string
	Description string // a template over descriptionData
	Metadata    map[string]string
	Schedule    schedule
	Grace       *time.Duration // nil: the default
	TTL         *time.Duration // nil: the default
	Disabled    bool           // no unattended changes
}

// storedStaticRole is the stored form of a static role.
type storedStaticRole struct {
	Version     int               `json:"version"`
	TokenType   string            `json:"token_type"`
	Read        []string          `json:"read_databases,omitempty"`
	Write       []string          `json:"write_databases,omitempty"`
	Description string            `json:"description"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	PeriodSecs  int64             `json:"rotation_period,omitempty"`
	Cron        string            `json:"rotation_schedule,omitempty"`
	WindowSecs  int64             `json:"rotation_window,omitempty"`
	GraceSecs   *int64            `json:"rotation_grace_period,omitempty"`
	TTLSecs     *int64            `json:"token_ttl,omitempty"`
	Disabled    bool              `json:"disable_automated_rotation,omitempty"`
}

func (r staticRole) entry() (*logical.StorageEntry, error) {
	return logical.StorageEntryJSON(staticRolePrefix+r.Name, storedStaticRole{
		Version: staticRoleVersion, TokenType: r.TokenType, Read: r.Read, Write: r.Write,
		Description: r.Description, Metadata: r.Metadata,
		PeriodSecs: int64(r.Schedule.Period / time.Second), Cron: r.Schedule.Cron, WindowSecs: int64(r.Schedule.Window / time.Second),
		GraceSecs: seconds(r.Grace), TTLSecs: seconds(r.TTL), Disabled: r.Disabled,
	})
}

func staticRoleFrom(name string, e *logical.StorageEntry) (staticRole, error) {
	var s storedStaticRole
	if err := json.Unmarshal(e.Value, &s); err != nil {
		return staticRole{}, fmt.Errorf("stored static role %s: %w", name, err)
	}
	if s.Version > staticRoleVersion {
		return staticRole{}, fmt.Errorf("static role %s: %w", name, newerVersion(s.Version))
	}
	return staticRole{
		Name: name, TokenType: s.TokenType, Read: s.Read, Write: s.Write, Description: s.Description, Metadata: s.Metadata,
		Schedule: schedule{
			Period: time.Duration(s.PeriodSecs) * time.Second, Cron: s.Cron, Window: time.Duration(s.WindowSecs) * time.Second,
		},
		Grace: duration(s.GraceSecs), TTL: duration(s.TTLSecs), Disabled: s.Disabled,
	}, nil
}

// findStaticRole returns a stored static role, and whether it exists.
func findStaticRole(ctx context.Context, s logical.Storage, name string) (staticRole, bool, error) {
	entry, err := s.Get(ctx, staticRolePrefix+name)
	if err != nil {
		return staticRole{}, false, fmt.Errorf("read static role %s: %w", name, err)
	}
	if entry == nil {
		return staticRole{}, false, nil
	}
	r, err := staticRoleFrom(name, entry)
	return r, err == nil, err
}

// ledgerRole is the name under which the ledger counts the tokens of the role.
func (r staticRole) ledgerRole() string { return staticPrefix + r.Name }

// grace is how long the previous token stays valid after a change.
func (r staticRole) grace() time.Duration {
	if r.Grace != nil {
		return *r.Grace
	}
	shortest, _ := r.Schedule.intervals()
	return min(max(defaultGrace, shortest/10), shortest/2)
}

// tokenTTL is how long a token lives from the time at which it becomes current.
func (r staticRole) tokenTTL() time.Duration {
	if r.TTL != nil {
		return *r.TTL
	}
	_, longest := r.Schedule.intervals()
	return 2*longest + r.grace()
}

// maxJitter is how much later than planned a change may happen, so that many roles
// do not change at once. It never shortens the grace period.
func (r staticRole) maxJitter() time.Duration {
	shortest, longest := r.Schedule.intervals()
	jitter := min(shortest/20, 10*time.Minute, r.tokenTTL()-longest-r.grace())
	if r.Schedule.Window > 0 {
		jitter = min(jitter, r.Schedule.Window)
	}
	return max(jitter, 0)
}

// validate checks a static role. Its error is written for users.
func (r staticRole) validate() error {
	if err := r.Schedule.validate(minStaticInterval); err != nil {
		return err
	}
	shortest, longest := r.Schedule.intervals()
	grace := r.grace()
	switch {
	case len(r.Name) > 128:
		return errors.New("the name of the role is longer than 128 characters")
	case grace > shortest/2:
		return fmt.Errorf("rotation_grace_period, %s, must be at most half of the (shortest) rotation interval, %s", shortDuration(grace), shortDuration(shortest))
	case grace < minGrace:
		return fmt.Errorf("rotation_grace_period must be at least %s, because readers need time to read again", shortDuration(minGrace))
	case r.tokenTTL() < longest+grace:
		return fmt.Errorf("token_ttl, %s, must be at least the rotation interval plus the grace period, %s", shortDuration(r.tokenTTL()), shortDuration(longest+grace))
	case r.tokenTTL() > longestTTL:
		return errors.New("token_ttl must not be longer than 100 years")
	}
	if err := checkMetadata(r.Metadata); err != nil {
		return err
	}
	return role{Name: r.Name, TokenType: r.TokenType, TTL: defaultTTL, Description: r.Description, Read: r.Read, Write: r.Write, RevokeOn: revokeOnLease}.validate()
}

// checkMetadata checks the metadata of a role.
func checkMetadata(metadata map[string]string) error {
	if len(metadata) > maxMetadata {
		return fmt.Errorf("metadata has more than %d entries", maxMetadata)
	}
	for key, value := range metadata {
		switch {
		case key == "deletion_time":
			return errors.New("metadata must not have the key deletion_time: consul-template, which Vault Agent uses, takes it for a deleted secret")
		case key == "" || len(key) > 128 || len(value) > 512:
			return errors.New("metadata keys must have 1 to 128 characters, and values at most 512")
		}
	}
	return nil
}

// tokenType is the type of the tokens.
func (r staticRole) tokenType() string { return tokenTypeOf(r.TokenType) }

// sameTokens reports whether both roles issue the same kind of token at the same
// times, so that a staged token of one can be used by the other.
func (r staticRole) sameTokens(other staticRole) bool {
	return r.tokenType() == other.tokenType() && slices.Equal(r.Read, other.Read) && slices.Equal(r.Write, other.Write) &&
		r.Description == other.Description && r.Schedule == other.Schedule &&
		r.grace() == other.grace() && r.tokenTTL() == other.tokenTTL() && r.Disabled == other.Disabled
}

// with returns the role with the fields that the request names changed.
func (r staticRole) with(d *framework.FieldData) staticRole {
	length := func(field string) (time.Duration, bool) {
		v, ok := d.GetOk(field)
		if !ok {
			return 0, false
		}
		return time.Duration(v.(int)) * time.Second, true
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
	if v, ok := d.GetOk("description"); ok {
		r.Description = v.(string)
	}
	if v, ok := d.GetOk("metadata"); ok {
		r.Metadata = maps.Clone(v.(map[string]string))
	}
	r.Schedule = r.Schedule.with(d)
	if v, ok := length("rotation_grace_period"); ok {
		r.Grace = &v
	}
	if v, ok := length("token_ttl"); ok {
		r.TTL = &v
	}
	if v, ok := d.GetOk("disable_automated_rotation"); ok {
		r.Disabled = v.(bool)
	}
	return r
}
