package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// A tally counts what clients did and how it ended.
type tally struct {
	mu       sync.Mutex // guards what follows
	done     map[string]int
	failed   map[string]int
	failures map[string]int // by HTTP status
	broken   []string       // descriptions of broken promises
}

func newTally() *tally {
	return &tally{done: map[string]int{}, failed: map[string]int{}, failures: map[string]int{}}
}

// count records the outcome of an act.
func (t *tally) count(act string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		t.done[act]++
		return
	}
	t.failed[act]++
	if act != hangingUp {
		t.failures[reasonOf(err)]++
	}
}

// breach records a broken promise.
func (t *tally) breach(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.broken = append(t.broken, fmt.Sprintf(format, args...))
}

// reasonOf says in a few words why a call failed.
func reasonOf(err error) string {
	if answer, ok := errors.AsType[*vaulttest.StatusError](err); ok {
		return answer.Status
	}
	return "no answer"
}

// What clients do.
const (
	reading   = "reads"
	hangingUp = "reads given up by the client"
	renewing  = "renewals"
	revoking  = "revocations"
	rotating  = "rotations of the root credential"
	checking  = "credentials checked under their lease"
)

// A client reads credentials, and checks, renews and revokes those that it has.
// It gives up some reads before they are answered. Each act goes to a random
// node.
type client struct {
	*stage // of this client alone
	*tally
	nodes  []*vaulttest.Server
	roles  []string
	pause  time.Duration // average time between two acts
	random *rand.Rand
	held   []*credential
}

// run acts until ctx is done. An act that has begun by then is completed.
func (c *client) run(ctx context.Context) {
	for vaulttest.Wait(ctx, c.about(c.pause)) {
		c.Server = c.nodes[c.random.IntN(len(c.nodes))]
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		c.act(limited)
		cancel()
	}
}

// about returns a random duration whose average is d.
func (c *client) about(d time.Duration) time.Duration {
	return d/2 + time.Duration(c.random.Int64N(int64(d)))
}

func (c *client) act(ctx context.Context) {
	c.held = slices.DeleteFunc(c.held, func(one *credential) bool { return time.Now().After(one.until) })
	choice := c.random.IntN(20)
	switch {
	case choice < 2:
		c.hangUp(ctx)
	case choice < 9 || len(c.held) == 0:
		c.take(ctx)
	case choice < 12:
		c.renew(ctx)
	case choice < 14:
		c.revoke(ctx)
	default:
		c.check(c.any())
	}
}

// any returns one of the credentials that the client holds.
func (c *client) any() *credential { return c.held[c.random.IntN(len(c.held))] }

func (c *client) role() string { return c.roles[c.random.IntN(len(c.roles))] }

func (c *client) take(ctx context.Context) {
	one, err := c.read(ctx, c.role(), "")
	c.count(reading, err)
	if err == nil {
		c.held = append(c.held, one)
	}
}

func (c *client) hangUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, c.about(80*time.Millisecond))
	defer cancel()
	_, err := c.read(ctx, c.role(), "")
	c.count(hangingUp, err)
}

// renew asks for the ttl of the role. A renewal whose outcome is unknown can
// then only have moved the end of the lease forward.
func (c *client) renew(ctx context.Context) {
	one, began := c.any(), time.Now()
	if !one.Renewable {
		return
	}
	var answer struct {
		Duration int `json:"lease_duration"`
	}
	err := c.Call(ctx, "PUT", "sys/leases/renew", map[string]any{"lease_id": one.Lease}, &answer)
	c.count(renewing, err)
	if err == nil {
		one.until = began.Add(time.Duration(answer.Duration) * time.Second)
	}
}

// revoke revokes a credential, half of the time synchronously. The client does
// not use it again, even if the outcome is unknown.
func (c *client) revoke(ctx context.Context) {
	one := c.any()
	c.held = slices.DeleteFunc(c.held, func(other *credential) bool { return other == one })
	err := c.Call(ctx, "PUT", "sys/leases/revoke", map[string]any{"lease_id": one.Lease, "sync": c.random.IntN(2) == 0}, nil)
	c.count(revoking, err)
}

// check records a breach if the cluster refuses a credential under its lease.
// Vault computes leases in whole seconds, hence the second less.
func (c *client) check(one *credential) {
	token, _ := c.cluster.Token(one.Data.ID)
	if !token.Live && time.Now().Before(one.until.Add(-time.Second)) {
		c.breach("token %s died at %s, %s before the end of its lease", one.Data.ID,
			token.RevokedAt.Format(time.StampMilli), one.until.Sub(token.RevokedAt).Round(time.Millisecond))
	}
	c.count(checking, nil)
}

// counts formats a map of counts.
func counts(of map[string]int) string {
	text := ""
	for i, what := range slices.Sorted(maps.Keys(of)) {
		if i > 0 {
			text += ", "
		}
		text += fmt.Sprintf("%s: %d", what, of[what])
	}
	return text
}
