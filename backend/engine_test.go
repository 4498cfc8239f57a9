package backend_test

import (
	"bytes"
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/testhelpers/schema"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

const (
	accountID = "11111111-2222-4333-8444-555555555555"
	clusterID = "66666666-7777-4888-8999-aaaaaaaaaaaa"
)

// The operations of requests.
const (
	readOp   = logical.ReadOperation
	updateOp = logical.UpdateOperation
	createOp = logical.CreateOperation
	deleteOp = logical.DeleteOperation
	listOp   = logical.ListOperation
)

// A clock shows a time that only a test changes.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// An engine is the engine under test, with a cluster in memory and a storage that
// can be made to fail. At the end of each test, log, events and ledger are
// searched for secrets.
type engine struct {
	t       *testing.T
	product string
	clock   *clock
	cluster *issuertest.Fake
	data    *issuertest.Fake            // the database tokens of the same cluster
	others  map[string]*issuertest.Fake // other clusters, by cluster_id or host
	root    issuer.Token                // the root credential of cluster
	storage *storage
	system  *logical.StaticSystemView
	events  *logical.MockEventSender
	log     *syncBuffer
	tag     string // of the mount
	logical.Backend
}

func newEngine(t *testing.T) *engine {
	t.Helper()
	return newEngineOf(t, issuer.Dedicated)
}

// newEngineOf returns an engine with a cluster of a product, which is not
// configured yet.
func newEngineOf(t *testing.T, product string) *engine {
	t.Helper()
	e := &engine{
		t:       t,
		product: product,
		clock:   &clock{now: time.Now()},
		others:  map[string]*issuertest.Fake{},
		storage: &storage{Storage: &logical.InmemStorage{}},
		system:  logical.TestSystemView(),
		events:  logical.NewMockEventSender(),
		log:     &syncBuffer{},
	}
	e.system.MaxLeaseTTLVal = 32 * 24 * time.Hour
	if e.named() {
		e.cluster, e.root = issuertest.NewNamedFake(e.clock.Now, traitsOf(product))
	} else {
		e.cluster, e.root = issuertest.NewFake(e.clock.Now)
	}
	e.cluster.Add("another program", time.Time{})
	e.data = issuertest.NewFakeOf(e.cluster)
	e.restart()
	e.tag = e.read("status").Data["mount_tag"].(string)
	t.Cleanup(e.mustLeakNoSecret)
	return e
}

// restart replaces the engine by a new one on the same storage, as a reload of
// the plugin does.
func (e *engine) restart() {
	e.t.Helper()
	if e.Backend != nil {
		e.Cleanup(context.Background())
	}
	factory := backend.Factory(backend.Options{
		Version: "v1.2.3",
		Drivers: e.drivers(),
		Now:     e.clock.Now,
	})
	b, err := factory(context.Background(), &logical.BackendConfig{
		Logger:       hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: e.log}),
		System:       e.system,
		StorageView:  e.storage,
		BackendUUID:  "backend-uuid",
		EventsSender: e.events,
	})
	if err != nil {
		e.t.Fatal(err)
	}
	e.Backend = b
	e.t.Cleanup(func() { b.Cleanup(context.Background()) })
}

// drivers returns the same two drivers for every product.
func (e *engine) drivers() backend.Drivers {
	types := map[string]issuer.Driver{backend.Management: e, backend.Database: e.data}
	return backend.Drivers{
		issuer.Dedicated: types, issuer.Clustered: types,
		issuer.Core: {backend.Management: e}, issuer.Enterprise: types, issuer.Cloud: types,
	}
}

// Open implements issuer.Driver: each cluster_id or host is another cluster.
func (e *engine) Open(c issuer.Cluster) issuer.Issuer {
	for _, name := range []string{c.ClusterID, c.Host} {
		if fake := e.others[name]; fake != nil {
			return fake.Open(c)
		}
	}
	return e.cluster.Open(c)
}

// do sends a request as Vault does, and checks the answer against the response
// that the path declares.
func (e *engine) do(ctx context.Context, op logical.Operation, path string, data map[string]any) (*logical.Response, error) {
	e.t.Helper()
	req := &logical.Request{
		Operation: op, Path: path, Data: data, Storage: e.storage,
		MountPoint: "influxdb/", DisplayName: "token-tester", EntityID: "entity-1",
	}
	if op == logical.UpdateOperation {
		checked, exists, err := e.HandleExistenceCheck(ctx, req)
		if err != nil { // Vault answers an invalid field like this
			return nil, logical.CodedError(http.StatusBadRequest, err.Error())
		}
		if checked && !exists {
			req.Operation = logical.CreateOperation
		}
	}
	resp, err := e.HandleRequest(ctx, req)
	if err == nil && resp != nil && !resp.IsError() {
		e.validate(path, req.Operation, resp)
	}
	return resp, err
}

func (e *engine) validate(path string, op logical.Operation, resp *logical.Response) {
	e.t.Helper()
	route := e.Backend.(interface {
		Route(string) *framework.Path
	}).Route(path)
	for _, declared := range route.Operations[op].Properties().Responses {
		if len(resp.Data) > 0 || len(declared[0].Fields) > 0 {
			schema.ValidateResponse(e.t, &declared[0], resp, true)
		}
	}
}

// must sends a request and fails the test if it is refused.
func (e *engine) must(op logical.Operation, path string, data map[string]any) *logical.Response {
	e.t.Helper()
	resp, err := e.do(e.t.Context(), op, path, data)
	if err != nil || resp.IsError() {
		e.t.Fatalf("%s %s: %v %v", op, path, resp, err)
	}
	return resp
}

func (e *engine) write(path string, data map[string]any) *logical.Response {
	e.t.Helper()
	return e.must(logical.UpdateOperation, path, data)
}

func (e *engine) read(path string) *logical.Response {
	e.t.Helper()
	return e.must(logical.ReadOperation, path, nil)
}

// refuse sends a request that must fail with the status, with an error that
// contains each of words, and without changing the storage.
func (e *engine) refuse(status int, op logical.Operation, path string, data map[string]any, words ...string) {
	e.t.Helper()
	before := e.storage.dump(e.t)
	resp, err := e.do(e.t.Context(), op, path, data)
	got, text := statusOf(op, resp, err)
	if got != status {
		e.t.Errorf("%s %s %v: status %d, want %d: %s", op, path, withoutSecrets(data), got, status, text)
	}
	for _, word := range words {
		if !strings.Contains(text, word) {
			e.t.Errorf("%s %s %v: %q does not say %q", op, path, withoutSecrets(data), text, word)
		}
	}
	if after := e.storage.dump(e.t); after != before {
		e.t.Errorf("%s %s %v: a refused request changed the storage: %v", op, path, withoutSecrets(data), changedKeys(before, after))
	}
}

// withoutSecrets returns the data of a request without the values of its secrets.
func withoutSecrets(data map[string]any) map[string]any {
	shown := maps.Clone(data)
	for _, field := range []string{"mgmt_token", "client_key"} {
		if _, ok := shown[field]; ok {
			shown[field] = "[redacted]"
		}
	}
	return shown
}

// changedKeys returns the keys of the entries that differ between two dumps of a
// storage.
func changedKeys(before, after string) (keys []string) {
	had := map[string]bool{}
	for line := range strings.Lines(before) {
		had[line] = true
	}
	for line := range strings.Lines(after) {
		if !had[line] {
			key, _, _ := strings.Cut(line, " ")
			keys = append(keys, key)
		}
		delete(had, line)
	}
	for line := range had {
		key, _, _ := strings.Cut(line, " ")
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// statusOf returns the HTTP status of Vault's answer, and the error in it.
func statusOf(op logical.Operation, resp *logical.Response, err error) (int, string) {
	req := &logical.Request{Operation: op}
	if err != nil {
		coded, ok := err.(logical.HTTPCodedError) //nolint:errorlint // over the plugin protocol, Vault sees the outermost error only
		if ok {
			return coded.Code(), err.Error()
		}
		status, _ := logical.RespondErrorCommon(req, resp, err)
		return status, err.Error()
	}
	status, err := logical.RespondErrorCommon(req, resp, nil)
	if err != nil {
		return status, err.Error()
	}
	return status, ""
}

// configure writes a config that works, with changes. A change to nil leaves the
// field out.
func (e *engine) configure(changes ...map[string]any) {
	e.t.Helper()
	e.write("config", e.config(changes...))
}

func (e *engine) config(changes ...map[string]any) map[string]any {
	data := map[string]any{
		"product": "dedicated", "account_id": accountID, "cluster_id": clusterID, "mgmt_token": e.root.Secret.Reveal(),
	}
	if e.named() {
		data = map[string]any{"product": e.product, "host": host, "admin_token": e.root.Secret.Reveal()}
	}
	for _, change := range changes {
		for field, value := range change {
			data[field] = value
			if value == nil {
				delete(data, field)
			}
		}
	}
	return data
}

// ready returns an engine with a config and the role automation.
func ready(t *testing.T, role map[string]any) *engine {
	t.Helper()
	return readyOf(t, issuer.Dedicated, role)
}

// readyOf is ready with a cluster of a product.
func readyOf(t *testing.T, product string, role map[string]any) *engine {
	t.Helper()
	e := newEngineOf(t, product)
	e.configure()
	e.write("roles/automation", role)
	return e
}

// A credential is a token that a client holds, and its lease as Vault keeps it.
type credential struct {
	*logical.Response
	issued, end time.Time
	revoking    bool // Vault is revoking it: the token may be revoked already
}

func (h *credential) secret() issuer.Secret { return issuer.NewSecret(h.Data["token"].(string)) }
func (h *credential) id() string            { return h.Data["token_id"].(string) }

// creds reads a credential of the role automation.
func (e *engine) creds() *credential {
	e.t.Helper()
	resp := e.read("creds/automation")
	now := e.clock.Now()
	return &credential{Response: resp, issued: now, end: now.Add(resp.Secret.TTL)}
}

// renew sends the renewal of a lease as Vault does, and returns the answer.
func (e *engine) renew(h *credential, increment time.Duration) (*logical.Response, error) {
	secret := *h.Secret
	secret.IssueTime, secret.Increment = h.issued, increment
	return e.HandleRequest(e.t.Context(), &logical.Request{
		Operation: logical.RenewOperation, Path: "creds/automation", Secret: &secret, Data: h.Data, Storage: e.storage,
	})
}

// revoke sends the revocation of a lease as Vault does.
func (e *engine) revoke(h *credential) error {
	_, err := e.HandleRequest(e.t.Context(), &logical.Request{
		Operation: logical.RevokeOperation, Path: "creds/automation", Secret: h.Secret, Data: h.Data, Storage: e.storage,
	})
	return err
}

// tick calls the periodic function, as Vault does every minute, and waits until
// the worker has nothing left to do. It must be called in a synctest bubble.
func (e *engine) tick() {
	e.t.Helper()
	if _, err := e.HandleRequest(e.t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: e.storage}); err != nil {
		e.t.Fatal(err)
	}
	synctest.Wait()
}

// pass lets time pass, with a tick every minute.
func (e *engine) pass(d time.Duration) {
	e.t.Helper()
	e.passInSteps(time.Minute, d)
}

// passInSteps lets time pass with a tick after every step, which makes long times
// quick.
func (e *engine) passInSteps(step, d time.Duration) {
	e.t.Helper()
	for ; d > 0; d -= step {
		e.clock.advance(min(d, step))
		e.tick()
	}
}

// alive counts the valid management tokens with the tag of the mount.
func (e *engine) alive() (n int) {
	for _, info := range e.cluster.Tokens() {
		if strings.HasPrefix(info.Description, "[vault:"+e.tag) && !info.Dead(e.clock.Now()) {
			n++
		}
	}
	return n
}

// records returns the storage keys of the ledger's records.
func (e *engine) records() []string {
	e.t.Helper()
	keys, err := logical.CollectKeysWithPrefix(context.Background(), e.storage.Storage, "ledger/")
	if err != nil {
		e.t.Fatal(err)
	}
	return keys
}

// mustLeakNoSecret fails the test if a log, an event or the ledger holds a secret.
func (e *engine) mustLeakNoSecret() {
	secrets := append(e.cluster.Secrets(), e.data.Secrets()...)
	for _, fake := range e.others {
		secrets = append(secrets, fake.Secrets()...)
	}
	var events strings.Builder
	for _, event := range e.events.Events {
		events.WriteString(event.Event.String())
	}
	for where, text := range map[string]string{"the log": e.log.String(), "the events": events.String(), "the ledger": e.storage.dumpUnder(e.t, "ledger/")} {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				e.t.Errorf("%s holds a secret", where)
			}
		}
	}
}

// A syncBuffer is a buffer for concurrent writers.
type syncBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
