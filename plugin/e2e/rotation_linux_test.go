package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// TestAPluginKilledInARotationLocksNobodyOut kills the plugin by SIGKILL at some
// moment of a rotation, on several mounts one after the other. Each must work
// afterwards, and have no more than one root token to spare, which is in the
// ledger.
//
// With $ROTATION_KILLS it does so that often, in the order that $ROTATION_SEED
// decides, and then waits until no mount has a root token to spare.
func TestAPluginKilledInARotationLocksNobodyOut(t *testing.T) {
	t.Parallel()
	seed := fromEnv(t, "ROTATION_SEED", int(time.Now().UnixNano()%1_000_000))
	kills := fromEnv(t, "ROTATION_KILLS", 0)
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	server := vaulttest.Start(t)
	var rotated []*rotationStage
	for i := range max(kills, 5) {
		r := newRotating(t, server, fmt.Sprintf("rotation-%d", i))
		moment := time.Duration(random.Int64N(int64(550 * time.Millisecond)))
		outcome := r.killAfter(t, moment)
		r.mustWork(t)
		t.Logf("killed after %s: %s, %d root tokens alive", moment.Round(time.Millisecond), outcome, len(r.rootsAlive()))
		r.mustHaveOneToSpareAtMost(t)
		rotated = append(rotated, r)
	}
	if kills == 0 {
		return
	}
	for _, r := range rotated {
		must(t, vaulttest.Eventually(t.Context(), 6*time.Minute, r.hasNoneToSpare))
		r.mustWork(t)
	}
}

// A rotationStage mount is one whose root token is rotated.
type rotationStage struct {
	*stage
	plugin vaulttest.Process
	old    string        // id of the root token that it has had first
	held   []*credential // under leases
}

func newRotating(t *testing.T, s *vaulttest.Server, name string) *rotationStage {
	t.Helper()
	before, _ := s.PluginProcesses()
	r := &rotationStage{stage: newStage(t, s, name)}
	r.old = r.disownRoot()
	r.write(t, "config", map[string]any{"rotation_overlap": "1s"})
	r.write(t, "roles/ci", map[string]any{"ttl": "1h"})
	r.mustWork(t)
	now, _ := s.PluginProcesses()
	for _, p := range now {
		if !slices.Contains(before, p) {
			r.plugin = p
		}
	}
	return r
}

// disownRoot lets the first root token be rotated away, and returns its id.
func (st *stage) disownRoot() (id string) {
	st.foreigners = slices.DeleteFunc(st.foreigners, func(foreigner string) bool {
		token, _ := st.cluster.Token(foreigner)
		if token.Root {
			id = foreigner
		}
		return token.Root
	})
	return id
}

// killAfter begins a rotation and kills the plugin a while later. It returns how
// the rotation ended for its caller: Vault sends a request anew whose plugin has
// died.
func (r *rotationStage) killAfter(t *testing.T, moment time.Duration) (outcome string) {
	t.Helper()
	slow := simulator.Duration(100 * time.Millisecond) // there must be time to be killed in, before and after the deed
	r.cluster.SetFaults(simulator.Faults{Any: simulator.Fault{Latency: slow, LatencyAfter: slow}})
	var caller sync.WaitGroup
	caller.Go(func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var answer struct {
			Data struct {
				State string `json:"state"`
			} `json:"data"`
		}
		err := r.Call(ctx, "PUT", r.mounted+"/config/rotate-root", nil, &answer)
		if outcome = answer.Data.State; err != nil {
			outcome = reasonOf(err)
		}
	})
	vaulttest.Wait(t.Context(), moment)
	vaulttest.Kill(r.plugin)
	caller.Wait()
	r.cluster.SetFaults(simulator.Faults{})
	return outcome
}

// mustWork fails unless the mount mints, and nothing has died under a lease.
func (r *rotationStage) mustWork(t *testing.T) {
	t.Helper()
	must(t, vaulttest.Eventually(t.Context(), 30*time.Second, func() error {
		one, err := r.read(t.Context(), "ci", "")
		if err == nil {
			r.held = append(r.held, one)
		}
		return err
	}))
	for _, one := range r.held {
		if token, _ := r.cluster.Token(one.Data.ID); !token.Live {
			t.Errorf("token %s has died under its lease", one.Data.ID)
		}
	}
}

// rootsAlive are the root tokens that the mount has been given or has made.
func (r *rotationStage) rootsAlive() (alive []simulator.Token) {
	for _, token := range r.cluster.Tokens() {
		made := strings.HasPrefix(token.Description, r.tag) && strings.HasSuffix(token.Description, "] root token")
		if token.Live && (made || token.ID == r.old) {
			alive = append(alive, token)
		}
	}
	return alive
}

// roots are the id of the root token and, while a rotation is under way, that of
// the one to follow.
func (r *rotationStage) roots(t *testing.T) (root, next string) {
	t.Helper()
	status := r.status(t)
	return status.RootID, status.NextRootID
}

// mustHaveOneToSpareAtMost looks at the root tokens that are not the root. Beside
// the one that was replaced, which lives on for its overlap, there may be one;
// the engine must know of both, and act on what no rotation under way is about.
func (r *rotationStage) mustHaveOneToSpareAtMost(t *testing.T) {
	t.Helper()
	root, next := r.roots(t)
	dues := r.dues(t)
	spare := 0
	for _, token := range r.rootsAlive() {
		if token.ID == root {
			continue
		}
		if token.ID != r.old {
			spare++
		}
		due, known := dues[token.ID]
		if !known && token.ID != r.old {
			due, known = dues[accessorOf(token)]
		}
		if !known || token.ID != next && due.After(time.Now().Add(2*time.Minute)) {
			t.Errorf("root token %s lives, is in the ledger: %v, is due at %s", token.ID, known, due)
		}
	}
	if spare > 1 {
		t.Errorf("%d root tokens are to spare", spare)
	}
}

// dues are the moments at which the engine acts on its tokens, by their nonces
// and, as far as they are known, by their ids.
func (r *rotationStage) dues(t *testing.T) map[string]time.Time {
	t.Helper()
	ledger, err := r.ledger(t.Context())
	must(t, err)
	dues := map[string]time.Time{}
	for accessor := range ledger {
		info, err := r.tokenInfo(t.Context(), accessor)
		must(t, err)
		dues[accessor], dues[info.TokenID] = info.Deadline, info.Deadline
	}
	return dues
}

// hasNoneToSpare fails while a root token but the root is alive.
func (r *rotationStage) hasNoneToSpare() error {
	if n := len(r.rootsAlive()); n != 1 {
		return fmt.Errorf("%d root tokens are alive on %s", n, r.mounted)
	}
	return nil
}
