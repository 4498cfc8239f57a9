package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator/influxdb3server"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// A serverStage is a mount of the engine that is configured for a simulated
// InfluxDB 3 server of its own, with the databases metrics and logs. The
// simulated cluster of the embedded stage is nil.
type serverStage struct {
	*stage
	influxdb *influxdb3server.Cluster
	url      string
	root     string       // secret of the root credential
	operator string       // secret of the operator token
	latency  atomic.Int64 // of a request before it is performed, and again after it
}

// rootName is the name of the first root credential of a serverStage.
const rootName = "vault-root"

// newServerStage registers the plugin under a name, without influxctl, mounts it
// at a path of that name, and configures it for a new server.
func newServerStage(t *testing.T, s *vaulttest.Server, name, product string) *serverStage {
	t.Helper()
	st := &serverStage{
		stage: &stage{Server: s, mounted: name},
		influxdb: influxdb3server.New(influxdb3server.Options{
			Product: product, Databases: []string{"metrics", "logs"},
		}),
	}
	st.operator = st.influxdb.AddToken(influxdb3server.Operator, "", time.Time{})
	st.root = st.influxdb.AddToken(rootName, "", time.Time{})
	s.KeepSecret(st.operator, st.root)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		vaulttest.Wait(context.WithoutCancel(r.Context()), time.Duration(st.latency.Load()))
		st.influxdb.ServeHTTP(w, r)
		vaulttest.Wait(context.WithoutCancel(r.Context()), time.Duration(st.latency.Load()))
	}))
	t.Cleanup(web.Close)
	st.url = web.URL
	must(t, s.Register(t.Context(), name))
	must(t, s.Mount(t.Context(), name, name))
	st.configure(t, product, st.root)
	st.tag = "[vault:" + st.status(t).Tag + ":"
	t.Cleanup(func() {
		for _, violation := range st.influxdb.Violations() {
			t.Errorf("the server got a request that must not be sent: %s", violation)
		}
	})
	return st
}

// configure writes the config with a root credential.
func (st *serverStage) configure(t *testing.T, product, root string) {
	t.Helper()
	at, err := url.Parse(st.url)
	must(t, err)
	st.write(t, "config", map[string]any{
		"product": product, "host": at.Hostname(), "port": at.Port(), "disable_tls": true, "admin_token": root,
	})
}

// A serverCredential is a leased or a static token.
type serverCredential struct {
	Lease string `json:"lease_id"`
	Data  struct {
		Token    string `json:"token"`
		ID       string `json:"token_id"`
		Accessor string `json:"accessor"`
		URL      string `json:"url"`
	} `json:"data"`
}

// credential reads a credential at a path of the mount.
func (st *serverStage) credential(ctx context.Context, path string) (c serverCredential, err error) {
	if err = st.Call(ctx, "GET", st.mounted+"/"+path, nil, &c); err == nil {
		st.KeepSecret(c.Data.Token)
	}
	return c, err
}

func (st *serverStage) mustCredential(t *testing.T, path string) serverCredential {
	t.Helper()
	c, err := st.credential(t.Context(), path)
	must(t, err)
	return c
}

func (st *serverStage) revoke(t *testing.T, c serverCredential) {
	t.Helper()
	must(t, st.Call(t.Context(), "PUT", "sys/leases/revoke", map[string]any{"lease_id": c.Lease, "sync": true}, nil))
}

// mustAnswer fails unless the server answers a request with the HTTP status.
func (st *serverStage) mustAnswer(t *testing.T, status int, method, path, token string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, st.url+path, http.NoBody)
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	must(t, resp.Body.Close())
	if resp.StatusCode != status {
		t.Errorf("%s %s: %s, want %d", method, path, resp.Status, status)
	}
}

// inCatalog returns the names of the tokens of the mount that the server has, also
// expired ones.
func (st *serverStage) inCatalog() (names []string) {
	for _, token := range st.influxdb.Tokens() {
		if strings.HasPrefix(token.Name, st.tag) {
			names = append(names, token.Name)
		}
	}
	return names
}

// gone fails while the server has a token with the name.
func (st *serverStage) gone(name string) error {
	if _, ok := st.influxdb.Token(name); ok {
		return fmt.Errorf("the server still has the token %q", name)
	}
	return nil
}

// mustRefuse fails unless a call fails with an HTTP status and an error that
// contains the text.
func (st *serverStage) mustRefuse(t *testing.T, status int, text, method, path string, data map[string]any) {
	t.Helper()
	err := st.Call(t.Context(), method, st.mounted+"/"+path, data, nil)
	answer, ok := errors.AsType[*vaulttest.StatusError](err)
	if !ok || answer.Code != status || !strings.Contains(answer.Body, text) {
		t.Errorf("%s %s: %v, want status %d and %q", method, path, err, status, text)
	}
}

const listOfTokens = "/api/v3/query_sql?db=_internal&q=SELECT+name+FROM+system.tokens"

// TestServer_Stories runs the engine on the simulated InfluxDB 3 Core, Enterprise
// and Cloud.
func TestServer_Stories(t *testing.T) {
	t.Parallel()
	s := vaulttest.Start(t)
	for _, product := range []string{influxdb3server.Core, influxdb3server.Enterprise, influxdb3server.Cloud} {
		t.Run("LeasedAdminToken_"+product, func(t *testing.T) {
			t.Parallel()
			testLeasedAdminToken(t, newServerStage(t, s, "admin-"+product, product))
		})
	}
	for name, test := range map[string]struct {
		product string
		run     func(*testing.T, *serverStage)
	}{
		"DatabaseToken":          {influxdb3server.Enterprise, testDatabaseToken},
		"DatabaseTokenOfCore":    {influxdb3server.Core, testDatabaseTokenOfCore},
		"OperatorToken":          {influxdb3server.Core, testOperatorToken},
		"ExpiredToken":           {influxdb3server.Core, testExpiredToken},
		"RestoredTokens":         {influxdb3server.Enterprise, testRestoredTokens},
		"RotationAndLostAnswers": {influxdb3server.Enterprise, testRotationAndLostAnswers},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.run(t, newServerStage(t, s, strings.ToLower(name), test.product))
		})
	}
}

// The token has administrative rights until its lease ends, and then its name is
// free.
func testLeasedAdminToken(t *testing.T, st *serverStage) {
	st.write(t, "roles/automation", map[string]any{"ttl": "1h", "max_ttl": "8h", "token_type": "admin"})
	one, two := st.mustCredential(t, "creds/automation"), st.mustCredential(t, "creds/automation")
	for _, c := range []serverCredential{one, two} {
		st.mustAnswer(t, http.StatusOK, "GET", listOfTokens, c.Data.Token)
		if c.Data.URL != st.url {
			t.Errorf("url is %q, want %q", c.Data.URL, st.url)
		}
		if token, ok := st.influxdb.Token(c.Data.ID); !ok || token.Expiry.IsZero() {
			t.Errorf("token %q: known %v, expires at %v", c.Data.ID, ok, token.Expiry)
		}
	}
	st.revoke(t, one)
	st.mustAnswer(t, http.StatusUnauthorized, "GET", listOfTokens, one.Data.Token)
	st.mustAnswer(t, http.StatusOK, "GET", listOfTokens, two.Data.Token)
	if names := st.inCatalog(); len(names) != 1 || names[0] != two.Data.ID {
		t.Errorf("the server has %q, want only %q", names, two.Data.ID)
	}
	must(t, st.Call(t.Context(), "POST", st.mounted+"/config/check", nil, nil))
	if names := st.inCatalog(); len(names) != 1 {
		t.Errorf("config/check has left a token: %q", names)
	}
	must(t, st.Call(t.Context(), "DELETE", "sys/mounts/"+st.mounted, nil, nil))
	must(t, vaulttest.Eventually(t.Context(), 30*time.Second, func() error { return st.gone(two.Data.ID) }))
}

// The token can do what its role names, and nothing else.
func testDatabaseToken(t *testing.T, st *serverStage) {
	st.write(t, "roles/telegraf", map[string]any{"token_type": "database", "write_databases": "metrics", "ttl": "1h", "max_ttl": "2h"})
	c := st.mustCredential(t, "creds/telegraf")
	st.mustAnswer(t, http.StatusNoContent, "POST", "/api/v3/write_lp?db=metrics", c.Data.Token)
	st.mustAnswer(t, http.StatusForbidden, "POST", "/api/v3/write_lp?db=logs", c.Data.Token)
	st.mustAnswer(t, http.StatusForbidden, "GET", listOfTokens, c.Data.Token)
	st.revoke(t, c)
	st.mustAnswer(t, http.StatusUnauthorized, "POST", "/api/v3/write_lp?db=metrics", c.Data.Token)

	st.write(t, "roles/typo", map[string]any{"token_type": "database", "write_databases": "metrisc", "ttl": "1h", "max_ttl": "2h"})
	st.mustRefuse(t, http.StatusBadRequest, "metrisc", "GET", "creds/typo", nil)
	if names := st.inCatalog(); len(names) > 0 {
		t.Errorf("the server has %q", names)
	}
	ledger, err := st.ledger(t.Context())
	must(t, err)
	if len(ledger) > 0 {
		t.Errorf("the ledger has %v", ledger)
	}
}

// Core has no database tokens, and the error says so.
func testDatabaseTokenOfCore(t *testing.T, st *serverStage) {
	role := map[string]any{"token_type": "database", "write_databases": "metrics", "ttl": "1h"}
	st.mustRefuse(t, http.StatusBadRequest, "every token of InfluxDB 3 Core is a full administrator", "POST", "roles/telegraf", role)
	role = map[string]any{"token_type": "database", "write_databases": "metrics", "rotation_period": "24h"}
	st.mustRefuse(t, http.StatusBadRequest, "every token of InfluxDB 3 Core is a full administrator", "POST", "static-roles/telegraf", role)
	if names := st.inCatalog(); len(names) > 0 {
		t.Errorf("the server has %q", names)
	}
}

// The operator token works as root credential, and its rotation is refused.
func testOperatorToken(t *testing.T, st *serverStage) {
	st.configure(t, influxdb3server.Core, st.operator)
	st.write(t, "roles/automation", map[string]any{"ttl": "1h", "max_ttl": "8h"})
	c := st.mustCredential(t, "creds/automation")
	st.mustAnswer(t, http.StatusOK, "GET", listOfTokens, c.Data.Token)
	st.mustRefuse(t, http.StatusBadRequest, "Create a named admin token", "PUT", "config/rotate-root", nil)
	st.revoke(t, c)
	must(t, st.gone(c.Data.ID))
}

// A rotation replaces the root credential. The answers to the creates that follow
// are lost: the caller gets an error each time. The worker deletes the previous
// root credential and, by their names, the tokens that nobody has. This is one test
// because the worker runs only once a minute.
func testRotationAndLostAnswers(t *testing.T, st *serverStage) {
	st.write(t, "config", map[string]any{"rotation_overlap": "1s"})
	st.write(t, "roles/automation", map[string]any{"ttl": "1h", "max_ttl": "8h"})
	st.write(t, "roles/telegraf", map[string]any{"token_type": "database", "write_databases": "metrics", "ttl": "1h", "max_ttl": "2h"})
	held := st.mustCredential(t, "creds/automation")
	st.rotate(t)
	lost := append(st.lose(t, "creds/automation"), st.lose(t, "creds/telegraf")...)
	if issuing := vaulttest.Count(st.status(t).Issuing); issuing != len(lost) {
		t.Errorf("the ledger has %d issuing tokens, want %d", issuing, len(lost))
	}
	must(t, vaulttest.Eventually(t.Context(), 2*time.Minute, func() error { return st.gone(rootName) }))
	st.mustAnswer(t, http.StatusUnauthorized, "GET", listOfTokens, st.root)
	must(t, vaulttest.Eventually(t.Context(), 4*time.Minute, func() error {
		for _, name := range lost {
			if err := st.gone(name); err != nil {
				return err
			}
		}
		return nil
	}))
	st.mustAnswer(t, http.StatusOK, "GET", listOfTokens, held.Data.Token)
	st.mustCredential(t, "creds/automation")
}

// rotate rotates the first root credential.
func (st *serverStage) rotate(t *testing.T) {
	t.Helper()
	var answer struct {
		Data struct {
			ID       string `json:"admin_token_id"`
			Previous string `json:"previous_admin_token_id"`
		} `json:"data"`
	}
	must(t, st.Call(t.Context(), "PUT", st.mounted+"/config/rotate-root", nil, &answer))
	if answer.Data.Previous != rootName || !strings.HasPrefix(answer.Data.ID, st.tag) {
		t.Errorf("rotate-root answers %+v", answer.Data)
	}
}

// lose reads credentials whose answers are lost. It returns the names of the tokens
// that the server has created.
func (st *serverStage) lose(t *testing.T, path string) []string {
	t.Helper()
	before := st.inCatalog()
	for _, fault := range []influxdb3server.Fault{
		{Op: influxdb3server.Create, Times: 1, Apply: true, Cut: true},
		{Op: influxdb3server.Create, Times: 1, Apply: true, Conflict: true},
	} {
		st.influxdb.Inject(fault)
		st.mustRefuse(t, http.StatusBadGateway, "will find and revoke it", "GET", path, nil)
	}
	names := slices.DeleteFunc(st.inCatalog(), func(name string) bool { return slices.Contains(before, name) })
	if len(names) != 2 {
		t.Fatalf("the server has created %q, want two tokens", names)
	}
	return names
}

// A token that has expired keeps its name on the server until it is deleted.
func testExpiredToken(t *testing.T, st *serverStage) {
	st.write(t, "roles/automation", map[string]any{"ttl": "1h"})
	c := st.mustCredential(t, "creds/automation")
	st.influxdb.SetClockOffset(2 * time.Hour)
	if st.influxdb.Accepts(c.Data.Token) {
		t.Error("the server accepts an expired token")
	}
	if names := st.inCatalog(); len(names) != 1 {
		t.Errorf("the server has %q", names)
	}
	st.revoke(t, c)
	must(t, st.gone(c.Data.ID))
}

// A backup brings a deleted token back. tidy deletes it, and also a token of the
// mount that has expired.
func testRestoredTokens(t *testing.T, st *serverStage) {
	st.write(t, "roles/automation", map[string]any{"ttl": "1h"})
	valid := st.mustCredential(t, "creds/automation")
	st.influxdb.AddToken(st.tag+"ABCDEFGHIJKLMNOPQRSTUVWXYZ] expired", "", time.Now().Add(-time.Hour))
	backup := st.influxdb.Backup()
	st.revoke(t, valid)
	st.influxdb.Restore(backup)
	if len(st.inCatalog()) != 2 || !st.influxdb.Accepts(valid.Data.Token) {
		t.Fatalf("the server has %q", st.inCatalog())
	}
	tidy := map[string]any{"dry_run": false, "revoke_unknown": st.status(t).Tag}
	must(t, st.Call(t.Context(), "POST", st.mounted+"/tidy", tidy, nil))
	if names := st.inCatalog(); len(names) > 0 || st.influxdb.Accepts(valid.Data.Token) {
		t.Errorf("the server has %q", names)
	}
}
