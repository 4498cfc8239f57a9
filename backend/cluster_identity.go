package backend

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// Some products send a UUID of their catalog with every answer. It is stored in
// config as soon as it is known, and the driver then rejects answers that have
// another one: a server that was replaced at the same address knows nothing about
// the tokens in the ledger.

// inspect asks the server at the new place what it is, if the product allows that,
// and stores its UUID in ch.new, where none must be set: whether the server is
// another cluster is decided by identify.
func (b *backend) inspect(ctx context.Context, ch *configChange) (warnings []string, err error) {
	server, can, err := b.issuerOf(ch.new, Management).Inspect(ctx)
	if err != nil || !can {
		return nil, err
	}
	ch.new.UUID, ch.inspected = server.UUID, true
	if server.Warning != "" {
		warnings = append(warnings, sentence(server.Warning))
	}
	return warnings, nil
}

// identify decides whether the cluster of a config stays the same, and sets the
// new fingerprint accordingly: the old one if it does. The UUID decides, where both
// are known. Otherwise the names do, unless the operator vouches for the cluster by
// same_cluster.
func (ch *configChange) identify(sameCluster bool) error {
	now, old := &ch.new, ch.old
	now.Fingerprint = now.currentFingerprint()
	if ch.before == nil {
		return nil
	}
	sameNames := now.Fingerprint == old.currentFingerprint()
	confirmed := ch.inspected && old.UUID != "" && strings.EqualFold(now.UUID, old.UUID)
	contradicted := ch.inspected && old.UUID != "" && !confirmed
	switch {
	case contradicted && sameCluster && now.UUID != "":
		return conflict("same_cluster cannot be true: the server has the cluster-uuid %s, the configured cluster has %s", now.UUID, old.UUID)
	case contradicted && !sameCluster:
		ch.replaced = sameNames
		if sameNames || now.Fingerprint == old.Fingerprint {
			now.Fingerprint = now.distinctFingerprint()
		}
	case confirmed, sameNames, sameCluster:
		now.Fingerprint = old.Fingerprint
		if !ch.inspected {
			now.UUID = old.UUID
		}
	case now.Fingerprint == old.Fingerprint: // a name that the configured cluster had before
		now.Fingerprint = now.distinctFingerprint()
	}
	return nil
}

// distinctFingerprint is the fingerprint of a cluster that has the name of another
// one, so that the records tell the two apart.
func (c config) distinctFingerprint() string {
	return c.currentFingerprint() + "/" + strings.ToLower(cmp.Or(c.UUID, newAccessor()))
}

// whyOther says how the engine knows that the server at the configured address is
// another cluster. It is empty if the address has changed.
func (ch *configChange) whyOther() string {
	switch {
	case !ch.replaced:
		return ""
	case ch.new.UUID == "":
		return fmt.Sprintf("the server at this address does not send the cluster-uuid %s of the configured cluster: it is another cluster, or an older version of the server; ", ch.old.UUID)
	}
	return fmt.Sprintf("the server at this address is another cluster: its cluster-uuid is %s and not %s; ", ch.new.UUID, ch.old.UUID)
}

// learnUUID stores the UUID of the cluster of c, which has just accepted the root
// credential of c, unless the config was changed meanwhile or has a UUID.
func (b *backend) learnUUID(ctx context.Context, c config, uuid string) {
	if b.storage == nil {
		return
	}
	ctx, cancel := storeContext(ctx)
	defer cancel()
	b.configMu.Lock()
	defer b.configMu.Unlock()
	stored, err := loadConfig(ctx, b.storage)
	if err != nil || stored.UUID != "" || stored.place() != c.place() || stored.Root != c.Root || stored.Fingerprint != c.Fingerprint {
		return
	}
	stored.UUID = uuid
	if err := putConfig(ctx, b.storage, stored); err != nil {
		b.Logger().Warn("the UUID of the cluster cannot be stored; trying again with the next answer", "error", err)
		return
	}
	b.Logger().Info("cluster identified", "cluster", c.Fingerprint, "uuid", uuid)
}

// learn stores the UUID that the cluster has sent, if none is known yet. It is
// called after a call that succeeded, which proves that the cluster knows the root
// credential.
func (g guardedIssuer) learn(ctx context.Context) {
	if g.config.UUID != "" {
		return
	}
	if reporter, ok := g.issuer.(issuer.UUIDReporter); ok {
		if uuid := reporter.ReportedUUID(); uuid != "" {
			g.b.learnUUID(ctx, g.config, uuid)
		}
	}
}

// Inspect asks the server what it is. The result says whether the product can be
// asked.
func (g guardedIssuer) Inspect(ctx context.Context) (server issuer.Server, can bool, err error) {
	if err := g.enter(); err != nil {
		return server, false, err
	}
	inspector, can := g.issuer.(issuer.Inspector)
	if !can {
		return server, false, nil
	}
	began := g.b.now()
	server, err = inspector.Inspect(ctx)
	g.record(callInspect, "inspect the cluster", err, began)
	return server, true, upstream("inspect the cluster", err)
}
