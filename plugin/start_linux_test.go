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
	st.fill(t, st.specimenOf(t, "start", "many"), n)
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

// A specimen is one record of a ledger, and the folder of the server's storage
// that it stands in with the others of its role.
type specimen struct {
	folder string
	record map[string]any
}

// specimenOf reads a credential of a role that has none yet, and finds its
// record. The server must let its storage be read (raw_storage_endpoint).
func (s *server) specimenOf(t testing.TB, mount, role string) specimen {
	t.Helper()
	must(t, s.call(t.Context(), "GET", mount+"/creds/"+role, nil, nil))
	one := specimen{folder: s.rawStorage(t, mount) + "/ledger/" + role + "/"}
	var keys struct {
		Data struct {
			Keys []string `json:"keys"`
		} `json:"data"`
	}
	must(t, s.call(t.Context(), "LIST", one.folder, nil, &keys))
	var stored struct {
		Data struct {
			Value string `json:"value"`
		} `json:"data"`
	}
	must(t, s.call(t.Context(), "GET", one.folder+keys.Data.Keys[0], nil, &stored))
	must(t, json.Unmarshal([]byte(stored.Data.Value), &one.record))
	return one
}

// fill stores n copies of the record, each of a token of its own, behind the
// engine's back: it knows of them after a start.
func (s *server) fill(t testing.TB, one specimen, n int) {
	t.Helper()
	must(t, atOnce(n, 64, func() error {
		return s.copyRecord(t.Context(), one, map[string]any{"token_id": rand.Text()})
	}))
}

// copyRecord stores a copy of the record under a nonce of its own, and with the
// changes.
func (s *server) copyRecord(ctx context.Context, of specimen, changes map[string]any) error {
	record, nonce := maps.Clone(of.record), rand.Text()
	maps.Copy(record, changes)
	record["nonce"] = nonce
	value, err := json.Marshal(record)
	if err != nil {
		return err
	}
	return s.call(ctx, "PUT", of.folder+nonce, map[string]any{"value": string(value)}, nil)
}

// rawStorage is where the storage of a mount stands in that of the server.
func (s *server) rawStorage(t testing.TB, mount string) string {
	t.Helper()
	var mounts struct {
		Data map[string]struct {
			UUID string `json:"uuid"`
		} `json:"data"`
	}
	must(t, s.call(t.Context(), "GET", "sys/mounts", nil, &mounts))
	return "sys/raw/logical/" + mounts.Data[mount+"/"].UUID
}
