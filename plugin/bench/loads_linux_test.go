package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// measureCLI compares the issuing of management tokens with the CLI in a loop.
func measureCLI(b *testing.B, out results) {
	r := newRig(b)
	r.write(b, "engine/config/check", nil) // makes the engine run the CLI once
	idle, _ := r.engine.Memory(b)
	other, _ := r.yardstick.Memory(b)
	out.add(b, result{What: "idle plugin, resident", Unit: "MB", Engine: idle, Baseline: leasedUUID, Other: other}.
		withGoal("<= 30", idle <= 30))

	r.slow(b, cliLatency)
	both := compare(b, load{2 * maxParallel, r.reads("engine/creds/cli")}, load{maxParallel, r.bareCreate()})
	share := both[0].perSecond() / both[1].perSecond()
	out.add(b, rates(fmt.Sprintf("management tokens, %d clients, max_parallel %d", 2*maxParallel, maxParallel), both[0], influxctlLoop, both[1]).
		withGoal("ratio >= 0.95", share >= 0.95))
	measureLatency(b, r, out)
	for _, clients := range []int{1, 4, 32} {
		both := compare(b, load{clients, r.reads("engine/creds/cli")}, load{min(clients, maxParallel), r.bareCreate()})
		out.addRates(b, fmt.Sprintf("management tokens, %d clients", clients), both[0], influxctlLoop, both[1])
	}
	now, peak := r.engine.Memory(b)
	out.add(b, result{What: "memory after that load", Unit: "MB", Engine: now, Note: fmt.Sprintf("peak %.1f MB", peak)})
}

// measureLatency measures what a read adds to one run of the CLI, and how much
// of that is Vault's own.
func measureLatency(b *testing.B, r *rig, out results) {
	b.Helper()
	all := alternate(b, r.reads("engine/creds/cli"), r.bareCreate(), r.reads("yardstick/bare"), r.reads("yardstick/kept"))
	read, run, leased, stored := all[0].quantile(.5), all[1].quantile(.5), all[2].quantile(.5), all[3].quantile(.5)
	added := read - run
	out.add(b, result{What: "added to one run of influxctl, p50, 1 client", Unit: "ms", Engine: added}.withGoal("<= 12", added <= 12))
	out.add(b, result{What: "of it: a leased UUID from Vault", Unit: "ms", Engine: leased})
	out.add(b, result{What: "of it: two writes and a read of storage", Unit: "ms", Engine: stored - leased})
	out.add(b, result{What: "of it: the engine, its RPCs, profile and process", Unit: "ms", Engine: added - stored})
}

// measureDatabase compares the issuing of database tokens, and renewals, with a
// leased UUID.
func measureDatabase(b *testing.B, out results) {
	r := newRig(b)
	for _, clients := range []int{1, 4, 32} {
		all := compare(b, load{clients, r.reads("engine/creds/api")}, load{clients, r.reads("yardstick/bare")},
			load{clients, r.reads("yardstick/kept")}, load{clients, r.bareRequest()})
		what := fmt.Sprintf("database tokens, %d clients", clients)
		out.addRates(b, what, all[0], leasedUUID, all[1])
		out.addRates(b, what, all[0], storedUUID, all[2])
		out.addRates(b, what, all[0], bareRequest, all[3])
	}
	leases := map[string][]string{}
	for _, path := range []string{"engine/creds/api", "yardstick/bare"} {
		for range 100 {
			var answer struct {
				Lease string `json:"lease_id"`
			}
			must(b, r.Call(b.Context(), "GET", path, nil, &answer))
			leases[path] = append(leases[path], answer.Lease)
		}
	}
	for _, clients := range []int{1, 4, 32} {
		both := compare(b, load{clients, r.renewals(leases["engine/creds/api"])}, load{clients, r.renewals(leases["yardstick/bare"])})
		out.addRates(b, fmt.Sprintf("renewals, %d clients", clients), both[0], leasedUUID, both[1])
	}
	now, peak := r.engine.Memory(b)
	out.add(b, result{What: "memory after that load", Unit: "MB", Engine: now, Note: fmt.Sprintf("peak %.1f MB", peak)})
}

// bareRequest returns a function that creates a database token with the request
// that the engine sends, without the engine.
func (r *rig) bareRequest() func(context.Context) error {
	url := r.cluster.URL + "/api/v0/accounts/" + r.cluster.AccountID + "/clusters/" + r.cluster.ClusterID + "/tokens"
	const body = `{"description":"bare","permissions":[{"action":"write","resource":"metrics"}]}`
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+r.cluster.Root)
		req.Header.Set("Content-Type", "application/json")
		resp, err := r.HTTP.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return err
		}
		if resp.StatusCode >= 300 {
			return fmt.Errorf("the cluster answers %s", resp.Status)
		}
		return nil
	}
}

// renewals returns a function that renews one lease after the other.
func (r *rig) renewals(leases []string) func(context.Context) error {
	next := make(chan string, len(leases))
	for _, lease := range leases {
		next <- lease
	}
	return func(ctx context.Context) error {
		lease := <-next
		defer func() { next <- lease }()
		return r.Call(ctx, "PUT", "sys/leases/renew", map[string]any{"lease_id": lease}, nil)
	}
}

// measureList makes the engine list many tokens, up to $BENCH_LIST.
func measureList(b *testing.B, out results) {
	r, most := newRig(b), size(b, "BENCH_LIST", 1_000_000)
	r.write(b, "engine/tidy", nil)
	idle, _ := r.engine.Memory(b)
	held := 0
	for n := max(1, most/100); n <= most; n *= 10 {
		r.control(b, "POST", "tokens", map[string]any{"count": n - held, "kind": "management", "description": "somebody's"}, nil)
		held = n
		engine := timed(b, func() error { return r.Call(b.Context(), "POST", "engine/tidy", nil, nil) })
		other := timed(b, func() error { return r.bare("list", "--format", "json")(b.Context()) })
		out.add(b, result{What: fmt.Sprintf("a list of %d tokens", n), Unit: "s", Engine: engine, Baseline: influxctlLoop, Other: other})
		_, peak := r.engine.Memory(b)
		out.add(b, result{What: fmt.Sprintf("a list of %d tokens: memory added at its peak", n), Unit: "MB", Engine: peak - idle}.
			withGoal("<= 10", peak-idle <= 10))
	}
}
