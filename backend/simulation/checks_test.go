//go:build !race

package simulation

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// The times that the engine promises.
const (
	leaseMargin  = 30 * time.Second  // from the last end of a lease to the expiry of its token
	activeMargin = 2 * time.Minute   // from the end of a lease to the deadline of its record
	tolerance    = 2 * time.Second   // of what is rounded to seconds
	allowedSkew  = 25 * time.Second  // between clocks, below which everything is promised
	drainTime    = 130 * time.Minute // after the last fault: the longest lease, and some attempts
	longestJump  = 3 * time.Hour     // of a clock: so much later a deadline may be
	absenceTime  = 27 * time.Hour    // until the engine concludes that such a token does not exist
	placeKept    = 5 * time.Minute   // by a token that could not be recorded
	longestGrace = 5 * time.Minute   // of the static roles of the model
	gracePeriod  = 2 * time.Minute   // the shortest that a static role can have
)

// facts is what the checks remember of a walk.
type facts struct {
	began time.Time
	tag   string
	now   reading

	excused       map[string]string // why a token may be revoked, or may have no record, by ID
	excusedAll    map[string]string // the same, by accessor
	lost          map[string]string // why a token may have no record, by accessor
	roleChanged   map[string]time.Time
	wasCurrent    map[string][]string // IDs of the tokens of a static role, in order
	foreign       map[string]string
	operatorRoots map[string]*cluster
	roots         int
	rotatedFrom   map[string]bool // root credentials that a rotation has replaced
	rootHistory   []string        // IDs of the root credentials in config
	rotations     int
	allowed       map[string]map[string]bool // hosts, by secret
	secrets       map[string]string          // of all tokens, and what they are
	pending       []pendingSecret
	limits        []limitChange
	readers       []*reader
	changes       []staticChange
	outlived      map[string]bool // accessors of tokens whose lease has ended with success

	clocksJumped  time.Time
	storageFailed time.Time
	restoredAt    time.Time
	movedAt       time.Time // the latest move of the mount was done
	forcedUntil   time.Time // somebody may have given force=true to config until then
	newer         bool
}

type limitChange struct {
	at time.Time
	n  int
}

// A pendingSecret is a secret that somebody writes to config without saying where it
// is sent. They choose the place that config has then.
type pendingSecret struct {
	secret string
	until  time.Time
}

// A reader is somebody who holds the token of a static role.
type reader struct {
	role, tokenID string
	secret        issuer.Secret
	cluster       *cluster
	until         time.Time
}

func newFacts() facts {
	return facts{
		began: time.Now(), excused: map[string]string{}, excusedAll: map[string]string{}, lost: map[string]string{}, roleChanged: map[string]time.Time{}, wasCurrent: map[string][]string{}, foreign: map[string]string{},
		operatorRoots: map[string]*cluster{}, rotatedFrom: map[string]bool{}, allowed: map[string]map[string]bool{},
		secrets: map[string]string{}, outlived: map[string]bool{},
		now: reading{records: map[string]record{}},
	}
}

// checkName ends the promises of a walk in which an administrator has said of
// another cluster that it is the same one.
func (w *world) checkName(c *config) {
	of := w.home
	if strings.Contains(c.Fingerprint, awayHost) {
		of = w.away
	}
	if at := w.clusterAt(c.Host); at != nil && at != of {
		w.void = "an administrator has vouched for the wrong cluster"
		w.reach(w.void)
	}
}

func (f *facts) excuse(w *world, id, why string) {
	f.excused[id] = why
	for _, l := range w.leases {
		if l.field("token_id") == id {
			l.excused = why
		}
	}
}

func (f *facts) excuseAccessor(w *world, accessor, why string) {
	f.excusedAll[accessor] = why
	for _, l := range w.leases {
		if l.field("accessor") == accessor {
			l.excused = why
		}
	}
}

// allow remembers that the writer of a secret has chosen a place for it.
func (f *facts) allow(secret, host string) {
	if f.allowed[secret] == nil {
		f.allowed[secret] = map[string]bool{}
	}
	f.allowed[secret][host] = true
}

// allowConfig remembers that the root credential of a config may be sent to its
// places.
func (f *facts) allowConfig(c *config) {
	f.allow(c.Root, c.Host)
	f.allow(c.Root, strings.TrimPrefix(c.APIURL, "https://"))
}

// observe reads the storage after a write.
func (f *facts) observe(w *world, key string) {
	before := f.now
	f.now = w.store.read()
	for accessor, r := range before.records {
		if _, ok := f.now.records[accessor]; !ok && !f.clocksJumped.IsZero() && w.settledByAge(r) {
			f.lost[accessor] = "its age, by the clocks of Vault, was a proof that it is gone"
		}
	}
	if role, ok := strings.CutPrefix(key, "role/"); ok {
		f.roleChanged[role] = w.time()
	}
	if name, ok := strings.CutPrefix(key, staticPrefix); ok {
		f.observeStatic(w, name)
	}
	switch key {
	case configKey:
		w.checkLeft(before.config)
		if c := f.now.config; c != nil {
			w.checkName(c)
			if before.config == nil || before.config.Fingerprint != c.Fingerprint {
				f.readers = nil // the static roles get tokens of the other cluster
			}
			for _, p := range f.pending {
				if p.until.After(w.time()) || w.writesRoot(p.secret) {
					f.allowConfig(&config{Host: c.Host, APIURL: c.APIURL, Root: p.secret})
				}
			}
			w.tracef("config: host %s, api_url %q, root credential %s, fingerprint %s", c.Host, c.APIURL, c.RootID, c.Fingerprint)
		}
		if id := w.rootID(); len(f.rootHistory) == 0 || f.rootHistory[len(f.rootHistory)-1] != id {
			f.rootHistory = append(f.rootHistory, id)
		}
	case limitedKey:
		f.observeLimit(w)
	case rotationKey:
		if r := f.now.rotation; r != nil && r.Swapped {
			f.rotatedFrom[r.From.RootID] = true
		}
		if r := f.now.rotation; r != nil && r.Cancelled {
			w.reach("a rotation that is cancelled")
		}
	}
	for _, r := range f.now.records {
		if r.State == "issuing" && r.Absences > 20 {
			w.reach("a token that was not found for a day")
		}
	}
}

// settledByAge reports whether a record may have been dropped because of its age. If
// the clocks of Vault are wrong by hours, such a proof is wrong.
func (w *world) settledByAge(r record) bool {
	tidying := slices.ContainsFunc(w.tasks, func(t *task) bool { return t.name == "update tidy" })
	return r.Attempts > 0 || r.State == "issuing" || strings.HasPrefix(r.Role, "-") || tidying || w.home.ignores > 0 || w.away.ignores > 0
}

// writesConfig reports whether a request to write or delete the config is running whose
// data fits. It may run for long in a process that is stopped.
func (w *world) writesConfig(fits func(data map[string]any) bool) bool {
	return slices.ContainsFunc(w.tasks, func(t *task) bool { return strings.HasSuffix(t.name, " config") && fits(t.data) })
}

// writesRoot reports whether a request that writes a root credential is running.
func (w *world) writesRoot(secret string) bool {
	return w.writesConfig(func(data map[string]any) bool { return data["admin_token"] == secret || data["mgmt_token"] == secret })
}

// forces reports whether somebody may have given force=true to config.
func (w *world) forces() bool {
	return w.time().Before(w.facts.forcedUntil) || w.writesConfig(func(data map[string]any) bool { return data["force"] == true })
}

// checkLeft is check A when config has changed: without force=true, a mount leaves no
// cluster that has valid tokens of the mount.
func (w *world) checkLeft(before *config) {
	now := w.facts.now.config
	if before == nil || now != nil && now.Fingerprint == before.Fingerprint || w.forces() || !w.facts.restoredAt.IsZero() {
		return
	}
	for _, c := range []*cluster{w.home, w.away} {
		for _, fake := range c.types {
			for _, info := range fake.Tokens() {
				accessor, ok := w.accessorOf(info.Description)
				if r := w.facts.now.records[accessor]; ok && !info.Dead(c.now()) && r.Fingerprint == before.Fingerprint && r.Role != "-root" {
					w.violate("A", "the mount has left %s without force=true, and token %s is valid", before.Fingerprint, info.ID)
				}
			}
		}
	}
}

// observeLimit reads max_active of the role limited.
func (f *facts) observeLimit(w *world) {
	role := struct {
		MaxActive int `json:"max_active"`
	}{}
	if value, ok := w.store.data[limitedKey]; ok {
		mustDecode(limitedKey, value, &role)
		f.limits = append(f.limits, limitChange{w.time(), role.MaxActive})
	}
}

// sent is called for every call to a host with a secret.
func (w *world) sent(secret, host string) {
	if !w.facts.allowed[secret][host] {
		what := w.facts.secrets[secret]
		if what == "" {
			what = "a secret"
		}
		w.violate("C", "%s was sent to %s", what, host)
	}
}

// issued is called when a cluster has created a token.
func (w *world) issued(r remote, request issuer.Request, token issuer.Token) {
	secret := token.Secret.Reveal()
	w.facts.secrets[secret] = "token " + token.ID
	w.facts.allow(secret, r.host)
	if strings.HasSuffix(request.Description, "] root credential") { // a rotation changes no place
		w.facts.allow(secret, strings.TrimPrefix(r.config.APIURL, "https://"))
	}
	accessor, ok := w.accessorOf(request.Description)
	if !ok {
		w.violate("A", "token %s was issued without the tag of the mount: %q", token.ID, request.Description)
		return
	}
	if record, ok := w.facts.now.records[accessor]; ok && record.Role == "limited" {
		w.checkLimit(r, record)
	}
	record, ok := w.facts.now.records[accessor]
	if !ok && !w.facts.restoredAt.IsZero() {
		w.facts.lost[accessor] = "its record was lost in a restore"
	}
	if most := w.longest(record.Role) + leaseMargin + time.Second; most > leaseMargin+time.Second && request.ExpiresAt.Sub(record.IssuedAt) > most && w.facts.clocksJumped.IsZero() {
		w.violate("F", "a token of role %s lives %s, at most %s are allowed", record.Role, request.ExpiresAt.Sub(record.IssuedAt), most)
	}
	if !request.ExpiresAt.IsZero() && !record.ExpiresAt.Equal(request.ExpiresAt) && !record.ExpiresAt.IsZero() {
		w.violate("F", "token %s expires at %s, its record says %s", token.ID, request.ExpiresAt, record.ExpiresAt)
	}
}

// revoked is called when an engine has revoked a valid token.
func (w *world) revoked(r remote, id string) {
	if who, ok := w.facts.foreign[id]; ok {
		w.violate("D", "%s has revoked a token of others: %s", r.from.name, who)
	}
	if c := w.facts.now.config; c != nil && c.RootID == id && w.clusterAt(c.Host) == r.cluster && r.cluster.hasSecret(id, c.Root) && w.facts.excused[id] == "" {
		w.violate("D", "%s has revoked the root credential in config, %s", r.from.name, id)
	}
	if w.facts.operatorRoots[id] != nil && !w.facts.rotatedFrom[id] {
		w.violate("D", "%s has revoked the root credential %s of an administrator, which no rotation has replaced", r.from.name, id)
	}
}

var tagPattern = regexp.MustCompile(`^\[vault:([0-9a-f]{12}):([A-Z2-7]{20,64})\]`)

// accessorOf returns the accessor in the description of a token of the mount.
func (w *world) accessorOf(description string) (string, bool) {
	found := tagPattern.FindStringSubmatch(description)
	if found == nil || found[1] != w.facts.tag {
		return "", false
	}
	return found[2], true
}

// check applies the checks that hold after every step.
func (w *world) check() {
	if !w.dirty || w.failure != nil || w.void != "" {
		return
	}
	w.dirty = false
	w.checkTokens()
	w.checkLeases()
	w.checkReaders()
	w.checkRoot()
	w.countInUse()
}

// checkTokens is check A: every valid token with the tag of the mount has a record.
func (w *world) checkTokens() {
	for _, c := range []*cluster{w.home, w.away} {
		for _, t := range []string{backend.Management, backend.Database} {
			for _, info := range c.types[t].Tokens() {
				if accessor, ok := w.accessorOf(info.Description); ok && !info.Dead(c.now()) {
					w.checkToken(c, info, accessor)
				}
			}
		}
	}
}

func (w *world) checkToken(c *cluster, info issuer.Info, accessor string) {
	r, ok := w.facts.now.records[accessor]
	config := w.facts.now.config
	switch {
	case !ok && w.facts.lost[accessor] != "":
	case config != nil && config.RootID == info.ID && w.clusterAt(config.Host) == c:
	case config != nil && config.RootAccessor == accessor:
	case !ok:
		w.violate("A", "token %s is valid and has no record", info.ID)
	case r.Deadline.IsZero():
		w.violate("A", "the record of token %s has no deadline", info.ID)
	case w.facts.outlived[accessor] && r.State != "revoking" && w.facts.restoredAt.IsZero():
		w.violate("A", "token %s is valid and its record is %s, but its lease has ended", info.ID, r.State)
	}
}

// checkLeases is check B for leases, and compares deadlines with leases.
func (w *world) checkLeases() {
	now := w.vaultTime()
	for _, l := range w.leases {
		r, ok := w.facts.now.records[l.field("accessor")]
		if ok && r.State == "active" && r.RevokeOn == "" && r.Deadline.After(r.ExpiresAt.Add(activeMargin)) {
			w.violate("A", "the deadline of %v is %s after the expiry of its token", l, r.Deadline.Sub(r.ExpiresAt))
		}
		if l.revoking || l.excused != "" || !now.Before(l.end) {
			continue
		}
		c, info := w.tokenOf(l)
		if info.ID == "" {
			w.violate("B", "the token of %v does not exist", l)
			continue
		}
		switch {
		case !info.Dead(c.now()):
		case !info.RevokedAt.IsZero():
			w.violate("B", "token %s of %v was revoked, but the lease is valid until %s", info.ID, l, w.clockText(l.end))
		case w.facts.clocksJumped.IsZero():
			w.violate("B", "token %s of %v has expired, but the lease is valid until %s", info.ID, l, w.clockText(l.end))
		}
	}
}

// tokenOf returns the token of a lease, and its cluster.
func (w *world) tokenOf(l *lease) (*cluster, issuer.Info) {
	for _, c := range []*cluster{w.home, w.away} {
		for _, fake := range c.types {
			for _, info := range fake.Tokens() {
				if info.ID == l.field("token_id") {
					return c, info
				}
			}
		}
	}
	return w.home, issuer.Info{}
}

// checkRevoked is check A at the moment at which Vault has released a lease.
func (w *world) checkRevoked(l *lease) {
	accessor := l.field("accessor")
	r, ok := w.facts.now.records[accessor]
	if ok && r.RevokeOn == "expiry" && r.State == "active" && !r.DetachedAt.IsZero() {
		w.reach("a token that outlives its lease by request")
		return
	}
	if ok && r.State == "revoking" {
		w.reach("a deferred revocation")
	}
	w.facts.outlived[accessor] = true
	w.dirty = true
}

// checkDeleted checks that a token is revoked after tokens/:accessor was deleted.
func (w *world) checkDeleted(r record) {
	w.facts.outlived[r.Accessor] = true
	w.dirty = true
}

// checkCredential is check F for an answer to creds/:role.
func (w *world) checkCredential(t *task, role string, requested time.Duration) {
	s := t.resp.Secret
	w.facts.secrets[t.resp.Data["token"].(string)] = leasedToken
	if requested > 0 && s.TTL > requested {
		w.violate("F", "a lease of %s was requested, the answer has %s", requested, s.TTL)
	}
	if s.MaxTTL < s.TTL {
		w.violate("F", "the answer has a TTL of %s and a maximum of %s", s.TTL, s.MaxTTL)
	}
	expires, err := time.Parse(time.RFC3339, t.resp.Data["expires_at"].(string))
	if err != nil {
		w.violate("F", "expires_at: %v", err)
		return
	}
	if end := t.from.now().Add(s.MaxTTL); end.After(expires) && w.facts.clocksJumped.IsZero() {
		w.violate("F", "a lease of role %s may last until %s, its token expires at %s", role, w.clockText(end), w.clockText(expires))
	}
}

// longest is the longest life of a lease of a role.
func (w *world) longest(role string) time.Duration {
	for _, r := range roles {
		if r.name == role {
			d, err := time.ParseDuration(r.data["max_ttl"].(string))
			if err != nil {
				panic(err)
			}
			return d
		}
	}
	return 0
}

// checkRenewal is check F after a renewal, which was begun at a time of the world and
// was answered at now on the clock of Vault.
func (w *world) checkRenewal(l *lease, increment time.Duration, begun, now time.Time) {
	expires, err := time.Parse(time.RFC3339, l.field("expires_at"))
	if err != nil {
		panic(err)
	}
	if l.end.After(expires) && w.facts.clocksJumped.IsZero() {
		w.violate("F", "%v was renewed until %s, its token expires at %s", l, w.clockText(l.end), w.clockText(expires))
	}
	if changed, ok := w.facts.roleChanged[l.role]; ok && !changed.Before(begun) {
		return // the renewal may have read the role before
	}
	role := struct {
		TTL int64 `json:"ttl"`
	}{}
	if value, ok := w.store.data["role/"+l.role]; ok {
		mustDecode("role", value, &role)
	}
	wanted := min(time.Duration(role.TTL)*time.Second, expires.Add(-leaseMargin).Sub(now))
	if increment > 0 {
		wanted = min(wanted, increment)
	}
	_, batch := w.batch[l.parent]
	if granted := l.end.Sub(now); granted < wanted-w.time().Sub(begun)-allowedSkew && !batch && w.facts.clocksJumped.IsZero() {
		w.violate("F", "%v was renewed by %s, possible was %s", l, granted, wanted)
	}
	if increment > 0 && l.end.Sub(now) > increment+tolerance {
		w.violate("F", "%v was renewed by %s, requested was %s", l, l.end.Sub(now), increment)
	}
}

// checkRenewalRefused checks that a renewal is refused for a reason.
func (w *world) checkRenewalRefused(l *lease, t *task) {
	expires, err := time.Parse(time.RFC3339, l.field("expires_at"))
	if err != nil {
		panic(err)
	}
	late := w.vaultTime().After(expires.Add(-leaseMargin - tolerance))
	if !late && strings.Contains(t.err.Error(), "nothing is left to renew") {
		w.violate("F", "the renewal of %v was refused %s before the end of its token: %v", l, expires.Sub(w.vaultTime()), t.err)
	}
	if strings.Contains(t.err.Error(), "clock of this node was changed") && w.facts.clocksJumped.IsZero() && w.time().Sub(t.begun) < time.Minute {
		w.violate("F", "the renewal of %v was refused although no clock has jumped: %v", l, t.err)
	}
}

// leasedToken is what the token of a lease is.
const leasedToken = "the token of a lease"

// limitsSince returns the smallest and the largest limit since a time.
func (f *facts) limitsSince(t time.Time) (least, most int) {
	least = 1 << 30
	for i, change := range f.limits {
		if i+1 < len(f.limits) && f.limits[i+1].at.Before(t) {
			continue
		}
		least, most = min(least, change.n), max(most, change.n)
	}
	return least, most
}

// checkLimit is check F when a cluster has created a token of the role limited.
func (w *world) checkLimit(r remote, created record) {
	if !w.facts.restoredAt.IsZero() {
		return
	}
	valid, absent := 0, 0
	for _, fake := range r.cluster.types {
		for _, info := range fake.Tokens() {
			accessor, ok := w.accessorOf(info.Description)
			if !ok || info.Dead(r.cluster.now()) {
				continue
			}
			switch other := w.facts.now.records[accessor]; {
			case other.Role != "limited" || other.Fingerprint != created.Fingerprint:
			case other.Absences > 0 || w.facts.excusedAll[accessor] != "":
				absent++
			default:
				valid++
			}
		}
	}
	if _, most := w.facts.limitsSince(created.IssuedAt.Add(-2 * requestTime)); valid > most && w.facts.clocksJumped.IsZero() {
		w.violate("F", "role limited has %d valid tokens, max_active is %d", valid, most)
	}
}

// inUse counts what max_active of a role counts, and the requests that may have
// taken a place.
func (w *world) inUse(role string) int {
	n := 0
	for _, r := range w.facts.now.records {
		elsewhere := w.facts.now.config != nil && r.Fingerprint != w.facts.now.config.Fingerprint
		if r.Role == role && r.Absences == 0 && !elsewhere {
			n++
		}
	}
	for _, t := range w.tasks {
		if !t.done && strings.HasSuffix(t.name, "creds/"+role) && strings.HasPrefix(t.name, "read") {
			n++
		}
	}
	return n
}

func (w *world) countInUse() {
	n := w.inUse("limited")
	for _, t := range w.tasks {
		t.highest = max(t.highest, n)
	}
}

// checkRefusal is check F for a request that max_active has refused.
func (w *world) checkRefusal(t *task, role string) {
	if role != "limited" || !strings.Contains(t.err.Error(), "max_active is reached") {
		return
	}
	w.reach("a request that max_active refuses")
	if w.facts.storageFailed.After(t.begun.Add(-placeKept)) {
		return // a record that may be stored keeps its place until the engine knows
	}
	if least, _ := w.facts.limitsSince(t.begun); max(t.highest, w.inUse(role)) < least {
		w.violate("F", "max_active, %d, was said to be reached, but at most %d tokens counted", least, t.highest)
	}
}

// checkStaticRead is check B for the answer to a read of a static role.
func (w *world) checkStaticRead(t *task, role string) {
	if t.err != nil {
		return
	}
	w.reach("a read of a static role")
	secret := t.resp.Data["token"].(string)
	c := w.clusterAt(t.resp.Data["host"].(string))
	if c == nil || t.from.view.stale != nil {
		return // a standby may answer what was true before
	}
	ttl := t.resp.Data["ttl"].(int)
	if ttl <= 0 {
		w.violate("F", "a read of static role %s has a ttl of %d", role, ttl)
	}
	w.facts.readers = append(w.facts.readers, &reader{
		role: role, tokenID: t.resp.Data["token_id"].(string), secret: issuer.NewSecret(secret), cluster: c,
		until: w.time().Add(time.Duration(ttl) * time.Second),
	})
	w.dirty = true
}

// isCurrent reports whether the token of a record is certainly the current one of a
// static role: none is staged that may have taken its place.
func (w *world) isCurrent(r record) bool {
	name, ok := strings.CutPrefix(r.Role, "-static-")
	value := w.store.data[staticPrefix+name]
	if !ok || value == nil || !w.facts.restoredAt.IsZero() {
		return false
	}
	entry := staticEntry{}
	mustDecode("static-creds", value, &entry)
	return entry.Current != nil && entry.Current.Accessor == r.Accessor && entry.Next == nil
}

// A staticEntry is what the storage holds about the tokens of a static role.
type staticEntry struct {
	Current *struct {
		Accessor string `json:"accessor"`
		TokenID  string `json:"token_id"`
	} `json:"current"`
	Next *struct{} `json:"next"`
}

// observeStatic remembers in which order the tokens of a static role were current.
func (f *facts) observeStatic(w *world, name string) {
	entry := staticEntry{}
	if value := w.store.data[staticPrefix+name]; value != nil {
		mustDecode("static-creds", value, &entry)
	}
	if entry.Current != nil && !slices.Contains(f.wasCurrent[name], entry.Current.TokenID) {
		f.wasCurrent[name] = append(f.wasCurrent[name], entry.Current.TokenID)
	}
}

// isOlder reports whether a token of a static role was current before the previous
// one. A change ends such a token at once.
func (f *facts) isOlder(name, tokenID string) bool {
	i := slices.Index(f.wasCurrent[name], tokenID)
	return i >= 0 && i < len(f.wasCurrent[name])-2
}

// A staticChange is a request that changes the token of a static role. While it
// runs, nobody knows which token a read returns.
type staticChange struct {
	role  string
	force bool // the previous token is revoked at once
	until time.Time
}

// change remembers a request that changes the token of a static role. Soon after
// another one, it ends the token from before that at once.
func (w *world) change(role string, force bool) {
	for _, c := range w.facts.changes {
		force = force || c.role == role
	}
	w.facts.changes = append(w.facts.changes, staticChange{role, force, w.time().Add(requestTime + longestGrace)})
	w.dirty = true
}

// applyChanges shortens the time for which readers may use their tokens.
func (f *facts) applyChanges(now time.Time) {
	f.changes = slices.DeleteFunc(f.changes, func(c staticChange) bool { return c.until.Before(now) })
	for _, c := range f.changes {
		f.readers = slices.DeleteFunc(f.readers, func(r *reader) bool { return r.role == c.role && (c.force || f.isOlder(r.role, r.tokenID)) })
		for _, r := range f.readers {
			if r.role == c.role && r.until.After(now.Add(gracePeriod)) {
				r.until = now.Add(gracePeriod)
			}
		}
	}
}

// changes reports whether a request that changes a static role is running.
func (w *world) changes(role string) bool {
	return slices.ContainsFunc(w.tasks, func(t *task) bool {
		return strings.HasSuffix(t.name, " rotate-role/"+role) || strings.HasSuffix(t.name, " static-roles/"+role)
	})
}

// checkReaders is check B for the tokens of static roles.
func (w *world) checkReaders() {
	now := w.time()
	for i, c := range w.facts.changes {
		if w.changes(c.role) { // for longer than planned, in a process that was stopped
			w.facts.changes[i].until = now.Add(longestGrace)
		}
	}
	w.facts.applyChanges(now)
	w.facts.readers = slices.DeleteFunc(w.facts.readers, func(r *reader) bool {
		return !now.Before(r.until.Add(-time.Second)) || // a ttl is rounded up
			w.facts.excused[r.tokenID] != "" || !w.facts.restoredAt.IsZero() || !w.facts.clocksJumped.IsZero()
	})
	for _, r := range w.facts.readers {
		alive := false
		for _, fake := range r.cluster.types {
			alive = alive || fake.Alive(r.secret)
		}
		if !alive {
			w.violate("B", "token %s of static role %s is not valid, but its reader may use it until %s", r.tokenID, r.role, w.clockText(r.until))
		}
	}
}

// checkRoot is check D for the root credential in config: it is valid unless
// somebody has written one that is not.
func (w *world) checkRoot() {
	c := w.facts.now.config
	if c == nil || c.RootID == "" || w.facts.excused[c.RootID] != "" || !w.facts.restoredAt.IsZero() {
		return
	}
	at := w.clusterAt(c.Host)
	if at == nil {
		return
	}
	for _, info := range at.types[backend.Management].Tokens() {
		if info.ID == c.RootID && info.Matches(issuer.NewSecret(c.Root)) && !info.RevokedAt.IsZero() {
			w.violate("D", "the root credential in config, %s, is revoked", c.RootID)
		}
	}
}

// checkRotated checks the answer to config/rotate-root: the root credential that it
// names was in config while the request ran.
func (w *world) checkRotated(t *task, asked int) {
	if t.err != nil || t.resp.Data["state"] != "rotated" {
		return
	}
	w.reach("a rotation")
	id := w.rootField(t.resp.Data)
	if !slices.Contains(w.facts.rootHistory[asked:], id) && w.facts.restoredAt.IsZero() {
		w.violate("F", "rotate-root has answered %s, which was not the root credential at any time", id)
	}
}

func (w *world) rootField(data map[string]any) string {
	for _, name := range []string{"mgmt_token_id", "admin_token_id"} {
		if id, ok := data[name].(string); ok {
			return id
		}
	}
	return ""
}

// restored excuses what a restore from a backup makes impossible to keep: the engine
// cannot know what was lost.
func (f *facts) restored(w *world) {
	f.now = w.store.read()
	f.restoredAt = w.time()
	f.observeLimit(w)
	f.readers = nil
	for _, c := range []*cluster{w.home, w.away} {
		for _, fake := range c.types {
			for _, info := range fake.Tokens() {
				if accessor, ok := w.accessorOf(info.Description); ok {
					f.excusedAll[accessor], f.lost[accessor] = "there was a restore", "there was a restore"
					f.excused[info.ID] = "there was a restore"
				}
			}
		}
	}
	for _, l := range w.leases {
		l.excused = "there was a restore"
	}
}

// checkSecrets is check C for what is written.
func (w *world) checkSecrets() {
	texts := map[string]string{"the log": w.log.String()}
	var events strings.Builder
	for _, e := range w.events.Events {
		events.WriteString(e.Event.String())
	}
	texts["an event"] = events.String()
	for key, value := range w.store.data {
		if strings.HasPrefix(key, ledgerPrefix) {
			texts[key] = string(value)
		}
	}
	for secret, what := range w.facts.secrets {
		for where, text := range texts {
			if strings.Contains(text, secret) {
				w.violate("C", "%s is in %s", what, where)
			}
		}
	}
}

// end ends all faults and leases, and applies check E.
func (w *world) end() {
	w.heal()
	w.release("admins", "fleet")
	w.pass(drainTime, true)
	if !w.facts.clocksJumped.IsZero() {
		w.pass(longestJump, true)
	}
	if w.failure != nil {
		return
	}
	w.checkDrained(false)
	w.pass(absenceTime, true)
	w.checkDrained(true)
	w.checkSecrets()
}

// release ends the leases and deletes static roles, so that no token is needed any more.
func (w *world) release(staticRoles ...string) {
	for _, l := range w.leases {
		l.revoking, l.next = true, w.vaultTime()
	}
	for _, name := range staticRoles {
		w.change(name, true)
		w.request(w.active, logical.DeleteOperation, "static-roles/"+name, nil, nil)
	}
}

// heal ends all faults, and lets an administrator repair what only an administrator
// can.
func (w *world) heal() {
	for _, f := range w.faults {
		f.end()
	}
	w.faults = nil
	if !w.facts.clocksJumped.IsZero() {
		w.facts.clocksJumped = w.time() // once more
	}
	w.mu.Lock()
	w.skew = [2]time.Duration{}
	w.mu.Unlock()
	for w.active.paused || slices.ContainsFunc(w.others, func(i *instance) bool { return i.paused }) {
		w.active.paused = false
		for _, i := range w.others {
			i.paused = false
		}
		w.turn()
	}
	w.drain()
	for _, i := range w.others {
		if !i.ended && !i.retired {
			w.retire(i)
		}
	}
	for _, value := range w.store.data {
		if r := (record{}); strings.Contains(string(value), `"version":2`) {
			mustDecode("record", value, &r)
			w.newerRecords()
			break
		}
	}
	w.pass(2*time.Minute, true)
	for range 3 {
		w.repairConfig()
		w.pass(3*time.Minute, true)
	}
	if !w.configWorks() && w.failure == nil {
		w.violate("E", "an administrator cannot repair the config")
	}
}

// checkDrained is check E. Before a day has passed, the ledger may hold tokens of
// which it is not known whether they exist.
func (w *world) checkDrained(all bool) {
	if w.failure != nil {
		return
	}
	for _, l := range w.leases {
		if !l.excusedIrrevocable(w) {
			w.violate("E", "%v is still there, irrevocable %v", l, l.irrevocable)
		}
	}
	if r := w.facts.now.rotation; r != nil && w.vaultTime().Sub(r.StartedAt) > 2*time.Hour && w.facts.clocksJumped.IsZero() {
		w.violate("E", "the rotation to %s has been under way since %s", r.TokenID, w.clockText(r.StartedAt))
	}
	for _, accessor := range slices.Sorted(maps.Keys(w.facts.now.records)) {
		r := w.facts.now.records[accessor]
		unknown := r.TokenID == "" || r.Absences > 0
		elsewhere := w.facts.now.config == nil || r.Fingerprint != w.facts.now.config.Fingerprint
		overlap := r.Role == "-root" && r.Attempts == 0 && r.Deadline.Add(5*tickInterval).After(w.vaultTime())
		if elsewhere || overlap || !all && unknown || r.RevokeOn == "expiry" && !all {
			continue
		}
		w.violate("E", "the ledger still holds %s of role %s, %s, %d attempts, %d absences", r.Accessor, r.Role, r.State, r.Attempts, r.Absences)
	}
}

// excusedIrrevocable reports whether a lease may be irrevocable: Vault's own storage
// failed, or there were records that the engine must not change.
func (l *lease) excusedIrrevocable(w *world) bool {
	return l.irrevocable && (!w.facts.storageFailed.IsZero() || w.facts.newer || !w.facts.movedAt.IsZero() || !w.facts.restoredAt.IsZero())
}
