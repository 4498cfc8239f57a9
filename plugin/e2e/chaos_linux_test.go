package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// TestChaos_KeepsBothPromises disturbs a cluster of three nodes in an order that
// $CHAOS_SEED decides, while clients read, renew and revoke leases through all
// nodes and the root credential is rotated. Afterwards every live token must be
// in the ledger, and no credential may have died under its lease.
//
// With $CHAOS_DISTURBANCES it makes that many disturbances, then waits until
// every lease has ended and the ledger is empty. Without, it makes a few and
// checks what must hold at any moment.
func TestChaos_KeepsBothPromises(t *testing.T) {
	t.Parallel()
	seed := fromEnv(t, "CHAOS_SEED", int(time.Now().UnixNano()%1_000_000))
	n := fromEnv(t, "CHAOS_DISTURBANCES", 0)
	c := newChaos(t, uint64(seed))
	defer func() { t.Logf("seed %d\n%s", seed, c.summary(t)) }()
	if n == 0 {
		c.ttl = 15 * time.Second
		c.storm(t, shortSchedule(), time.Second)
	} else {
		c.storm(t, longSchedule(n), 3*time.Second)
	}
	alive, active := c.atLeader(t).mustAccountFor(t, c.ttl+deadlineMargin)
	c.note("when the storm ended", "%d tokens alive: %d active in the ledger, %d issuing or revoking", alive, active, alive-active)
	if n > 0 {
		c.drain(t)
		c.mustHaveRightStatus(t)
	}
	c.mustHaveNoIrrevocableLease(t)
	for _, promise := range c.tally.broken {
		t.Error(promise)
	}
}

// deadlineMargin is the longest time from the end of a lease to the deadline of its
// record, and the second by which a renewal may exceed the TTL.
const deadlineMargin = 2*time.Minute + 2*time.Second

// A disturbance is something that happens to the cluster.
type disturbance string

const (
	stepDown     disturbance = "step-down"
	killLeader   disturbance = "SIGKILL of the leader"
	killMachine  disturbance = "SIGKILL of the leader, its plugin and its CLI"
	killAll      disturbance = "SIGKILL of all nodes"
	killPlugin   disturbance = "SIGKILL of the plugin"
	killCLI      disturbance = "SIGKILL of a CLI process"
	pauseLeader  disturbance = "pause of the leader"
	pauseMachine disturbance = "pause of the leader and its plugin"
	pausePlugin  disturbance = "pause of the plugin"
	pauseAndKill disturbance = "pause of the plugin, SIGKILL of the leader"
)

// shortSchedule has one disturbance of each kind that is not covered elsewhere.
func shortSchedule() []disturbance {
	return []disturbance{stepDown, killPlugin, killCLI, pauseLeader, pauseMachine, pausePlugin, pauseAndKill, killMachine}
}

// longSchedule has n disturbances: of every 20 five are pauses, and five are
// step-downs.
func longSchedule(n int) (all []disturbance) {
	for len(all) < n {
		all = append(all, stepDown, stepDown, stepDown, stepDown, stepDown,
			pauseLeader, pauseMachine, pauseLeader, pausePlugin, pauseAndKill,
			killPlugin, killPlugin, killPlugin, killCLI, killCLI, killCLI, killLeader, killLeader, killMachine)
		if len(all)%100 < 20 {
			all = append(all, killAll)
		} else {
			all = append(all, killCLI)
		}
	}
	return all[:n]
}

// A chaos is a load on three nodes and what happens to them.
type chaos struct {
	*haStage
	tally  *tally
	random *rand.Rand
	ttl    time.Duration // of the leases
	counts map[string]int
	began  time.Time
	notes  []string // further lines of the summary
}

// The roles of the chaos. Leases of the second one cannot be renewed.
var chaosRoles = []string{"renewable", "brief"}

func newChaos(t *testing.T, seed uint64) *chaos {
	return &chaos{
		haStage: newHAStage(t, "chaos"),
		tally:   newTally(),
		random:  rand.New(rand.NewPCG(seed, 0)),
		ttl:     time.Minute,
		counts:  map[string]int{},
		began:   time.Now(),
	}
}

// calmAfter is how many disturbances follow each other in a long storm. Then the
// cluster is left alone for calm: Vault calls the engine's worker only a minute
// after a node has become active.
const (
	calmAfter = 25
	calm      = 75 * time.Second
)

// storm puts the load on, makes the disturbances in a random order, about every
// pace, and takes the load off. All nodes run when it returns.
func (c *chaos) storm(t *testing.T, schedule []disturbance, pace time.Duration) {
	leader := c.atLeader(t)
	c.disownRoot()
	leader.write(t, "config", map[string]any{"rotation_overlap": "5s"})
	leader.write(t, "roles/renewable", map[string]any{"ttl": c.ttl.String(), "max_ttl": (3 * c.ttl).String()})
	leader.write(t, "roles/brief", map[string]any{"ttl": c.ttl.String()})
	// Every CLI process takes time before and after its operation, so that a
	// disturbance can hit it in either half.
	slow := simulator.Fault{Latency: simulator.Duration(60 * time.Millisecond), LatencyAfter: simulator.Duration(60 * time.Millisecond)}
	c.cluster.SetFaults(simulator.Faults{Any: slow})
	load := c.startLoad(t)
	c.random.Shuffle(len(schedule), func(i, j int) { schedule[i], schedule[j] = schedule[j], schedule[i] })
	for i, d := range schedule {
		vaulttest.Wait(t.Context(), pace/2+time.Duration(c.random.Int64N(int64(pace))))
		c.disturb(t, d)
		if i%calmAfter == calmAfter-1 {
			vaulttest.Wait(t.Context(), calm)
		}
	}
	vaulttest.Wait(t.Context(), pace)
	load()
	c.cluster.SetFaults(simulator.Faults{})
	c.note("storm", "%s", time.Since(c.began).Round(time.Second))
}

// startLoad starts the clients. The returned function ends them and checks what
// they hold then.
func (c *chaos) startLoad(t *testing.T) (end func()) {
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	var running sync.WaitGroup
	var clients []*client
	for i := range 6 {
		one := &client{
			stage: c.at(c.vault.Nodes[0]), tally: c.tally, nodes: c.vault.Nodes, roles: chaosRoles,
			pause: 300 * time.Millisecond, random: rand.New(rand.NewPCG(c.random.Uint64(), uint64(i))),
		}
		clients = append(clients, one)
		running.Go(func() { one.run(ctx) })
	}
	random := rand.New(rand.NewPCG(c.random.Uint64(), 0))
	running.Go(func() { c.rotateRoot(ctx, random) })
	return func() {
		stop()
		running.Wait()
		for _, one := range clients {
			for _, held := range one.held {
				one.check(held)
			}
		}
	}
}

// rotateRoot rotates the root credential about every eight seconds until ctx is
// done, through a random node.
func (c *chaos) rotateRoot(ctx context.Context, random *rand.Rand) {
	for vaulttest.Wait(ctx, 4*time.Second+time.Duration(random.Int64N(int64(8*time.Second)))) {
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		node := c.vault.Nodes[random.IntN(len(c.vault.Nodes))]
		c.tally.count(rotating, node.Call(limited, "PUT", c.mounted+"/config/rotate-root", nil, nil))
		cancel()
	}
}

// disturb makes one disturbance. When it returns, all nodes run and one of them
// is active.
func (c *chaos) disturb(t *testing.T, d disturbance) {
	t.Helper()
	c.counts[string(d)]++
	leader := c.vault.AwaitLeader(t)
	switch d {
	case stepDown:
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := leader.Call(ctx, "PUT", "sys/step-down", nil, nil); err != nil && !vaulttest.IsUnavailable(err) {
			t.Errorf("step-down: %v", err)
		}
	case killPlugin:
		vaulttest.Kill(c.awaitPlugin(t)...)
	case killCLI:
		vaulttest.Kill(c.awaitCLI(t))
	case killLeader:
		c.vault.Kill(leader)
		c.vault.Restart(t, leader)
	case killMachine:
		plugins, _ := leader.PluginProcesses()
		vaulttest.Kill(append(vaulttest.Children(plugins), plugins...)...)
		c.vault.Kill(leader)
		c.vault.Restart(t, leader)
	case killAll:
		for _, node := range c.vault.Nodes {
			c.vault.Kill(node)
		}
		c.vault.Restart(t, c.vault.Nodes...)
	case pauseLeader:
		c.pause(t, leader, leader.Process(t))
	case pauseMachine:
		plugins, _ := leader.PluginProcesses()
		c.pause(t, leader, append(plugins, leader.Process(t))...)
	case pausePlugin:
		resume := c.pauseEach(t, c.awaitPlugin(t)...)
		vaulttest.Wait(t.Context(), c.upTo(6*time.Second))
		resume()
	case pauseAndKill:
		resume := c.pauseEach(t, c.awaitPlugin(t)...)
		vaulttest.Wait(t.Context(), c.upTo(time.Second))
		leader = c.vault.AwaitLeader(t)
		c.vault.Kill(leader)
		c.vault.AwaitLeader(t)
		vaulttest.Wait(t.Context(), c.upTo(2*time.Second))
		resume()
		c.vault.Restart(t, leader)
	}
	c.vault.AwaitLeader(t)
}

// pause stops processes of the leader until another node is active and for some
// seconds more.
func (c *chaos) pause(t *testing.T, leader *vaulttest.Server, processes ...vaulttest.Process) {
	t.Helper()
	resume := c.pauseEach(t, processes...)
	defer resume()
	c.vault.AwaitLeader(t, leader)
	vaulttest.Wait(t.Context(), c.upTo(4*time.Second))
}

// pauseEach pauses processes. One that has ended meanwhile is left out.
func (c *chaos) pauseEach(t *testing.T, processes ...vaulttest.Process) (resume func()) {
	t.Helper()
	var resumes []func()
	for _, p := range processes {
		if one, err := vaulttest.Pause(t, p); err == nil {
			resumes = append(resumes, one)
		}
	}
	return func() {
		for _, one := range resumes {
			one()
		}
	}
}

// upTo returns a random duration below d.
func (c *chaos) upTo(d time.Duration) time.Duration {
	return time.Duration(c.random.Int64N(int64(d)))
}

// awaitPlugin waits until the leader runs the plugin. The load makes it start.
func (c *chaos) awaitPlugin(t *testing.T) (found []vaulttest.Process) {
	t.Helper()
	must(t, vaulttest.Eventually(t.Context(), time.Minute, func() error {
		leader, err := c.vault.Leader(t.Context())
		if err != nil {
			return err
		}
		if found, _ = leader.PluginProcesses(); len(found) == 0 {
			return errors.New("no plugin runs")
		}
		return nil
	}))
	return found
}

// awaitCLI waits until a CLI process runs.
func (c *chaos) awaitCLI(t *testing.T) (found vaulttest.Process) {
	t.Helper()
	must(t, vaulttest.Eventually(t.Context(), time.Minute, func() error {
		leader, err := c.vault.Leader(t.Context())
		if err != nil {
			return err
		}
		plugins, _ := leader.PluginProcesses()
		runs := vaulttest.Children(plugins)
		if len(runs) == 0 {
			return errors.New("no CLI runs")
		}
		found = runs[c.random.IntN(len(runs))]
		return nil
	}))
	return found
}

// drain waits until every token is dead, every record removed and every lease
// ended. The root credential lives on.
func (c *chaos) drain(t *testing.T) {
	t.Helper()
	began := time.Now()
	must(t, vaulttest.Eventually(t.Context(), 10*time.Minute, func() error { return c.leaderDoes(t, (*stage).allDead) }))
	c.note("until the last token was dead", "%s", time.Since(began).Round(time.Second))
	must(t, vaulttest.Eventually(t.Context(), 15*time.Minute, func() error { return c.leaderDoes(t, (*stage).ledgerSettled) }))
	c.note("until the ledger was settled", "%s", time.Since(began).Round(time.Second))

	// Vault can still have leases of dead tokens: those that it retries after
	// minutes, and those that it stored while the client hung up. It notices the
	// latter only when it loads its leases, as a new leader does.
	left := 0
	for _, role := range chaosRoles {
		leases, err := c.atLeader(t).leases(t.Context(), role)
		must(t, err)
		left += len(leases)
	}
	c.note("leases of dead tokens that Vault had then", "%d", left)
	c.vault.StepDown(t)
	must(t, vaulttest.Eventually(t.Context(), 5*time.Minute, func() error {
		return c.leaderDoes(t, func(st *stage, ctx context.Context) error { return st.noLease(ctx, chaosRoles...) })
	}))
}

// leaderDoes calls f with the stage as the leader sees it.
func (c *chaos) leaderDoes(t *testing.T, f func(*stage, context.Context) error) error {
	leader, err := c.vault.Leader(t.Context())
	if err != nil {
		return err
	}
	return f(c.at(leader), t.Context())
}

// mustHaveRightStatus compares the status at a new leader with the ledger, until
// the leader has loaded the ledger.
func (c *chaos) mustHaveRightStatus(t *testing.T) {
	t.Helper()
	st := c.at(c.vault.StepDown(t))
	must(t, vaulttest.Eventually(t.Context(), 2*time.Minute, func() error { return st.statusIsRight(t) }))
}

// statusIsRight fails while the ledger is not loaded. It fails the test if the
// status differs from the ledger.
func (st *stage) statusIsRight(t *testing.T) error {
	t.Helper()
	status, err := st.readStatus(t.Context())
	if err != nil {
		return err
	}
	ledger, err := st.ledger(t.Context())
	if err != nil {
		return err
	}
	must(t, status.Check(ledger))
	if !status.LedgerLoaded {
		return errors.New("the ledger is not loaded")
	}
	return nil
}

// ledgerSettled fails while the ledger has a record, except of tokens that were asked
// for and that the cluster does not list: such a record stays for 24 hours, because a
// list may lag.
func (st *stage) ledgerSettled(ctx context.Context) error {
	ledger, err := st.ledger(ctx)
	if err != nil {
		return err
	}
	left := 0
	for _, info := range ledger {
		if info.State != vaulttest.StateIssuing {
			left++
		}
	}
	if left > 0 {
		return fmt.Errorf("%d records are left", left)
	}
	return nil
}

func (c *chaos) mustHaveNoIrrevocableLease(t *testing.T) {
	t.Helper()
	must(t, vaulttest.Eventually(t.Context(), time.Minute, func() error {
		return c.leaderDoes(t, func(st *stage, ctx context.Context) error {
			n, err := st.irrevocable(ctx)
			if err == nil && n > 0 {
				t.Errorf("%d leases are irrevocable", n)
			}
			return err
		})
	}))
}

// note adds a line to the summary.
func (c *chaos) note(what, format string, args ...any) {
	c.notes = append(c.notes, what+"\t"+fmt.Sprintf(format, args...))
}

// summary is a table of what happened.
func (c *chaos) summary(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	line := func(what, format string, args ...any) {
		_, _ = fmt.Fprintf(table, "%s\t%s\n", what, fmt.Sprintf(format, args...))
	}
	total := 0
	for _, n := range c.counts {
		total += n
	}
	line("disturbances", "%d: %s", total, counts(c.counts))
	for _, act := range []string{reading, hangingUp, renewing, revoking, rotating} {
		line(act, "%d done, %d failed", c.tally.done[act], c.tally.failed[act])
	}
	line("why they failed", "%s", counts(c.tally.failures))
	line(checking, "%d, dead: %d", c.tally.done[checking], len(c.tally.broken))
	issued, revoked, expired := c.fates()
	line("tokens issued", "%d: %d revoked, %d expired, %d alive", issued, revoked, expired, issued-revoked-expired)
	runs := c.cluster.Runs()
	cut := slices.DeleteFunc(slices.Clone(runs), func(r simulator.Run) bool { return r.Exit >= 0 })
	line("CLI processes", "%d, killed: %d, at most %d at a time", len(runs), len(cut), c.cluster.Peak())
	st := c.atLeader(t)
	irrevocable, err := st.irrevocable(t.Context())
	must(t, err)
	line("irrevocable leases", "%d", irrevocable)
	ledger, err := st.ledger(t.Context())
	must(t, err)
	states := map[string]int{}
	for _, entry := range ledger {
		states[entry.State]++
	}
	line("ledger at the end", "%d %s", len(ledger), counts(states))
	for _, note := range c.notes {
		_, _ = fmt.Fprintln(table, note)
	}
	line("duration", "%s", time.Since(c.began).Round(time.Second))
	_ = table.Flush()
	return text.String()
}

// fates counts the issued tokens, and those of them that were revoked and that
// expired.
func (st *stage) fates() (issued, revoked, expired int) {
	for _, token := range st.issued() {
		issued++
		switch {
		case !token.RevokedAt.IsZero():
			revoked++
		case !token.Live:
			expired++
		}
	}
	return issued, revoked, expired
}
