package backend

import (
	"context"
	"encoding/json"
	"fmt"
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
	TTL         time.Duration
	MaxTTL      time.Duration // 0: same as TTL
	Description string        // a template over descriptionData
	MaxActive   int           // 0: no limit
}

// storedRole is a role as it is stored, under role/<name>.
type storedRole struct {
	Version     int    `json:"version"`
	TTLSecs     int64  `json:"ttl"`
	MaxTTLSecs  int64  `json:"max_ttl,omitempty"`
	Description string `json:"description"`
	MaxActive   int    `json:"max_active,omitempty"`
}

func (r role) entry() (*logical.StorageEntry, error) {
	return logical.StorageEntryJSON(rolePrefix+r.Name, storedRole{
		Version: roleVersion,
		TTLSecs: int64(r.TTL / time.Second), MaxTTLSecs: int64(r.MaxTTL / time.Second),
		Description: r.Description, MaxActive: r.MaxActive,
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
		Name: name,
		TTL:  time.Duration(s.TTLSecs) * time.Second, MaxTTL: time.Duration(s.MaxTTLSecs) * time.Second,
		Description: s.Description, MaxActive: s.MaxActive,
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
		return fmt.Errorf("ttl must be at least 1s; leave it out for the default, %s", defaultTTL)
	case r.MaxTTL < 0:
		return fmt.Errorf("max_ttl must not be negative")
	case r.TTL > longestTTL || r.MaxTTL > longestTTL:
		return fmt.Errorf("ttl and max_ttl must not be longer than 100 years")
	case r.MaxTTL > 0 && r.TTL > r.MaxTTL:
		return fmt.Errorf("ttl, %s, must not be longer than max_ttl, %s", r.TTL, r.MaxTTL)
	case r.MaxActive < 0:
		return fmt.Errorf("max_active must not be negative; 0 sets no limit")
	case len(r.Description) > 4096:
		return fmt.Errorf("description is longer than 4096 characters")
	}
	if err := checkDescription(r.Description); err != nil {
		return fmt.Errorf("description: %w", err)
	}
	return nil
}

// warnings says what about the role may surprise its author.
func (r role) warnings(mountMax time.Duration) (w []string) {
	switch {
	case r.MaxTTL == 0:
		w = append(w, fmt.Sprintf("max_ttl is 0, which means the same as ttl here, not the mount's maximum: a lease ends after %s, cannot be renewed, and its token dies with it.", r.TTL))
	case r.MaxTTL == r.TTL:
		w = append(w, fmt.Sprintf("max_ttl equals ttl: a lease ends after %s and cannot be renewed.", r.TTL))
	}
	if longest := max(r.TTL, r.MaxTTL); mountMax > 0 && longest > mountMax {
		w = append(w, fmt.Sprintf("The %s is %s, and cuts what this role allows, %s, until the mount is tuned (vault secrets tune -max-lease-ttl=…).", limitMount, mountMax, longest))
	}
	return w
}
