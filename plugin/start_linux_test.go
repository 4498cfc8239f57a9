package plugin_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"maps"
	"testing"
	"time"
)

// TestAFullLedgerDelaysNoStart starts a server whose mount has many records
// ($START_RECORDS), and measures when the first credential can be had, when all
// records are known, and what memory that takes.
func TestAFullLedgerDelaysNoStart(t *testing.T) {
	t.Parallel()
	n := fromEnv(t, "START_RECORDS", 2_000)
	st := newStage(t, startVault(t, "raw_storage_endpoint = true"), "start")
	st.write(t, "roles/plain", map[string]any{"ttl": "1h"})
	st.write(t, "roles/many", map[string]any{"ttl": "1h", "max_active": 2 * n})
	began := time.Now()
	st.fill(t, n)
	t.Logf("%d records stored in %s", n, time.Since(began).Round(time.Second))

	st.process.kill()
	st.run(t)
	st.unseal(t)
	first := st.mustRead(t, "plain")
	idle, _ := st.mustHaveOnePlugin(t).memory(t)
	counted := st.mustRead(t, "many") // loads the records of its role, which are nearly all
	resident, peak := st.mustHaveOnePlugin(t).memory(t)
	if now := st.status(t); now.Live != n+3 {
		t.Errorf("%d live tokens are known, want %d", now.Live, n+3)
	}
	t.Logf("%d records: first credential %s after the start, all records known %s later; resident %.0f MB before, %.0f MB after, %.0f MB at the peak",
		n, first.Round(time.Millisecond), counted.Round(time.Millisecond), idle, resident, peak)
	if first > 3*time.Second {
		t.Errorf("the first credential took %s", first)
	}
}

// mustRead reads a credential and says how long that took.
func (st *stage) mustRead(t *testing.T, role string) time.Duration {
	t.Helper()
	began := time.Now()
	_, err := st.read(t.Context(), role, "")
	must(t, err)
	return time.Since(began)
}

func (st *stage) mustHaveOnePlugin(t *testing.T) process {
	t.Helper()
	current, _ := st.pluginProcesses()
	if len(current) != 1 {
		t.Fatalf("%d plugin processes, not one", len(current))
	}
	return current[0]
}

// fill makes n copies of the record of a token of role many in the storage of
// the mount.
func (st *stage) fill(t *testing.T, n int) {
	t.Helper()
	_, err := st.read(t.Context(), "many", "")
	must(t, err)
	folder := st.rawStorage(t) + "/ledger/many/"
	var keys struct {
		Data struct {
			Keys []string `json:"keys"`
		} `json:"data"`
	}
	must(t, st.call(t.Context(), "LIST", folder, nil, &keys))
	var stored struct {
		Data struct {
			Value string `json:"value"`
		} `json:"data"`
	}
	must(t, st.call(t.Context(), "GET", folder+keys.Data.Keys[0], nil, &stored))
	var record map[string]any
	must(t, json.Unmarshal([]byte(stored.Data.Value), &record))
	must(t, atOnce(n, 64, func() error { return st.copyRecord(t.Context(), folder, record) }))
}

func (st *stage) copyRecord(ctx context.Context, folder string, of map[string]any) error {
	record := maps.Clone(of)
	nonce := rand.Text()
	record["nonce"], record["token_id"] = nonce, rand.Text()
	value, err := json.Marshal(record)
	if err != nil {
		return err
	}
	return st.call(ctx, "PUT", folder+nonce, map[string]any{"value": string(value)}, nil)
}

// rawStorage is where the storage of the mount stands in that of the server.
func (st *stage) rawStorage(t *testing.T) string {
	t.Helper()
	var mounts struct {
		Data map[string]struct {
			UUID string `json:"uuid"`
		} `json:"data"`
	}
	must(t, st.call(t.Context(), "GET", "sys/mounts", nil, &mounts))
	return "sys/raw/logical/" + mounts.Data[st.mounted+"/"].UUID
}
