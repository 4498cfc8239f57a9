package backend

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// margin is how long a token outlives the last moment its lease can have. It
// bounds the clock skew between Vault and the cluster, and the time between
// our settling a lease and Vault's starting it.
const margin = 30 * time.Second

// What may decide a TTL or a cap, as it is named to users.
const (
	limitRequest    = "ttl of the request"
	limitRoleTTL    = "ttl of the role"
	limitRoleMaxTTL = "max_ttl of the role"
	limitMount      = "maximum lease TTL of the mount"
	limitMint       = "time the mint took"
)

// Terms are what a credential is minted under, fixed before the mint.
type terms struct {
	TTL, Cap           time.Duration // of the lease, and of the lease with all its renewals
	TTLLimit, CapLimit string        // what decided each
	ExpiresAt          time.Time     // of the token: whole seconds, UTC
}

// renewable reports whether a lease of these terms can be renewed at all.
func (t terms) renewable() bool { return t.TTL < t.Cap }

// newTerms says what a credential of role gets at now if requested is asked
// for (0: nothing in particular) and the mount allows mountMax at the most.
//
// A mountMax of 0 is what the system view answers when it could not be asked,
// and an error here.
func newTerms(r role, requested, mountMax time.Duration, now time.Time) (terms, error) {
	if mountMax <= 0 {
		return terms{}, errors.New("the maximum lease TTL of the mount could not be learnt; try again")
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
	if t.Cap < t.TTL {
		t.TTL, t.TTLLimit = t.Cap, t.CapLimit
	}
	t.ExpiresAt = ceilSecond(now.Add(t.Cap + margin)).UTC()
	return t, nil
}

// settle says what lease is left when the mint has ended at now. Vault starts
// the lease after the mint, while the token has aged since before it. It fails
// when the mint has eaten more than half of the TTL.
func (t terms) settle(now time.Time) (ttl, maxTTL time.Duration, err error) {
	left := t.ExpiresAt.Add(-margin).Sub(now)
	ttl, maxTTL = min(t.TTL, left), min(t.Cap, left)
	if ttl < t.TTL/2 {
		return 0, 0, fmt.Errorf("the mint took so long that only %s of the %s asked for would be left", human(max(0, left).Round(time.Second)), human(t.TTL))
	}
	return ttl, maxTTL, nil
}

// renewal says what a renewal at now grants to a lease issued at issued, whose
// token dies at expires. increment is what the caller asks for (0: nothing in
// particular).
//
// Core prefers the caller's increment to the TTL answered, and only the MaxTTL
// answered, counted from the lease's issue, binds it; so the grant is expressed
// as both. Core counts in whole seconds.
func renewal(r role, increment time.Duration, issued, expires, now time.Time) (ttl, maxTTL time.Duration, err error) {
	ttl = min(r.TTL, expires.Add(-margin).Sub(now))
	if increment > 0 {
		ttl = min(ttl, increment)
	}
	ttl = ttl.Truncate(time.Second)
	if ttl <= 0 {
		return 0, 0, fmt.Errorf("nothing is left to renew: the token expires at %s, and no token can be extended; read a new credential", expires.UTC().Format(time.RFC3339))
	}
	return ttl, ttl + now.Truncate(time.Second).Sub(issued.Truncate(time.Second)), nil
}

func ceilSecond(t time.Time) time.Time {
	if down := t.Truncate(time.Second); down.Before(t) {
		return down.Add(time.Second)
	}
	return t
}

// human writes a duration as people do: 15m, not 15m0s.
func human(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// warnings explains what a credential gets less of than was asked for.
func (t terms) warnings(r role, requested, ttl time.Duration) (w []string) {
	asked, what := r.TTL, limitRoleTTL
	if requested > 0 {
		asked, what = requested, limitRequest
	}
	if t.TTL < asked {
		w = append(w, fmt.Sprintf("The %s, %s, was cut to %s by the %s.", what, human(asked), human(t.TTL), t.TTLLimit))
	}
	if ttl.Round(time.Second) < t.TTL {
		w = append(w, fmt.Sprintf("The lease, %s, was cut to %s by the %s.", human(t.TTL), human(ttl.Round(time.Second)), limitMint))
	}
	return w
}
