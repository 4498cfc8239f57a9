package backend

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
)

// BenchmarkTick measures the work of one tick: with nothing due in ledgers of
// growing size, and with a thousand due tokens.
func BenchmarkTick(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("nothing due of %d", n), func(b *testing.B) {
			engine, storage := newBenchEngine(b, n, time.Now().Add(time.Hour))
			tick(b.Context(), engine, storage) // checks the root credential
			for b.Loop() {
				tick(b.Context(), engine, storage)
			}
		})
	}
	b.Run("a thousand due", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			engine, storage := newBenchEngine(b, 1000, time.Now().Add(-time.Hour))
			b.StartTimer()
			tick(b.Context(), engine, storage)
			if left := len(engine.ledger.All()); left > 0 {
				b.Fatalf("%d records are left", left)
			}
		}
	})
}

// tick does what the worker does at a tick, in this goroutine.
func tick(ctx context.Context, b *backend, s logical.Storage) {
	if err := b.ledger.Load(ctx, s); err != nil {
		panic(err)
	}
	b.keepRoot(ctx, s)
	for _, due := range dueByLane(b.ledger.Due(b.now())) {
		b.settleDue(ctx, s, due)
	}
}

// newBenchEngine returns an engine without a log, and its storage, with n active
// tokens.
func newBenchEngine(b *testing.B, n int, deadline time.Time) (*backend, logical.Storage) {
	b.Helper()
	storage := &logical.InmemStorage{}
	fake, root := issuertest.NewFake(time.Now)
	engine := newBackend(Options{Version: "v1.2.3", Drivers: Drivers{issuer.Dedicated: {Management: fake}}}, "backend-uuid")
	err := engine.Setup(b.Context(), &logical.BackendConfig{
		Logger: hclog.NewNullLogger(), System: logical.TestSystemView(), StorageView: storage, BackendUUID: "backend-uuid",
	})
	if err != nil {
		b.Fatal(err)
	}
	c := config{Cluster: issuer.Cluster{Product: issuer.Dedicated, Root: root.Secret, Timeout: time.Minute, MaxParallel: 4}, Fingerprint: "dedicated/account/cluster"}
	if err := putConfig(b.Context(), storage, c); err != nil {
		b.Fatal(err)
	}
	for range n {
		accessor, now := newAccessor(), time.Now()
		request := issuer.Request{Description: engine.tag.describe(accessor, ""), ExpiresAt: now.Add(time.Hour)}
		token, err := fake.Open(c.Cluster).Issue(b.Context(), request)
		if err != nil {
			b.Fatal(err)
		}
		r := ledger.Record{
			TokenType: Management, Role: "automation", Accessor: accessor, State: ledger.Active, TokenID: token.ID, Description: request.Description,
			Fingerprint: c.Fingerprint, IssuedAt: now.Add(-time.Hour), ConfirmedAt: now.Add(-time.Hour), ExpiresAt: request.ExpiresAt, Deadline: deadline,
		}
		if err := engine.ledger.Put(b.Context(), storage, r); err != nil {
			b.Fatal(err)
		}
	}
	return engine, storage
}
