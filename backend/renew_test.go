package backend_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// A consumer is a program that keeps a lease alive by the rule of the Vault
// Secrets Operator 1.4.1 (vaultdynamicsecret_controller.go): a renewal that
// grants less than the lease had before is a truncated lease, which makes it
// read a new credential and restart the workload.
type consumer struct {
	e        *engine
	lease    *credential
	duration int64 // seconds, as last granted
}

// read reads a credential as core does. latency is the time between the
// engine's answer and core's arithmetic (Register in vault/expiration.go).
func (e *engine) consumer(latency time.Duration) *consumer {
	e.t.Helper()
	h := e.creds()
	e.sleep(latency)
	ttl, _, err := framework.CalculateTTL(e.system, 0, h.Secret.TTL, 0, h.Secret.MaxTTL, 0, time.Time{})
	if err != nil {
		e.t.Fatal(err)
	}
	h.issued = e.clock.Now()
	h.end = h.issued.Add(ttl)
	return &consumer{e, h, int64(ttl.Seconds())}
}

// renew renews the lease as core does (Renew in vault/expiration.go), and
// returns what was granted, in seconds.
func (c *consumer) renew(increment, latency time.Duration) (int64, error) {
	resp, err := c.e.renew(c.lease, increment)
	if err != nil {
		return 0, err
	}
	c.e.sleep(latency)
	ttl, _, err := framework.CalculateTTL(c.e.system, increment, resp.Secret.TTL, 0, resp.Secret.MaxTTL, 0, c.lease.issued)
	if err != nil {
		return 0, err
	}
	c.lease.end = c.e.clock.Now().Add(ttl)
	return int64(ttl.Seconds()), nil
}

// sleep lets time pass on both clocks, without a tick.
func (e *engine) sleep(d time.Duration) {
	e.clock.advance(d)
	<-time.After(d)
}

// A renewal grants exactly what the first lease had, wherever in a second the
// lease began and the renewal falls, until less than that is left of max_ttl.
func TestRenew_NeverASecondShorterThanTheFirstLease(t *testing.T) {
	const ttl, maxTTL = time.Hour, 5 * time.Hour
	fractions := []time.Duration{0, time.Millisecond, 300 * time.Millisecond, 700 * time.Millisecond, 999 * time.Millisecond}
	for _, latency := range []time.Duration{0, 2 * time.Millisecond, 400 * time.Millisecond, 900 * time.Millisecond} {
		for _, increment := range []time.Duration{0, ttl} {
			t.Run(fmt.Sprintf("latency %s, increment %s", latency, increment), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "5h"})
					for _, began := range fractions {
						for _, renewed := range fractions {
							e.sleep(e.clock.Now().Truncate(time.Second).Add(time.Second + began).Sub(e.clock.Now()))
							e.keepRenewing(ttl, maxTTL, increment, latency, renewed)
						}
					}
				})
			})
		}
	}
}

// keepRenewing renews a lease two thirds into each period, by the rule of the
// consumer, until max_ttl is near.
func (e *engine) keepRenewing(ttl, maxTTL, increment, latency, fraction time.Duration) {
	e.t.Helper()
	c := e.consumer(latency)
	if c.duration != int64(ttl.Seconds()) {
		e.t.Errorf("the first lease has %d s", c.duration)
	}
	expires, err := time.Parse(time.RFC3339, c.lease.Data["expires_at"].(string))
	if err != nil {
		e.t.Fatal(err)
	}
	for {
		e.sleep(ttl*2/3 + fraction)
		age := e.clock.Now().Sub(c.lease.issued)
		granted, err := c.renew(increment, latency)
		if err != nil {
			e.t.Errorf("a renewal at the age of %s: %v", age, err)
		}
		if c.lease.end.After(expires) || c.lease.end.Sub(c.lease.issued) > maxTTL+2*time.Second {
			e.t.Errorf("the lease ends %s after its token expires, %s old", c.lease.end.Sub(expires), c.lease.end.Sub(c.lease.issued))
		}
		if age+ttl+2*time.Second > maxTTL {
			return // the end of max_ttl is near: less is right
		}
		if granted < c.duration {
			e.t.Errorf("a renewal at the age of %s granted %d s of %d", age, granted, c.duration)
			return
		}
	}
}

// The worker does not take a renewed lease for a lost one, also when core's
// arithmetic made it a second longer than the engine's.
func TestRenew_LeaseIsNeverTakenForLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "10m", "max_ttl": "3h"})
		e.sleep(999 * time.Millisecond)
		c := e.consumer(400 * time.Millisecond)
		for e.clock.Now().Sub(c.lease.issued) < 3*time.Hour-11*time.Minute {
			e.elapse(c.lease.end.Sub(e.clock.Now()).Truncate(time.Second) - time.Second)
			if !e.cluster.Alive(c.lease.secret()) {
				t.Fatal("the token was revoked under a lease")
			}
			if _, err := c.renew(0, 400*time.Millisecond); err != nil {
				t.Fatal(err)
			}
		}
		e.elapse(15 * time.Minute)
		if e.alive() != 0 {
			t.Error("a token whose lease was lost is alive")
		}
	})
}

// A process that is stopped while it stores a record answers with what is left of the
// token's life after it continued: Vault starts the lease when it gets the answer.
func TestLease_EndsInTimeAfterAPauseWhileStoring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.configure()
		e.write("roles/automation", map[string]any{"ttl": "10m", "max_ttl": "10m"})
		pause := func() {
			e.storage.setFault(func(when string, op logical.Operation, key string) error {
				if when == "after" && op == updateOp && strings.HasPrefix(key, "ledger/") {
					e.clock.advance(44 * time.Second)
				}
				return nil
			})
		}
		pause()
		h := e.creds()
		latest := expiry(t, h).Add(-30 * time.Second)
		if end := h.issued.Add(h.Secret.MaxTTL); h.end.After(latest) || end.After(latest) {
			t.Errorf("the lease ends at %s, at the latest at %s; its token allows %s", h.end, end, latest)
		}

		e.storage.setFault(nil)
		e.write("roles/automation", map[string]any{"ttl": "10m", "max_ttl": "30m"})
		h = e.creds()
		latest = expiry(t, h).Add(-30 * time.Second)
		e.clock.advance(latest.Add(-9 * time.Minute).Sub(e.clock.Now()))
		pause()
		resp, err := e.renew(h, 0)
		if err != nil {
			t.Fatal(err)
		}
		if end := e.clock.Now().Add(resp.Secret.TTL); end.After(latest) {
			t.Errorf("the renewed lease ends at %s; its token allows %s", end, latest)
		}

		// The clock was behind, and is set right while the record is stored.
		clock := func(jump time.Duration, write int) {
			writes := 0
			e.storage.setFault(func(when string, op logical.Operation, key string) error {
				if when == "after" && op == updateOp && strings.HasPrefix(key, "ledger/") {
					if writes++; writes == write {
						e.clock.advance(jump)
					}
				}
				return nil
			})
		}
		e.storage.setFault(nil)
		e.write("roles/automation", map[string]any{"ttl": "10m", "max_ttl": "24h"})
		h = e.creds()
		clock(time.Hour, 1)
		if _, err := e.renew(h, 0); err == nil {
			t.Error("a renewal ends after the deadline of its record")
		}
		clock(time.Hour, 2)
		e.refuse(http.StatusInternalServerError, logical.ReadOperation, "creds/automation", nil, "clock of this node was changed")
		e.storage.setFault(nil)
		e.write("roles/automation", map[string]any{"ttl": "10m", "max_ttl": "30m"})

		// Too little is left when the process continues: the token is not handed out.
		clock(26*time.Minute, 2)
		before := e.alive()
		e.refuse(http.StatusBadGateway, logical.ReadOperation, "creds/automation", nil, "took so long")
		e.storage.setFault(nil)
		e.tick()
		if n := e.alive(); n > before {
			t.Errorf("%d tokens are valid, %d before", n, before)
		}
	})
}

func expiry(t *testing.T, h *credential) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, h.Data["expires_at"].(string))
	if err != nil {
		t.Fatal(err)
	}
	return at
}
