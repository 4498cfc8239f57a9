//go:build !race

package simulation

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// A fault is something that goes wrong for a while.
type fault struct {
	name  string
	until time.Time
	end   func()
}

func (w *world) beginFault(name string, lasts time.Duration, end func()) {
	w.tracef("fault begins for %s: %s", lasts, name)
	w.faults = append(w.faults, &fault{name, w.time().Add(lasts), end})
	w.reach("fault: " + name)
	if len(w.faults) > 1 {
		w.reach("several faults at once")
	}
}

func (w *world) endFaults(now time.Time) {
	w.faults = slices.DeleteFunc(w.faults, func(f *fault) bool {
		if f.until.After(now) {
			return false
		}
		w.tracef("fault ends: %s", f.name)
		f.end()
		return true
	})
}

func (w *world) hasFault(name string) bool {
	return slices.ContainsFunc(w.faults, func(f *fault) bool { return f.name == name })
}

func (w *world) mayFail() bool { return len(w.faults) < w.profile.faultsAtOnce }

// decide decides what happens to an operation: what the present faults do, or a
// fault that the walk adds.
func (w *world) decide(g *gate, faults bool) verdict {
	if g.from.ended {
		return verdict{before: errCrashed, after: errCrashed}
	}
	if !g.notBefore.IsZero() {
		return g.decided
	}
	if err := g.ctx.Err(); err != nil {
		return verdict{before: err, after: err}
	}
	if deadline, ok := g.ctx.Deadline(); ok && deadline.Sub(g.arrivedAt) < w.shift-g.shift { // it does not see that time
		return verdict{before: context.DeadlineExceeded, after: context.DeadlineExceeded}
	}
	v := w.present(g)
	if v == (verdict{}) && faults && w.mayFail() && w.choice.oneIn(w.profile.fail) {
		v = w.failOnce(g)
	}
	if v == (verdict{}) && faults && !g.after {
		v.hold = w.choice.oneIn(w.profile.hold)
	}
	return v
}

// present is what the present faults do to an operation.
func (w *world) present(g *gate) verdict {
	if !g.remote() {
		if w.hasFault(storageFault) && w.choice.n(2) == 1 {
			return w.storageFails(g)
		}
		return verdict{}
	}
	c := w.clusterAt(g.host)
	if c == nil {
		return verdict{}
	}
	switch c.outage[g.token] {
	case refusesConnection:
		return verdict{before: issuer.ErrUnreachable}
	case doesNotAnswer:
		g.notBefore = w.time().Add(30 * time.Second)
		g.decided = verdict{before: issuer.ErrUnreachable}
		if g.after {
			return g.decided
		}
		// The cluster has received the request now, so its effect does not wait for a
		// process that is stopped.
		switch w.choice.n(3) {
		case 1:
			w.later(0, g.String()+" has its effect, and no answer", g.effect)
		case 2:
			w.later(w.choice.between(time.Second, 70*time.Second), g.String()+" has its effect late", g.effect)
		}
		return g.decided
	case rejectsRoot:
		if g.after {
			return verdict{} // the cluster has accepted the request
		}
		return verdict{before: issuer.ErrUnauthorized}
	}
	if c.flaky > 0 && w.choice.oneIn(c.flaky) {
		return w.clusterFails(g)
	}
	return verdict{}
}

// failOnce lets one operation fail.
func (w *world) failOnce(g *gate) verdict {
	w.reach("fault: one operation")
	if g.remote() {
		return w.clusterFails(g)
	}
	return w.storageFails(g)
}

func (w *world) storageFails(g *gate) verdict {
	w.facts.storageFailed = w.time()
	if g.after || w.choice.n(2) == 1 {
		w.reach("a write that is reported as failed and was stored")
		return verdict{before: nil, after: errStorage, late: 0}.orBefore(g)
	}
	return verdict{before: errStorage}
}

// orBefore makes a verdict for a gate whose effect has happened fail.
func (v verdict) orBefore(g *gate) verdict {
	if g.after && v.after != nil {
		v.before = v.after
	}
	return v
}

func (w *world) clusterFails(g *gate) verdict {
	if g.after {
		return verdict{before: issuer.ErrUnreachable}
	}
	switch w.choice.n(5) {
	case 0:
		return verdict{before: issuer.ErrRefused}
	case 1:
		return verdict{before: issuer.ErrUnauthorized}
	case 2:
		w.reach("an answer that is lost")
		return verdict{after: issuer.ErrUnreachable}
	case 3:
		return verdict{before: issuer.ErrUnreachable, late: w.choice.between(time.Second, 40*time.Second)}
	}
	return verdict{before: issuer.ErrUnreachable}
}

const storageFault = "the storage fails"

// lastingFault begins a fault that lasts.
func (w *world) lastingFault() {
	if !w.mayFail() {
		return
	}
	lasts := w.choice.between(10*time.Second, pick(w.choice, 2*time.Minute, 30*time.Minute, 90*time.Minute))
	c := pick(w.choice, w.home, w.home, w.away)
	switch w.choice.n(7) {
	case 0, 1:
		types := pick(w.choice, []string{backend.Management, backend.Database}, []string{backend.Management}, []string{backend.Database})
		how := pick(w.choice, refusesConnection, doesNotAnswer, rejectsRoot)
		for _, t := range types {
			c.outage[t] = how
		}
		w.beginFault(c.name+" "+how, lasts, func() { clear(c.outage) })
	case 2:
		if w.product == issuer.Core {
			return // it has one node
		}
		for _, f := range c.types {
			f.SetLag(min(lasts, 8*time.Minute))
		}
		w.beginFault("the lists of "+c.name+" lag", lasts, func() {
			for _, f := range c.types {
				f.SetLag(0)
			}
		})
	case 3:
		if w.product == issuer.Core {
			return // it has one node
		}
		c.ignores = min(lasts, 5*time.Minute)
		for _, f := range c.types {
			f.SetSpread(min(lasts, 10*time.Second))
		}
		w.beginFault("a node of "+c.name+" learns late about tokens", lasts, func() {
			c.ignores = 0
			for _, f := range c.types {
				f.SetSpread(0)
			}
		})
	case 4:
		w.beginFault(storageFault, min(lasts, 5*time.Minute), func() {})
	case 5:
		c.flaky = 2 + w.choice.n(4)
		w.beginFault(c.name+" fails sometimes", lasts, func() { c.flaky = 0 })
	case 6:
		w.moveClock()
	}
}

// moveClock changes the clock of a node or of a cluster.
func (w *world) moveClock() {
	by := pick[time.Duration](w.choice, 1, -1) * pick(w.choice, w.choice.between(0, 20*time.Second), w.choice.between(time.Minute, 3*time.Hour))
	if by < 0 {
		by = max(by, -time.Hour)
	}
	which := w.choice.n(3)
	if which == 2 { // a cluster whose clock jumps is not the engine's concern
		by %= 20 * time.Second
	}
	before := w.skew
	defer func() {
		jumped := by.Abs() > allowedSkew
		for node, skew := range w.skew {
			jumped = jumped || (skew-before[node]).Abs() > allowedSkew || (skew-w.home.skew).Abs() > allowedSkew
		}
		if jumped {
			w.facts.clocksJumped = w.time()
			w.reach("a clock that jumps")
		}
	}()
	defer func() { w.tracef("clocks: nodes %s, home %s", w.skew, w.home.skew) }()
	w.mu.Lock()
	defer w.mu.Unlock()
	switch which {
	case 0, 1:
		w.skew = [2]time.Duration{by, by}
		if w.choice.n(2) == 1 {
			w.skew[1-w.active.node] = 0
		}
	case 2:
		w.home.skew = max(w.home.skew, by) // it never goes back
	}
}

// crashPlugin ends the process of the plugin. Vault starts another one and sends
// the requests again.
func (w *world) crashPlugin() {
	if w.active.paused {
		return
	}
	old := w.active
	w.tracef("the plugin of %s crashes", old.name)
	w.reach("a crash of the plugin")
	again := w.resendable(old)
	w.active = w.start(old.node, false)
	w.crash(old)
	w.leadershipChanged()
	for _, resend := range again {
		w.reach("a request that is sent again")
		resend()
	}
}

func (w *world) resendable(i *instance) (again []func()) {
	for _, t := range w.tasks {
		if t.from == i && t.resend != nil && !t.hungUp {
			again = append(again, t.resend)
		}
	}
	return again
}

// crashNode ends the active node. The other one takes over.
func (w *world) crashNode() {
	old := w.active
	w.tracef("the node of %s crashes", old.name)
	w.reach("a crash of a node")
	w.takeOver()
	w.crash(old)
}

// takeOver makes the other node the active one.
func (w *world) takeOver() {
	if w.reader != nil {
		w.retireReader()
	}
	w.active = w.start(1-w.active.node, false)
	w.tracef("%s is active", w.active.name)
	w.leadershipChanged()
}

// stepDown moves the leadership in good order.
func (w *world) stepDown() {
	old := w.active
	if old.paused {
		return
	}
	w.tracef("%s steps down", old.name)
	w.reach("a step-down")
	w.takeOver()
	old.deposed = true
	old.view.freeze()
	w.retire(old)
	w.others = append(w.others, old)
}

// pause stops the process of the active node, or lets one continue.
func (w *world) pause() {
	if w.active.paused {
		if w.choice.n(2) == 0 {
			w.tracef("%s continues", w.active.name)
			w.reach("a pause without a change of the leader")
			w.active.paused = false
			w.turn()
			return
		}
		w.replaceStopped()
		return
	}
	if n := slices.IndexFunc(w.others, func(i *instance) bool { return i.paused }); n >= 0 {
		old := w.others[n]
		if w.choice.n(2) == 1 {
			w.outlive(old)
		}
		w.tracef("%s continues, and is not the leader any more", old.name)
		w.reach("a former leader that continues")
		old.paused = false
		w.turn()
		w.expireOld(old)
		return
	}
	if n := slices.IndexFunc(w.others, func(i *instance) bool { return !i.ended && !i.retired }); n >= 0 {
		w.tracef("%s notices that it is not the leader", w.others[n].name)
		w.retire(w.others[n])
		return
	}
	if w.mayFail() {
		w.tracef("%s is stopped", w.active.name)
		w.active.paused = true
	}
}

// replaceStopped gives the leadership of the active node, which is stopped, to the
// other one.
func (w *world) replaceStopped() {
	old := w.active
	old.deposed = true
	old.view.freeze()
	for _, l := range w.leases {
		old.leases = append(old.leases, *l)
	}
	w.takeOver()
	w.others = append(w.others, old)
}

// outlive renews the leases, and lets time pass until a former leader that is stopped
// would take one of them for ended.
func (w *world) outlive(old *instance) {
	var first time.Time
	for _, l := range old.leases {
		if first.IsZero() || l.end.Before(first) {
			first = l.end
		}
	}
	for _, l := range slices.Clone(w.leases) {
		if !l.revoking && w.vaultTime().Before(l.end) {
			w.renew(w.active, l, 0)
		}
	}
	if wait := first.Sub(old.now()) + time.Second; !first.IsZero() && wait > 0 {
		w.pass(min(wait, time.Hour), true)
	}
}

// expireOld lets a former leader that continues revoke the leases that have ended as
// far as it knows, before it notices that it is not the leader.
func (w *world) expireOld(i *instance) {
	now := i.now()
	for _, l := range i.leases {
		if now.Before(l.end) {
			continue
		}
		w.reach("a former leader that ends a lease")
		secret := l.secret
		secret.IssueTime = l.issued
		w.launch(&task{from: i, finish: func(*task) {}}, &logical.Request{Operation: logical.RevokeOperation, Path: "creds/" + l.role, Secret: &secret, Data: l.data})
	}
	i.leases = nil
}

// kill revokes a token on the cluster without the engine.
func (w *world) kill() {
	c := w.home
	tokenType := pick(w.choice, backend.Management, backend.Database)
	var ours []issuer.Info
	for _, info := range c.types[tokenType].Tokens() {
		if _, ok := w.accessorOf(info.Description); ok && !info.Dead(c.now()) && info.ID != w.rootID() && !w.isNextRoot(info.ID) {
			ours = append(ours, info)
		}
	}
	if len(ours) == 0 {
		return
	}
	info := ours[w.choice.n(len(ours))]
	w.tracef("an administrator revokes token %s", info.ID)
	w.facts.excuse(w, info.ID, "an administrator has revoked it on the cluster")
	c.types[tokenType].Kill(info.ID)
	w.dirty = true
}

// newerRecords makes some records look as if a newer version had stored them, as
// they are after a downgrade, or gives all of them the present version again. The
// engine starts anew after both.
func (w *world) newerRecords() {
	if w.active.paused {
		return
	}
	upgrade := false
	for key, value := range maps.Clone(w.store.data) {
		if strings.HasPrefix(key, ledgerPrefix) && versionOf(value) > 1 {
			w.store.set(key, withVersion(value, 1))
			upgrade = true
		}
	}
	if !upgrade {
		for _, key := range slices.Sorted(maps.Keys(w.store.data)) {
			if strings.HasPrefix(key, ledgerPrefix) && w.choice.n(2) == 1 {
				w.store.set(key, withVersion(w.store.data[key], 2))
				w.reach("records of a newer version")
				w.facts.newer = true
			}
		}
	}
	w.tracef("records of a newer version: %v", !upgrade)
	old := w.active
	w.active = w.start(old.node, false)
	w.leadershipChanged()
	w.retire(old)
	w.others = append(w.others, old)
}

func versionOf(value []byte) int {
	r := record{}
	mustDecode("record", value, &r)
	return r.Version
}

func withVersion(value []byte, version int) []byte {
	fields := map[string]any{}
	mustDecode("record", value, &fields)
	fields["version"] = version
	out, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	return out
}

// A backup is a snapshot of Vault or of the cluster.
type backup struct {
	what    string
	restore func()
}

// takeBackup takes a snapshot.
func (w *world) takeBackup() {
	if len(w.backups) > 3 {
		w.backups = w.backups[1:]
	}
	if w.choice.n(2) == 0 {
		var restores []func()
		for _, t := range []string{backend.Management, backend.Database} {
			restores = append(restores, w.home.types[t].Backup())
		}
		w.backups = append(w.backups, backup{"the cluster", func() {
			for _, r := range restores {
				r()
			}
		}})
		return
	}
	data, leases := maps.Clone(w.store.data), slices.Clone(w.leases)
	copies := make([]lease, len(leases))
	for i, l := range leases {
		copies[i] = *l
	}
	w.backups = append(w.backups, backup{"Vault", func() { w.restoreVault(data, copies) }})
}

func (w *world) restoreVault(data map[string][]byte, leases []lease) {
	for key := range w.store.data {
		if _, ok := data[key]; !ok {
			w.store.set(key, nil)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(data)) {
		w.store.set(key, data[key])
	}
	w.leases = nil
	for _, l := range leases {
		l.running = nil
		w.leases = append(w.leases, &l)
	}
	old := w.active
	w.active = w.start(old.node, false)
	w.leadershipChanged()
	w.crash(old)
}

// restoreBackup restores a snapshot.
func (w *world) restoreBackup() {
	if len(w.backups) == 0 || w.active.paused {
		return
	}
	b := w.backups[w.choice.n(len(w.backups))]
	w.tracef("%s is restored from a backup", b.what)
	w.reach("a restore of " + b.what)
	if b.what == "Vault" {
		for _, i := range w.others {
			w.crash(i)
		}
	}
	b.restore()
	w.facts.restored(w)
	w.dirty = true
}
