package backend

import (
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// A vaultLease is a lease as Vault keeps it, with Vault's own arithmetic
// (vault/request_handling.go and vault/expiration.go of Vault 1.21.2).
type vaultLease struct {
	system      *logical.StaticSystemView
	issued, end time.Time
}

// register starts the lease as handleRequest and Register do.
func (l *vaultLease) register(ttl, maxTTL time.Duration) error {
	ttl, _, err := framework.CalculateTTL(l.system, 0, ttl, 0, maxTTL, 0, time.Time{})
	l.issued = time.Now()
	l.end = l.issued.Add(ttl)
	return err
}

// renew extends it as Renew does.
func (l *vaultLease) renew(increment, ttl, maxTTL time.Duration) error {
	ttl, _, err := framework.CalculateTTL(l.system, increment, ttl, 0, maxTTL, 0, l.issued)
	if err == nil {
		l.end = time.Now().Add(ttl)
	}
	return err
}

// wait lets d pass on the clock of the synctest bubble.
func wait(d time.Duration) { <-time.After(d) }

// upTo returns a random duration of at most d, short ones as often as long ones.
func upTo(r *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(r.Int64N(1 + int64(d)>>r.IntN(20)))
}

// wholeUpTo is upTo in whole seconds, and at least one.
func wholeUpTo(r *rand.Rand, d time.Duration) time.Duration {
	return time.Second + upTo(r, d).Truncate(time.Second)
}

// vaultDelay is the longest time between the answer of the engine and the start of
// the lease in Vault.
const vaultDelay = 20 * time.Second

// A lease ends before its token expires, and lasts at most as long as the role and
// the mount allow, whatever the limits, the requests and the delays are.
func TestTerms_LeaseNeverOutlivesItsToken(t *testing.T) {
	const month = 31 * 24 * time.Hour
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same numbers in every run
		for range 5000 {
			wait(upTo(random, time.Second)) // leases begin at any fraction of a second
			checkRandomLease(t, random, month)
			if t.Failed() {
				return
			}
		}
	})
}

// checkRandomLease checks one lease of a random role, mount and request, and its
// renewals, while role and mount are changed.
func checkRandomLease(t *testing.T, random *rand.Rand, longest time.Duration) {
	r := role{TTL: wholeUpTo(random, longest)}
	if random.IntN(3) > 0 {
		r.MaxTTL = r.TTL + wholeUpTo(random, longest) - time.Second
	}
	requested := time.Duration(random.IntN(2)) * wholeUpTo(random, longest)
	l := &vaultLease{system: &logical.StaticSystemView{DefaultLeaseTTLVal: time.Hour, MaxLeaseTTLVal: wholeUpTo(random, longest)}}
	bound := min(max(r.TTL, r.MaxTTL), l.system.MaxLeaseTTLVal)

	began := time.Now()
	terms, err := newTerms(r, requested, l.system.MaxLeaseTTL(), began)
	if err != nil {
		t.Fatal(err)
	}
	if terms.Cap != bound || terms.TTL > bound || requested > 0 && terms.TTL > requested || terms.ExpiresAt.After(began.Add(bound+31*time.Second)) {
		t.Fatalf("%+v, mount %s, request %s: terms %+v", r, l.system.MaxLeaseTTLVal, requested, terms)
	}
	took := upTo(random, 2*terms.TTL)
	wait(took)
	ttl, maxTTL, err := terms.settle(time.Now())
	if err != nil {
		if took < terms.TTL/2 {
			t.Fatalf("issuing took %s, which was too long for %s", took, terms.TTL)
		}
		return
	}
	if ttl < terms.TTL/2 {
		t.Fatalf("only %s of %s is left, and there is no error", ttl, terms.TTL)
	}
	wait(upTo(random, vaultDelay))
	if err := l.register(ttl, maxTTL); err != nil {
		t.Fatal(err)
	}
	mustEndBefore(t, l, terms.ExpiresAt, bound)
	for range random.IntN(6) {
		if !renewOnce(t, random, l, &r, terms.ExpiresAt) {
			return
		}
		mustEndBefore(t, l, terms.ExpiresAt, bound)
	}
}

func mustEndBefore(t *testing.T, l *vaultLease, expires time.Time, bound time.Duration) {
	t.Helper()
	if l.end.After(expires) {
		t.Fatalf("the lease ends %s after its token expires", l.end.Sub(expires))
	}
	if over := l.end.Sub(l.issued) - bound; over > time.Second {
		t.Fatalf("the lease lasts %s longer than role and mount allow", over)
	}
}

// renewOnce renews at a random moment of the lease, after the role and the mount
// may have been changed. It reports whether the lease goes on.
func renewOnce(t *testing.T, random *rand.Rand, l *vaultLease, r *role, expires time.Time) bool {
	t.Helper()
	wait(time.Duration(random.Int64N(1 + int64(max(0, time.Until(l.end))))))
	switch random.IntN(6) {
	case 0:
		r.TTL, r.MaxTTL = wholeUpTo(random, 24*time.Hour), 0
	case 1:
		l.system.MaxLeaseTTLVal = wholeUpTo(random, 24*time.Hour)
	}
	increment := time.Duration(random.IntN(2)) * wholeUpTo(random, 40*24*time.Hour)
	now := time.Now()
	g, err := renewal(*r, increment, l.issued, expires, now)
	if err != nil {
		if expires.Sub(now) >= margin+time.Second {
			t.Fatalf("%s before the expiry: %v", expires.Sub(now), err)
		}
		return false
	}
	if g.ttl > r.TTL {
		t.Fatalf("a renewal granted %s to a role of %s", g.ttl, r.TTL)
	}
	wait(upTo(random, vaultDelay))
	renewed := time.Now()
	err = l.renew(increment, g.ttl, g.maxTTL)
	granted := min(g.ttl, l.issued.Add(l.system.MaxLeaseTTLVal).Sub(renewed)) - renewed.Sub(now) - time.Second
	if err != nil {
		if granted > 0 {
			t.Fatalf("Vault refused a renewal by %s: %v", g.ttl, err)
		}
		return false // the maximum of the mount was set below the age of the lease
	}
	if got := l.end.Sub(renewed); got > r.TTL+time.Second || got < granted {
		t.Fatalf("Vault granted %s for a renewal by %s of a role with %s", got, g.ttl, r.TTL)
	}
	return true
}

// A renewal near the expiry of the token grants what is left, and none after it.
func TestRenewal_GrantsWhatIsLeft(t *testing.T) {
	issued := time.Unix(1_000_000, 0)
	r := role{TTL: time.Hour, MaxTTL: 2 * time.Hour}
	expires := issued.Add(2*time.Hour + margin)
	now := issued.Add(108 * time.Minute) // 90 % of max_ttl
	g, err := renewal(r, 0, issued, expires, now)
	if err != nil || g.ttl != 12*time.Minute || g.maxTTL != 2*time.Hour {
		t.Errorf("%+v, %v", g, err)
	}
	if _, err := renewal(r, 0, issued, expires, issued.Add(2*time.Hour)); err == nil || !strings.Contains(err.Error(), "read a new credential") {
		t.Errorf("when nothing is left: %v", err)
	}
}

func TestTerms_NameTheLimitThatDecided(t *testing.T) {
	now := time.Unix(1_000_000, 1)
	for _, c := range []struct {
		role                role
		requested, mount    time.Duration
		ttl, cap            time.Duration
		ttlLimit, capLimit  string
		renewable, warnings bool
	}{
		{role{TTL: time.Hour}, 0, 10 * time.Hour, time.Hour, time.Hour, limitRoleTTL, limitRoleTTL, false, false},
		{role{TTL: time.Hour, MaxTTL: 8 * time.Hour}, 0, 10 * time.Hour, time.Hour, 8 * time.Hour, limitRoleTTL, limitRoleMaxTTL, true, false},
		{role{TTL: time.Hour, MaxTTL: 8 * time.Hour}, 2 * time.Hour, 10 * time.Hour, 2 * time.Hour, 8 * time.Hour, limitRequest, limitRoleMaxTTL, true, false},
		{role{TTL: time.Hour, MaxTTL: 8 * time.Hour}, 9 * time.Hour, 10 * time.Hour, 8 * time.Hour, 8 * time.Hour, limitRoleMaxTTL, limitRoleMaxTTL, false, true},
		{role{TTL: time.Hour}, 2 * time.Hour, 10 * time.Hour, time.Hour, time.Hour, limitRoleTTL, limitRoleTTL, false, true},
		{role{TTL: time.Hour, MaxTTL: 8 * time.Hour}, 0, 30 * time.Minute, 30 * time.Minute, 30 * time.Minute, limitMount, limitMount, false, true},
	} {
		got, err := newTerms(c.role, c.requested, c.mount, now)
		if err != nil {
			t.Fatal(err)
		}
		if got.TTL != c.ttl || got.Cap != c.cap || got.TTLLimit != c.ttlLimit || got.CapLimit != c.capLimit || got.renewable() != c.renewable {
			t.Errorf("%+v: %+v", c, got)
		}
		if warned := len(got.warnings(c.role, c.requested, got.TTL)) > 0; warned != c.warnings {
			t.Errorf("%+v: warned %v", c, warned)
		}
		if want := time.Unix(1_000_001, 0).Add(c.cap + margin); !got.ExpiresAt.Equal(want) {
			t.Errorf("expires at %s, want %s", got.ExpiresAt, want)
		}
	}
	if _, err := newTerms(role{TTL: time.Hour}, 0, 0, now); err == nil {
		t.Error("a maximum of 0 means that Vault could not be asked, not that there is no limit")
	}
}

func BenchmarkTerms(b *testing.B) {
	b.ReportAllocs()
	r, now := role{TTL: time.Hour, MaxTTL: 8 * time.Hour}, time.Now()
	for b.Loop() {
		t, err := newTerms(r, 0, 24*time.Hour, now)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := t.settle(now); err != nil {
			b.Fatal(err)
		}
	}
}

// A node whose clock is far behind cannot limit a lease that another node has begun:
// Vault takes a limit that is not positive for none.
func TestRenewal_RefusedByAClockFarBehind(t *testing.T) {
	began := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	expires := began.Add(time.Hour)
	r := role{TTL: 10 * time.Minute, MaxTTL: time.Hour}
	for behind, refused := range map[time.Duration]bool{0: false, 5 * time.Minute: false, 20 * time.Minute: true} {
		g, err := renewal(r, 24*time.Hour, began, expires, began.Add(-behind))
		if (err != nil) != refused {
			t.Errorf("%s behind: %+v, %v", behind, g, err)
		}
		if err == nil && g.maxTTL <= 0 {
			t.Errorf("%s behind: no limit, %s", behind, g.maxTTL)
		}
	}
}
