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
)

const (
	// checkLifetime is how long the token that a check mints lives if nothing
	// can revoke it.
	checkLifetime = 10 * time.Minute

	// checkPatience is how long a check waits for a list to show what was done.
	checkPatience = 20 * time.Second

	// mostSkew is how far the clocks of Vault and cluster may be apart before a
	// check warns. Tokens outlive their leases by margin, which must cover it.
	mostSkew = 10 * time.Second
)

func (b *backend) pathConfigCheck() *framework.Path {
	fields := map[string]*framework.FieldSchema{}
	for i, step := range checkSteps {
		fields[step.field(i)] = &framework.FieldSchema{Type: framework.TypeString, Required: true}
	}
	return &framework.Path{
		Pattern:      "config/check",
		DisplayAttrs: display("check", "configuration"),
		Fields:       map[string]*framework.FieldSchema{"token_type": kindField},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: operation(b.configCheck, "check", answers(http.StatusOK, fields)),
		},
		HelpSynopsis: "Prove the set-up step by step, by minting a token that lives for minutes and revoking it.",
		HelpDescription: `
    vault write -f influxdb/config/check
    vault write influxdb/config/check token_type=database

Whether a management token may mint others on a given cluster is documented
nowhere. This finds out: it proves the vendor's program (database tokens need
none), lists the cluster's
tokens, mints one with a short expiry, finds it by its tag, revokes it, and sees
it dead. It stops at the first step that fails, and says which it is and what
to do. The token stands in the ledger like any other, so that a check that is
cut short leaves nothing alive.
`,
	}
}

// A check is one run through the steps.
type check struct {
	*backend
	storage logical.Storage
	kind    string
	config  config
	record  record
	began   time.Time // of the mint
	resp    *logical.Response
}

// A checkStep proves one thing. It returns what it saw.
type checkStep struct {
	name   string
	prove  func(*check, context.Context) (string, error)
	advice string // for when it fails
}

var checkSteps = []checkStep{
	{"program", (*check).program, "Register the plugin with -env=INFLUXCTL_PATH=… naming an executable influxctl of version 2.9.7 or later."},
	{"list", (*check).list, "Check host, port, TLS settings and mgmt_token in config, and that Vault's host reaches the cluster."},
	{"create", (*check).create, "If the root token is accepted for lists only, this cluster does not let a management token mint others: only an administrator's own login can, and this engine cannot be used with it."},
	{"find", (*check).find, "The token was made, but the list does not show it by its description: an orphaned token could not be found again."},
	{"clock", (*check).clock, "Set the clocks of Vault's hosts by NTP."},
	{"revoke", (*check).revoke, "The token expires by itself in minutes. Until revocation works, leases do not end on time."},
	{"dead", (*check).dead, "The revocation was accepted, but the list shows the token alive still: revocations take effect late on this cluster."},
}

// field names the step in the answer, so that a sorted table shows the steps in
// their order.
func (s checkStep) field(i int) string { return fmt.Sprintf("step_%d_%s", i+1, s.name) }

// failure says which step failed, why, and what to do.
func (s checkStep) failure(i int, passed []string, cause error) error {
	before := "nothing had passed before"
	if len(passed) > 0 {
		before = strings.Join(passed, ", ") + " passed"
	}
	return &upstreamError{
		fmt.Sprintf("step %d of %d, %s, failed (%s)", i+1, len(checkSteps), s.name, before),
		fmt.Errorf("%w. %s", cause, s.advice),
	}
}

func (b *backend) configCheck(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
	kind := d.Get("token_type").(string)
	if err := checkKind(kind); err != nil {
		return fail(err)
	}
	c, err := loadConfig(ctx, req.Storage)
	if err != nil {
		return fail(err)
	}
	k := &check{backend: b, storage: req.Storage, kind: kind, config: c, resp: &logical.Response{Data: map[string]any{}}}
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
	driver, ok := k.drivers[k.kind].(issuer.ProgramDriver)
	if !ok {
		return "none is needed", nil
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
	n, alive := 0, 0
	err := k.issuerOf(k.config, k.kind).List(ctx, func(info issuer.Info) error {
		n++
		if !info.Dead(k.now()) {
			alive++
		}
		return nil
	})
	k.health.saw("list", err, k.now())
	return fmt.Sprintf("%d tokens, %d of them alive", n, alive), err
}

func (k *check) create(ctx context.Context) (string, error) {
	k.began = k.now()
	recipe := role{Name: checkRole, Kind: k.kind} // of a database token without a database
	t := terms{TTL: checkLifetime, Cap: checkLifetime, ExpiresAt: ceilSecond(k.began.Add(checkLifetime)).UTC()}
	r := k.intent(k.config, order{role: recipe, terms: t, text: "config/check"}, k.began)
	if err := k.ledger.open(ctx, k.storage, r, 0); err != nil {
		return "", err
	}
	defer k.ledger.close(r.Nonce)
	token, err := k.issue(ctx, k.config, r, recipe)
	k.health.saw("mint", err, k.now())
	if err != nil {
		return "", k.abandon(ctx, k.storage, r, err)
	}
	if k.record, err = k.hold(ctx, k.storage, r, token.ID, checkLifetime); err != nil {
		r.TokenID = token.ID
		return "", k.discard(ctx, k.storage, r, err)
	}
	return fmt.Sprintf("%s in %s", token.ID, k.now().Sub(k.began).Round(time.Millisecond)), nil
}

// find waits until the list shows the token.
func (k *check) find(ctx context.Context) (string, error) {
	info, err := k.await(ctx, func(info issuer.Info) bool { return info.ID == k.record.TokenID })
	if err == nil && !info.ExpiresAt.Equal(k.record.ExpiresAt) {
		err = fmt.Errorf("the cluster says that the token expires at %s, asked was %s",
			timestampOrNever(info.ExpiresAt, "never"), timestamp(k.record.ExpiresAt))
	}
	return "by its tag " + k.tag.tag(k.record.Nonce), err
}

// clock compares the cluster's clock with ours. Far apart is a warning: leases
// still end, at Vault's time.
func (k *check) clock(ctx context.Context) (string, error) {
	info, err := k.await(ctx, func(info issuer.Info) bool { return info.ID == k.record.TokenID })
	if err != nil {
		return "", err
	}
	if info.CreatedAt.IsZero() {
		return "the cluster does not say when a token was made", nil
	}
	skew := max(k.began.Sub(info.CreatedAt), info.CreatedAt.Sub(k.record.LeaseEnd.Add(-checkLifetime)), 0)
	if skew > mostSkew {
		k.resp.AddWarning(fmt.Sprintf("The clocks of Vault and cluster are at least %s apart. Tokens outlive their leases by %s; set the clocks by NTP.", skew.Round(time.Second), margin))
	}
	return fmt.Sprintf("at most %s apart", (skew + time.Second).Round(time.Second)), nil
}

func (k *check) revoke(ctx context.Context) (string, error) {
	began := k.now()
	err := k.kill(ctx, k.storage, k.record)[k.record.Nonce]
	return "in " + k.now().Sub(began).Round(time.Millisecond).String(), err
}

// dead waits until the list shows that the token is dead.
func (k *check) dead(ctx context.Context) (string, error) {
	_, err := k.await(ctx, func(info issuer.Info) bool {
		return info.ID == k.record.TokenID && info.Dead(k.now())
	})
	if err != nil {
		return "", err
	}
	return "the list shows it dead", k.ledger.drop(ctx, k.storage, checkRole, k.record.Nonce)
}

// await lists the cluster's tokens until one that bears the record's tag
// satisfies found.
func (k *check) await(ctx context.Context, found func(issuer.Info) bool) (hit issuer.Info, err error) {
	ctx, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	for wait := time.Second / 4; ; wait *= 2 {
		err = k.issuerOf(k.config, k.kind).List(ctx, func(info issuer.Info) error {
			if n, ok := k.tag.nonce(info.Description); ok && n == k.record.Nonce && found(info) {
				hit = info
			}
			return nil
		})
		if err != nil {
			return hit, err
		}
		if hit.ID != "" {
			return hit, nil
		}
		select {
		case <-ctx.Done():
			return hit, errAbsent
		case <-time.After(wait):
		}
	}
}

// cleanUp kills what an unfinished check has minted, now or by the ledger.
func (k *check) cleanUp(ctx context.Context) {
	if k.record.TokenID == "" {
		return
	}
	_ = k.discard(ctx, k.storage, k.record, errors.New("the check failed"))
}
