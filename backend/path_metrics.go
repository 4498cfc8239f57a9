package backend

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
)

// metricsType is the content type of the text format of Prometheus.
const metricsType = "text/plain; version=0.0.4; charset=utf-8"

func (b *backend) pathMetrics() *framework.Path {
	return &framework.Path{
		Pattern:      "metrics",
		DisplayAttrs: display("read", "metrics"),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: operation(b.metricsRead, "read", map[int][]framework.Response{
				http.StatusOK: {{Description: "OK", MediaType: "text/plain"}},
			}),
		},
		HelpSynopsis: "Show the metrics of the mount, as Prometheus reads them.",
		HelpDescription: `
    curl -H "X-Vault-Token: …" $VAULT_ADDR/v1/influxdb/metrics
    vault read -format=raw influxdb/metrics

Like every path, it needs a Vault token with a policy that allows the read.

Counters begin at 0 when the plugin starts. The results of
influxdb_secrets_operations_total are:

  success
  refused  the engine did not allow it, for example because of max_active, or the
           cluster refused the request itself
  failed   everything else: the cluster is out of reach or does not accept the root
           credential, the outcome is unknown, or the storage failed

The numbers of tokens are absent until the ledger is loaded. A time that does not
exist is absent.
`,
	}
}

func (b *backend) metricsRead(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	c, err := loadConfig(ctx, req.Storage)
	if err != nil && !errors.Is(err, errNoConfig) {
		return fail(err)
	}
	page := &metricsPage{}
	page.gauge("build_info", "Version of the plugin. The value is always 1.", sample(1, "version", b.version))
	page.moment("root_expiry_timestamp_seconds", "When the root credential expires. Absent if it never does or if this is not known.", c.RootExpiresAt)
	b.metrics.describe(page)
	b.ledgerMetrics(ctx, req.Storage, c, page)
	b.staticMetrics(ctx, req.Storage, page)
	b.programMetrics(ctx, c, page)
	text, err := page.text()
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		logical.HTTPContentType: metricsType, logical.HTTPStatusCode: http.StatusOK, logical.HTTPRawBody: text,
	}}, nil
}

// ledgerMetrics adds what is known about the tokens.
func (b *backend) ledgerMetrics(ctx context.Context, s logical.Storage, c config, page *metricsPage) {
	summary, loaded, _ := b.summary(ctx, s) // status shows the error
	page.gauge("ledger_loaded", "Whether the numbers of tokens are known and shown.", sample(truth(loaded)))
	if !loaded {
		return
	}
	page.moment("next_deadline_timestamp_seconds", "The next time at which the engine acts on a token, unless Vault renews or revokes its lease before. In the past: the engine could not act yet.", summary.NextDeadline)
	type kind struct{ state, tokenType, source string }
	counted := map[kind]int{}
	for _, state := range ledger.States {
		for _, tokenType := range []string{Management, Database} {
			for _, source := range tokenSources {
				counted[kind{string(state), tokenType, source}] = 0
			}
		}
	}
	outcomes := map[string]unsettledCount{}
	for _, n := range summary.Counts {
		counted[kind{string(n.State), n.TokenType, sourceOf(n.Role)}] += n.N
		if n.State == ledger.Issuing && n.Fingerprint == c.Fingerprint {
			outcomes[n.Role] = outcomes[n.Role].plus(n)
		}
	}
	page.gauge("tokens", "Tokens in the ledger, by state, type and what they were issued for.", samples(counted, func(k kind) []string {
		return []string{"state", k.state, "token_type", k.tokenType, "source", k.source}
	})...)
	near := map[string]int{}
	for role, n := range outcomes {
		if n.nearLimit() {
			near[role] = n.unsettled + n.absent
		}
	}
	page.gauge("unsettled", "Tokens of a role whose creation is neither confirmed nor disproved. Shown only for roles that are near the limit from which no more are issued.",
		samples(near, func(role string) []string { return []string{"role", role} })...)
}

// samples returns a sample for every entry of values, in a stable order.
func samples[K comparable](values map[K]int, pairs func(K) []string) (all []*metricSample) {
	keys := slices.SortedFunc(maps.Keys(values), func(x, y K) int { return slices.Compare(pairs(x), pairs(y)) })
	for _, key := range keys {
		all = append(all, sample(float64(values[key]), pairs(key)...))
	}
	return all
}

// What a token was issued for.
const (
	sourceRole   = "role"
	sourceStatic = "static_role"
	sourceRoot   = "root"
	sourceCheck  = "check"
)

var tokenSources = []string{sourceRole, sourceStatic, sourceRoot, sourceCheck}

// sourceOf returns what the tokens of a role in the ledger were issued for.
func sourceOf(role string) string {
	switch {
	case role == rootRole:
		return sourceRoot
	case role == checkRole:
		return sourceCheck
	case strings.HasPrefix(role, staticPrefix):
		return sourceStatic
	}
	return sourceRole
}

// An unsettledCount is the number of tokens of a role whose outcome is unknown:
// those that were not looked for yet, and those that were not found.
type unsettledCount struct{ unsettled, absent int }

func (u unsettledCount) plus(n ledger.Count) unsettledCount {
	if n.Absent {
		u.absent += n.N
	} else {
		u.unsettled += n.N
	}
	return u
}

// nearLimit reports whether half of what a role may have is reached.
func (u unsettledCount) nearLimit() bool {
	return 2*u.unsettled >= ledger.MaxUnsettled || 2*(u.unsettled+u.absent) >= ledger.MaxAbsent
}

// staticMetrics adds when the tokens of static roles change.
func (b *backend) staticMetrics(ctx context.Context, s logical.Storage, page *metricsPage) {
	switches, err := b.staticSwitches(ctx, s)
	if err != nil {
		b.Logger().Warn("metrics: the static roles cannot be read", "error", err)
		return
	}
	var all []*metricSample
	for _, role := range slices.Sorted(maps.Keys(switches)) {
		all = append(all, sample(float64(switches[role].Unix()), "role", role))
	}
	page.gauge("static_role_switch_timestamp_seconds", "When the token of a static role is replaced. In the past: it could not be replaced yet.", all...)
}

// staticSwitches returns when the token of each static role is replaced, for those
// where it is known.
func (b *backend) staticSwitches(ctx context.Context, s logical.Storage) (map[string]time.Time, error) {
	names, err := s.List(ctx, staticRolePrefix)
	if err != nil {
		return nil, err
	}
	switches, now := map[string]time.Time{}, b.now()
	for _, name := range names {
		_, creds, ok, err := b.readStatic(ctx, s, name)
		if err != nil {
			return nil, err
		}
		if at := creds.nextSwitch(now); ok && !at.IsZero() {
			switches[name] = at
		}
	}
	return switches, nil
}

// programMetrics adds whether the vendor's program can be used, if one is needed.
func (b *backend) programMetrics(ctx context.Context, c config, page *metricsPage) {
	driver := b.programDriver(c.Product)
	if driver == nil {
		return
	}
	_, err := driver.Program(ctx)
	page.gauge("program_ok", "Whether influxctl can be used.", sample(truth(err == nil)))
}
