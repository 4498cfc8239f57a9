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

// A core does with a lease what Vault's core does, with core's own arithmetic
// (vault/request_handling.go and vault/expiration.go of Vault 1.21.2).
type core struct {
	system      *logical.StaticSystemView
	issued, end time.Time
}

// register starts a lease as handleRequest and Register do.
func (c *core) register(ttl, maxTTL time.Duration) error {
	ttl, _, err := framework.CalculateTTL(c.system, 0, ttl, 0, maxTTL, 0, time.Time{})
	c.issued = time.Now()
	c.end = c.issued.Add(ttl)
	return err
}

// renew extends it as Renew does.
func (c *core) renew(increment, ttl, maxTTL time.Duration) error {
	ttl, _, err := framework.CalculateTTL(c.system, increment, ttl, 0, maxTTL, 0, c.issued)
	if err == nil {
		c.end = time.Now().Add(ttl)
	}
	return err
}

// wait lets d pass on the clock of the test's bubble.
func wait(d time.Duration) { <-time.After(d) }

// upTo returns a duration that is as often tiny as it is huge.
func upTo(r *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(r.Int64N(1 + int64(d)>>r.IntN(20)))
}

func wholeUpTo(r *rand.Rand, d time.Duration) time.Duration {
	return time.Second + upTo(r, d).Truncate(time.Second)
}

// slack is how long Vault may take between our answer and the lease's start.
const slack = 20 * time.Second

func TestALeaseNeverOutlivesItsToken(t *testing.T) {
	const month = 31 * 24 * time.Hour
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // repeatable on purpose
		for range 5000 {
			wait(upTo(random, time.Second)) // no two lives begin at the same fraction of a second
			liveThrough(t, random, month)
			if t.Failed() {
				return
			}
		}
	})
}

// liveThrough lives through one lease: a random role, mount and request, a mint, and
// renewals while role and mount are edited.
func liveThrough(t *testing.T, random *rand.Rand, longest time.Duration) {
	r := role{TTL: wholeUpTo(random, longest)}
	if random.IntN(3) > 0 {
		r.MaxTTL = r.TTL + wholeUpTo(random, longest) - time.Second
	}
	requested := time.Duration(random.IntN(2)) * wholeUpTo(random, longest)
	c := &core{system: &logical.StaticSystemView{DefaultLeaseTTLVal: time.Hour, MaxLeaseTTLVal: wholeUpTo(random, longest)}}
	bound := min(max(r.TTL, r.MaxTTL), c.system.MaxLeaseTTLVal)

	began := time.Now()
	terms, err := newTerms(r, requested, c.system.MaxLeaseTTL(), began)
	if err != nil {
		t.Fatal(err)
	}
	if terms.Cap != bound || terms.TTL > bound || requested > 0 && terms.TTL > requested || terms.ExpiresAt.After(began.Add(bound+31*time.Second)) {
		t.Fatalf("%+v, mount %s, request %s: terms %+v", r, c.system.MaxLeaseTTLVal, requested, terms)
	}
	mint := upTo(random, 2*terms.TTL)
	wait(mint)
	ttl, maxTTL, err := terms.settle(time.Now())
	if err != nil {
		if mint < terms.TTL/2 {
			t.Fatalf("a mint of %s was too slow for %s", mint, terms.TTL)
		}
		return
	}
	if ttl < terms.TTL/2 {
		t.Fatalf("only %s of %s was left, and no error", ttl, terms.TTL)
	}
	wait(upTo(random, slack))
	if err := c.register(ttl, maxTTL); err != nil {
		t.Fatal(err)
	}
	mustEndBefore(t, c, terms.ExpiresAt, bound)
	for range random.IntN(6) {
		if !renewOnce(t, random, c, &r, terms.ExpiresAt) {
			return
		}
		mustEndBefore(t, c, terms.ExpiresAt, bound)
	}
}

func mustEndBefore(t *testing.T, c *core, expires time.Time, bound time.Duration) {
	t.Helper()
	if c.end.After(expires) {
		t.Fatalf("the lease ends %s after its token", c.end.Sub(expires))
	}
	if over := c.end.Sub(c.issued) - bound; over > time.Second {
		t.Fatalf("the lease lasts %s longer than role and mount allow", over)
	}
}

// renewOnce renews at a random moment of the lease, after the role and the mount
// may have been edited. It reports whether the lease lives on.
func renewOnce(t *testing.T, random *rand.Rand, c *core, r *role, expires time.Time) bool {
	t.Helper()
	wait(time.Duration(random.Int64N(1 + int64(max(0, time.Until(c.end))))))
	switch random.IntN(6) {
	case 0:
		r.TTL, r.MaxTTL = wholeUpTo(random, 24*time.Hour), 0
	case 1:
		c.system.MaxLeaseTTLVal = wholeUpTo(random, 24*time.Hour)
	}
	increment := time.Duration(random.IntN(2)) * wholeUpTo(random, 40*24*time.Hour)
	now := time.Now()
	g, err := renewal(*r, increment, c.issued, expires, now)
	if err != nil {
		if expires.Sub(now) >= margin+time.Second {
			t.Fatalf("%s before the expiry: %v", expires.Sub(now), err)
		}
		return false
	}
	if g.ttl > r.TTL {
		t.Fatalf("a renewal granted %s to a role of %s", g.ttl, r.TTL)
	}
	wait(upTo(random, slack))
	renewed := time.Now()
	err = c.renew(increment, g.ttl, g.maxTTL)
	granted := min(g.ttl, c.issued.Add(c.system.MaxLeaseTTLVal).Sub(renewed)) - renewed.Sub(now) - time.Second
	if err != nil {
		if granted > 0 {
			t.Fatalf("core refused a renewal by %s: %v", g.ttl, err)
		}
		return false // the mount was tuned below the lease's age
	}
	if got := c.end.Sub(renewed); got > r.TTL+time.Second || got < granted {
		t.Fatalf("core made %s of a renewal by %s, for a role of %s", got, g.ttl, r.TTL)
	}
	return true
}

func TestRenewalLateInLifeGrantsTheRest(t *testing.T) {
	issued := time.Unix(1_000_000, 0)
	r := role{TTL: time.Hour, MaxTTL: 2 * time.Hour}
	expires := issued.Add(2*time.Hour + margin)
	now := issued.Add(108 * time.Minute) // 90 % of the life
	g, err := renewal(r, 0, issued, expires, now)
	if err != nil || g.ttl != 12*time.Minute || g.maxTTL != 2*time.Hour {
		t.Errorf("%+v, %v", g, err)
	}
	if _, err := renewal(r, 0, issued, expires, issued.Add(2*time.Hour)); err == nil || !strings.Contains(err.Error(), "read a new credential") {
		t.Errorf("at the end of its life: %v", err)
	}
}

func TestTermsNameTheLimitThatDecided(t *testing.T) {
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
		t.Error("a mount maximum of 0 is an RPC error, not a limit")
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
