package vaulttest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"maps"
	"testing"
)

// A Sample is one stored record of a mount's ledger. Tests copy it to fill a
// ledger without issuing tokens.
type Sample struct {
	folder string // in the server's storage, of the records of the same role
	record map[string]any
}

// SampleRecord reads a credential of a role that has none yet and returns the
// record of its token. The server must be started with raw_storage_endpoint.
func (s *Server) SampleRecord(t testing.TB, mount, role string) Sample {
	t.Helper()
	must(t, s.Call(t.Context(), "GET", mount+"/creds/"+role, nil, nil))
	sample := Sample{folder: s.mountStorage(t, mount) + "/ledger/" + role + "/"}
	var keys struct {
		Data struct {
			Keys []string `json:"keys"`
		} `json:"data"`
	}
	must(t, s.Call(t.Context(), "LIST", sample.folder, nil, &keys))
	var stored struct {
		Data struct {
			Value string `json:"value"`
		} `json:"data"`
	}
	must(t, s.Call(t.Context(), "GET", sample.folder+keys.Data.Keys[0], nil, &stored))
	must(t, json.Unmarshal([]byte(stored.Data.Value), &sample.record))
	return sample
}

// FillLedger stores n copies of a record, each for a token of its own. A running
// engine does not notice; it reads them after the next start.
func (s *Server) FillLedger(t testing.TB, sample Sample, n int) {
	t.Helper()
	must(t, Concurrently(n, 64, func() error {
		return s.CopyRecord(t.Context(), sample, map[string]any{"token_id": rand.Text()})
	}))
}

// CopyRecord stores a copy of a record under a new accessor, with the changes.
func (s *Server) CopyRecord(ctx context.Context, sample Sample, changes map[string]any) error {
	record, accessor := maps.Clone(sample.record), rand.Text()
	maps.Copy(record, changes)
	record[AccessorField] = accessor
	value, err := json.Marshal(record)
	if err != nil {
		return err
	}
	return s.Call(ctx, "PUT", sample.folder+accessor, map[string]any{"value": string(value)}, nil)
}

// mountStorage is the path, below sys/raw, of the storage of a mount.
func (s *Server) mountStorage(t testing.TB, mount string) string {
	t.Helper()
	var mounts struct {
		Data map[string]struct {
			UUID string `json:"uuid"`
		} `json:"data"`
	}
	must(t, s.Call(t.Context(), "GET", "sys/mounts", nil, &mounts))
	return "sys/raw/logical/" + mounts.Data[mount+"/"].UUID
}
