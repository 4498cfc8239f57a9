package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// A tally counts what clients did, and how it went.
type tally struct {
	mu       sync.Mutex // guards what follows
	done     map[string]int
	failed   map[string]int
	failures map[string]int // by HTTP status
	broken   []string       // promises
}

func newTally() *tally {
	return &tally{done: map[string]int{}, failed: map[string]int{}, failures: map[string]int{}}
}

// count notes the outcome of an act.
func (t *tally) count(act string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		t.done[act]++
		return
	}
	t.failed[act]++
	if act == hangingUp {
		return
	}
	t.failures[reasonOf(err)]++
}

// reasonOf tells why a call failed, in a few words.
func reasonOf(err error) string {
	if answer, ok := errors.AsType[*vaulttest.StatusError](err); ok {
		return answer.Status
	}
	return "no answer"
}

func (t *tally) breach(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.broken = append(t.broken, fmt.Sprintf(format, args...))
}

// What clients do.
const (
	reading   = "reads"
	hangingUp = "reads hung up on"
	renewing  = "renewals"
	revoking  = "revocations"
	using     = "uses"
)

// A client reads credentials, and uses, renews and revokes those it has. Some of
// its reads it gives up before they are answered.
type client struct {
	*stage
	*tally
	roles  []string
	pause  time.Duration // between two acts, on the average
	random *rand.Rand
	held   []*credential
}

// run acts until ctx is done. What is under way then is carried through.
func (c *client) run(ctx context.Context) {
	for vaulttest.Wait(ctx, c.about(c.pause)) {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		c.act(bounded)
		cancel()
	}
}

// about is a duration that is d on the average.
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
		c.use()
	}
}

// any is one of the credentials that the client holds.
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

// renew asks for as much as the role gives, so that it can only move the end of
// the lease forward, if its outcome is not known, too.
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

func (c *client) revoke(ctx context.Context) {
	one := c.any()
	c.held = slices.DeleteFunc(c.held, func(other *credential) bool { return other == one })
	err := c.Call(ctx, "PUT", "sys/leases/revoke", map[string]any{"lease_id": one.Lease, "sync": c.random.IntN(2) == 0}, nil)
	c.count(revoking, err)
}

// use looks whether a credential works, as it must under its lease. The second
// taken off is what core's whole seconds may cost.
func (c *client) use() {
	one := c.any()
	token, _ := c.cluster.Token(one.Data.ID)
	if !token.Live && time.Now().Before(one.until.Add(-time.Second)) {
		c.breach("token %s is dead %s before the end of its lease", one.Data.ID, time.Until(one.until))
	}
	c.count(using, nil)
}
