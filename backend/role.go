package backend

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
)

const rolePrefix = "role/"

const roleVersion = 1

const (
	defaultTTL = time.Hour
	longestTTL = 100 * 365 * 24 * time.Hour // well below the overflow of a duration
)

// A role describes the tokens that callers may request under its name.
type role struct {
	Name        string
	TokenType   string // as it was written: a word for Management or Database
	TTL         time.Duration
	MaxTTL      time.Duration // 0: same as TTL
	Description string        // a template over descriptionData
	MaxActive   int           // 0: no limit
	Read, Write []string      // databases; "*" means all
	RevokeOn    string        // revokeOnLease or ledger.RevokeOnExpiry
	Metadata    map[string]string
}

// revokeOnLease is the RevokeOn of a role whose tokens are revoked when their lease
// ends.
const revokeOnLease = "lease"

// tokenType is the type of the tokens.
func (r role) tokenType() string { return tokenTypeOf(r.TokenType) }

// storedRole is the stored form of a role, under role/<name>.
type storedRole struct {
	Version     int      `json:"version"`
	TokenType   string   `json:"token_type"`
	TTLSecs     int64    `json:"ttl"`
	MaxTTLSecs  int64    `json:"max_ttl,omitempty"`
	Description string   `json:"description"`
	MaxActive   int      `json:"max_active,omitempty"`
	Read        []string `json:"read_databases,omitempty"`
	Write       []string `json:"write_databases,omitempty"`
	RevokeOn    string   `json:"revoke_on,omitempty"` // empty: lease

	Metadata map[string]string `json:"metadata,omitempty"`
}

func (r role) entry() (*logical.StorageEntry, error) {
	return logical.StorageEntryJSON(rolePrefix+r.Name, storedRole{
		Version: roleVersion, TokenType: r.TokenType,
		TTLSecs: int64(r.TTL / time.Second), MaxTTLSecs: int64(r.MaxTTL / time.Second),
		Description: r.Description, MaxActive: r.MaxActive, Read: r.Read, Write: r.Write,
		RevokeOn: r.RevokeOn, Metadata: r.Metadata,
	})
}

func roleFrom(name string, e *logical.StorageEntry) (role, error) {
	var s storedRole
	if err := json.Unmarshal(e.Value, &s); err != nil {
		return role{}, fmt.Errorf("stored role %s: %w", name, err)
	}
	if s.Version > roleVersion {
		return role{}, fmt.Errorf("role %s: %w", name, newerVersion(s.Version))
	}
	return role{
		Name: name, TokenType: s.TokenType,
		TTL: time.Duration(s.TTLSecs) * time.Second, MaxTTL: time.Duration(s.MaxTTLSecs) * time.Second,
		Description: s.Description, MaxActive: s.MaxActive, Read: s.Read, Write: s.Write,
		RevokeOn: cmp.Or(s.RevokeOn, revokeOnLease), Metadata: s.Metadata,
	}, nil
}

// storedRevokeOn is what a record says about when its token is revoked.
func (r role) storedRevokeOn() string {
	if r.RevokeOn == revokeOnLease {
		return ""
	}
	return r.RevokeOn
}

// isRoleName reports whether name is the name of a role, not one that the engine
// uses for tokens of its own.
func isRoleName(name string) bool { return !strings.HasPrefix(name, "-") }

// findRole returns a stored role, and whether it exists.
func findRole(ctx context.Context, s logical.Storage, name string) (role, bool, error) {
	entry, err := s.Get(ctx, rolePrefix+name)
	if err != nil {
		return role{}, false, fmt.Errorf("read role %s: %w", name, err)
	}
	if entry == nil {
		return role{}, false, nil
	}
	r, err := roleFrom(name, entry)
	return r, err == nil, err
}

// loadRole returns a stored role, or a 400 if there is none. It is not a 404,
// because Vault's command line does not show the text of a 404.
func loadRole(ctx context.Context, s logical.Storage, name string) (role, error) {
	r, ok, err := findRole(ctx, s, name)
	if err == nil && !ok {
		err = badRequest("there is no role %q on this mount; list the roles with `vault list`", shorten(name))
	}
	return r, err
}

// validate checks a role. Its error is written for users.
func (r role) validate() error {
	switch {
	case len(r.Name) > 128:
		return fmt.Errorf("the role's name is longer than 128 characters")
	case r.TTL < time.Second:
		return fmt.Errorf("ttl must be at least 1s; without it, the default is %s", shortDuration(defaultTTL))
	case r.MaxTTL < 0:
		return fmt.Errorf("max_ttl must not be negative")
	case r.TTL > longestTTL || r.MaxTTL > longestTTL:
		return fmt.Errorf("ttl and max_ttl must not be longer than 100 years")
	case r.MaxTTL > 0 && r.TTL > r.MaxTTL:
		return fmt.Errorf("ttl, %s, must not be longer than max_ttl, %s", shortDuration(r.TTL), shortDuration(r.MaxTTL))
	case r.MaxActive < 0:
		return fmt.Errorf("max_active must not be negative; 0 sets no limit")
	case len(r.Description) > 4096:
		return fmt.Errorf("description is longer than 4096 characters")
	}
	if r.RevokeOn != revokeOnLease && r.RevokeOn != ledger.RevokeOnExpiry {
		return fmt.Errorf("revoke_on must be %s or %s", revokeOnLease, ledger.RevokeOnExpiry)
	}
	if err := checkDescription(r.Description); err != nil {
		return fmt.Errorf("description: %w", err)
	}
	if err := checkMetadata(r.Metadata); err != nil {
		return err
	}
	return r.validateType()
}

func (r role) validateType() error {
	databases := slices.Concat(r.Read, r.Write)
	switch r.tokenType() {
	case Management:
		if len(databases) > 0 {
			return fmt.Errorf("read_databases and write_databases are for token_type=%s; they do not limit a management token", Database)
		}
	case Database:
		if len(databases) == 0 {
			return fmt.Errorf("token_type=%s needs read_databases, write_databases or both; * means all databases", Database)
		}
	default:
		return fmt.Errorf("token_type must be %s (or %s) or %s", Management, adminType, Database)
	}
	for _, name := range databases {
		if strings.ContainsAny(name, "[]\"") {
			return fmt.Errorf("%q is not the name of a database; give a list as name1,name2", shorten(name))
		}
		if len(name) < 1 || len(name) > 64 || printable(name) != name || strings.TrimSpace(name) != name {
			return fmt.Errorf("%q is not the name of a database: 1 to 64 printable characters, or *", shorten(name))
		}
	}
	return nil
}

// warnings explains effects of the role that its author may not expect.
func (r role) warnings(mountMax time.Duration) (w []string) {
	switch {
	case r.RevokeOn == ledger.RevokeOnExpiry:
		w = append(w, fmt.Sprintf("revoke_on is expiry: a token stays valid for up to %s, also when its lease, or the Vault token that read it, ends earlier. Only deleting tokens/:accessor of this mount revokes it early.", shortDuration(max(r.TTL, r.MaxTTL))))
	case r.MaxTTL == 0:
		w = append(w, fmt.Sprintf("max_ttl is 0, which means the same as ttl, not the maximum of the mount: a lease ends after %s and cannot be renewed.", shortDuration(r.TTL)))
	case r.MaxTTL == r.TTL:
		w = append(w, fmt.Sprintf("max_ttl equals ttl: a lease ends after %s and cannot be renewed.", shortDuration(r.TTL)))
	}
	if longest := max(r.TTL, r.MaxTTL); mountMax > 0 && longest > mountMax {
		w = append(w, fmt.Sprintf("The %s is %s and limits the %s that this role allows. Tune the mount to change it (vault secrets tune -max-lease-ttl=…).", limitMount, shortDuration(mountMax), shortDuration(longest)))
	}
	return w
}
