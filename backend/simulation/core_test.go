//go:build !race

package simulation

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// What Vault's core does with leases (vault/expiration.go and
// vault/request_handling.go of Vault 1.21.2).
const (
	revokeAttempts   = 6
	firstRetry       = 10 * time.Second
	irrevocableRetry = 24 * time.Hour
	tickInterval     = time.Minute
)

// A lease is a lease as Vault stores it, and what the checks know about its token.
type lease struct {
	id     int
	role   string
	parent int // the Vault token that read it; when that ends, so does the lease
	secret logical.Secret
	data   map[string]any
	issued time.Time // on Vault's clock
	end    time.Time

	revoking    bool
	irrevocable bool
	attempts    int
	next        time.Time // attempt
	running     *task

	excused string // why the token may be revoked although the lease is valid
}

func (l *lease) field(name string) string { return l.data[name].(string) }

func (l *lease) String() string { return fmt.Sprintf("lease %d of %s", l.id, l.role) }

// vaultTime is the clock of the active node.
func (w *world) vaultTime() time.Time { return w.active.now() }

// read reads a credential.
func (w *world) read(role string, ttl time.Duration, parent int) *task {
	data := map[string]any{}
	if ttl > 0 {
		data["ttl"] = int(ttl.Seconds())
	}
	t := &task{from: w.active, highest: w.inUse(role)}
	t.resend = func() { w.read(role, ttl, parent) }
	t.finish = func(t *task) {
		if t.err != nil {
			w.checkRefusal(t, role)
			return
		}
		w.checkCredential(t, role, ttl)
		if t.from != w.active || t.hungUp || w.choice.oneIn(w.profile.registerFails) {
			w.reach("a lease that cannot be registered")
			w.giveBack(t.from, role, t.resp)
			return
		}
		w.register(t, role, parent)
	}
	w.launch(t, &logical.Request{Operation: logical.ReadOperation, Path: "creds/" + role, Data: data})
	return t
}

// giveBack revokes a secret whose lease could not be registered.
func (w *world) giveBack(i *instance, role string, resp *logical.Response) {
	if i.ended {
		return
	}
	w.tracef("the lease of %s is not registered", resp.Data["token_id"])
	w.launch(&task{from: i, finish: func(*task) {}}, &logical.Request{Operation: logical.RevokeOperation, Path: "creds/" + role, Secret: resp.Secret, Data: resp.Data})
}

// register registers the lease of an answer.
func (w *world) register(t *task, role string, parent int) {
	w.leaseIDs++
	resp, now := t.resp, w.vaultTime()
	ttl, _, err := framework.CalculateTTL(w.active.systemView(), 0, resp.Secret.TTL, 0, resp.Secret.MaxTTL, 0, time.Time{})
	if err != nil {
		w.violate("F", "the TTLs of an answer of role %s cannot be used: %v", role, err)
		return
	}
	l := &lease{id: w.leaseIDs, role: role, parent: parent, secret: *resp.Secret, data: maps.Clone(resp.Data), issued: now, end: now.Add(ttl)}
	if batchEnd, ok := w.batch[parent]; ok && batchEnd.Before(l.end) {
		l.end = batchEnd
	}
	l.excused = w.facts.excused[l.field("token_id")] + w.facts.excusedAll[l.field("accessor")]
	if !w.facts.restoredAt.IsZero() && !w.facts.restoredAt.Before(t.begun) {
		l.excused = "there was a restore while it was issued"
	}
	if !w.facts.clocksJumped.Before(t.begun) {
		l.excused = "a clock has jumped while it was issued"
	}
	if w.tainted.Load() || !w.facts.movedAt.Before(t.begun) { // Vault registers the lease at the former path, where no mount is
		l.excused = "the mount was moved while it was issued"
	}
	w.leases = append(w.leases, l)
	w.tracef("%v begins, token %s, until %s", l, l.field("token_id"), w.clockText(l.end))
	w.dirty = true
}

// renew renews a lease.
func (w *world) renew(i *instance, l *lease, increment time.Duration) {
	secret := l.secret
	secret.IssueTime, secret.Increment = l.issued, increment
	before := l.end
	finish := func(t *task) {
		if t.from != w.active || !slices.Contains(w.leases, l) || l.revoking {
			return
		}
		if t.err != nil {
			w.checkRenewalRefused(l, t)
			return
		}
		now := w.vaultTime()
		ttl, _, err := framework.CalculateTTL(w.active.systemView(), increment, t.resp.Secret.TTL, 0, t.resp.Secret.MaxTTL, 0, time.Now().Add(-now.Sub(l.issued)))
		if err != nil {
			return
		}
		l.end = now.Add(ttl)
		if batchEnd, ok := w.batch[l.parent]; ok && batchEnd.Before(l.end) {
			l.end = batchEnd
		}
		if !w.facts.clocksJumped.Before(t.begun) {
			l.excused = "a clock has jumped while it was renewed"
		}
		w.reach("a renewal")
		w.tracef("%v renewed from %s until %s", l, w.clockText(before), w.clockText(l.end))
		w.checkRenewal(l, increment, t.begun, now)
		w.dirty = true
	}
	w.launch(&task{from: i, finish: finish}, &logical.Request{Operation: logical.RenewOperation, Path: "creds/" + l.role, Secret: &secret, Data: l.data})
}

// revoke makes one attempt to revoke a lease. Vault makes only one at a time.
func (w *world) revoke(l *lease, forget func(err error) bool) {
	if l.running != nil {
		return
	}
	l.revoking = true
	secret := l.secret
	secret.IssueTime = l.issued
	t := &task{from: w.active}
	l.running = t
	t.finish = func(t *task) {
		if t.from != w.active || l.running != t {
			return // a node that has lost the leadership cannot store the result
		}
		l.running = nil
		switch {
		case t.err == nil:
			w.endLease(l)
			w.checkRevoked(l)
		case forget != nil && forget(t.err):
			w.endLease(l)
		default:
			w.retryLease(l, t.err)
		}
	}
	w.launch(t, &logical.Request{Operation: logical.RevokeOperation, Path: "creds/" + l.role, Secret: &secret, Data: l.data})
}

func (w *world) retryLease(l *lease, err error) {
	l.attempts++
	now := w.vaultTime()
	if l.attempts >= revokeAttempts || errors.Is(err, logical.ErrUnrecoverable) {
		l.irrevocable, l.attempts, l.next = true, revokeAttempts-1, now.Add(irrevocableRetry)
		w.reach("an irrevocable lease")
		w.tracef("%v is irrevocable", l)
		return
	}
	wait := firstRetry << l.attempts
	l.next = now.Add(wait/2 + w.choice.between(0, wait))
}

func (w *world) endLease(l *lease) {
	w.leases = slices.DeleteFunc(w.leases, func(other *lease) bool { return other == l })
	w.tracef("%v ends", l)
	w.dirty = true
}

// lazyRevoke ends leases without waiting for the result.
func (w *world) lazyRevoke(leases ...*lease) {
	for _, l := range leases {
		if !l.revoking {
			l.revoking, l.next, l.attempts = true, w.vaultTime(), 0
		}
	}
}

// leadershipChanged makes Vault read its leases again, as a new leader does.
func (w *world) leadershipChanged() {
	for _, l := range w.leases {
		l.running = nil
		if l.revoking && !l.irrevocable {
			l.attempts, l.next = 0, w.vaultTime()
		}
	}
	w.nextTick = w.time().Add(w.choice.between(time.Second, tickInterval))
}

// fire starts what is due: the periodic function, the ends of leases, and effects
// that come late.
func (w *world) fire() {
	now := w.time()
	w.fireLate(now)
	w.endFaults(now)
	if w.active.paused {
		return
	}
	if !now.Before(w.nextTick) {
		w.nextTick = now.Add(tickInterval)
		w.request(w.active, logical.RollbackOperation, "", nil, nil)
	}
	vault := w.vaultTime()
	for _, l := range slices.Clone(w.leases) {
		if w.active.paused {
			return
		}
		switch {
		case l.running != nil:
		case l.revoking && !vault.Before(l.next), !l.revoking && !vault.Before(l.end):
			w.revoke(l, nil)
		}
	}
}

// nextEvent returns a time before which fire has nothing to do.
func (w *world) nextEvent() time.Time {
	now := w.time()
	next := now.Add(tickInterval)
	earlier := func(t time.Time) {
		if t.After(now) && t.Before(next) {
			next = t
		}
	}
	earlier(w.nextTick)
	for _, e := range w.late {
		earlier(e.at)
	}
	for _, f := range w.faults {
		earlier(f.until)
	}
	w.mu.Lock()
	skew := w.skew[w.active.node]
	for _, g := range w.gates {
		if !g.notBefore.IsZero() {
			earlier(g.notBefore)
		}
	}
	w.mu.Unlock()
	for _, l := range w.leases {
		switch {
		case l.running != nil:
		case l.revoking:
			earlier(l.next.Add(-skew))
		default:
			earlier(l.end.Add(-skew))
		}
	}
	return next
}

// systemView returns what Vault itself uses.
func (i *instance) systemView() logical.SystemView { return &systemView{instance: i} }
