package backend

import (
	"errors"
	"fmt"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
)

// margin is how long a token stays valid after the last moment that its lease can
// have. It covers the clock skew between Vault and the cluster, and the time
// between the end of settle and the start of the lease in Vault.
const margin = 30 * time.Second

// The names of the limits, as users know them.
const (
	limitRequest    = "ttl of the request"
	limitRoleTTL    = "ttl of the role"
	limitRoleMaxTTL = "max_ttl of the role"
	limitMount      = "maximum lease TTL of the mount"
	limitIssue      = "time that issuing the token took"
)

// Terms are fixed before a token is issued.
type terms struct {
	TTL, Cap           time.Duration // of the lease, and of the lease with all its renewals
	TTLLimit, CapLimit string        // which limit decided each
	ExpiresAt          time.Time     // of the token: whole seconds, UTC
}

// renewable reports whether a lease of these terms can be renewed.
func (t terms) renewable() bool { return t.TTL < t.Cap }

// newTerms returns the terms of a token of role at now. requested is the TTL that
// the caller asks for; 0 means none. mountMax is the maximum lease TTL of the
// mount; 0 is what Vault's system view returns when it cannot be asked, and an
// error here.
//
// With revoke_on=expiry, the lease lasts as long as the token may: requested, or
// else the longest lease that the role allows.
func newTerms(r role, requested, mountMax time.Duration, now time.Time) (terms, error) {
	if mountMax <= 0 {
		return terms{}, errors.New("the maximum lease TTL of the mount is not available; try again")
	}
	t := terms{TTL: r.TTL, TTLLimit: limitRoleTTL, Cap: r.TTL, CapLimit: limitRoleTTL}
	if r.MaxTTL > 0 {
		t.Cap, t.CapLimit = r.MaxTTL, limitRoleMaxTTL
	}
	if mountMax < t.Cap {
		t.Cap, t.CapLimit = mountMax, limitMount
	}
	if requested > 0 {
		t.TTL, t.TTLLimit = requested, limitRequest
	}
	if r.RevokeOn == ledger.RevokeOnExpiry { // the lease lasts as long as the token
		if requested > 0 && requested < t.Cap {
			t.Cap, t.CapLimit = requested, limitRequest
		}
		t.TTL, t.TTLLimit = t.Cap, t.CapLimit
	}
	if t.Cap < t.TTL {
		t.TTL, t.TTLLimit = t.Cap, t.CapLimit
	}
	t.ExpiresAt = ceilSecond(now.Add(t.Cap + margin)).UTC()
	return t, nil
}

// settle returns the lease that is left when the token was issued at now. Vault
// starts the lease then, but the token's expiry was fixed before. It is an error
// if less than half of the TTL is left.
func (t terms) settle(now time.Time) (ttl, maxTTL time.Duration, err error) {
	left := t.ExpiresAt.Add(-margin).Sub(now)
	ttl, maxTTL = min(t.TTL, left), min(t.Cap, left)
	if ttl < t.TTL/2 {
		return 0, 0, fmt.Errorf("issuing the token took so long that only %s of the requested %s would be left", shortDuration(max(0, left).Round(time.Second)), shortDuration(t.TTL))
	}
	return ttl, maxTTL, nil
}

// A grant is the answer to a renewal.
type grant struct {
	ttl, maxTTL time.Duration // as Vault expects them: maxTTL counts from the issue of the lease
	latestEnd   time.Time     // that the lease can have with this grant
}

// renewal returns what a renewal at now grants to a lease that was issued at
// issued and whose token expires at expires. increment is what the caller asks
// for; 0 means nothing.
//
// Vault takes the increment of the caller instead of the TTL of the answer, and
// limits it by the MaxTTL of the answer, which it counts from the issue of the
// lease, in whole seconds. So the grant is the age of the lease plus the TTL,
// plus one second for the rounding. Without that second, a renewal near the turn
// of a second would grant a second less than the first lease, which the Vault
// Secrets Operator takes for a truncated lease.
func renewal(r role, increment time.Duration, issued, expires, now time.Time) (grant, error) {
	left := expires.Add(-margin).Sub(now)
	ttl := min(r.TTL, left)
	if increment > 0 {
		ttl = min(ttl, increment)
	}
	ttl = ttl.Truncate(time.Second)
	if ttl <= 0 {
		return grant{}, fmt.Errorf("nothing is left to renew: the token expires at %s and cannot be extended; read a new credential", timestamp(expires))
	}
	longest := min(ttl+time.Second, left.Truncate(time.Second))
	age := now.Truncate(time.Second).Sub(issued.Truncate(time.Second))
	if age+longest <= 0 { // Vault would take it for no limit
		return grant{}, fmt.Errorf("the lease began at %s, but the clock of this node says %s: set it by NTP, or read a new credential", timestamp(issued), timestamp(now))
	}
	return grant{ttl: ttl, maxTTL: age + longest, latestEnd: now.Add(longest)}, nil
}

// warnings explains why a renewal grants less than the caller asks for. Vault itself
// adds a warning about an "effective max_ttl", which is the limit of this renewal.
func (g grant) warnings(r role, increment time.Duration, expires time.Time) []string {
	switch {
	case increment.Truncate(time.Second) <= g.ttl:
		return nil
	case g.ttl < r.TTL:
		return []string{fmt.Sprintf("The requested increment, %s, was cut to %s, because the token expires at %s and cannot be extended.", shortDuration(increment), shortDuration(g.ttl), timestamp(expires))}
	}
	return []string{fmt.Sprintf("The requested increment, %s, was cut to %s by the %s.", shortDuration(increment), shortDuration(g.ttl), limitRoleTTL)}
}

// warnings explains why a lease is shorter than requested.
func (t terms) warnings(r role, requested, ttl time.Duration) (w []string) {
	asked, what := r.TTL, limitRoleTTL
	if requested > 0 {
		asked, what = requested, limitRequest
	}
	if t.TTL < asked {
		w = append(w, fmt.Sprintf("The %s, %s, was cut to %s by the %s.", what, shortDuration(asked), shortDuration(t.TTL), t.TTLLimit))
	}
	if ttl.Round(time.Second) < t.TTL {
		w = append(w, fmt.Sprintf("The lease, %s, was cut to %s by the %s.", shortDuration(t.TTL), shortDuration(ttl.Round(time.Second)), limitIssue))
	}
	return w
}
