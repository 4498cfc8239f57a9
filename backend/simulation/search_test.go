//go:build !race

package simulation

import (
	"cmp"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// A schedule chooses which gate opens next. A search makes one run for every
// schedule with at most a number of deviations from the plain one. The plain
// schedule always continues the request that was continued last; a deviation
// continues another one, crashes the plugin, or stops the leader.
type schedule struct {
	deviations int // that each run may have
	path       []int
	sizes      []int // the number of options at each place of the path
	at, used   int
}

// n chooses a number from 0 to n-1. Zero is no deviation.
func (s *schedule) n(n int) int {
	if n <= 1 || s.used == s.deviations {
		return 0
	}
	if s.at == len(s.path) {
		s.path, s.sizes = append(s.path, 0), append(s.sizes, n)
	}
	v := s.path[s.at]
	s.at++
	if v > 0 {
		s.used++
	}
	return v
}

// next prepares the next run. It reports false when there is none.
func (s *schedule) next() bool {
	s.at, s.used = 0, 0
	for last := len(s.path) - 1; last >= 0; last-- {
		if s.path[last]++; s.path[last] < s.sizes[last] {
			return true
		}
		s.path, s.sizes = s.path[:last], s.sizes[:last]
	}
	return false
}

// searched are the requests of which a search tries every pair. Each finds a lease of
// the role short, a lease of the role limited, which allows two tokens, and a static
// role with a token.
var searched = []struct {
	name string
	send func(*world)
}{
	{"read", func(w *world) { w.read("limited", 0, 0) }},
	{"renew", func(w *world) { w.renew(w.active, w.leases[0], 0) }},
	{"revoke", func(w *world) { w.revoke(w.leases[0], nil) }},
	{"delete the record", func(w *world) { w.deleteRecord(w.facts.now.records[w.leases[0].field("accessor")]) }},
	{"rotate the root credential", (*world).rotateRoot},
	{"replace the root credential", func(w *world) {
		data := map[string]any{}
		w.setRoot(data, w.newRoot().Secret.Reveal())
		w.sendConfig(data)
	}},
	{"change the place", func(w *world) {
		data := w.configData(aliasHost, w.newRoot())
		data["same_cluster"] = true
		w.sendConfig(data)
	}},
	{"move to another cluster", func(w *world) { w.sendConfig(w.configData(awayHost, w.newRootAt(w.away))) }},
	{"rotate the static role", func(w *world) {
		w.change("admins", false)
		w.request(w.active, logical.UpdateOperation, "rotate-role/admins", nil, func(*task) {})
	}},
	{"delete the static role", func(w *world) {
		w.change("admins", true)
		w.request(w.active, logical.DeleteOperation, "static-roles/admins", nil, func(*task) {})
	}},
	{"tidy", func(w *world) {
		w.request(w.active, logical.UpdateOperation, "tidy", map[string]any{"revoke_unknown": w.facts.tag}, func(*task) {})
	}},
	{"tick", func(w *world) { w.request(w.active, logical.RollbackOperation, "", nil, nil) }},
}

// TestSearch_EveryPairOfRequests runs every pair of requests at the same time, in
// every schedule with at most $SEARCH_DEVIATIONS deviations (1).
func TestSearch_EveryPairOfRequests(t *testing.T) {
	deviations, err := strconv.Atoi(cmp.Or(os.Getenv("SEARCH_DEVIATIONS"), "1"))
	if err != nil {
		t.Fatalf("SEARCH_DEVIATIONS: %v", err)
	}
	began, runs, longest := time.Now(), 0, 0
	for _, product := range []int{0, 1} { // the cluster chooses the ID, and the engine does
		for i, first := range searched {
			for _, second := range searched[i:] {
				s := &schedule{deviations: deviations}
				for more := true; more && !t.Failed(); more = s.next() {
					w := search(t, product, s, false, first.send, second.send)
					if runs, longest = runs+1, max(longest, w.opened); runs%100 == 0 {
						runtime.GC()
					}
					if w.failure == nil {
						continue
					}
					w = search(t, product, s, true, first.send, second.send)
					t.Errorf("%s beside %s, product %s, schedule %v: %v\n%s", first.name, second.name, w.product, s.path, w.failure, strings.Join(w.trace, "\n"))
				}
			}
		}
	}
	t.Logf("%d schedules of %d pairs of requests, with at most %d deviations, in %s; the longest has %d operations",
		runs, len(searched)*(len(searched)+1), deviations, time.Since(began).Round(time.Second), longest)
}

// search makes one run of a search.
func search(t *testing.T, product int, s *schedule, tracing bool, requests ...func(*world)) (w *world) {
	s.at, s.used = 0, 0
	synctest.Test(t, func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, 1)
		w = newWorld(recorded([][]int{{product}}), tracing)
		defer w.stop()
		w.begin()
		w.prepare()
		for _, send := range requests {
			if w.failure == nil {
				send(w)
			}
		}
		w.follow(s)
		w.finish()
	})
	return w
}

// prepare makes what the requests find.
func (w *world) prepare() {
	w.must("roles/limited", map[string]any{"max_active": 2})
	w.must("static-roles/admins", map[string]any{"token_type": "management", "rotation_period": "20m", "rotation_grace_period": "3m"})
	for _, role := range []string{"short", "limited"} {
		w.read(role, 0, 0)
		w.drain()
	}
	if len(w.leases) != 2 {
		panic(fmt.Sprintf("there are %d leases, not 2", len(w.leases)))
	}
}

// follow plays the requests out. Each step opens a gate, or is one of the faults, of
// which each happens at most once.
func (w *world) follow(s *schedule) {
	crashed, stopped := false, (*instance)(nil)
	for end := w.time().Add(3 * requestTime); w.failure == nil && w.void == "" && w.time().Before(end); w.check() {
		open := w.waiting()
		if len(open) == 0 {
			switch {
			case stopped != nil && stopped.paused:
				stopped.paused = false
				w.turn()
				w.expireOld(stopped)
			case len(w.tasks) == 0:
				return
			default:
				w.pass(time.Second, false)
			}
			continue
		}
		slices.Reverse(open) // the latest is first: it continues what was continued last
		options := len(open)
		if !crashed && stopped == nil {
			options += 2
		}
		switch choice := s.n(options); choice {
		case len(open):
			crashed = true
			w.crashPlugin()
		case len(open) + 1:
			stopped = w.active
			stopped.paused = true
			w.replaceStopped()
		default:
			w.open(open[choice], false)
		}
	}
}

// finish ends the leases and the static role, and looks at what is left.
func (w *world) finish() {
	if w.failure != nil || w.void != "" {
		return
	}
	for _, i := range w.others {
		i.paused = false
		if !i.ended && !i.retired {
			w.retire(i)
		}
	}
	w.drain()
	if w.facts.now.config == nil || w.product == issuer.Core {
		return
	}
	w.release("admins")
	w.pass(20*time.Minute, true)
	w.checkDrained(false)
	w.checkSecrets()
}
