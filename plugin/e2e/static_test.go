package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator/influxdb3server"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// TestStaticRole_Stories reads and replaces tokens of static roles on a real Vault.
func TestStaticRole_Stories(t *testing.T) {
	t.Parallel()
	s := vaulttest.Start(t)
	st := newServerStage(t, s, "static", influxdb3server.Enterprise)
	for name, run := range map[string]func(*testing.T, *serverStage){
		"ReadsIssueNoToken": testReadsIssueNoToken,
		"RotatedTwice":      testRotatedTwice,
		"RotatedAtOnce":     testRotatedAtOnce,
		"Consumers":         testConsumers,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, st)
		})
	}
}

// staticGrace is the grace period of the static roles of the tests.
const staticGrace = 5 * time.Minute

// writeStatic writes a static role for the database metrics.
func (st *serverStage) writeStatic(t *testing.T, role string) {
	t.Helper()
	st.write(t, "static-roles/"+role, map[string]any{
		"token_type": "database", "write_databases": "metrics", "rotation_period": "24h", "rotation_grace_period": staticGrace.String(),
	})
}

// tokensOf returns the names of the tokens of a static role that the server has.
func (st *serverStage) tokensOf(role string) (names []string) {
	for _, name := range st.inCatalog() {
		if strings.HasSuffix(name, "] static "+role) {
			names = append(names, name)
		}
	}
	return names
}

// mustHoldStatic checks the tokens of a static role: the server accepts the current
// one, and every other one is in the ledger with a deadline within the grace
// period. A new token that the worker has yet to make current is allowed for two
// minutes.
func (st *serverStage) mustHoldStatic(t *testing.T, role string) (current serverCredential) {
	t.Helper()
	must(t, vaulttest.Eventually(t.Context(), 2*time.Minute, func() (err error) {
		if current, err = st.currentStatic(t, role); err != nil {
			return err
		}
		for _, name := range st.tokensOf(role) {
			if name != current.Data.ID {
				err = errors.Join(err, st.endsSoon(t.Context(), name))
			}
		}
		return err
	}))
	return current
}

// currentStatic reads the current token of a static role, which the server must
// accept.
func (st *serverStage) currentStatic(t *testing.T, role string) (serverCredential, error) {
	t.Helper()
	current, err := st.credential(t.Context(), "static-creds/"+role)
	if err == nil && !st.influxdb.Accepts(current.Data.Token) {
		t.Errorf("%s: the server does not accept the current token", role)
	}
	return current, err
}

// endsSoon fails unless a token of a static role is gone or has a deadline within
// the grace period.
func (st *serverStage) endsSoon(ctx context.Context, name string) error {
	info, err := st.tokenInfo(ctx, accessorInTag.FindStringSubmatch(name)[1])
	switch {
	case vaulttest.HasStatus(err, http.StatusNotFound):
		return st.gone(name)
	case err == nil && info.Deadline.After(time.Now().Add(staticGrace)):
		return fmt.Errorf("%q (%s) is not the current token, and its deadline is only at %s", name, info.State, info.Deadline)
	}
	return err
}

func (st *serverStage) rotateStatic(ctx context.Context, role string, data map[string]any) error {
	return st.Call(ctx, "PUT", st.mounted+"/rotate-role/"+role, data, nil)
}

// 1,000 reads from 32 clients get the same token.
func testReadsIssueNoToken(t *testing.T, st *serverStage) {
	st.writeStatic(t, "fleet")
	first := st.mustCredential(t, "static-creds/fleet")
	if first.Lease != "" {
		t.Errorf("the answer has the lease %q", first.Lease)
	}
	began := time.Now()
	must(t, vaulttest.Concurrently(1000, 32, func() error {
		c, err := st.credential(t.Context(), "static-creds/fleet")
		if err == nil && c != first {
			err = errors.New("a read returned another token")
		}
		return err
	}))
	t.Logf("%.0f reads/s", 1000/time.Since(began).Seconds())
	if names := st.tokensOf("fleet"); len(names) != 1 || names[0] != first.Data.ID {
		t.Errorf("the server has %q, want only %q", names, first.Data.ID)
	}
}

// After two rotations within a second, the first token is revoked, and the second
// one works until the end of the grace period. The third one is current.
func testRotatedTwice(t *testing.T, st *serverStage) {
	st.writeStatic(t, "twice")
	tokens := []serverCredential{st.mustCredential(t, "static-creds/twice")}
	began := time.Now()
	for range 2 {
		must(t, st.rotateStatic(t.Context(), "twice", nil))
		tokens = append(tokens, st.mustCredential(t, "static-creds/twice"))
	}
	t.Logf("two rotations took %s", time.Since(began).Round(time.Millisecond))
	if current := st.mustHoldStatic(t, "twice"); current != tokens[2] || tokens[1] == tokens[2] || tokens[0] == tokens[1] {
		t.Error("a rotation has not replaced the token")
	}
	if !st.influxdb.Accepts(tokens[1].Data.Token) {
		t.Error("the previous token does not work during its grace period")
	}
	previous, err := st.tokenInfo(t.Context(), tokens[1].Data.Accessor)
	must(t, err)
	if earliest := began.Add(staticGrace - time.Second); previous.Deadline.Before(earliest) { // whole seconds
		t.Errorf("the deadline of the previous token is at %s, want the end of the grace period", previous.Deadline)
	}
	must(t, st.gone(tokens[0].Data.ID))
	must(t, st.rotateStatic(t.Context(), "twice", map[string]any{"force": true}))
	current := st.mustHoldStatic(t, "twice")
	if names := st.tokensOf("twice"); len(names) != 1 || names[0] != current.Data.ID {
		t.Errorf("after force=true the server has %q, want only %q", names, current.Data.ID)
	}
	must(t, st.Call(t.Context(), "DELETE", st.mounted+"/static-roles/twice", nil, nil))
	if names := st.tokensOf("twice"); len(names) > 0 {
		t.Errorf("after the role was deleted the server has %q", names)
	}
}

// Rotations at the same time are performed one after the other.
func testRotatedAtOnce(t *testing.T, st *serverStage) {
	st.writeStatic(t, "atonce")
	must(t, vaulttest.Concurrently(8, 8, func() error { return st.rotateStatic(t.Context(), "atonce", nil) }))
	st.mustHoldStatic(t, "atonce")
	if names := st.tokensOf("atonce"); len(names) != 2 {
		t.Errorf("the server has %q, want the current and the previous token", names)
	}
}

// A secretAnswer is an answer of Vault as its clients decode it: numbers are
// [json.Number].
type secretAnswer struct {
	LeaseID       string         `json:"lease_id"`
	LeaseDuration int            `json:"lease_duration"`
	Renewable     bool           `json:"renewable"`
	Data          map[string]any `json:"data"`
}

func (st *serverStage) readSecret(t *testing.T, path string) (s secretAnswer) {
	t.Helper()
	var raw json.RawMessage
	must(t, st.Call(t.Context(), "GET", st.mounted+"/"+path, nil, &raw))
	decoder := json.NewDecoder(strings.NewReader(string(raw)))
	decoder.UseNumber()
	must(t, decoder.Decode(&s))
	st.KeepSecret(fmt.Sprint(s.Data["token"]))
	return s
}
