package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// A haStage is a stage on a cluster of three nodes. Its embedded stage makes its
// requests to the first node; use at and atLeader for others.
type haStage struct {
	*stage
	vault *vaulttest.Cluster
}

func newHAStage(t *testing.T, name string) *haStage {
	t.Helper()
	vault := vaulttest.StartCluster(t)
	return &haStage{newStage(t, vault.Nodes[0], name), vault}
}

// atLeader waits until there is a leader and returns the stage as seen there.
func (h *haStage) atLeader(t *testing.T) *stage {
	t.Helper()
	return h.at(h.vault.AwaitLeader(t))
}

// TestNodes runs stories on a cluster of three nodes, one after the other, since
// each needs a leader.
func TestNodes(t *testing.T) {
	t.Parallel()
	h := newHAStage(t, "nodes")
	t.Run("EveryNodeServes", h.everyNodeServes)
	t.Run("PausedLeader_RevokesNoRenewedLease", h.pausedLeaderRevokesNoRenewedLease)
	t.Run("PausedLeader_IssuesNoLostToken", h.pausedLeaderIssuesNoLostToken)
	t.Run("PausedPlugin_ChildFinishesLater", h.pausedPluginChildFinishesLater)
}

// everyNodeServes reads, renews and revokes through every node. Only the leader
// may run the CLI for that.
func (h *haStage) everyNodeServes(t *testing.T) {
	leader := h.vault.AwaitLeader(t)
	slow := simulator.Fault{Latency: simulator.Duration(250 * time.Millisecond), LatencyAfter: simulator.Duration(250 * time.Millisecond)}
	h.cluster.SetFaults(simulator.Faults{Any: slow}) // each CLI process runs long enough to be seen
	defer h.cluster.SetFaults(simulator.Faults{})
	h.write(t, "roles/ci", map[string]any{"ttl": "1h", "max_ttl": "8h"})
	before := len(h.cluster.Runs())
	seen := h.watchCLI(t)
	for i, node := range h.vault.Nodes {
		h.at(node).liveALife(t, i%2 == 0)
	}
	nodes := seen()
	runs := h.cluster.Runs()[before:]
	if len(runs) < 2*len(h.vault.Nodes) {
		t.Errorf("the CLI has run only %d times", len(runs))
	}
	for _, run := range runs {
		switch node, ok := nodes[run.Pids[0]]; {
		case !ok:
			t.Errorf("CLI process %d is not the child of a plugin", run.Pids[0])
		case node != leader:
			t.Errorf("CLI process %d was started on a standby", run.Pids[0])
		}
	}
}

// liveALife reads two credentials through one node, renews them, and revokes one
// synchronously and one lazily.
func (st *stage) liveALife(t *testing.T, syncFirst bool) {
	t.Helper()
	for _, synchronous := range []bool{syncFirst, !syncFirst} {
		one, err := st.read(t.Context(), "ci", "")
		must(t, err)
		must(t, st.Call(t.Context(), "PUT", "sys/leases/renew", map[string]any{"lease_id": one.Lease, "increment": 1800}, nil))
		if token, _ := st.cluster.Token(one.Data.ID); !token.Live {
			t.Error("a token does not work under its lease")
		}
		must(t, st.Call(t.Context(), "PUT", "sys/leases/revoke", map[string]any{"lease_id": one.Lease, "sync": synchronous}, nil))
		isDead := func() error {
			if token, _ := st.cluster.Token(one.Data.ID); token.Live {
				return errors.New("a token is alive after its revocation")
			}
			return nil
		}
		if synchronous {
			must(t, isDead())
		} else {
			must(t, vaulttest.Eventually(t.Context(), 30*time.Second, isDead))
		}
	}
}

// watchCLI records, until the returned function is called, which node each CLI
// process belongs to.
func (h *haStage) watchCLI(t *testing.T) (seen func() map[int]*vaulttest.Server) {
	t.Helper()
	nodes := map[int]*vaulttest.Server{}
	ctx, stop := context.WithCancel(t.Context())
	var watch sync.WaitGroup
	watch.Go(func() {
		for vaulttest.Wait(ctx, 15*time.Millisecond) {
			for pid, node := range h.vault.CLIProcesses() {
				nodes[pid] = node
			}
		}
	})
	t.Cleanup(stop)
	return func() map[int]*vaulttest.Server {
		stop()
		watch.Wait()
		return nodes
	}
}

// pausedLeaderRevokesNoRenewedLease pauses the leader and its plugin, renews
// leases at the new leader, and lets the old one go on after the leases would
// have ended without the renewal. The old leader still has the old end of the
// leases in memory, and sends revocations to its plugin before it notices that
// it has lost its leadership. The plugin goes on a little later and gets them
// then. The renewals are for much longer than the leases, so that no lease ends for
// another reason.
func (h *haStage) pausedLeaderRevokesNoRenewedLease(t *testing.T) {
	former := h.vault.AwaitLeader(t)
	must(t, h.at(former).Call(t.Context(), "POST", h.mounted+"/roles/short", map[string]any{"ttl": "15m", "max_ttl": "30m"}, nil))
	var held []*credential
	for range 12 {
		one, err := h.at(former).read(t.Context(), "short", "?ttl=30s")
		must(t, err)
		held = append(held, one)
	}
	plugins, _ := former.PluginProcesses()
	resumePlugin, err := vaulttest.Pause(t, plugins[0])
	must(t, err)
	resume, err := vaulttest.Pause(t, former.Process(t))
	must(t, err)
	now := h.at(h.vault.AwaitLeader(t, former))
	ends := time.Now()
	for _, one := range held {
		ends = laterOf(ends, one.until)
		must(t, vaulttest.Eventually(t.Context(), 20*time.Second, func() error {
			return now.Call(t.Context(), "PUT", "sys/leases/renew", map[string]any{"lease_id": one.Lease, "increment": 900}, nil)
		}))
	}
	vaulttest.Wait(t.Context(), time.Until(ends)+time.Second)
	resume()
	vaulttest.Wait(t.Context(), 300*time.Millisecond)
	resumePlugin()
	mustBecomeStandby(t, former)
	h.mustLiveOn(t, held)
}

// mustLiveOn renews leases for some seconds, and fails if one of their tokens is
// dead.
func (h *haStage) mustLiveOn(t *testing.T, held []*credential) {
	t.Helper()
	dead := map[string]bool{}
	for range 3 {
		for _, one := range held {
			must(t, vaulttest.Eventually(t.Context(), 20*time.Second, func() error {
				return h.at(h.vault.AwaitLeader(t)).Call(t.Context(), "PUT", "sys/leases/renew", map[string]any{"lease_id": one.Lease, "increment": 900}, nil)
			}))
			if token, _ := h.cluster.Token(one.Data.ID); !token.Live {
				dead[one.Data.ID] = true
			}
		}
		vaulttest.Wait(t.Context(), time.Second)
	}
	if len(dead) > 0 {
		t.Errorf("%d of %d tokens died under leases that were renewed", len(dead), len(held))
	}
}

func laterOf(x, y time.Time) time.Time {
	if x.After(y) {
		return x
	}
	return y
}

// mustBecomeStandby waits until a node that was paused has noticed that it is
// not the leader any more.
func mustBecomeStandby(t *testing.T, node *vaulttest.Server) {
	t.Helper()
	must(t, vaulttest.Eventually(t.Context(), 30*time.Second, func() error {
		err := node.Call(t.Context(), "GET", "sys/health", nil, nil)
		if !vaulttest.HasStatus(err, http.StatusTooManyRequests) {
			return fmt.Errorf("the node is not a standby: %v", err)
		}
		return nil
	}))
}

// pausedLeaderIssuesNoLostToken pauses the leader while its plugin issues a
// token, for longer than its leadership lasts.
func (h *haStage) pausedLeaderIssuesNoLostToken(t *testing.T) {
	former := h.vault.AwaitLeader(t)
	issued := h.issueWhile(t, former, func() {
		resume, err := vaulttest.Pause(t, former.Process(t))
		must(t, err)
		h.vault.AwaitLeader(t, former)
		resume()
	})
	mustBecomeStandby(t, former)
	h.mustHaveIssuedAccountedFor(t, issued)
}

// pausedPluginChildFinishesLater pauses the plugin while its CLI process creates
// a token. The CLI process finishes, the leader changes, and only then does the
// plugin go on.
func (h *haStage) pausedPluginChildFinishesLater(t *testing.T) {
	former := h.vault.AwaitLeader(t)
	issued := h.issueWhile(t, former, func() {
		plugins, _ := former.PluginProcesses()
		resume, err := vaulttest.Pause(t, plugins[0])
		must(t, err)
		must(t, vaulttest.Eventually(t.Context(), 20*time.Second, func() error {
			if n := h.cluster.Running(); n > 0 {
				return fmt.Errorf("%d CLI processes run", n)
			}
			return nil
		}))
		h.vault.Kill(former)
		h.vault.AwaitLeader(t, former)
		resume()
	})
	h.vault.Restart(t, former)
	h.mustHaveIssuedAccountedFor(t, issued)
}

// issueWhile reads a credential at a node and calls disturb while the CLI runs.
// It returns how many tokens there were before.
func (h *haStage) issueWhile(t *testing.T, node *vaulttest.Server, disturb func()) (before int) {
	t.Helper()
	half := simulator.Duration(700 * time.Millisecond)
	h.cluster.SetFaults(simulator.Faults{Create: simulator.Fault{Latency: half, LatencyAfter: half}})
	defer h.cluster.SetFaults(simulator.Faults{})
	before = len(h.issued())
	var reader sync.WaitGroup
	reader.Go(func() {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, _ = h.at(node).read(ctx, "ci", "") // may fail: the leader changes
	})
	must(t, vaulttest.Eventually(t.Context(), 20*time.Second, func() error {
		if h.cluster.Running() == 0 {
			return errors.New("the CLI does not run")
		}
		return nil
	}))
	disturb()
	reader.Wait()
	return before
}

// mustHaveIssuedAccountedFor asserts that the cluster has a new token, and that
// the new leader knows about it.
func (h *haStage) mustHaveIssuedAccountedFor(t *testing.T, before int) {
	t.Helper()
	if n := len(h.issued()) - before; n != 1 {
		t.Errorf("%d tokens were created, want 1", n)
	}
	h.atLeader(t).mustAccountFor(t, time.Hour+deadlineMargin)
}
