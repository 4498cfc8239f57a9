package backend

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
)

// A vastLedger is a storage that seems to hold n live records: each is made up
// when it is read, so that the memory a test sees is the engine's.
type vastLedger struct {
	logical.InmemStorage
	n     int
	due   time.Time
	reads atomic.Int64
}

const vastRole = "automation"

func vastAccessor(i int) string { return fmt.Sprintf("ABCDEFGHIJKLMNOPQR%08d", i) }

func (v *vastLedger) List(_ context.Context, prefix string) ([]string, error) {
	v.reads.Add(1)
	if prefix == ledger.Prefix {
		return []string{vastRole + "/"}, nil
	}
	accessors := make([]string, v.n)
	for i := range accessors {
		accessors[i] = vastAccessor(i)
	}
	return accessors, nil
}

func (v *vastLedger) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	v.reads.Add(1)
	accessor, ok := strings.CutPrefix(key, ledger.Prefix+vastRole+"/")
	if !ok {
		return v.InmemStorage.Get(ctx, key)
	}
	return logical.StorageEntryJSON(key, ledger.Record{
		TokenType: Management, Role: vastRole, Accessor: accessor, State: ledger.Active, TokenID: "0b0e5c7e-7a0b-4a53-9d0e-" + accessor[14:26],
		Description: "[vault:0123456789ab:" + accessor + "] " + vastRole, Fingerprint: "dedicated:an-account/a-cluster",
		DisplayName: "token-automation", IssuedAt: v.due.Add(-time.Hour), LeaseEnd: v.due.Add(-activeMargin),
		ExpiresAt: v.due.Add(time.Hour), Deadline: v.due,
	})
}

// loaded is a ledger that has loaded a vast one, and what it holds in memory.
func loaded(t testing.TB, n int) (*ledger.Ledger, *vastLedger, uint64) {
	t.Helper()
	storage, held := &vastLedger{n: n, due: time.Now().Add(time.Hour)}, ledger.New()
	before := heapInUse()
	if err := held.Load(t.Context(), storage); err != nil {
		t.Fatal(err)
	}
	after := heapInUse()
	if got := len(held.All()); got != n {
		t.Fatalf("%d records are known, not %d", got, n)
	}
	return held, storage, after - min(before, after)
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestAHundredThousandRecordsAreSmallInMemory(t *testing.T) {
	held, _, bytes := loaded(t, 100_000)
	if most := uint64(60 << 20); bytes > most {
		t.Errorf("the index takes %d MB", bytes>>20)
	}
	runtime.KeepAlive(held)
}

func TestATickWithNothingDueReadsNothingHoweverManyRecordsThereAre(t *testing.T) {
	held, storage, _ := loaded(t, 100_000)
	engine := newQuietEngine(t, nil, storage)
	engine.ledger = held
	act(t.Context(), engine, storage) // has a look at the root token, once in a long while
	before := storage.reads.Load()
	act(t.Context(), engine, storage)
	if reads := storage.reads.Load() - before; reads > 0 {
		t.Errorf("%d reads", reads)
	}
}

// BenchmarkLoad brings ledgers of growing size into the index, and tells what
// it then holds in memory.
func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var bytes uint64
			for b.Loop() {
				_, _, bytes = loaded(b, n)
			}
			b.ReportMetric(float64(bytes)/(1<<20), "MB")
			b.ReportMetric(float64(bytes)/float64(n), "B/record")
		})
	}
}

// BenchmarkTick has the worker act on a ledger of which nothing is due, and on
// one of which a thousand tokens are.
func BenchmarkTick(b *testing.B) {
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("nothing of %d", n), func(b *testing.B) {
			held, storage, _ := loaded(b, n)
			engine := newQuietEngine(b, nil, storage)
			engine.ledger = held
			for b.Loop() {
				act(b.Context(), engine, storage)
			}
		})
	}
	b.Run("a thousand", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			engine, storage := newEngineInDebt(b, 1000)
			b.StartTimer()
			act(b.Context(), engine, storage)
			if left := len(engine.ledger.All()); left > 0 {
				b.Fatalf("%d records are left", left)
			}
		}
	})
}

// act does what the worker does at a tick, in this goroutine.
func act(ctx context.Context, b *backend, s logical.Storage) {
	if err := b.ledger.Load(ctx, s); err != nil {
		panic(err)
	}
	b.keepRoot(ctx, s)
	for _, due := range dueByLane(b.ledger.Due(b.now())) {
		b.settleDue(ctx, s, due)
	}
}

// newQuietEngine is an engine that logs nothing.
func newQuietEngine(t testing.TB, d issuer.Driver, s logical.Storage) *backend {
	t.Helper()
	engine := newBackend(Options{Version: "v1.2.3", Drivers: Drivers{issuer.Dedicated: {Management: d}}}, "backend-uuid")
	err := engine.Setup(t.Context(), &logical.BackendConfig{
		Logger: hclog.NewNullLogger(), System: logical.TestSystemView(), StorageView: s, BackendUUID: "backend-uuid",
	})
	if err != nil {
		t.Fatal(err)
	}
	return engine
}

// newEngineInDebt is an engine with n tokens whose leases Vault has lost.
func newEngineInDebt(t testing.TB, n int) (*backend, logical.Storage) {
	t.Helper()
	storage := &logical.InmemStorage{}
	fake, root := issuertest.NewFake(time.Now)
	engine := newQuietEngine(t, fake, storage)
	c := config{Cluster: issuer.Cluster{Product: issuer.Dedicated, Root: root.Secret, Timeout: time.Minute, MaxParallel: 4}, Fingerprint: "dedicated/here"}
	entry, err := c.entry()
	if err != nil {
		t.Fatal(err)
	}
	if err := storage.Put(t.Context(), entry); err != nil {
		t.Fatal(err)
	}
	long, soon := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	for i := range n {
		accessor := vastAccessor(i)
		token, err := fake.Open(c.Cluster).Issue(t.Context(), issuer.Request{Description: engine.tag.describe(accessor, ""), ExpiresAt: soon})
		if err != nil {
			t.Fatal(err)
		}
		r := ledger.Record{TokenType: Management, Role: vastRole, Accessor: accessor, State: ledger.Active, TokenID: token.ID, Fingerprint: "dedicated/here", IssuedAt: long, ExpiresAt: soon, Deadline: long}
		if err := engine.ledger.Put(t.Context(), storage, r); err != nil {
			t.Fatal(err)
		}
	}
	return engine, storage
}
