package plugin_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// measureCLI measures management tokens beside the bare CLI.
func measureCLI(b *testing.B, sheet *sheet) {
	r := newRig(b)
	r.set(b, "engine/config/check", nil) // has the CLI proven
	ours, _ := r.engine.memory(b)
	theirs, _ := r.yardstick.memory(b)
	sheet.add("memory of the idle plugin, resident", megabytes(ours), megabytes(theirs), ratio(ours, theirs), bar(ours <= 40, "≤ 40 MB"))

	r.slow(b, cliLatency)
	both := sheet.compare(b, load{2 * maxParallel, r.reads("engine/creds/cli")}, load{maxParallel, r.bareCreate()})
	share := both[0].perSecond() / both[1].perSecond()
	sheet.add("management tokens, 8 clients, max_parallel 4", perSecond(both[0]), perSecond(both[1])+" (CLI, 4 at a time)",
		fmt.Sprintf("%.2f", share), bar(share >= 0.9, "≥ 0.9"))
	latency(b, r, sheet)
	for _, clients := range []int{1, 4, 32} {
		both := sheet.compare(b, load{clients, r.reads("engine/creds/cli")}, load{min(clients, maxParallel), r.bareCreate()})
		sheet.addLoad("management tokens, "+inWords(clients), both[0], both[1])
	}
	ours, peak := r.engine.memory(b)
	sheet.add("memory after that load (at its peak)", megabytes(ours)+" ("+megabytes(peak)+")", "", "", "")
}

// latency measures what a read adds to one run of the CLI, and what of that is
// Vault's own.
func latency(b *testing.B, r *rig, sheet *sheet) {
	b.Helper()
	all := sheet.alternate(b, r.reads("engine/creds/cli"), r.bareCreate(), r.reads("yardstick/bare"), r.reads("yardstick/kept"))
	read, run, leased, kept := all[0].at(.5), all[1].at(.5), all[2].at(.5), all[3].at(.5)
	added := read - run
	sheet.add("added to one run of the CLI, p50, 1 client", milliseconds(added), "", "", bar(added <= 15, "≤ 15 ms"))
	sheet.add("— of it Vault's: a leased UUID", "", milliseconds(leased), "", "")
	sheet.add("— of it two writes and a read of storage", "", milliseconds(kept-leased), "", "")
	sheet.add("— the rest: the engine, its RPCs, profile and process", milliseconds(added-kept), "", "", "")
}

// measureDatabase measures database tokens and renewals beside a leased UUID.
func measureDatabase(b *testing.B, sheet *sheet) {
	r := newRig(b)
	for _, clients := range []int{1, 4, 32} {
		all := sheet.compare(b, load{clients, r.reads("engine/creds/api")}, load{clients, r.reads("yardstick/bare")},
			load{clients, r.reads("yardstick/kept")}, load{clients, r.bareRequest()})
		sheet.addLoad("database tokens, "+inWords(clients), all[0], all[1])
		sheet.addLoad("— beside a UUID with two writes and a read of storage", all[0], all[2])
		sheet.add("— the request to the cluster alone", "", perSecond(all[3]), "", "")
	}
	leases := map[string][]string{}
	for _, path := range []string{"engine/creds/api", "yardstick/bare"} {
		for range 100 {
			var c credential
			must(b, r.call(b.Context(), "GET", path, nil, &c))
			leases[path] = append(leases[path], c.Lease)
		}
	}
	for _, clients := range []int{1, 4, 32} {
		both := sheet.compare(b, load{clients, r.renewals(leases["engine/creds/api"])}, load{clients, r.renewals(leases["yardstick/bare"])})
		sheet.addLoad("renewals, "+inWords(clients), both[0], both[1])
	}
	now, peak := r.engine.memory(b)
	sheet.add("memory after that load (at its peak)", megabytes(now)+" ("+megabytes(peak)+")", "", "", "")
}

// bareRequest mints a database token as the engine does, but for all that the
// engine adds.
func (r *rig) bareRequest() func(context.Context) error {
	url := r.cluster.URL + "/api/v0/accounts/" + r.cluster.AccountID + "/clusters/" + r.cluster.ClusterID + "/tokens"
	const order = `{"description":"bare","permissions":[{"action":"write","resource":"metrics"}]}`
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(order))
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+r.cluster.Root)
		req.Header.Set("Content-Type", "application/json")
		resp, err := r.web.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode >= 300 {
			err = fmt.Errorf("%s: %s", resp.Status, answer)
		}
		return err
	}
}

// renewals renews one lease after the other.
func (r *rig) renewals(leases []string) func(context.Context) error {
	next := make(chan string, len(leases))
	for _, lease := range leases {
		next <- lease
	}
	return func(ctx context.Context) error {
		lease := <-next
		defer func() { next <- lease }()
		return r.call(ctx, "PUT", "sys/leases/renew", map[string]any{"lease_id": lease}, nil)
	}
}

// measureList has the engine list ever more tokens.
func measureList(b *testing.B, sheet *sheet) {
	r, most := newRig(b), number(b, "BENCH_LIST", 1_000_000)
	r.set(b, "engine/tidy", nil)
	idle, _ := r.engine.memory(b)
	held := 0
	for n := max(1, most/100); n <= most; n *= 10 {
		r.control(b, "POST", "tokens", map[string]any{"count": n - held, "kind": "management", "description": "somebody's"}, nil)
		held = n
		ours := timed(b, func() error { return r.call(b.Context(), "POST", "engine/tidy", nil, nil) })
		theirs := timed(b, func() error { return r.bare("list", "--format", "json")(b.Context()) })
		sheet.add(fmt.Sprintf("a list of %d tokens", n), seconds(ours), seconds(theirs)+" (CLI, not read)", ratio(ours, theirs), "")
		_, peak := r.engine.memory(b)
		sheet.add("— memory that it adds, at its peak", megabytes(peak-idle), "", "", bar(peak-idle <= 20, "≤ 20 MB"))
	}
}

func timed(b *testing.B, f func() error) (seconds float64) {
	b.Helper()
	began := time.Now()
	must(b, f())
	return time.Since(began).Seconds()
}

// measureParts runs the benchmarks of the pure parts.
func measureParts(b *testing.B, sheet *sheet) {
	cmd := exec.CommandContext(b.Context(), "go", "test", "-run", "^$", "-bench", "Terms|Index|Decode|Tick|Load/100000$", "-benchmem", "./backend/...")
	cmd.Dir = ".."
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "Benchmark") {
			sheet.parts = append(sheet.parts, strings.TrimSpace(line))
		}
	}
}
