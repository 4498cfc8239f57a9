package backend_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// hangsFor is a cluster that answers no request, until its caller gives up or d
// has passed. Two hours is what 500 requests of 30 seconds take, four at a time.
func hangsFor(d time.Duration) issuertest.Hook {
	return func(ctx context.Context, _ issuertest.Step) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(d):
			return issuer.ErrUnreachable
		}
	}
}

// While the interface for one kind of token hangs, tokens of the other kind
// whose leases were lost are revoked on time, and tokens that may exist are
// looked for.
func TestWorker_OneKindThatHangsDelaysNoOther(t *testing.T) {
	for _, hanging := range []string{"database", "management"} {
		t.Run(hanging, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "24h"})
				e.write("roles/data", with(with(telegraf, "ttl", "1h"), "max_ttl", "24h"))
				hung, healthy := e.data, e.cluster
				hungRole, healthyRole := "data", "automation"
				if hanging == "management" {
					hung, healthy, hungRole, healthyRole = healthy, hung, healthyRole, hungRole
				}
				for range 500 {
					e.read("creds/" + hungRole)
				}
				e.failReads(hungRole, issuertest.AfterIssue, 1)
				e.failReads(healthyRole, issuertest.AfterIssue, 1)
				lost := e.read("creds/" + healthyRole)
				hung.SetHook(hangsFor(2 * time.Hour))
				e.elapse(10 * time.Minute)
				if n := e.tokensAlive(healthy); n != 1 {
					t.Errorf("after ten minutes %d tokens of the healthy kind are alive, want the leased one", n)
				}
				e.elapse(60 * time.Minute)
				if healthy.Alive(issuer.NewSecret(lost.Data["token"].(string))) {
					t.Error("ten minutes after its lease was lost, a token of the healthy kind is alive")
				}
				hung.SetHook(nil)
				e.elapse(2*time.Hour + 10*time.Minute)
				if n := e.tokensAlive(hung); n != 0 {
					t.Errorf("%d tokens of the kind that hung are alive, although it recovered", n)
				}
			})
		})
	}
}

// tokensAlive counts the live tokens of the cluster that bear the mount's tag.
func (e *engine) tokensAlive(cluster *issuertest.Fake) (n int) {
	for _, info := range cluster.Tokens() {
		if strings.HasPrefix(info.Description, "[vault:"+e.tag) && !info.Dead(e.clock.Now()) {
			n++
		}
	}
	return n
}

// A rotation of the root credential that becomes due while the interface for
// database tokens hangs happens on time.
func TestWorker_DatabaseTokensThatHangDelayNoRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, with(with(telegraf, "ttl", "1h"), "max_ttl", "24h"))
		e.write("config", map[string]any{"rotation_period": "90m"})
		for range 500 {
			e.creds()
		}
		e.data.SetHook(hangsFor(2 * time.Hour))
		e.elapse(100 * time.Minute)
		if e.rootID() == e.root.ID {
			t.Error("ten minutes after it was due, the root credential is not rotated")
		}
	})
}

// The worker of a mount whose cluster hangs never works on the same token twice
// at a time, however often Vault calls the periodic function.
func TestWorker_ClusterThatHangsIsNotAskedByEveryTick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "24h"})
		e.creds()
		e.tick()
		e.clock.advance(2 * time.Hour)
		asking, most := 0, 0
		entered := make(chan int)
		go func() {
			for n := range entered {
				asking += n
				most = max(most, asking)
			}
		}()
		e.cluster.SetHook(func(ctx context.Context, step issuertest.Step) error {
			entered <- 1
			defer func() { entered <- -1 }()
			return hangsFor(5*time.Minute)(ctx, step)
		})
		e.elapse(20 * time.Minute)
		e.cluster.SetHook(nil)
		e.elapse(10 * time.Minute)
		close(entered)
		synctest.Wait()
		if most > 2 {
			t.Errorf("%d requests at a time about one token", most)
		}
		if e.alive() != 0 {
			t.Error("the token is alive although the cluster answers again")
		}
	})
}

// A record that no cluster can settle, because it was left behind by a move
// with force, costs next to nothing until its token expires by itself.
func TestWorker_StrandedRecordsAreNotRewrittenAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ready(t, map[string]any{"ttl": "1h", "max_ttl": "600h"})
		e.creds()
		e.failReads("automation", issuertest.AfterIssue, 1)
		_, move := e.otherCluster()
		e.write("config", with(move, "force", true))
		e.pass(3 * time.Hour) // the lease is lost, the answer was, too
		if n := len(e.records()); n != 2 {
			t.Fatalf("%d records", n)
		}
		writes := 0
		e.storage.setFault(func(when string, op logical.Operation, _ string) error {
			if when == "before" && op != readOp && op != listOp {
				writes++
			}
			return nil
		})
		e.pass(48 * time.Hour)
		e.storage.setFault(nil)
		if writes > 100 {
			t.Errorf("%d writes in two days for two records that nothing can settle", writes)
		}
		e.write("config", with(e.home(), "force", true))
		e.passInSteps(5*time.Minute, 3*time.Hour)
		if e.alive() != 0 {
			t.Errorf("back on the first cluster: %d tokens are alive, records %v", e.alive(), e.ledger())
		}
		e.passInSteps(time.Hour, 27*24*time.Hour)
		if len(e.records()) != 0 {
			t.Errorf("long after everything has expired: records %v", e.ledger())
		}
	})
}
