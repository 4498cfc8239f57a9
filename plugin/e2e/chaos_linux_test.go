package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// What is killed.
const (
	killPlugin  = "the plugin"
	killCLI     = "a CLI process"
	killVault   = "Vault"
	killMachine = "all at once" // as when the machine loses its power
)

// TestChaosLosesNoToken kills the plugin, the CLI and Vault by SIGKILL, in an order that
// $CHAOS_SEED decides, while clients read, renew and revoke leases of a real
// Vault. Afterwards no token may live that is neither leased nor in the ledger,
// and none may have died under a lease that nobody revoked.
//
// With $CHAOS_KILLS it does so that often, and then waits until every lease has
// ended and the ledger is empty. Without, it is content with a few kills and
// with what must hold at any moment.
func TestChaosLosesNoToken(t *testing.T) {
	t.Parallel()
	seed := fromEnv(t, "CHAOS_SEED", int(time.Now().UnixNano()%1_000_000))
	kills := fromEnv(t, "CHAOS_KILLS", 0)
	c := newChaos(t, uint64(seed))
	defer func() { t.Logf("seed %d\n%s", seed, c.summary(t)) }()
	if kills == 0 {
		c.ttl = 10 * time.Second
		c.storm(t, 6, 2*time.Second)
		c.mustBeAccountedFor(t)
	} else {
		c.storm(t, kills, 4*time.Second)
		c.mustBeAccountedFor(t)
		c.drain(t)
	}
	c.mustHaveGivenUpNoLease(t)
	for _, promise := range c.tally.broken {
		t.Error(promise)
	}
}

// A chaos is a load, and what befalls it.
type chaos struct {
	*stage
	tally  *tally
	random *rand.Rand
	ttl    time.Duration // of the leases
	kills  map[string]int
	began  time.Time
	times  []string // what took how long, at the end
}

// roles of the chaos. A token of the first one lasts longer than the engine
// takes to find one that was lost; those of the second can not be renewed.
var chaosRoles = []string{"renewable", "brief"}

func newChaos(t *testing.T, seed uint64) *chaos {
	c := &chaos{
		stage:  newStage(t, vaulttest.Start(t), "chaos"),
		tally:  newTally(),
		random: rand.New(rand.NewPCG(seed, 0)),
		ttl:    time.Minute,
		kills:  map[string]int{},
		began:  time.Now(),
	}
	t.Cleanup(func() {
		_, orphaned := c.PluginProcesses()
		vaulttest.Kill(orphaned...)
	})
	return c
}

// storm puts the load on, kills n times, about every pace, and takes the load
// off.
func (c *chaos) storm(t *testing.T, n int, pace time.Duration) {
	c.write(t, "roles/renewable", map[string]any{"ttl": c.ttl.String(), "max_ttl": (3 * c.ttl).String()})
	c.write(t, "roles/brief", map[string]any{"ttl": c.ttl.String()})
	// There must be time to be killed in, before and after the deed.
	slow := simulator.Fault{Latency: simulator.Duration(40 * time.Millisecond), LatencyAfter: simulator.Duration(40 * time.Millisecond)}
	c.cluster.SetFaults(simulator.Faults{Any: slow})

	load, stop := context.WithCancel(t.Context())
	defer stop()
	var clients sync.WaitGroup
	for i := range 6 {
		one := &client{
			stage: c.stage, tally: c.tally, roles: chaosRoles, pause: 400 * time.Millisecond,
			random: rand.New(rand.NewPCG(c.random.Uint64(), uint64(i))),
		}
		clients.Go(func() { one.run(load) })
	}
	for _, victim := range c.victims(n) {
		vaulttest.Wait(t.Context(), pace/2+time.Duration(c.random.Int64N(int64(pace))))
		c.kill(t, victim)
	}
	vaulttest.Wait(t.Context(), pace)
	stop()
	clients.Wait()
	c.cluster.SetFaults(simulator.Faults{})
	c.note("storm", c.began)
}

// victims are n, in a random order. Vault must be left alone long enough at
// times, for it calls the engine's worker only a minute after its own start.
func (c *chaos) victims(n int) []string {
	var all []string
	rare := max(1, n/33)
	for range rare {
		all = append(all, killVault, killMachine)
	}
	for len(all) < n {
		all = append(all, killPlugin, killCLI)
	}
	all = all[:n]
	c.random.Shuffle(n, func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

func (c *chaos) kill(t *testing.T, victim string) {
	t.Helper()
	c.kills[victim]++
	switch victim {
	case killPlugin:
		vaulttest.Kill(c.running(t)...)
	case killCLI:
		vaulttest.Kill(c.runningCLI(t))
	case killVault:
		c.Kill()
		c.revive(t)
	case killMachine:
		plugins, _ := c.PluginProcesses()
		vaulttest.Kill(append(vaulttest.Children(plugins), plugins...)...)
		c.Kill()
		c.revive(t)
	}
}

// running are the plugin's processes that Vault uses. The load starts one, if
// there is none.
func (c *chaos) running(t *testing.T) (found []vaulttest.Process) {
	t.Helper()
	must(t, vaulttest.Eventually(t.Context(), time.Minute, func() error {
		if found, _ = c.PluginProcesses(); len(found) == 0 {
			return errors.New("no plugin runs")
		}
		return nil
	}))
	return found
}

// runningCLI is a process of the CLI, as soon as there is one.
func (c *chaos) runningCLI(t *testing.T) (found vaulttest.Process) {
	t.Helper()
	must(t, vaulttest.Eventually(t.Context(), time.Minute, func() error {
		plugins, _ := c.PluginProcesses()
		runs := vaulttest.Children(plugins)
		if len(runs) == 0 {
			return errors.New("no CLI runs")
		}
		found = runs[c.random.IntN(len(runs))]
		return nil
	}))
	return found
}

// revive starts Vault anew. A plugin process that it had may go on for a while.
func (c *chaos) revive(t *testing.T) {
	t.Helper()
	c.Run(t)
	c.Unseal(t)
}

// mustBeAccountedFor asserts what must hold at any moment: a token that lives is
// in the ledger, and the moment at which the engine acts on it is at hand.
func (c *chaos) mustBeAccountedFor(t *testing.T) {
	t.Helper()
	alive := c.alive()
	var ledger map[string]vaulttest.TokenInfo
	must(t, vaulttest.Eventually(t.Context(), time.Minute, func() (err error) {
		ledger, err = c.ledger(t.Context())
		return err
	}))
	leased := 0
	for _, token := range alive {
		nonce := nonceOf(token)
		entry, ok := ledger[nonce]
		if !ok {
			if now, _ := c.cluster.Token(token.ID); now.Live {
				t.Errorf("token %s, made at %s, lives and is in no record", token.ID, token.CreatedAt)
			}
			continue
		}
		if entry.State == vaulttest.StateActive {
			leased++
		}
		info, err := c.tokenInfo(t.Context(), nonce)
		if vaulttest.HasStatus(err, http.StatusNotFound) {
			continue // settled meanwhile
		}
		must(t, err)
		if latest := time.Now().Add(c.ttl + 2*time.Minute); info.Deadline.After(latest) {
			t.Errorf("token %s (%s) is alive, and its deadline is only at %s", token.ID, entry.State, info.Deadline)
		}
	}
	c.times = append(c.times, fmt.Sprintf("when the storm ended\t%d alive: %d live in the ledger, %d pending or owed", len(alive), leased, len(alive)-leased))
}

// drain waits until everything is over: every token, every record, every lease.
func (c *chaos) drain(t *testing.T) {
	t.Helper()
	ended := time.Now()
	must(t, vaulttest.Eventually(t.Context(), 6*time.Minute, c.allDead))
	c.note("until the last token was dead", ended)
	must(t, vaulttest.Eventually(t.Context(), 15*time.Minute, func() error {
		ledger, err := c.ledger(t.Context())
		if err == nil && len(ledger) > 0 {
			err = fmt.Errorf("%d records are left", len(ledger))
		}
		return err
	}))
	c.note("until the ledger was empty", ended)
	c.mustEndAllLeases(t)
}

// mustEndAllLeases waits until Vault has no lease any more. It may have some of
// tokens that are dead: those that it tries again only after minutes, because a
// kill has interrupted it before, and those that it stored while their caller
// hung up. Of the latter it knows nothing until it reads its storage anew, so it
// is made to.
func (c *chaos) mustEndAllLeases(t *testing.T) {
	t.Helper()
	left := 0
	for _, role := range chaosRoles {
		leases, err := c.leases(t.Context(), role)
		must(t, err)
		left += len(leases)
	}
	c.times = append(c.times, fmt.Sprintf("leases of dead tokens that Vault then had in its storage\t%d", left))
	c.Kill()
	c.revive(t)
	must(t, vaulttest.Eventually(t.Context(), 5*time.Minute, func() error { return c.noLease(t.Context(), chaosRoles...) }))
}

func (c *chaos) note(what string, since time.Time) {
	c.times = append(c.times, fmt.Sprintf("%s\t%s", what, time.Since(since).Round(time.Second)))
}

func (c *chaos) mustHaveGivenUpNoLease(t *testing.T) {
	t.Helper()
	if n, err := c.irrevocable(t.Context()); err != nil || n > 0 {
		t.Errorf("%d leases are irrevocable (%v)", n, err)
	}
}

// summary is a table of what happened.
func (c *chaos) summary(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	line := func(what, format string, args ...any) {
		_, _ = fmt.Fprintf(table, "%s\t%s\n", what, fmt.Sprintf(format, args...))
	}
	line("kills", "%s", listed(c.kills))
	for _, act := range []string{reading, hangingUp, renewing, revoking} {
		line(act, "%d done, %d failed", c.tally.done[act], c.tally.failed[act])
	}
	line("why they failed", "%s", listed(c.tally.failures))
	line("credentials looked at under their lease", "%d, dead: %d", c.tally.done[using], len(c.tally.broken))
	made, revoked, expired := c.fates()
	line("tokens minted", "%d: %d revoked, %d died by their own expires_at, %d alive", made, revoked, expired, made-revoked-expired)
	runs := c.cluster.Runs()
	cut := slices.DeleteFunc(slices.Clone(runs), func(r simulator.Run) bool { return r.Exit >= 0 })
	line("CLI processes", "%d, killed: %d, at most %d at a time", len(runs), len(cut), c.cluster.Peak())
	given, err := c.irrevocable(t.Context())
	must(t, err)
	line("irrevocable leases", "%d", given)
	ledger, err := c.ledger(t.Context())
	must(t, err)
	states := map[string]int{}
	for _, entry := range ledger {
		states[entry.State]++
	}
	line("ledger at the end", "%d %s", len(ledger), listed(states))
	for _, took := range c.times {
		_, _ = fmt.Fprintln(table, took)
	}
	line("duration", "%s", time.Since(c.began).Round(time.Second))
	_ = table.Flush()
	return text.String()
}

// fates tells what became of the mount's tokens.
func (c *chaos) fates() (made, revoked, expired int) {
	for _, token := range c.minted() {
		made++
		switch {
		case !token.RevokedAt.IsZero():
			revoked++
		case !token.Live:
			expired++
		}
	}
	return made, revoked, expired
}

// listed writes counts down.
func listed(counts map[string]int) string {
	var words []string
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		words = append(words, fmt.Sprintf("%s: %d", what, counts[what]))
	}
	return strings.Join(words, ", ")
}
