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

// TestRotation_SurvivesKilledPlugin kills the plugin by SIGKILL at a random
// moment of a rotation, on several mounts one after the other. Afterwards each
// mount must work and have at most one spare root credential, which the ledger
// must hold.
//
// With $ROTATION_KILLS it uses that many mounts, with moments that
// $ROTATION_SEED decides, and then waits until no mount has a spare root
// credential.
func TestRotation_SurvivesKilledPlugin(t *testing.T) {
	t.Parallel()
	seed := fromEnv(t, "ROTATION_SEED", int(time.Now().UnixNano()%1_000_000))
	kills := fromEnv(t, "ROTATION_KILLS", 0)
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	server := vaulttest.Start(t)
	var stages []*rotationStage
	issued := 0
	n := max(kills, 5)
	for i := range n {
		r := newRotationStage(t, server, fmt.Sprintf("rotation-%d", i))
		// The moments are spread over all steps: a list, a create and a list, of
		// 200 ms each.
		moment := time.Duration((float64(i) + random.Float64()) / float64(n) * float64(750*time.Millisecond))
		outcome := r.killAfter(t, moment)
		r.mustWork(t)
		t.Logf("killed after %s: %s, %d root credentials alive", moment.Round(time.Millisecond), outcome, len(r.rootsAlive()))
		r.mustHaveOneSpareAtMost(t)
		issued += len(r.rootsIssued())
		stages = append(stages, r)
	}
	if issued == 0 {
		t.Error("no rotation has issued a root credential: nothing was tested")
	}
	if kills == 0 {
		return
	}
	for _, r := range stages {
		must(t, vaulttest.Eventually(t.Context(), 6*time.Minute, r.noSpare))
		r.mustWork(t)
	}
}

// A rotationStage is a stage whose root credential is rotated.
type rotationStage struct {
	*stage
	plugin vaulttest.Process
	first  string        // ID of the first root credential
	held   []*credential // under valid leases
}

func newRotationStage(t *testing.T, s *vaulttest.Server, name string) *rotationStage {
	t.Helper()
	before, _ := s.PluginProcesses()
	r := &rotationStage{stage: newStage(t, s, name)}
	r.first = r.disownRoot()
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

// disownRoot allows the first root credential to be revoked. It returns its ID.
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

// killAfter starts a rotation and kills the plugin after the given time. It
// returns how the rotation ended for the caller. Vault repeats a request whose
// plugin has died.
func (r *rotationStage) killAfter(t *testing.T, moment time.Duration) (outcome string) {
	t.Helper()
	slow := simulator.Duration(100 * time.Millisecond) // time to be killed in, before and after each operation
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

// mustWork fails unless the mount issues a token, and all tokens under valid
// leases are alive.
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
			t.Errorf("token %s died under its lease", one.Data.ID)
		}
	}
}

// rootsIssued returns the root credentials that the mount has issued.
func (r *rotationStage) rootsIssued() []simulator.Token {
	return slices.DeleteFunc(r.issued(), func(token simulator.Token) bool {
		return !strings.HasSuffix(token.Description, "] "+vaulttest.RootDescription)
	})
}

// rootsAlive returns the first root credential and those that the mount has
// issued, as far as they are alive.
func (r *rotationStage) rootsAlive() []simulator.Token {
	all := r.rootsIssued()
	if first, ok := r.cluster.Token(r.first); ok {
		all = append(all, first)
	}
	return slices.DeleteFunc(all, func(token simulator.Token) bool { return !token.Live })
}

// mustHaveOneSpareAtMost checks the root credentials that config does not hold:
// the first one, which lives until the end of the overlap, and at most one other.
// The ledger must hold both, and the deadline must be near unless a rotation is
// about to install the token.
func (r *rotationStage) mustHaveOneSpareAtMost(t *testing.T) {
	t.Helper()
	status := r.status(t)
	deadlines := r.deadlines(t)
	spare := 0
	for _, token := range r.rootsAlive() {
		if token.ID == status.RootID {
			continue
		}
		if token.ID != r.first {
			spare++
		}
		deadline, known := deadlines[token.ID]
		if !known && token.ID != r.first {
			deadline, known = deadlines[accessorOf(token)]
		}
		if !known || token.ID != status.NextRootID && deadline.After(time.Now().Add(2*time.Minute)) {
			t.Errorf("root credential %s is alive; in the ledger: %v, deadline %s", token.ID, known, deadline)
		}
	}
	if spare > 1 {
		t.Errorf("%d root credentials are spare", spare)
	}
}

// deadlines returns the deadlines in the ledger, by accessor and, where it is
// known, by token ID.
func (r *rotationStage) deadlines(t *testing.T) map[string]time.Time {
	t.Helper()
	ledger, err := r.ledger(t.Context())
	must(t, err)
	deadlines := map[string]time.Time{}
	for accessor := range ledger {
		info, err := r.tokenInfo(t.Context(), accessor)
		must(t, err)
		deadlines[accessor], deadlines[info.TokenID] = info.Deadline, info.Deadline
	}
	return deadlines
}

// noSpare fails unless exactly one root credential is alive.
func (r *rotationStage) noSpare() error {
	if n := len(r.rootsAlive()); n != 1 {
		return fmt.Errorf("%d root credentials are alive on %s", n, r.mounted)
	}
	return nil
}
