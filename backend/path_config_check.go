package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
)

const (
	// checkTTL is the life of the token that a check issues, if nothing can revoke
	// it.
	checkTTL = 10 * time.Minute

	// checkWait is how long a check waits for a list to show what was done.
	checkWait = 20 * time.Second

	// maxSkew is the difference between the clocks of Vault and the cluster from
	// which a check warns. The margin of a token's expiry must cover it.
	maxSkew = 10 * time.Second
)

func (b *backend) pathConfigCheck() *framework.Path {
	fields := map[string]*framework.FieldSchema{}
	for i, step := range checkSteps {
		fields[step.field(i)] = &framework.FieldSchema{Type: framework.TypeString, Required: true}
	}
	return &framework.Path{
		Pattern:      "config/check",
		DisplayAttrs: display("check", "configuration"),
		Fields:       map[string]*framework.FieldSchema{"token_type": typeField},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: operation(b.configCheck, "check", answers(http.StatusOK, fields)),
		},
		HelpSynopsis: "Prove the configuration step by step, by issuing a short-lived token and revoking it.",
		HelpDescription: `
    vault write -f influxdb/config/check
    vault write influxdb/config/check token_type=database

Checks influxctl (if the product and token type need it), lists the tokens of the
cluster, issues a token that expires in ten minutes, finds it by its tag, compares
the clocks, revokes the token, and checks that the list shows it as revoked. It
stops at the first step that fails, and says which one it is and what to do.

It is not documented whether a management token may issue others on every
cluster. This check finds out. The token of the check is in the ledger, so the
engine revokes it also if the check is interrupted.
`,
	}
}

// A check is one run of the steps.
type check struct {
	*backend
	storage   logical.Storage
	tokenType string
	config    config
	record    ledger.Record
	began     time.Time // of issuing the token
	revoked   bool      // the token is proved to be revoked
	resp      *logical.Response
}

func (k *check) client() guardedIssuer { return k.issuerOf(k.config, k.tokenType) }

// A checkStep proves one thing and returns what it found.
type checkStep struct {
	name   string
	prove  func(*check, context.Context) (string, error)
	advice string // if it fails
}

var checkSteps = []checkStep{
	{"program", (*check).program, "Register the plugin with -env=INFLUXCTL_PATH=… naming an executable influxctl of version 2.9.7 or later."},
	{"list", (*check).list, "Check host, port, TLS settings and the root credential (mgmt_token or admin_token) in config, and that the host of Vault reaches the cluster."},
	{"create", (*check).create, "The root credential can list tokens. If it may not create them, write one that may to config. If no token of this cluster may create others, this engine cannot be used with the cluster."},
	{"find", (*check).find, "The token was created, but the list does not show its description. The engine could not find a token again after a lost answer."},
	{"clock", (*check).clock, "Set the clocks of the hosts of Vault by NTP."},
	{"revoke", (*check).revoke, "The token expires in ten minutes. Until revocation works, leases do not end in time."},
	{"dead", (*check).dead, "The cluster accepted the revocation, but its list still shows the token as valid. Revocations take effect late on this cluster."},
}

// field returns the name of the step in the answer. Sorted by name, the steps are
// in their order.
func (s checkStep) field(i int) string { return fmt.Sprintf("step_%d_%s", i+1, s.name) }

// failure says which step failed, why, and what to do.
func (s checkStep) failure(i int, passed []string, cause error) error {
	before := "no step passed"
	if len(passed) > 0 {
		before = "passed: " + strings.Join(passed, ", ")
	}
	if !errors.Is(cause, issuer.ErrUnreachable) || !errors.Is(cause, issuer.ErrRefused) { // which says itself what to check
		cause = fmt.Errorf("%w. %s", cause, s.advice)
	}
	return &upstreamError{fmt.Sprintf("step %d of %d, %s, failed (%s)", i+1, len(checkSteps), s.name, before), cause}
}

func (b *backend) configCheck(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	tokenType, err := requestedType(d)
	if err != nil {
		return fail(err)
	}
	c, err := loadConfig(ctx, req.Storage)
	if err == nil {
		err = c.product().checkType(tokenType)
	}
	if err != nil {
		return fail(err)
	}
	k := &check{backend: b, storage: req.Storage, tokenType: tokenType, config: c, resp: &logical.Response{Data: map[string]any{}}}
	var passed []string
	for i, step := range checkSteps {
		saw, err := step.prove(k, ctx)
		if err != nil {
			k.cleanUp(ctx)
			b.Logger().Warn("config check failed", "step", step.name, "error", err)
			return fail(step.failure(i, passed, err))
		}
		k.resp.Data[step.field(i)] = "ok: " + saw
		passed = append(passed, step.name)
	}
	b.Logger().Info("config check passed")
	return k.resp, nil
}

func (k *check) program(ctx context.Context) (string, error) {
	driver, ok := k.drivers[k.config.Product][k.tokenType].(issuer.ProgramDriver)
	if !ok {
		return "not needed", nil
	}
	p, err := driver.Program(ctx)
	if err != nil {
		return "", err
	}
	if p.Warning != "" {
		k.resp.AddWarning(p.Warning)
	}
	return fmt.Sprintf("%s, version %s, sha256 %s", p.Path, p.Version, p.SHA256), nil
}

func (k *check) list(ctx context.Context) (string, error) {
	about, err := k.server(ctx)
	if err != nil {
		return "", err
	}
	n, valid := 0, 0
	err = k.client().List(ctx, func(info issuer.Info) error {
		n++
		if !info.Dead(k.now()) {
			valid++
		}
		return nil
	})
	return fmt.Sprintf("%s%s, %d of them valid", about, plural(n, "token"), valid), err
}

// server says which server the cluster is, if the product can be asked.
func (k *check) server(ctx context.Context) (string, error) {
	server, can, err := k.client().Inspect(ctx)
	if err != nil || !can {
		return "", err
	}
	if server.Warning != "" {
		k.resp.AddWarning(sentence(server.Warning))
	}
	about := strings.TrimSpace(k.config.product().title + " " + server.Version)
	if server.UUID != "" {
		about += ", cluster-uuid " + server.UUID
	}
	return about + ": ", nil
}

func (k *check) create(ctx context.Context) (string, error) {
	k.began = k.now()
	token, r, err := k.issue(ctx, k.storage, k.config, order{
		role: checkRole, tokenType: k.tokenType, text: "config/check", read: k.config.product().checkRead,
		expiresAt: ceilSecond(k.began.Add(checkTTL)).UTC(),
		hold: func(_ context.Context, _ issuer.Token, r *ledger.Record) error {
			r.LeaseEnd = k.now().Add(checkTTL)
			r.Deadline = r.LeaseEnd.Add(activeMargin)
			return nil
		},
	})
	if err != nil {
		return "", err
	}
	k.record = r
	return fmt.Sprintf("%s in %s", token.ID, k.now().Sub(k.began).Round(time.Millisecond)), nil
}

// find waits until the list shows the token.
func (k *check) find(ctx context.Context) (string, error) {
	info, err := k.await(ctx, func(info issuer.Info) bool { return info.ID == k.record.TokenID })
	if err == nil && !info.ExpiresAt.Equal(k.record.ExpiresAt) && !k.rightLife(info) {
		err = fmt.Errorf("the cluster says that the token expires at %s; requested was %s",
			timestampOrNever(info.ExpiresAt), timestamp(k.record.ExpiresAt))
	}
	return "by its tag " + k.tag.tag(k.record.Accessor), err
}

// rightLife reports whether the token lives as long as was asked, by the clock of
// the cluster. Some products are asked for a life in whole seconds, not for the time
// of the expiry.
func (k *check) rightLife(info issuer.Info) bool {
	life, answered := info.ExpiresAt.Sub(info.CreatedAt), k.record.LeaseEnd.Add(-checkTTL)
	shortest, longest := k.record.ExpiresAt.Sub(answered)-time.Second, k.record.ExpiresAt.Sub(k.began)+time.Second
	return !info.CreatedAt.IsZero() && shortest <= life && life <= longest
}

// clock compares the clocks of the cluster and of Vault. A difference is a warning
// only: leases end by the clock of Vault.
func (k *check) clock(ctx context.Context) (string, error) {
	info, err := k.await(ctx, func(info issuer.Info) bool { return info.ID == k.record.TokenID })
	if err != nil {
		return "", err
	}
	if info.CreatedAt.IsZero() {
		return "the cluster does not report when a token was created", nil
	}
	skew := max(k.began.Sub(info.CreatedAt), info.CreatedAt.Sub(k.record.LeaseEnd.Add(-checkTTL)), 0)
	if skew > maxSkew {
		k.resp.AddWarning(fmt.Sprintf("The clocks of Vault and of the cluster differ by at least %s. Tokens expire only %s after their leases. Set the clocks by NTP.", skew.Round(time.Second), margin))
	}
	return fmt.Sprintf("they differ by at most %s", (skew + time.Second).Round(time.Second)), nil
}

// revoke revokes the token. The record stays until dead has seen the result. A node
// that has not learned of the token yet says that it does not know it.
func (k *check) revoke(ctx context.Context) (string, error) {
	began, behind := k.now(), false
	var err error
	_ = retry(ctx, checkWait, func() bool { // err says more than the end of the wait
		id := k.record.TokenID
		err = k.revokeIDs(ctx, k.storage, k.client(), k.config, map[string][]string{k.record.Accessor: {id}})[id]
		stale := errors.Is(err, issuer.ErrUnknown) && k.client().traits().SpreadTime > 0
		behind = behind || stale
		return !stale
	})
	k.metrics.count(opRevoke, err)
	if behind {
		k.resp.AddWarning("The cluster has several nodes: one of them did not know the token yet. A revoked token may work on other nodes until they learn of the revocation.")
	}
	k.revoked = err == nil
	if behind && !k.revoked && errors.Is(err, issuer.ErrUnknown) {
		return "not yet: the nodes that answered do not know the token, so the engine revokes it later", nil
	}
	return "in " + k.now().Sub(began).Round(time.Millisecond).String(), err
}

// dead waits until the list shows the token as revoked, or not any more.
func (k *check) dead(ctx context.Context) (string, error) {
	if !k.revoked {
		return "not seen, because the token is not revoked yet", k.leave(ctx)
	}
	if k.client().traits().KeepsExpired {
		if err := k.awaitAbsence(ctx); err != nil {
			return "", err
		}
		return "the list does not show the token any more", k.ledger.Drop(ctx, k.storage, checkRole, k.record.Accessor)
	}
	_, err := k.await(ctx, func(info issuer.Info) bool {
		return info.ID == k.record.TokenID && info.Dead(k.now())
	})
	if err != nil {
		return "", err
	}
	return "the list shows the token as revoked", k.ledger.Drop(ctx, k.storage, checkRole, k.record.Accessor)
}

// leave leaves the revocation of the token to the worker.
func (k *check) leave(ctx context.Context) error {
	_, err := k.ledger.Change(ctx, k.storage, checkRole, k.record.Accessor, func(r *ledger.Record) error {
		r.State, r.Deadline = ledger.Revoking, k.now().Add(time.Minute)
		return nil
	})
	return err
}

// awaitAbsence lists the tokens of the cluster until a list does not show the token.
// It is for products where a revoked token vanishes.
func (k *check) awaitAbsence(ctx context.Context) (err error) {
	listed := true
	_ = retry(ctx, checkWait, func() bool { // listed says more than the end of the wait
		listed = false
		err = k.client().List(ctx, func(info issuer.Info) error {
			listed = listed || info.ID == k.record.TokenID
			return nil
		})
		return err != nil || !listed
	})
	if err == nil && listed {
		err = errStillListed
	}
	return err
}

// await lists the tokens of the cluster until one with the tag of the record
// satisfies wanted.
func (k *check) await(ctx context.Context, wanted func(issuer.Info) bool) (hit issuer.Info, err error) {
	timeout := retry(ctx, checkWait, func() bool {
		err = k.client().List(ctx, func(info issuer.Info) error {
			if accessor, ok := k.tag.accessor(info.Description); ok && accessor == k.record.Accessor && wanted(info) {
				hit = info
			}
			return nil
		})
		return err != nil || hit.ID != ""
	})
	if err == nil && timeout != nil {
		err = errNotListed
	}
	return hit, err
}

// cleanUp revokes the token of a check that failed, now or through the ledger.
func (k *check) cleanUp(ctx context.Context) {
	if k.record.TokenID != "" {
		_ = k.discard(ctx, k.storage, k.config, k.record, errors.New("the check failed")) // which is reported already
	}
}
