package plugin

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator/influxdb3server"
)

// These tests run the engine with the drivers that the plugin has, against the
// simulated InfluxDB 3 server.

const rootName = "vault root"

// A site is a mount of the plugin and the server that it is configured for.
type site struct {
	logical.Backend
	t       *testing.T
	product string
	sim     *influxdb3server.Cluster
	handler atomic.Value // of type http.Handler: what answers at the address of the server
	address *url.URL
	root    string
	storage logical.Storage
	system  *logical.StaticSystemView
	log     *lockedBuffer
	offset  atomic.Int64 // of the clock of Vault, from the system's, in nanoseconds
	tag     string
}

type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (s *site) now() time.Time          { return time.Now().Add(time.Duration(s.offset.Load())) }
func (s *site) advance(d time.Duration) { s.offset.Add(int64(d)) }

// newSite starts a server and mounts the plugin, without a config. A request that
// the plugin must never send fails the test.
func newSite(t *testing.T, o influxdb3server.Options) *site {
	t.Helper()
	s := &site{t: t, product: o.Product, storage: &logical.InmemStorage{}, system: logical.TestSystemView(), log: &lockedBuffer{}}
	o.Now, o.Alarm, o.Databases = s.now, t.Error, []string{"db", "other"}
	s.sim = influxdb3server.New(o)
	s.sim.AddToken(influxdb3server.Operator, "", time.Time{})
	s.root = s.sim.AddToken(rootName, "", time.Time{})
	s.serve(s.sim)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		(*s.handler.Load().(*http.Handler)).ServeHTTP(w, r)
	}))
	t.Cleanup(web.Close)
	s.address, _ = url.Parse(web.URL)
	s.system.MaxLeaseTTLVal = 24 * time.Hour
	s.mount()
	return s
}

// serve sets what answers at the address of the server.
func (s *site) serve(h http.Handler) { s.handler.Store(&h) }

func (s *site) mount() {
	s.t.Helper()
	f := backend.Factory(backend.Options{Version: version, Drivers: drivers(os.Getenv, s.now), Now: s.now})
	b, err := f(context.Background(), &logical.BackendConfig{
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: s.log}),
		System: s.system, StorageView: s.storage, BackendUUID: "backend-uuid",
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.Backend = b
	s.t.Cleanup(func() { b.Cleanup(context.Background()) })
	s.tag = s.must(logical.ReadOperation, "status", nil).Data["mount_tag"].(string)
}

// config returns a config that works, with changes.
func (s *site) config(changes map[string]any) map[string]any {
	data := map[string]any{
		"product": s.product, "host": s.address.Hostname(), "port": s.address.Port(), "disable_tls": true, "admin_token": s.root,
	}
	for field, value := range changes {
		data[field] = value
	}
	return data
}

// readySite returns a site with a config and a role for each type of token.
func readySite(t *testing.T, o influxdb3server.Options) *site {
	t.Helper()
	s := newSite(t, o)
	s.must(logical.UpdateOperation, "config", s.config(map[string]any{"request_timeout": "2s"}))
	s.must(logical.UpdateOperation, "roles/management", map[string]any{"ttl": "1h"})
	if o.Product != influxdb3server.Core {
		s.must(logical.UpdateOperation, "roles/database", map[string]any{"token_type": "database", "read_databases": "db", "write_databases": "db,other"})
	}
	return s
}

// do sends a request and returns the status and the error text that Vault would
// answer with.
func (s *site) do(op logical.Operation, path string, data map[string]any) (resp *logical.Response, status int, text string) {
	s.t.Helper()
	req := &logical.Request{Operation: op, Path: path, Data: data, Storage: s.storage, MountPoint: "influxdb/"}
	if checked, exists, err := s.HandleExistenceCheck(s.t.Context(), req); err == nil && op == logical.UpdateOperation && checked && !exists {
		req.Operation = logical.CreateOperation
	}
	resp, err := s.HandleRequest(s.t.Context(), req)
	if coded, ok := err.(logical.HTTPCodedError); ok { //nolint:errorlint // only the outermost counts, as in Vault
		return nil, coded.Code(), err.Error()
	}
	status, failure := logical.RespondErrorCommon(req, resp, err)
	if failure != nil {
		return resp, status, failure.Error()
	}
	return resp, http.StatusOK, ""
}

func (s *site) must(op logical.Operation, path string, data map[string]any) *logical.Response {
	s.t.Helper()
	resp, status, text := s.do(op, path, data)
	if status != http.StatusOK {
		s.t.Fatalf("%s %s: %d %s", op, path, status, text)
	}
	return resp
}

// refuse sends a request that must fail with the status and the words.
func (s *site) refuse(want int, op logical.Operation, path string, data map[string]any, words ...string) {
	s.t.Helper()
	_, status, text := s.do(op, path, data)
	if status != want {
		s.t.Errorf("%s %s: status %d, want %d: %s", op, path, status, want, text)
	}
	for _, word := range words {
		if !strings.Contains(text, word) {
			s.t.Errorf("%s %s: %q does not say %q", op, path, text, word)
		}
	}
	if strings.Contains(text, s.root) {
		s.t.Errorf("%s %s: the error holds the root credential", op, path)
	}
}

func (s *site) creds(role string) *logical.Response {
	s.t.Helper()
	return s.must(logical.ReadOperation, "creds/"+role, nil)
}

func (s *site) revoke(h *logical.Response) error {
	_, err := s.HandleRequest(s.t.Context(), &logical.Request{
		Operation: logical.RevokeOperation, Path: "creds/role", Secret: h.Secret, Data: h.Data, Storage: s.storage,
	})
	return err
}

func (s *site) accepts(h *logical.Response) bool { return s.sim.Accepts(h.Data["token"].(string)) }

// ours returns the names of the tokens with the tag of the mount in the catalog.
func (s *site) ours() (names []string) {
	for _, t := range s.sim.Tokens() {
		if strings.HasPrefix(t.Name, "[vault:"+s.tag) {
			names = append(names, t.Name)
		}
	}
	return names
}

func (s *site) records() []string {
	s.t.Helper()
	keys, err := logical.CollectKeysWithPrefix(s.t.Context(), s.storage, "ledger/")
	if err != nil {
		s.t.Fatal(err)
	}
	return keys
}

// tickUntil lets time pass, with the periodic function, until what is expected has
// happened, but for no longer than within, by the clock of Vault.
func (s *site) tickUntil(within time.Duration, what string, happened func() bool) {
	s.t.Helper()
	poll := time.NewTicker(3 * time.Millisecond)
	defer poll.Stop()
	for ; within >= 0; within -= time.Minute {
		if _, err := s.HandleRequest(s.t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: s.storage}); err != nil {
			s.t.Fatal(err)
		}
		for range 20 { // the worker runs in the background
			if happened() {
				return
			}
			<-poll.C
		}
		s.advance(time.Minute)
	}
	s.t.Errorf("never: %s; records %v, tokens %q", what, s.records(), s.ours())
}

// settled reports whether nothing of ours is left.
func (s *site) settled() bool { return len(s.records()) == 0 && len(s.ours()) == 0 }

var allProducts = []string{influxdb3server.Core, influxdb3server.Enterprise, influxdb3server.Cloud}

func TestDrivers_EveryProductHasOne(t *testing.T) {
	table := drivers(os.Getenv, time.Now)
	for product, types := range map[string]int{issuer.Dedicated: 2, issuer.Clustered: 2, issuer.Core: 1, issuer.Enterprise: 2, issuer.Cloud: 2} {
		if len(table[product]) != types || table[product][backend.Management] == nil {
			t.Errorf("%s: %d drivers, want %d", product, len(table[product]), types)
		}
	}
}

func TestInfluxDB3_LifeOfACredential(t *testing.T) {
	for _, product := range allProducts {
		t.Run(product, func(t *testing.T) {
			t.Parallel()
			s := readySite(t, influxdb3server.Options{Product: product})
			config := s.must(logical.ReadOperation, "config", nil).Data
			if config["admin_token_id"] != rootName || config["cluster_uuid"] != s.sim.UUID() {
				t.Errorf("config: %v", config)
			}
			if status := s.must(logical.ReadOperation, "status", nil).Data; status["cli_path"] != nil || status["cli_error"] != nil {
				t.Errorf("no program is needed: %v", status)
			}
			for _, role := range []string{"management", "database"} {
				if product == influxdb3server.Core && role == "database" {
					continue
				}
				s.must(logical.UpdateOperation, "config/check", map[string]any{"token_type": role})
				h := s.creds(role)
				stored, there := s.sim.Token(h.Data["token_id"].(string))
				if !s.accepts(h) || !there || stored.Admin() != (role == "management") || h.Data["url"] != s.address.String() {
					t.Errorf("credential: %+v, url %v", stored, h.Data["url"])
				}
				if want := "db:db:read"; role == "database" && !strings.Contains(strings.Join(stored.Permissions, " "), want) {
					t.Errorf("permissions %q", stored.Permissions)
				}
				if err := s.revoke(h); err != nil || s.accepts(h) || !s.settled() {
					t.Errorf("revocation: %v, records %v, tokens %q", err, s.records(), s.ours())
				}
			}
		})
	}
}

func TestInfluxDB3_RootIsRotated(t *testing.T) {
	for _, product := range allProducts {
		t.Run(product, func(t *testing.T) {
			t.Parallel()
			s := readySite(t, influxdb3server.Options{Product: product})
			h := s.creds("management")
			answer := s.must(logical.UpdateOperation, "config/rotate-root", nil).Data
			if answer["state"] != "rotated" || answer["previous_admin_token_id"] != rootName {
				t.Fatalf("answer: %v", answer)
			}
			if !s.sim.Accepts(s.root) {
				t.Error("the previous root credential must stay valid for the overlap")
			}
			s.tickUntil(30*time.Minute, "the previous root credential is deleted", func() bool { return !s.sim.Accepts(s.root) })
			if err := s.revoke(h); err != nil || s.accepts(h) {
				t.Errorf("revocation with the new root credential: %v", err)
			}
			s.must(logical.UpdateOperation, "config/rotate-root", nil)
			s.tickUntil(30*time.Minute, "one root credential is left", func() bool { return len(s.ours()) == 1 && len(s.records()) == 0 })
		})
	}
}

func TestInfluxDB3_ConfigRefusesTheWrongServerOrToken(t *testing.T) {
	long := strings.Repeat("x", 2<<20)
	for name, c := range map[string]struct {
		options influxdb3server.Options
		product string // in config; empty: that of the server
		root    func(*site) string
		fault   influxdb3server.Fault
		status  int
		words   string
	}{
		"management token of Dedicated": {root: func(*site) string { return "M.V1.x" }, status: 400, words: "admin_token is a management token"},
		"unknown token":                 {root: func(*site) string { return "apiv3_unknown" }, status: 400, words: "does not accept the root credential"},
		"expired token":                 {root: func(s *site) string { return s.sim.AddToken("old", "", s.now().Add(-time.Hour)) }, status: 400, words: "expired"},
		"database token": {
			options: influxdb3server.Options{Product: "enterprise"}, status: 400, words: "administrator",
			root: func(s *site) string { return s.sim.AddToken("reader", "", time.Time{}, "db:db:read") },
		},
		"server without authentication": {options: influxdb3server.Options{WithoutAuth: true}, status: 400, words: "hash"},
		"Core instead of Enterprise":    {product: "enterprise", status: 400, words: "the server is InfluxDB 3 Core, and not InfluxDB 3 Enterprise"},
		"Enterprise instead of Core":    {options: influxdb3server.Options{Product: "enterprise"}, product: "core", status: 400, words: "the server is InfluxDB 3 Enterprise, and not InfluxDB 3 Core"},
		"old version":                   {options: influxdb3server.Options{Version: "3.0.3"}, status: 400, words: "3.1.0"},
		"404 of a proxy":                {fault: influxdb3server.ProxyAnswer("", 404), status: 400, words: "HTML"},
		"403 of a proxy":                {fault: influxdb3server.ProxyAnswer("", 403), status: 400, words: "HTML"},
		"502 of a proxy":                {fault: influxdb3server.ProxyAnswer("", 502), status: 502, words: "HTML"},
		"404 of a proxy for the list":   {fault: influxdb3server.ProxyAnswer(influxdb3server.Query, 404), status: 502, words: "cluster-uuid"},
		"redirect":                      {fault: influxdb3server.Fault{Status: 302}, status: 502, words: "redirect"},
		"list that breaks off":          {fault: influxdb3server.Fault{Op: influxdb3server.Query, Truncate: 1}, status: 502, words: "not the expected JSON"},
		"endless ping":                  {fault: influxdb3server.Fault{Op: influxdb3server.Ping, Status: 200, Body: long}, status: 502, words: "longer than"},
		"endless entry":                 {fault: influxdb3server.Fault{Op: influxdb3server.Query, Status: 200, Body: `[{"name":"` + long}, status: 502, words: "longer than"},
		"endless error":                 {fault: influxdb3server.Fault{Op: influxdb3server.Query, Status: 500, Body: long}, status: 502, words: "internal error"},
		"no answer":                     {fault: influxdb3server.Fault{Cut: true}, status: 502, words: "no answer was received"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.options.Product == "" {
				c.options.Product = influxdb3server.Core
			}
			s := newSite(t, c.options)
			change := map[string]any{}
			if c.product != "" {
				change["product"] = c.product
			}
			if c.root != nil {
				change["admin_token"] = c.root(s)
			}
			if c.fault != (influxdb3server.Fault{}) {
				s.sim.Inject(c.fault)
			}
			s.refuse(c.status, logical.UpdateOperation, "config", s.config(change), c.words)
			if resp, _, _ := s.do(logical.ReadOperation, "config", nil); resp != nil {
				t.Error("the config was stored")
			}
		})
	}
}

// Whatever happens to the answer to a create, no token stays in the catalog.
func TestInfluxDB3_LostAnswerLeavesNoToken(t *testing.T) {
	create := influxdb3server.Create
	for name, fault := range map[string]influxdb3server.Fault{
		"connection cut after the create":  {Op: create, Times: 1, Apply: true, Cut: true},
		"connection cut before the create": {Op: create, Times: 1, Cut: true},
		"no answer in time":                {Op: create, Times: 1, Apply: true, Hang: true},
		"internal error after the create":  {Op: create, Times: 1, Apply: true, Status: 500, Body: "catalog error"},
		"internal error instead of it":     {Op: create, Times: 1, Status: 500, Body: "cannot parse token permission, invalid resource name nope"},
		"name taken by the create itself":  {Op: create, Times: 1, Apply: true, Conflict: true},
		"name taken":                       {Op: create, Times: 1, Status: 409, Body: "token name already exists, x"},
		"answer that breaks off":           {Op: create, Times: 1, Truncate: 3},
		"answer null":                      {Op: create, Times: 1, Apply: true, Status: 201, Body: "null"},
		"answer of two megabytes":          {Op: create, Times: 1, Apply: true, Status: 201, Body: strings.Repeat("x", 2<<20)},
		"token without an expiry":          {Op: create, Times: 1, NoExpiry: true},
		"gateway timeout":                  {Op: create, Times: 1, Apply: true, Status: 504, Body: influxdb3server.Page, ContentType: "text/html", Foreign: true},
		"404 of a proxy after the create":  {Op: create, Times: 1, Apply: true, Status: 404, Body: influxdb3server.Page, ContentType: "text/html", Foreign: true},
		"403 of a proxy after the create":  {Op: create, Times: 1, Apply: true, Status: 403, Body: influxdb3server.Page, ContentType: "text/html", Foreign: true},
	} {
		for _, role := range []string{"management", "database"} {
			t.Run(name+", "+role, func(t *testing.T) {
				t.Parallel()
				s := readySite(t, influxdb3server.Options{Product: influxdb3server.Enterprise})
				s.sim.Inject(fault)
				if _, status, _ := s.do(logical.ReadOperation, "creds/"+role, nil); status != http.StatusBadGateway {
					t.Errorf("status %d", status)
				}
				if len(s.records()) != 1 {
					t.Fatalf("records %v: the outcome is unknown", s.records())
				}
				s.tickUntil(45*time.Minute, "nothing is left", s.settled)
				if h := s.creds(role); !s.accepts(h) {
					t.Error("the next credential does not work")
				}
			})
		}
	}
}

// Only the catalog of the configured server can say that it does not know a token.
func TestInfluxDB3_RevocationNeedsProof(t *testing.T) {
	for name, fault := range map[string]influxdb3server.Fault{
		"404 of a proxy":         influxdb3server.ProxyAnswer(influxdb3server.Delete, 404),
		"403 of a proxy":         influxdb3server.ProxyAnswer(influxdb3server.Delete, 403),
		"200 of a proxy":         {Op: influxdb3server.Delete, Status: 200, Foreign: true},
		"404 of another server":  {Op: influxdb3server.Delete, Status: 404, Body: "the requested resource was not found: x", UUID: "ffffffff-0000-4000-8000-00000000000f"},
		"404 of the router":      {Op: influxdb3server.Delete, Status: 404, Body: "Not found"},
		"server without tokens":  {Op: influxdb3server.Delete, Status: 405, Body: "endpoint disabled, started without auth"},
		"internal error":         {Op: influxdb3server.Delete, Status: 500},
		"connection cut":         {Op: influxdb3server.Delete, Cut: true},
		"redirect":               {Op: influxdb3server.Delete, Status: 307},
		"root credential denied": {Op: influxdb3server.Delete, Status: 401, Body: `{"error": "the request was not authenticated"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := readySite(t, influxdb3server.Options{Product: influxdb3server.Core})
			h := s.creds("management")
			s.advance(30 * time.Minute)
			s.sim.Inject(fault)
			if s.revoke(h) == nil {
				t.Error("a revocation succeeded without proof")
			}
			if !s.accepts(h) || len(s.records()) != 1 {
				t.Fatalf("records %v", s.records())
			}
			s.sim.Heal()
			s.tickUntil(30*time.Minute, "the token is deleted", s.settled)
		})
	}
}

func TestInfluxDB3_RequestThatTheServerRefuses(t *testing.T) {
	t.Parallel()
	s := readySite(t, influxdb3server.Options{Product: influxdb3server.Enterprise})
	s.must(logical.UpdateOperation, "roles/nope", map[string]any{"token_type": "database", "read_databases": "nope"})
	s.refuse(400, logical.ReadOperation, "creds/nope", nil, "invalid resource name nope")
	s.must(logical.UpdateOperation, "roles/mixed", map[string]any{"token_type": "database", "read_databases": "*,db"})
	s.refuse(400, logical.ReadOperation, "creds/mixed", nil, "must not be mixed")
	s.must(logical.UpdateOperation, "roles/all", map[string]any{"token_type": "database", "read_databases": "*", "write_databases": "db"})
	if h := s.creds("all"); !s.accepts(h) || s.revoke(h) != nil {
		t.Error("a role may read all databases and write one")
	}
	if !s.settled() {
		t.Errorf("records %v, tokens %q", s.records(), s.ours())
	}
	s.refuse(400, logical.UpdateOperation, "static-roles/nope", map[string]any{"read_databases": "nope", "rotation_period": "1h"}, "invalid resource name nope")
}

func TestInfluxDB3_ClocksDiffer(t *testing.T) {
	t.Parallel()
	for _, skew := range []time.Duration{-5 * time.Minute, 5 * time.Minute} {
		s := readySite(t, influxdb3server.Options{Product: influxdb3server.Core})
		s.sim.SetClockOffset(skew)
		h := s.creds("management")
		stored, _ := s.sim.Token(h.Data["token_id"].(string))
		if life := stored.Expiry.Sub(stored.CreatedAt); life < time.Hour || life > time.Hour+time.Minute {
			t.Errorf("clock %s: the token lives for %s", skew, life)
		}
		warnings := s.must(logical.UpdateOperation, "config/check", nil).Warnings
		if all := strings.Join(warnings, "\n"); !strings.Contains(all, "clocks") {
			t.Errorf("clock %s: config/check warns %q", skew, all)
		}
		if err := s.revoke(h); err != nil || s.accepts(h) {
			t.Errorf("clock %s: %v", skew, err)
		}
	}
	s := readySite(t, influxdb3server.Options{Product: influxdb3server.Core})
	s.sim.SetClockOffset(time.Hour)
	s.refuse(502, logical.ReadOperation, "creds/management", nil, "clocks")
	s.tickUntil(30*time.Minute, "the token that nobody got is deleted", s.settled)
}

func TestInfluxDB3_RestoredFromABackup(t *testing.T) {
	t.Parallel()
	s := readySite(t, influxdb3server.Options{Product: influxdb3server.Enterprise})
	ended, kept := s.creds("management"), s.creds("database")
	backup := s.sim.Backup()
	if err := s.revoke(ended); err != nil {
		t.Fatal(err)
	}
	s.sim.Restore(backup)
	if !s.accepts(ended) {
		t.Fatal("the restore must bring the token back")
	}
	if got := s.must(logical.UpdateOperation, "tidy", nil).Data; got["unknown"] != 1 {
		t.Errorf("tidy: %v", got)
	}
	s.must(logical.UpdateOperation, "tidy", map[string]any{"dry_run": false, "revoke_unknown": s.tag})
	if s.accepts(ended) || !s.accepts(kept) {
		t.Error("tidy must revoke the token that came back, and no other")
	}
	s.must(logical.UpdateOperation, "config/rotate-root", nil)
	s.tickUntil(30*time.Minute, "the previous root credential is deleted", func() bool { return !s.sim.Accepts(s.root) })
	s.sim.Restore(backup) // the root credential of the plugin is gone
	s.refuse(400, logical.ReadOperation, "creds/management", nil, "admin_token", "config")
	s.must(logical.UpdateOperation, "config", s.config(nil))
	if h := s.creds("management"); !s.accepts(h) {
		t.Error("the credential does not work")
	}
}

func TestInfluxDB3_ReplacedByAnotherServer(t *testing.T) {
	t.Parallel()
	s := readySite(t, influxdb3server.Options{Product: influxdb3server.Core})
	h := s.creds("management")
	other := influxdb3server.New(influxdb3server.Options{Product: influxdb3server.Core, Now: s.now, Alarm: t.Error})
	secret := other.AddToken("its root", "", time.Time{})
	s.serve(other)
	s.advance(time.Hour)
	if s.revoke(h) == nil || len(s.records()) != 1 {
		t.Error("the other server knows nothing about the token")
	}
	s.refuse(409, logical.UpdateOperation, "config", s.config(map[string]any{"admin_token": secret}), s.sim.UUID(), other.UUID(), "force=true")
	s.serve(s.sim)
	s.tickUntil(30*time.Minute, "the token is deleted on its own server", s.settled)
	s.serve(other)
	s.must(logical.UpdateOperation, "config", s.config(map[string]any{"admin_token": secret}))
	s.creds("management")
	if n := len(other.Tokens()); n != 2 {
		t.Errorf("%d tokens on the other server", n)
	}
}

// A server sends no cluster-uuid before 3.7.0.
func TestInfluxDB3_UpgradeTellsTheUUID(t *testing.T) {
	t.Parallel()
	s := newSite(t, influxdb3server.Options{Product: influxdb3server.Core, Version: "3.6.0"})
	resp := s.must(logical.UpdateOperation, "config", s.config(nil))
	if all := strings.Join(resp.Warnings, "\n"); !strings.Contains(all, "3.8.4") {
		t.Errorf("warnings: %q", all)
	}
	s.must(logical.UpdateOperation, "roles/management", nil)
	h := s.creds("management")
	if got := s.must(logical.ReadOperation, "config", nil).Data["cluster_uuid"]; got != nil {
		t.Errorf("cluster_uuid %v", got)
	}
	s.sim.SetVersion("3.11.5")
	if err := s.revoke(h); err != nil {
		t.Error(err)
	}
	if got := s.must(logical.ReadOperation, "config", nil).Data["cluster_uuid"]; got != s.sim.UUID() {
		t.Errorf("cluster_uuid %v", got)
	}
}

// Behind a load balancer, every second request is answered by a node that learns of
// changes late.
func TestInfluxDB3_SeveralNodes(t *testing.T) {
	t.Parallel()
	s := readySite(t, influxdb3server.Options{Product: influxdb3server.Enterprise})
	s.advance(time.Minute)
	s.serve(influxdb3server.Balance(s.sim, s.sim.AddNode(time.Second)))
	s.must(logical.UpdateOperation, "config/check", nil)
	if got := s.must(logical.UpdateOperation, "config/rotate-root", nil).Data["state"]; got != "rotated" {
		t.Fatalf("state %v", got)
	}
	for range 3 { // also by the node that does not know the root credential yet
		if h := s.creds("database"); !s.accepts(h) {
			t.Error("the credential does not work")
		}
	}
	s.must(logical.UpdateOperation, "tidy", nil)
}
