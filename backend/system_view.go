package backend

import (
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// stateTime is how long the replication state of the node is remembered.
const stateTime = time.Second

// A systemView is what Vault says about itself and the node. It remembers the
// replication state for stateTime: the framework asks for it on every request, and
// each question is a call to Vault.
//
// So an engine may believe for a second that its node may write although it may not
// any more. It can list tokens then, but not issue or revoke one: a write to storage,
// which such a node cannot make, comes before both.
type systemView struct {
	logical.SystemView
	now func() time.Time

	mu    sync.Mutex // guards the following
	state consts.ReplicationState
	at    time.Time // when state was asked for
}

// ReplicationState implements logical.SystemView.
func (v *systemView) ReplicationState() consts.ReplicationState {
	v.mu.Lock()
	defer v.mu.Unlock()
	if now := v.now(); !isFresh(v.at, stateTime, now) {
		v.state, v.at = v.SystemView.ReplicationState(), now
	}
	return v.state
}
