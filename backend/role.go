package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

const rolePrefix = "role/"

const roleVersion = 1

const (
	defaultTTL = time.Hour
	longestTTL = 100 * 365 * 24 * time.Hour // far from where durations overflow
)

// A role is a named recipe for tokens.
type role struct {
	Name        string
	Kind        string // of its tokens: Management or Database
	TTL         time.Duration
	MaxTTL      time.Duration // 0: same as TTL
	Description string        // a template over descriptionData
	MaxActive   int           // 0: no limit
	Read, Write []string      // databases; "*" is all of them
}

// storedRole is a role as it is stored, under role/<name>.
type storedRole struct {
	Version     int      `json:"version"`
	Kind        string   `json:"token_type"`
	TTLSecs     int64    `json:"ttl"`
	MaxTTLSecs  int64    `json:"max_ttl,omitempty"`
	Description string   `json:"description"`
	MaxActive   int      `json:"max_active,omitempty"`
	Read        []string `json:"read_databases,omitempty"`
	Write       []string `json:"write_databases,omitempty"`
}

func (r role) entry() (*logical.StorageEntry, error) {
	return logical.StorageEntryJSON(rolePrefix+r.Name, storedRole{
		Version: roleVersion, Kind: r.Kind,
		TTLSecs: int64(r.TTL / time.Second), MaxTTLSecs: int64(r.MaxTTL / time.Second),
		Description: r.Description, MaxActive: r.MaxActive, Read: r.Read, Write: r.Write,
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
		Name: name, Kind: s.Kind,
		TTL: time.Duration(s.TTLSecs) * time.Second, MaxTTL: time.Duration(s.MaxTTLSecs) * time.Second,
		Description: s.Description, MaxActive: s.MaxActive, Read: s.Read, Write: s.Write,
	}, nil
}

// findRole returns a stored role, and whether there is one.
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

// loadRole returns a stored role; that there is none is the caller's mistake. It
// is no 404: Vault's command line hides the text of those.
func loadRole(ctx context.Context, s logical.Storage, name string) (role, error) {
	r, ok, err := findRole(ctx, s, name)
	if err == nil && !ok {
		err = badRequest("there is no role %q on this mount; `vault list` its roles to see which there are", abridge(name))
	}
	return r, err
}

// validate checks a role; its error is fit for users.
func (r role) validate() error {
	switch {
	case len(r.Name) > 128:
		return fmt.Errorf("the role's name is longer than 128 characters")
	case r.TTL < time.Second:
		return fmt.Errorf("ttl must be at least 1s; leave it out for the default, %s", human(defaultTTL))
	case r.MaxTTL < 0:
		return fmt.Errorf("max_ttl must not be negative")
	case r.TTL > longestTTL || r.MaxTTL > longestTTL:
		return fmt.Errorf("ttl and max_ttl must not be longer than 100 years")
	case r.MaxTTL > 0 && r.TTL > r.MaxTTL:
		return fmt.Errorf("ttl, %s, must not be longer than max_ttl, %s", human(r.TTL), human(r.MaxTTL))
	case r.MaxActive < 0:
		return fmt.Errorf("max_active must not be negative; 0 sets no limit")
	case len(r.Description) > 4096:
		return fmt.Errorf("description is longer than 4096 characters")
	}
	if err := checkDescription(r.Description); err != nil {
		return fmt.Errorf("description: %w", err)
	}
	return r.validateKind()
}

func (r role) validateKind() error {
	databases := slices.Concat(r.Read, r.Write)
	switch r.Kind {
	case Management:
		if len(databases) > 0 {
			return fmt.Errorf("read_databases and write_databases are for token_type=%s; a management token has no access to data", Database)
		}
	case Database:
		if len(databases) == 0 {
			return fmt.Errorf("token_type=%s needs read_databases, write_databases or both; * is all of them", Database)
		}
	default:
		return fmt.Errorf("token_type must be %s or %s", Management, Database)
	}
	for _, name := range databases {
		if len(name) < 1 || len(name) > 64 || printable(name) != name || strings.TrimSpace(name) != name {
			return fmt.Errorf("%q is not the name of a database: 1 to 64 printable characters, or *", abridge(name))
		}
	}
	return nil
}

// warnings says what about the role may surprise its author.
func (r role) warnings(mountMax time.Duration) (w []string) {
	switch {
	case r.MaxTTL == 0:
		w = append(w, fmt.Sprintf("max_ttl is 0, which means the same as ttl here, not the mount's maximum: a lease ends after %s, cannot be renewed, and its token dies with it.", human(r.TTL)))
	case r.MaxTTL == r.TTL:
		w = append(w, fmt.Sprintf("max_ttl equals ttl: a lease ends after %s and cannot be renewed.", human(r.TTL)))
	}
	if longest := max(r.TTL, r.MaxTTL); mountMax > 0 && longest > mountMax {
		w = append(w, fmt.Sprintf("The %s is %s, and cuts what this role allows, %s, until the mount is tuned (vault secrets tune -max-lease-ttl=…).", limitMount, human(mountMax), human(longest)))
	}
	return w
}
