package backend

import (
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// countingView counts how often Vault is asked for the replication state.
type countingView struct {
	logical.SystemView
	asked int
}

func (v *countingView) ReplicationState() consts.ReplicationState {
	v.asked++
	return consts.ReplicationPerformancePrimary
}

func TestSystemView_AsksOnceASecond(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	vault := &countingView{}
	v := &systemView{SystemView: vault, now: func() time.Time { return now }}
	for _, step := range []struct {
		passes time.Duration
		asked  int
	}{{0, 1}, {999 * time.Millisecond, 1}, {time.Millisecond, 2}, {-time.Hour, 3}, {0, 3}} {
		now = now.Add(step.passes)
		if got := v.ReplicationState(); got != consts.ReplicationPerformancePrimary || vault.asked != step.asked {
			t.Errorf("after another %s: state %v, asked %d times, want %d", step.passes, got, vault.asked, step.asked)
		}
	}
}
