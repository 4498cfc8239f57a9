package e2e

import (
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// TestStart_LargeLedgerDelaysNoCredential starts a server whose mount has many
// records ($START_RECORDS). It measures when the first credential is answered,
// when all records are loaded, and how much memory the plugin uses.
func TestStart_LargeLedgerDelaysNoCredential(t *testing.T) {
	t.Parallel()
	n := fromEnv(t, "START_RECORDS", 2_000)
	st := newStage(t, vaulttest.Start(t, "raw_storage_endpoint = true"), "start")
	st.write(t, "roles/plain", map[string]any{"ttl": "1h"})
	st.write(t, "roles/many", map[string]any{"ttl": "1h", "max_active": 2 * n})
	began := time.Now()
	st.FillLedger(t, st.SampleRecord(t, "start", "many"), n)
	t.Logf("%d records stored in %s", n, time.Since(began).Round(time.Second))

	st.Kill()
	st.Run(t)
	st.Unseal(t)
	first := st.mustRead(t, "plain")
	idle, _ := st.mustHaveOnePlugin(t).Memory(t)
	counted := st.mustRead(t, "many") // counts the tokens of its role, which are nearly all
	resident, peak := st.mustHaveOnePlugin(t).Memory(t)
	if active := vaulttest.Count(st.status(t).Active); active != n+3 {
		t.Errorf("%d active tokens are known, want %d", active, n+3)
	}
	t.Logf("%d records: first credential %s after the start, all records loaded %s later; resident %.0f MB before, %.0f MB after, %.0f MB at the peak",
		n, first.Round(time.Millisecond), counted.Round(time.Millisecond), idle, resident, peak)
	if first > 3*time.Second {
		t.Errorf("the first credential took %s", first)
	}
}

// mustRead reads a credential and returns how long that took.
func (st *stage) mustRead(t *testing.T, role string) time.Duration {
	t.Helper()
	began := time.Now()
	_, err := st.read(t.Context(), role, "")
	must(t, err)
	return time.Since(began)
}

// mustHaveOnePlugin returns the only plugin process of the server.
func (st *stage) mustHaveOnePlugin(t *testing.T) vaulttest.Process {
	t.Helper()
	current, _ := st.PluginProcesses()
	if len(current) != 1 {
		t.Fatalf("%d plugin processes run, want 1", len(current))
	}
	return current[0]
}
