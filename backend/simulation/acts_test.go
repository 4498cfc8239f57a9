//go:build !race

package simulation

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// An act is something that somebody does. Most acts only send a request; its
// answer comes later.
type act struct {
	name   string
	weight int // how often, compared with the others
	do     func(*world)
}

// acts are everything that can be done. They are in a fixed order: a seed chooses
// by number.
var acts []act

func init() { //nolint:gochecknoinits // the acts refer to the list by way of the walk
	acts = []act{
		{"time", 30, (*world).letTimePass},
		{"read", 16, (*world).readSome},
		{"renew", 5, (*world).renewSome},
		{"revoke", 5, (*world).revokeSome},
		{"parent", 2, (*world).endParent},
		{"prefix", 1, (*world).revokePrefix},
		{"hang up", 2, (*world).hangUp},
		{"role", 2, (*world).writeRole},
		{"config", 3, (*world).writeConfig},
		{"hostile", 2, (*world).writeHostileConfig},
		{"move", 1, (*world).moveConfig},
		{"leave", 2, (*world).leaveUnused},
		{"repair", 2, (*world).repairConfig},
		{"rotate root", 5, (*world).rotateRoot},
		{"static role", 2, (*world).writeStaticRole},
		{"static read", 5, (*world).readStatic},
		{"rotate role", 3, (*world).rotateRole},
		{"tidy", 2, (*world).tidy},
		{"look at tokens", 2, (*world).lookAtTokens},
		{"delete token", 2, (*world).deleteToken},
		{"check", 1, (*world).configCheck},
		{"standby", 2, (*world).useStandby},
		{"fault", 6, (*world).lastingFault},
		{"crash plugin", 2, (*world).crashPlugin},
		{"crash node", 1, (*world).crashNode},
		{"step down", 1, (*world).stepDown},
		{"pause", 3, (*world).pause},
		{"kill", 1, (*world).kill},
		{"newer records", 1, (*world).newerRecords},
		{"backup", 1, (*world).takeBackup},
		{"restore", 1, (*world).restoreBackup},
		{"remount", 1, (*world).remount},
	}
}

// act does one act.
func (w *world) act() {
	a := acts[w.choice.weighted(w.profile.weights)]
	if w.active.paused && !slices.Contains([]string{"time", "pause", "fault", "kill", "standby", "hang up"}, a.name) {
		w.pause()
		return
	}
	w.tracef("act: %s", a.name)
	a.do(w)
}

func (w *world) letTimePass() {
	calm := w.profile.interleave == 0 || w.choice.n(4) > 0
	w.pass(w.choice.between(0, pick(w.choice, 10*time.Second, 2*time.Minute, 15*time.Minute, time.Hour)), calm)
}

// The roles of the model.
var roles = []struct {
	name string
	data map[string]any
}{
	{"short", map[string]any{"ttl": "10m", "max_ttl": "30m"}},
	{"limited", map[string]any{"ttl": "20m", "max_ttl": "1h", "max_active": 3}},
	{"long", map[string]any{"ttl": "1h", "max_ttl": "4h"}},
	{"keeps", map[string]any{"ttl": "10m", "max_ttl": "25m", "revoke_on": "expiry"}},
	{"data", map[string]any{"ttl": "15m", "max_ttl": "1h", "token_type": "database", "write_databases": "metrics"}},
}

func (w *world) roleNames() (names []string) {
	for _, r := range roles {
		if r.data["token_type"] == nil || w.product != issuer.Core {
			names = append(names, r.name)
		}
	}
	return names
}

// setUp writes the config and the roles.
func (w *world) setUp() {
	w.request(w.active, logical.ReadOperation, "status", nil, func(t *task) { w.facts.tag = t.resp.Data["mount_tag"].(string) })
	w.drain()
	root := w.newRoot()
	data := w.configData(homeHost, root)
	w.facts.allow(root.Secret.Reveal(), homeHost)
	w.must("config", data)
	for _, r := range roles {
		if r.data["token_type"] == nil || w.product != issuer.Core {
			w.must("roles/"+r.name, maps.Clone(r.data))
		}
	}
	for _, c := range []*cluster{w.home, w.away} {
		for _, desc := range []string{"somebody's own", "[vault:0123456789ab:AAAAAAAAAAAAAAAAAAAAAAAAAA] another mount's"} {
			for _, t := range []string{backend.Management, backend.Database} {
				token := c.types[t].Add(desc+" "+t, time.Time{})
				w.facts.foreign[token.ID] = fmt.Sprintf("%q at %s", desc, c.name)
			}
		}
	}
	if w.profile.reader {
		w.reader = w.start(1, true)
	}
}

// must writes something that succeeds, before the walk begins.
func (w *world) must(path string, data map[string]any) {
	t := w.request(w.active, logical.UpdateOperation, path, data, nil)
	for range 1000 {
		if t.done {
			break
		}
		w.drain()
		w.pass(time.Second, true)
	}
	if !t.done || t.err != nil {
		panic(fmt.Sprintf("write %s: %v", path, t.err))
	}
}

// newRoot creates a root credential outside of Vault.
func (w *world) newRoot() issuer.Token { return w.newRootAt(w.home) }

func (w *world) newRootAt(c *cluster) issuer.Token {
	w.facts.roots++
	expires := time.Time{}
	if w.choice.n(3) > 0 {
		expires = c.now().Add(time.Duration(30+w.choice.n(60)) * 24 * time.Hour).Truncate(time.Second)
	}
	token := c.types[backend.Management].Add(fmt.Sprintf("root credential %d of an administrator", w.facts.roots), expires)
	w.facts.operatorRoots[token.ID] = c
	return token
}

// configData is a complete config.
func (w *world) configData(host string, root issuer.Token) map[string]any {
	data := map[string]any{"product": w.product, "host": host}
	w.setRoot(data, root.Secret.Reveal())
	return data
}

func (w *world) setRoot(data map[string]any, secret string) {
	name := "admin_token"
	if w.product == issuer.Clustered {
		name = "mgmt_token"
	}
	data[name] = secret
}

// sendConfig writes a config. Whoever writes a secret chooses its place.
func (w *world) sendConfig(data map[string]any) {
	for _, name := range []string{"admin_token", "mgmt_token"} {
		secret, ok := data[name].(string)
		if !ok {
			continue
		}
		host, _ := data["host"].(string)
		api, _ := data["api_url"].(string)
		if c := w.facts.now.config; c != nil {
			host, api = cmp.Or(host, c.Host), cmp.Or(api, c.APIURL)
		}
		w.facts.allowConfig(&config{Host: host, APIURL: api, Root: secret})
		w.facts.pending = append(w.facts.pending, pendingSecret{secret, w.time().Add(2 * requestTime)})
	}
	if data["force"] == true {
		w.facts.forcedUntil = w.time().Add(requestTime)
	}
	w.request(w.active, logical.UpdateOperation, "config", data, func(*task) {})
}

// writeConfig changes settings, or replaces the root credential.
func (w *world) writeConfig() {
	data := map[string]any{}
	switch w.choice.n(5) {
	case 0:
		data["rotation_period"] = pick(w.choice, "1h", "2h", "0", "24h")
	case 1:
		data["rotation_overlap"] = pick(w.choice, "0", "10s", "10m")
	case 2:
		data["request_timeout"] = pick(w.choice, "10s", "30s")
		data["verify"] = w.choice.n(2) == 1
	case 3:
		w.setRoot(data, w.newRoot().Secret.Reveal())
		data["verify"] = w.choice.n(3) > 0
	case 4: // a root credential that is a token of the engine
		if len(w.leases) > 0 {
			w.setRoot(data, w.leases[w.choice.n(len(w.leases))].field("token"))
			w.reach("a leased token as the root credential")
		}
	}
	w.sendConfig(data)
}

// writeHostileConfig is what somebody writes who may write the config and wants the
// root credential, or wants to do damage.
func (w *world) writeHostileConfig() {
	data := map[string]any{"verify": w.choice.n(4) == 3}
	how := w.choice.n(6)
	switch how {
	case 0, 1, 2:
		data["host"], data["same_cluster"] = evilHost, true
	case 3:
		if w.product == issuer.Clustered {
			data["api_url"] = "https://" + evilHost
		}
	case 4:
		data["host"] = evilHost
	case 5:
		if w.product == issuer.Clustered {
			foreign := slices.Sorted(maps.Keys(w.facts.foreign))
			data["mgmt_token_id"] = foreign[w.choice.n(len(foreign))]
		}
	}
	if how < 4 && w.choice.n(3) > 0 {
		w.setRoot(data, "M.V1.bogus")
		if w.product == issuer.Clustered {
			data["mgmt_token_id"] = w.rootID()
		} else {
			w.setRoot(data, "apiv3_bogus")
		}
	}
	w.reach("a hostile config")
	w.sendConfig(data)
}

// moveConfig gives the cluster another name, moves the mount to another cluster, or
// deletes the config.
func (w *world) moveConfig() {
	switch w.choice.n(4) {
	case 0:
		data := w.configData(aliasHost, w.newRoot())
		data["same_cluster"] = w.choice.n(4) > 0
		w.sendConfig(data)
	case 1:
		data := w.configData(awayHost, w.newRootAt(w.away))
		data["force"] = w.choice.n(2) == 1
		w.reach("a move to another cluster")
		w.sendConfig(data)
	case 2:
		force := w.choice.n(3) == 2
		if force {
			w.facts.forcedUntil = w.time().Add(requestTime)
		}
		w.request(w.active, logical.DeleteOperation, "config", map[string]any{"force": force}, func(*task) {})
	case 3:
		w.repairConfig()
	}
}

// leaveUnused moves a mount that has no tokens, while somebody reads a credential.
func (w *world) leaveUnused() {
	if len(w.facts.now.records) > 0 || len(w.leases) > 0 {
		return
	}
	w.reach("a move while a credential is read")
	w.sendConfig(w.configData(awayHost, w.newRootAt(w.away)))
	for range w.choice.n(12) { // the read may begin shortly before the move is stored
		if open := w.waiting(); len(open) > 0 && w.failure == nil {
			w.open(open[0], false)
			w.check()
		}
	}
	w.readSome()
}

// repairConfig writes a config for the home cluster with a new root credential, if
// the present one does not work.
func (w *world) repairConfig() {
	if w.configWorks() {
		return
	}
	data := w.configData(homeHost, w.newRoot())
	data["force"] = true
	if w.product == issuer.Clustered {
		data["api_url"] = ""
	}
	w.sendConfig(data)
}

// configWorks reports whether the config names the home cluster and has a valid
// root credential.
func (w *world) configWorks() bool {
	c := w.facts.now.config
	return c != nil && w.clusterAt(c.Host) == w.home && c.APIURL == "" &&
		w.facts.secrets[c.Root] != leasedToken && w.home.types[backend.Management].Alive(issuer.NewSecret(c.Root))
}

func (w *world) rootID() string {
	if c := w.facts.now.config; c != nil {
		return c.RootID
	}
	return ""
}

func (w *world) isNextRoot(id string) bool {
	r := w.facts.now.rotation
	return r != nil && r.TokenID == id
}

func (w *world) readSome() {
	names := w.roleNames()
	role := names[w.choice.n(len(names))]
	ttl := pick(w.choice, 0, 0, time.Minute, 5*time.Minute, 2*time.Hour)
	parent := w.choice.n(6)
	if parent == 5 { // a batch token, which ends soon
		w.batch[1000+w.leaseIDs] = w.vaultTime().Add(w.choice.between(10*time.Second, 20*time.Minute))
		parent = 1000 + w.leaseIDs
	}
	w.read(role, ttl, parent)
	for range w.choice.n(3) { // a crowd
		w.read(role, ttl, parent)
	}
}

func (w *world) someLease() *lease {
	if len(w.leases) == 0 {
		return nil
	}
	return w.leases[w.choice.n(len(w.leases))]
}

func (w *world) renewSome() {
	if l := w.someLease(); l != nil && !l.revoking && w.vaultTime().Before(l.end) {
		w.renew(w.active, l, pick(w.choice, 0, 0, 30*time.Second, 10*time.Minute, 24*time.Hour))
	}
}

func (w *world) revokeSome() {
	l := w.someLease()
	if l == nil || l.running != nil {
		return
	}
	switch w.choice.n(3) {
	case 0:
		w.lazyRevoke(l)
	case 1:
		w.revoke(l, nil)
	case 2:
		if w.choice.n(4) == 3 {
			w.reach("a forced revocation")
			w.revoke(l, func(error) bool { return true })
		}
	}
}

// endParent ends a Vault token, and with it its leases.
func (w *world) endParent() {
	parent := w.choice.n(5)
	for _, l := range w.leases {
		if l.parent == parent {
			w.lazyRevoke(l)
		}
	}
}

func (w *world) revokePrefix() {
	names := w.roleNames()
	role := names[w.choice.n(len(names))]
	for _, l := range w.leases {
		if l.role == role {
			w.lazyRevoke(l)
		}
	}
}

// hangUp lets a caller disconnect.
func (w *world) hangUp() {
	if len(w.tasks) == 0 {
		return
	}
	t := w.tasks[w.choice.n(len(w.tasks))]
	if t.cancel == nil || strings.HasPrefix(t.name, "rollback") {
		return
	}
	w.tracef("the caller of %s disconnects", t.name)
	w.reach("a caller who disconnects")
	t.cancel()
	w.turn()
}

func (w *world) writeRole() {
	names := w.roleNames()
	role := names[w.choice.n(len(names))]
	if role == "limited" {
		n := 1 + w.choice.n(4)
		w.request(w.active, logical.UpdateOperation, "roles/limited", map[string]any{"max_active": n}, func(*task) {})
		return
	}
	if w.choice.n(3) == 0 {
		w.request(w.active, logical.DeleteOperation, "roles/"+role, nil, func(*task) {})
		return
	}
	data := maps.Clone(roles[slices.IndexFunc(roles, func(r struct {
		name string
		data map[string]any
	}) bool {
		return r.name == role
	})].data)
	data["ttl"] = pick(w.choice, data["ttl"], "1m", "7m")
	w.request(w.active, logical.UpdateOperation, "roles/"+role, data, func(*task) {})
}

func (w *world) rotateRoot() {
	w.facts.rotations++
	asked := len(w.facts.rootHistory)
	again := 1
	if w.choice.n(4) == 3 {
		again = 2
	}
	for range again {
		w.request(w.active, logical.UpdateOperation, "config/rotate-root", nil, func(t *task) { w.checkRotated(t, max(asked-1, 0)) })
	}
}

// staticRoles are the static roles of the model.
func (w *world) staticRole() (string, map[string]any) {
	if w.product == issuer.Core || w.choice.n(2) == 1 {
		return "admins", map[string]any{"token_type": "management", "rotation_period": "20m", "rotation_grace_period": "3m"}
	}
	return "fleet", map[string]any{"write_databases": "metrics", "rotation_period": "30m"}
}

func (w *world) writeStaticRole() {
	name, data := w.staticRole()
	switch w.choice.n(6) {
	case 4:
		w.change(name, true)
		w.request(w.active, logical.DeleteOperation, "static-roles/"+name, nil, func(*task) {})
		return
	case 5:
		data["rotation_period"] = pick(w.choice, "15m", "40m")
		data["description"] = "another {{.RoleName}}"
	case 3:
		data["disable_automated_rotation"] = w.choice.n(2) == 1
	}
	w.change(name, false)
	w.request(w.active, logical.UpdateOperation, "static-roles/"+name, data, func(*task) {})
}

func (w *world) rotateRole() {
	name, _ := w.staticRole()
	force := w.choice.n(3) == 2
	w.change(name, force)
	w.request(w.active, logical.UpdateOperation, "rotate-role/"+name, map[string]any{"force": force}, func(*task) {})
}

func (w *world) readStatic() {
	i := w.active
	if w.reader != nil && w.choice.n(2) == 1 {
		i = w.reader
	}
	w.readStaticFrom(i)
}

func (w *world) readStaticFrom(i *instance) {
	name, _ := w.staticRole()
	w.request(i, logical.ReadOperation, "static-creds/"+name, nil, func(t *task) { w.checkStaticRead(t, name) })
}

func (w *world) tidy() {
	data := map[string]any{"dry_run": w.choice.n(4) == 3}
	if w.choice.n(2) == 1 {
		data["revoke_unknown"] = w.facts.tag
	}
	if w.product != issuer.Core && w.choice.n(3) == 2 {
		data["token_type"] = "database"
	}
	w.request(w.active, logical.UpdateOperation, "tidy", data, func(*task) {})
}

// lookAtTokens lists the tokens and reads the records of some, or reads a record that
// is just being stored.
func (w *world) lookAtTokens() {
	for _, g := range w.waiting() {
		if accessor, ok := strings.CutPrefix(g.what, ledgerPrefix); ok && g.kind == "put" && !g.after && g.from == w.active {
			w.reach("a look at a record that is not stored yet")
			_, accessor, _ = strings.Cut(accessor, "/")
			w.request(w.active, logical.ReadOperation, "tokens/"+accessor, nil, func(*task) {})
			for _, read := range w.waiting() {
				if read.kind == "get" && read.what == g.what {
					w.open(read, false)
				}
			}
			if w.mayFail() && w.choice.n(2) == 1 { // so that nobody stores the record a second time
				w.home.flaky = 2
				w.beginFault("home fails sometimes", 2*time.Minute, func() { w.home.flaky = 0 })
			}
			return
		}
	}
	w.request(w.active, logical.ListOperation, "tokens/", nil, func(t *task) {
		if t.err != nil || t.resp == nil {
			return
		}
		keys, _ := t.resp.Data["keys"].([]string)
		for range 1 + w.choice.n(3) {
			if len(keys) > 0 {
				w.request(t.from, logical.ReadOperation, "tokens/"+keys[w.choice.n(len(keys))], nil, func(*task) {})
			}
		}
	})
}

// deleteToken revokes the token of a record.
func (w *world) deleteToken() {
	keys := slices.Sorted(maps.Keys(w.facts.now.records))
	if len(keys) == 0 {
		return
	}
	w.deleteRecord(w.facts.now.records[keys[w.choice.n(len(keys))]])
}

func (w *world) deleteRecord(r record) {
	if r.TokenID != "" {
		w.facts.excuse(w, r.TokenID, "somebody has deleted tokens/"+r.Accessor)
	}
	w.facts.excuseAccessor(w, r.Accessor, "somebody has deleted tokens/"+r.Accessor)
	current := w.isCurrent(r)
	w.request(w.active, logical.DeleteOperation, "tokens/"+r.Accessor, nil, func(t *task) {
		if t.err != nil {
			return
		}
		w.checkDeleted(r)
		if current && w.isCurrent(r) {
			w.violate("B", "the current token of a static role, %s, was revoked because its record was deleted", r.TokenID)
		}
	})
}

func (w *world) configCheck() {
	data := map[string]any{}
	if w.product != issuer.Core && w.choice.n(2) == 1 {
		data["token_type"] = "database"
	}
	w.request(w.active, logical.UpdateOperation, "config/check", data, func(*task) {})
}

// useStandby lets the standby see changes, and sends it requests that belong to the
// active node, as OpenBao before 2.6.2 does.
func (w *world) useStandby() {
	if w.reader == nil {
		if w.profile.reader && !w.active.paused {
			w.reader = w.start(1-w.active.node, true)
		}
		return
	}
	if l := w.someLease(); l != nil && w.choice.n(2) == 1 && l.running == nil {
		w.reach("a revocation or a renewal on a standby")
		secret := l.secret
		secret.IssueTime = l.issued
		op := pick(w.choice, logical.RevokeOperation, logical.RenewOperation)
		w.launch(&task{from: w.reader, finish: func(t *task) {
			if t.err == nil {
				w.violate("B", "a standby has answered to %s of %v", op, l)
			}
		}}, &logical.Request{Operation: op, Path: "creds/" + l.role, Secret: &secret, Data: l.data})
		return
	}
	for _, key := range w.reader.view.follow(w.reader.view.seen + w.choice.n(40)) {
		w.reader.backend.InvalidateKey(context.Background(), key)
	}
}

func (w *world) retireReader() {
	i := w.reader
	w.reader = nil
	w.retire(i)
	w.others = append(w.others, i)
}

// remount moves the mount to another path: Vault marks it as tainted, revokes its
// leases, and removes the mark.
func (w *world) remount() {
	if len(w.waiting()) > 0 {
		return
	}
	w.reach("a mount that is moved")
	w.tainted.Store(true)
	w.request(w.active, logical.RollbackOperation, "", nil, nil)
	for _, l := range slices.Clone(w.leases) {
		w.revoke(l, nil)
	}
	w.pass(2*time.Minute, true)
	w.tainted.Store(false)
	w.facts.movedAt = w.time()
}
