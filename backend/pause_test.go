package backend_test

import (
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// A process that was paused after it had stored the record asks the cluster for
// nothing: another node may have settled the record meanwhile.
func TestIssue_PausedProcessDoesNotAskTheCluster(t *testing.T) {
	e := ready(t, nil)
	e.storage.setFault(func(when string, op logical.Operation, key string) error {
		if when == "after" && op == updateOp && len(key) > 7 && key[:7] == "ledger/" {
			e.storage.setFault(nil)
			e.clock.advance(2 * time.Minute)
		}
		return nil
	})
	issued := e.cluster.Calls(issuertest.BeforeIssue)
	if status, text := e.try(readOp, "creds/automation", nil); status < 400 {
		t.Errorf("status %d: %s", status, text)
	}
	if n := e.cluster.Calls(issuertest.BeforeIssue) - issued; n != 0 || len(e.records()) != 0 {
		t.Errorf("%d requests, records %v", n, e.records())
	}
}
