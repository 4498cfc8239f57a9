package backend_test

import (
	"bytes"
	"context"
	"net/http"
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

// A clock is a time that a test moves.
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

// An engine is the engine under test, with a cluster in memory, a storage that
// can be made to fail, and a hunt for leaked secrets at the end.
type engine struct {
	t       *testing.T
	product string
	clock   *clock
	cluster *issuertest.Fake
	data    *issuertest.Fake            // the same cluster's database tokens
	others  map[string]*issuertest.Fake // by cluster id or host
	root    issuer.Token
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
	e.cluster.Add("somebody's own", time.Time{})
	e.data = issuertest.NewFakeOf(e.cluster)
	e.restart()
	e.tag = e.read("status").Data["mount_tag"].(string)
	t.Cleanup(e.huntLeaks)
	return e
}

// restart drops the engine's memory, as a reload of the plugin does.
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

// drivers returns a table in which the engine is the driver of every product.
func (e *engine) drivers() backend.Drivers {
	types := map[string]issuer.Driver{backend.Management: e, backend.Database: e.data}
	return backend.Drivers{
		issuer.Dedicated: types, issuer.Clustered: types,
		issuer.Core: {backend.Management: e}, issuer.Enterprise: types, issuer.Cloud: types,
	}
}

// Open makes the engine the driver that it uses: each cluster id is a cluster
// of its own.
func (e *engine) Open(c issuer.Cluster) issuer.Issuer {
	for _, name := range []string{c.ClusterID, c.Host} {
		if fake := e.others[name]; fake != nil {
			return fake.Open(c)
		}
	}
	return e.cluster.Open(c)
}

// do sends a request as core does, and checks the answer against what the path
// declares.
func (e *engine) do(ctx context.Context, op logical.Operation, path string, data map[string]any) (*logical.Response, error) {
	e.t.Helper()
	req := &logical.Request{
		Operation: op, Path: path, Data: data, Storage: e.storage,
		MountPoint: "influxdb/", DisplayName: "token-tester", EntityID: "entity-1",
	}
	if op == logical.UpdateOperation {
		checked, exists, err := e.HandleExistenceCheck(ctx, req)
		if err != nil { // core answers an invalid field so
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

// must sends a request that succeeds.
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

// refuse sends a request that fails with the status, says each of words, and
// changes nothing that is stored.
func (e *engine) refuse(status int, op logical.Operation, path string, data map[string]any, words ...string) {
	e.t.Helper()
	before := e.storage.dump(e.t)
	resp, err := e.do(e.t.Context(), op, path, data)
	got, text := statusOf(op, resp, err)
	if got != status {
		e.t.Errorf("%s %s %v: status %d, want %d: %s", op, path, data, got, status, text)
	}
	for _, word := range words {
		if !strings.Contains(text, word) {
			e.t.Errorf("%s %s %v: %q does not say %q", op, path, data, text, word)
		}
	}
	if after := e.storage.dump(e.t); after != before {
		e.t.Errorf("%s %s %v: a refused request changed the storage from\n%s\nto\n%s", op, path, data, before, after)
	}
}

// statusOf is the HTTP status that core would answer with.
func statusOf(op logical.Operation, resp *logical.Response, err error) (int, string) {
	req := &logical.Request{Operation: op}
	if err != nil {
		coded, ok := err.(logical.HTTPCodedError) //nolint:errorlint // only outermost counts, as in core over the plugin protocol
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

// configure writes a config that works, with changes.
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

// A held is a credential in the hands of a client, and its lease as core keeps
// it.
type held struct {
	*logical.Response
	issued, end time.Time
	revoking    bool // core is revoking it: its token may be dead already
}

func (h *held) secret() issuer.Secret { return issuer.NewSecret(h.Data["token"].(string)) }
func (h *held) id() string            { return h.Data["token_id"].(string) }

func (e *engine) creds() *held {
	e.t.Helper()
	resp := e.read("creds/automation")
	now := e.clock.Now()
	return &held{Response: resp, issued: now, end: now.Add(resp.Secret.TTL)}
}

// renew renews as core does, up to the check of the answer.
func (e *engine) renew(h *held, increment time.Duration) (*logical.Response, error) {
	secret := *h.Secret
	secret.IssueTime, secret.Increment = h.issued, increment
	return e.HandleRequest(e.t.Context(), &logical.Request{
		Operation: logical.RenewOperation, Path: "creds/automation", Secret: &secret, Data: h.Data, Storage: e.storage,
	})
}

func (e *engine) revoke(h *held) error {
	_, err := e.HandleRequest(e.t.Context(), &logical.Request{
		Operation: logical.RevokeOperation, Path: "creds/automation", Secret: h.Secret, Data: h.Data, Storage: e.storage,
	})
	return err
}

// tick runs the periodic function, as core does every minute, and waits until
// the worker has nothing left to do. It must be called in a synctest bubble.
func (e *engine) tick() {
	e.t.Helper()
	if _, err := e.HandleRequest(e.t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: e.storage}); err != nil {
		e.t.Fatal(err)
	}
	synctest.Wait()
}

// pass lets time pass, with the ticks of every minute.
func (e *engine) pass(d time.Duration) {
	e.t.Helper()
	e.passBy(time.Minute, d)
}

// passBy lets time pass in greater strides.
func (e *engine) passBy(stride, d time.Duration) {
	e.t.Helper()
	for ; d > 0; d -= stride {
		e.clock.advance(min(d, stride))
		e.tick()
	}
}

// alive counts the live tokens that bear the mount's tag.
func (e *engine) alive() (n int) {
	for _, info := range e.cluster.Tokens() {
		if strings.HasPrefix(info.Description, "[vault:"+e.tag) && !info.Dead(e.clock.Now()) {
			n++
		}
	}
	return n
}

// records returns what the ledger holds, as it is stored.
func (e *engine) records() []string {
	e.t.Helper()
	keys, err := logical.CollectKeysWithPrefix(context.Background(), e.storage.Storage, "ledger/")
	if err != nil {
		e.t.Fatal(err)
	}
	return keys
}

// huntLeaks fails the test if a secret stands where none may.
func (e *engine) huntLeaks() {
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

// A storage counts what is asked of it and fails at a test's will.
type storage struct {
	logical.Storage // the one in memory

	mu    sync.Mutex // guards what follows
	fault fault
	ops   int
}

// A fault decides whether an operation fails, and whether before it has had its
// effect (when is "before") or although it had ("after").
type fault func(when string, op logical.Operation, key string) error

// setFault makes f decide from now on; nil ends that.
func (s *storage) setFault(f fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// count returns how many operations there have been.
func (s *storage) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ops
}

// run does what is asked, between the two chances to fail.
func (s *storage) run(op logical.Operation, key string, do func() error) error {
	s.mu.Lock()
	s.ops++
	fault := s.fault
	s.mu.Unlock()
	if fault == nil {
		return do()
	}
	if err := fault("before", op, key); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return fault("after", op, key)
}

func (s *storage) Get(ctx context.Context, key string) (entry *logical.StorageEntry, err error) {
	err = s.run(logical.ReadOperation, key, func() (err error) {
		entry, err = s.Storage.Get(ctx, key)
		return err
	})
	return entry, err
}

func (s *storage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return s.run(logical.UpdateOperation, entry.Key, func() error { return s.Storage.Put(ctx, entry) })
}

func (s *storage) Delete(ctx context.Context, key string) error {
	return s.run(logical.DeleteOperation, key, func() error { return s.Storage.Delete(ctx, key) })
}

func (s *storage) List(ctx context.Context, prefix string) (keys []string, err error) {
	err = s.run(logical.ListOperation, prefix, func() (err error) {
		keys, err = s.Storage.List(ctx, prefix)
		return err
	})
	return keys, err
}

func (s *storage) dump(t *testing.T) string { return s.dumpUnder(t, "") }

func (s *storage) dumpUnder(t *testing.T, prefix string) string {
	keys, err := logical.CollectKeysWithPrefix(context.Background(), s.Storage, prefix)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, key := range keys {
		entry, err := s.Storage.Get(context.Background(), key)
		if err != nil || entry == nil {
			t.Fatalf("%s: %v", key, err)
		}
		all.WriteString(key + " " + string(entry.Value) + "\n")
	}
	return all.String()
}

// A syncBuffer is a buffer for several writers.
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
