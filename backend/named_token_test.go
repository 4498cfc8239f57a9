package backend_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// catalog returns the names of the tokens with the tag of the mount that the server
// has, also of expired ones, except the root credential.
func (e *engine) catalog() (names []string) {
	e.t.Helper()
	root := e.read("config").Data["admin_token_id"]
	for _, kind := range []*issuertest.Fake{e.cluster, e.data} {
		for _, info := range kind.Tokens() {
			if strings.HasPrefix(info.ID, "[vault:"+e.tag) && info.RevokedAt.IsZero() && info.ID != root {
				names = append(names, info.ID)
			}
		}
	}
	return names
}

// wantEmptyCatalog fails the test if the server has a token with the tag of the
// mount.
func (e *engine) wantEmptyCatalog() {
	e.t.Helper()
	if names := e.catalog(); len(names) > 0 {
		e.t.Errorf("tokens that stay in the catalog: %q", names)
	}
}

// times returns a hook that fails the first n calls of a step.
func times(n int, err error, step issuertest.Step) issuertest.Hook {
	return func(_ context.Context, s issuertest.Step) error {
		if s != step || n == 0 {
			return nil
		}
		n--
		return err
	}
}

// everyCoreAndEnterprise runs a test in a bubble for a product with one node and
// for one with several.
func everyCoreAndEnterprise(t *testing.T, test func(*testing.T, *engine)) {
	for _, product := range []string{issuer.Core, issuer.Enterprise} {
		t.Run(product, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				test(t, readyOf(t, product, map[string]any{"ttl": "1h", "max_ttl": "2h"}))
			})
		})
	}
}

func TestNamedToken_LostAnswerEndsWithoutAList(t *testing.T) {
	for name, steps := range map[string]issuertest.Step{"created": issuertest.AfterIssue, "not created": issuertest.BeforeIssue} {
		t.Run(name, func(t *testing.T) {
			everyCoreAndEnterprise(t, func(t *testing.T, e *engine) {
				e.cluster.SetHook(fails(errors.New("409 Conflict: token name already exists"), steps))
				e.mustNotIssue()
				e.cluster.SetHook(nil)
				record := e.storage.dumpUnder(t, "ledger/")
				if !strings.Contains(record, `"state":"issuing"`) || !strings.Contains(record, `"token_id":"[vault:`+e.tag) {
					t.Fatalf("the record must have the name from the start: %s", record)
				}
				lists := e.cluster.Calls(issuertest.BeforeList)
				e.pass(100 * time.Second)
				if len(e.catalog()) != 0 {
					t.Errorf("at the deadline: %v", e.catalog())
				}
				absent := steps == issuertest.BeforeIssue
				if absent != (len(e.records()) == 1) { // the request may still have its effect
					t.Errorf("at the deadline: records %v", e.records())
				}
				e.pass(9 * time.Minute)
				if absent != (len(e.records()) == 1) { // the request may still have its effect
					t.Errorf("before the 404 proves anything: records %v", e.records())
				}
				e.pass(6 * time.Minute)
				if len(e.records()) != 0 {
					t.Errorf("records %v", e.records())
				}
				if n := e.cluster.Calls(issuertest.BeforeList) - lists; n > 0 {
					t.Errorf("%d lists", n)
				}
			})
		})
	}
}

// mustNotIssue reads a credential, which must fail, whatever the status.
func (e *engine) mustNotIssue() {
	e.t.Helper()
	if status, _ := e.try(readOp, "creds/automation", nil); status == http.StatusOK {
		e.t.Fatal("a token was issued")
	}
}

// A token that appears late, because a node has applied the create after it had
// lost the answer, is deleted too.
func TestNamedToken_AppearsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := readyOf(t, issuer.Enterprise, nil)
		e.cluster.SetUnknown(func(info issuer.Info) bool { return e.clock.Now().Before(info.CreatedAt.Add(5 * time.Minute)) })
		e.cluster.SetHook(fails(errDown, issuertest.AfterIssue))
		e.mustNotIssue()
		e.cluster.SetHook(nil)
		e.pass(4 * time.Minute)
		if len(e.records()) != 1 {
			t.Fatal("a node that does not know the token proves nothing")
		}
		e.pass(8 * time.Minute)
		if len(e.records()) != 0 {
			t.Errorf("records %v", e.records())
		}
		e.wantEmptyCatalog()
	})
}

// While a create may still arrive, that the server does not know its name proves
// nothing, also on Core and when an operator asks for the revocation.
func TestNamedToken_RevokedWhileItsCreateMayStillArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := readyOf(t, issuer.Core, nil)
		e.cluster.SetHook(fails(errDown, issuertest.BeforeIssue))
		e.mustNotIssue()
		e.cluster.SetHook(nil)
		key := e.records()[0]
		accessor := key[strings.LastIndex(key, "/")+1:]
		name := e.read("tokens/" + accessor).Data["token_id"].(string)
		if _, err := e.do(t.Context(), deleteOp, "tokens/"+accessor, nil); err == nil || len(e.records()) != 1 {
			t.Fatalf("the request may still arrive: %v, records %v", err, e.records())
		}
		e.cluster.Add(name, e.clock.Now().Add(time.Hour))
		e.pass(5 * time.Minute)
		if len(e.records()) != 0 {
			t.Errorf("records %v", e.records())
		}
		e.wantEmptyCatalog()
	})
}

func TestNamedToken_UnknownProvesAbsence(t *testing.T) {
	everyCoreAndEnterprise(t, func(t *testing.T, e *engine) {
		h := e.creds()
		e.cluster.Kill(h.id())
		err := e.revoke(h)
		if e.product == issuer.Core {
			if err != nil || len(e.records()) != 0 {
				t.Errorf("Core has one node, which knows the token that it created: %v, records %v", err, e.records())
			}
			return
		}
		if err == nil || len(e.records()) != 1 {
			t.Error("on Enterprise, a node may not know the token yet")
		}
		e.clock.advance(10 * time.Minute)
		if err := e.revoke(h); err != nil || len(e.records()) != 0 {
			t.Errorf("ten minutes later: %v, records %v", err, e.records())
		}
	})
}

// A revocation on a node that lags is repeated until the token is deleted.
func TestNamedToken_StaleNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := readyOf(t, issuer.Enterprise, nil)
		h := e.creds()
		e.cluster.SetUnknown(func(info issuer.Info) bool { return e.clock.Now().Before(info.CreatedAt.Add(10 * time.Second)) })
		if e.revoke(h) == nil {
			t.Error("a 404 of a stale node was taken for a proof")
		}
		e.pass(time.Minute)
		if e.cluster.Alive(h.secret()) || len(e.records()) != 0 {
			t.Errorf("records %v", e.records())
		}
	})
}

func TestNamedToken_ExpiredOneIsDeleted(t *testing.T) {
	everyCoreAndEnterprise(t, func(t *testing.T, e *engine) {
		h := e.creds()
		e.cluster.SetHook(down)
		e.passInSteps(time.Hour, 30*time.Hour)
		if e.cluster.Alive(h.secret()) || len(e.records()) != 1 {
			t.Fatalf("the token has expired and must stay in the ledger: records %v", e.records())
		}
		e.cluster.SetHook(nil)
		e.pass(10 * time.Minute)
		if len(e.records()) != 0 {
			t.Errorf("records %v", e.records())
		}
		e.wantEmptyCatalog()
	})
}

// The expiry of a token is not the end of its record, also when the cluster is not
// configured any more.
func TestNamedToken_RecordOfAnotherClusterStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := readyOf(t, issuer.Core, nil)
		e.creds()
		e.write("config", map[string]any{"host": "other.example.com", "admin_token": e.root.Secret.Reveal(), "force": true})
		e.passInSteps(time.Hour, 48*time.Hour)
		if len(e.records()) != 1 {
			t.Fatal("the expired token is still in the catalog of its cluster")
		}
		e.configure(map[string]any{"force": true})
		e.passInSteps(10*time.Minute, 2*time.Hour)
		if len(e.records()) != 0 {
			t.Errorf("back on the cluster: records %v", e.records())
		}
		e.wantEmptyCatalog()
	})
}

func TestNamedToken_RootIsRotated(t *testing.T) {
	everyCoreAndEnterprise(t, func(t *testing.T, e *engine) {
		h := e.creds()
		answer := e.write("config/rotate-root", nil).Data
		next := answer["admin_token_id"].(string)
		if answer["state"] != "rotated" || answer["previous_admin_token_id"] != "root" || answer["admin_token_expires_at"] == nil || answer["mgmt_token_id"] != nil {
			t.Fatalf("answer: %v", answer)
		}
		if !strings.HasPrefix(next, "[vault:"+e.tag) || !strings.HasSuffix(next, "] root credential") {
			t.Errorf("name of the new root credential: %s", next)
		}
		e.pass(50 * time.Second)
		if !e.cluster.Alive(e.root.Secret) {
			t.Error("the previous root credential must stay valid for a minute")
		}
		e.pass(2 * time.Minute)
		if e.cluster.Alive(e.root.Secret) || len(e.records()) != 1 {
			t.Errorf("after the overlap: records %v", e.records())
		}
		if err := e.revoke(h); err != nil || e.cluster.Alive(h.secret()) {
			t.Errorf("a token of the previous root credential: %v", err)
		}
		e.rootWorks()
		e.wantEmptyCatalog()
	})
}

// spreadWait is how long a new root credential may be refused.
const spreadWait = 15 * time.Second

// After a rotation, nodes that do not know the new root credential answer 401.
func TestSpread_NewRootCredentialIsRefusedForAWhile(t *testing.T) {
	for name, call := range map[string]struct {
		step issuertest.Step
		do   func(*engine, *credential) error
	}{
		"issue": {issuertest.BeforeIssue, func(e *engine, _ *credential) error {
			_, err := e.do(e.t.Context(), readOp, "creds/automation", nil)
			return err
		}},
		"revoke": {issuertest.BeforeRevoke, func(e *engine, h *credential) error { return e.revoke(h) }},
		"list": {issuertest.BeforeList, func(e *engine, _ *credential) error {
			_, err := e.do(e.t.Context(), updateOp, "tidy", nil)
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := readyOf(t, issuer.Enterprise, nil)
				h := e.creds()
				e.write("config/rotate-root", nil)
				e.cluster.SetHook(times(4, issuer.ErrUnauthorized, call.step))
				began := time.Now()
				if err := call.do(e, h); err != nil {
					t.Errorf("after %s: %v", time.Since(began), err)
				}
				e.cluster.SetHook(fails(issuer.ErrUnauthorized, call.step))
				began = time.Now()
				if err := call.do(e, e.spare()); err == nil {
					t.Error("a root credential that is never accepted")
				}
				if waited := time.Since(began); waited < 7*time.Second || waited > spreadWait {
					t.Errorf("waited for %s", waited)
				}
				e.clock.advance(time.Minute)
				began = time.Now()
				if call.do(e, e.spare()) == nil || time.Since(began) > 0 {
					t.Errorf("a root credential that every node must know was tried for %s", time.Since(began))
				}
			})
		})
	}
}

// spare returns a credential that was issued while the hook is away.
func (e *engine) spare() *credential {
	hook := e.cluster.Hook()
	e.cluster.SetHook(nil)
	defer e.cluster.SetHook(hook)
	return e.creds()
}

func TestSpread_OtherCredentialsAreNotTriedAgain(t *testing.T) {
	for _, product := range []string{issuer.Dedicated, issuer.Core, issuer.Enterprise} {
		synctest.Test(t, func(t *testing.T) {
			e := readyOf(t, product, nil)
			if product != issuer.Enterprise {
				e.write("config/rotate-root", nil)
			}
			e.cluster.SetHook(fails(issuer.ErrUnauthorized, issuertest.BeforeIssue))
			began := time.Now()
			e.mustNotIssue()
			if waited := time.Since(began); waited > 0 {
				t.Errorf("%s: waited for %s", product, waited)
			}
		})
	}
}

// A process that is stopped between two tries does not send the request again: another
// node may have settled its record.
func TestSpread_StoppedProcessDoesNotTryAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := readyOf(t, issuer.Enterprise, nil)
		e.write("config/rotate-root", nil)
		tries := 0
		e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
			if step == issuertest.BeforeIssue {
				tries++
				e.clock.advance(16 * time.Minute)
				return issuer.ErrUnauthorized
			}
			return nil
		})
		e.mustNotIssue()
		if tries != 1 {
			t.Errorf("the token was requested %d times", tries)
		}
	})
}

// The worker does not wait for its next round because a node learns late about the
// new root credential.
func TestSpread_ProofOfANewRootCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := readyOf(t, issuer.Enterprise, nil)
		e.write("config", map[string]any{"rotation_period": "24h"})
		e.clock.advance(24*time.Hour + time.Minute)
		issued, refusals := false, 3
		e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
			switch {
			case step == issuertest.AfterIssue:
				issued = true
			case step == issuertest.BeforeList && issued && refusals > 0:
				refusals--
				return issuer.ErrUnauthorized
			}
			return nil
		})
		e.tick()
		<-time.After(spreadWait)
		synctest.Wait()
		if got := e.read("config").Data["admin_token_id"]; got == "root" {
			t.Error("the root credential was not rotated in one round of the worker")
		}
	})
}

func TestNamedToken_ConfigCheck(t *testing.T) {
	for _, product := range namedProducts {
		for _, tokenType := range []string{"management", "database"} {
			if product == issuer.Core && tokenType == dbRole {
				continue
			}
			synctest.Test(t, func(t *testing.T) {
				e := newEngineOf(t, product)
				e.cluster.SetServer(issuer.Server{Version: "3.11.5", UUID: uuidA}, nil)
				e.configure()
				resp := e.write("config/check", map[string]any{"token_type": tokenType})
				for field, saw := range resp.Data {
					if !strings.HasPrefix(saw.(string), "ok: ") {
						t.Errorf("%s: %v", field, saw)
					}
				}
				if got := fmt.Sprint(resp.Data["step_2_list"]); !strings.Contains(got, "3.11.5") || !strings.Contains(got, uuidA) {
					t.Errorf("list: %s", got)
				}
				if len(resp.Data) != 7 || len(resp.Warnings) > 0 || len(e.records()) != 0 {
					t.Errorf("%v, %v, records %v", resp.Data, resp.Warnings, e.records())
				}
				e.wantEmptyCatalog()
			})
		}
	}
}

func TestNamedToken_ConfigCheckOnSeveralNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := readyOf(t, issuer.Enterprise, nil)
		stale := 3
		e.cluster.SetUnknown(func(issuer.Info) bool { stale--; return stale >= 0 })
		resp := e.write("config/check", nil)
		says(t, resp.Warnings, "several nodes")
		if e.alive() != 0 || len(e.records()) != 0 {
			t.Errorf("%v, records %v", resp.Data, e.records())
		}
		e.cluster.SetUnknown(func(issuer.Info) bool { return true })
		resp = e.write("config/check", nil)
		says(t, resp.Warnings, "several nodes")
		says(t, []string{fmt.Sprint(resp.Data["step_6_revoke"])}, "ok: not yet", "later")
		if e.alive() != 1 || len(e.records()) != 1 {
			t.Fatalf("alive %d, records %v", e.alive(), e.records())
		}
		e.cluster.SetUnknown(nil)
		e.pass(5 * time.Minute)
		if e.alive() != 0 || len(e.records()) != 0 {
			t.Errorf("the worker: alive %d, records %v", e.alive(), e.records())
		}
	})
}

// A token that the list still shows after it was deleted is not proved to be gone.
func TestNamedToken_ConfigCheckSeesThatATokenStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := readyOf(t, issuer.Enterprise, nil)
		e.cluster.SetHook(func(_ context.Context, step issuertest.Step) error {
			if tokens := e.cluster.Tokens(); step == issuertest.AfterRevoke {
				e.cluster.SetHook(nil)
				e.cluster.Add(tokens[len(tokens)-1].ID, e.clock.Now().Add(time.Hour))
			}
			return nil
		})
		_, err := e.do(t.Context(), updateOp, "config/check", nil)
		if err == nil || !strings.Contains(err.Error(), "dead, failed") || !strings.Contains(err.Error(), "still lists") {
			t.Errorf("config/check: %v", err)
		}
		e.wantEmptyCatalog()
	})
}

func TestNamedToken_TidyComparesAllTypes(t *testing.T) {
	everyCoreAndEnterprise(t, func(t *testing.T, e *engine) {
		held := 1
		h := e.creds()
		if e.product == issuer.Enterprise {
			e.write("roles/data", map[string]any{"token_type": dbRole, "read_databases": "a"})
			e.read("creds/data")
			held = 2
		}
		tag := "[vault:" + e.tag + ":"
		restored := e.cluster.Add(tag+"AAAAAAAAAAAAAAAAAAAAAAAAAA] restored", e.clock.Now().Add(time.Hour))
		e.cluster.Add(tag+"BBBBBBBBBBBBBBBBBBBBBBBBBB] expired", e.clock.Now().Add(-time.Hour))
		other := e.cluster.Add("[vault:0123456789ab:AAAAAAAAAAAAAAAAAAAAAAAAAA] another mount's", e.clock.Now().Add(-time.Hour))
		got := e.write("tidy", nil).Data
		if got["in_ledger"] != held || got["unknown"] != 2 || got["not_listed"] != 0 || got["dead"] != 0 {
			t.Errorf("tidy: %v", got)
		}
		got = e.write("tidy", map[string]any{"dry_run": false, "revoke_unknown": e.tag}).Data
		if got["revoked"] != 2 || e.cluster.Alive(restored.Secret) || !e.cluster.Alive(h.secret()) {
			t.Errorf("tidy: %v", got)
		}
		if len(e.catalog()) != held {
			t.Errorf("catalog: %v", e.catalog())
		}
		for _, info := range e.cluster.Tokens() {
			if info.ID == other.ID && !info.RevokedAt.IsZero() {
				t.Error("a token of another mount was deleted")
			}
		}
	})
}

// A backup brings a deleted token back whose revocation is still in the ledger.
func TestNamedToken_RevivedWhileRevoking(t *testing.T) {
	everyCoreAndEnterprise(t, func(t *testing.T, e *engine) {
		h := e.creds()
		e.cluster.SetHook(fails(errDown, issuertest.AfterRevoke)) // deleted, but the answer was lost
		if e.revoke(h) == nil {
			t.Fatal("the answer was lost")
		}
		revived := e.cluster.Add(h.id(), e.clock.Now().Add(time.Hour))
		e.cluster.SetHook(nil)
		e.pass(15 * time.Minute)
		if e.cluster.Alive(revived.Secret) || len(e.records()) != 0 {
			t.Errorf("records %v", e.records())
		}
	})
}

func TestNamedToken_InvalidRequestIsTheCallersFault(t *testing.T) {
	everyCoreAndEnterprise(t, func(t *testing.T, e *engine) {
		e.cluster.SetHook(fails(fmt.Errorf("cannot parse token permission, invalid resource name nope: %w", issuer.ErrInvalid), issuertest.BeforeIssue))
		e.refuse(400, readOp, "creds/automation", nil, "invalid resource name nope")
		if len(e.records()) != 0 {
			t.Errorf("records %v", e.records())
		}
	})
}

// The scenarios of the crash table on products where tokens have names.
func TestCrash_NamedTokens(t *testing.T) {
	for _, product := range []string{issuer.Core, issuer.Enterprise} {
		for name, s := range scenarios {
			for _, mode := range failureModes {
				t.Run(fmt.Sprintf("%s/%s/%s", product, name, mode), func(t *testing.T) {
					for n, more := 1, true; more; n++ {
						synctest.Test(t, func(t *testing.T) { more = s.run(t, product, failureAt{mode, n}) })
						if t.Failed() {
							t.Fatalf("at step %d", n)
						}
					}
				})
			}
		}
	}
}

func TestCrash_RotationOfANamedRootCredential(t *testing.T) {
	for _, product := range []string{issuer.Core, issuer.Enterprise} {
		for _, mode := range failureModes {
			t.Run(product+"/"+string(mode), func(t *testing.T) {
				for n, more := 1, true; more; n++ {
					synctest.Test(t, func(t *testing.T) { more = rotateWithFailure(t, product, mode, n) })
					if t.Failed() {
						t.Fatalf("at step %d", n)
					}
				}
			})
		}
	}
}
