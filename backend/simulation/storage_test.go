//go:build !race

package simulation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

var (
	errStorage   = errors.New("storage failed")
	errNotLeader = errors.New("node is not the leader")
	errCrashed   = errors.New("process has ended")
)

// A store is the storage that the nodes share. Only the walk's goroutine and the
// one that has just passed a gate use it.
type store struct {
	data map[string][]byte
	log  []change
}

// A change is a write, or with a nil value a delete.
type change struct {
	key   string
	value []byte
}

func (s *store) set(key string, value []byte) {
	c := change{key, slices.Clone(value)}
	c.apply(s.data)
	s.log = append(s.log, c)
}

func (c change) apply(data map[string][]byte) {
	if c.value == nil {
		delete(data, c.key)
	} else {
		data[c.key] = c.value
	}
}

// A view is the storage as an instance sees it.
type view struct {
	instance *instance
	stale    map[string][]byte // nil: the instance sees every change at once
	seen     int               // of the log, if stale
}

func (v *view) data() map[string][]byte {
	if v.stale != nil {
		return v.stale
	}
	return v.instance.world.store.data
}

// freeze makes the view a copy that does not change.
func (v *view) freeze() {
	if v.stale == nil {
		v.stale, v.seen = maps.Clone(v.instance.world.store.data), len(v.instance.world.store.log)
	}
}

// follow makes a stale view see the changes up to a position in the log, and returns
// the keys that have changed.
func (v *view) follow(position int) (changed []string) {
	s := v.instance.world.store
	for ; v.seen < min(position, len(s.log)); v.seen++ {
		s.log[v.seen].apply(v.stale)
		changed = append(changed, s.log[v.seen].key)
	}
	return changed
}

// run passes the gates of one operation.
func (v *view) run(ctx context.Context, kind, what string, do func() error) error {
	i := v.instance
	verdict := i.world.wait(&gate{from: i, kind: kind, what: what, ctx: ctx})
	if verdict.before != nil {
		return verdict.before
	}
	if err := do(); err != nil {
		return err
	}
	if verdict.hold {
		verdict = i.world.wait(&gate{from: i, kind: kind, what: what, ctx: ctx, after: true})
		if verdict.before != nil {
			return verdict.before
		}
	}
	return verdict.after
}

// Get implements logical.Storage.
func (v *view) Get(ctx context.Context, key string) (entry *logical.StorageEntry, err error) {
	err = v.run(ctx, "get", key, func() error {
		if value, ok := v.data()[key]; ok {
			entry = &logical.StorageEntry{Key: key, Value: slices.Clone(value)}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return entry, nil
}

// List implements logical.Storage.
func (v *view) List(ctx context.Context, prefix string) (keys []string, err error) {
	err = v.run(ctx, "list", prefix, func() error {
		found := map[string]bool{}
		for key := range v.data() {
			if rest, ok := strings.CutPrefix(key, prefix); ok {
				if folder, _, deeper := strings.Cut(rest, "/"); deeper {
					rest = folder + "/"
				}
				found[rest] = true
			}
		}
		keys = slices.Sorted(maps.Keys(found))
		return nil
	})
	return keys, err
}

// Put implements logical.Storage.
func (v *view) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return v.run(ctx, "put", entry.Key, func() error { return v.write(entry.Key, entry.Value) })
}

// Delete implements logical.Storage.
func (v *view) Delete(ctx context.Context, key string) error {
	return v.run(ctx, "delete", key, func() error { return v.write(key, nil) })
}

func (v *view) write(key string, value []byte) error {
	switch {
	case v.instance.standby:
		return logical.ErrReadOnly
	case v.stale != nil:
		return errNotLeader
	}
	w := v.instance.world
	w.store.set(key, value)
	w.changed(key)
	return nil
}

// A record is what the checks read of a record of the ledger.
type record struct {
	Version     int       `json:"version"`
	TokenType   string    `json:"token_type"`
	Role        string    `json:"role"`
	Accessor    string    `json:"accessor"`
	State       string    `json:"state"`
	TokenID     string    `json:"token_id"`
	Fingerprint string    `json:"fingerprint"`
	RevokeOn    string    `json:"revoke_on"`
	DetachedAt  time.Time `json:"detached_at"`
	IssuedAt    time.Time `json:"issued_at"`
	LeaseEnd    time.Time `json:"lease_end"`
	ExpiresAt   time.Time `json:"expires_at"`
	Deadline    time.Time `json:"deadline"`
	Absences    int       `json:"absences"`
	Attempts    int       `json:"attempts"`
}

// A config is what the checks read of the stored config and of a rotation.
type config struct {
	Host         string `json:"host"`
	APIURL       string `json:"api_url"`
	Root         string `json:"root_credential"`
	RootID       string `json:"root_id"`
	RootAccessor string `json:"root_accessor"`
	Fingerprint  string `json:"fingerprint"`
}

type rotation struct {
	TokenID   string    `json:"token_id"`
	StartedAt time.Time `json:"started_at"`
	From      config    `json:"from"`
	Swapped   bool      `json:"swapped"`
	Cancelled bool      `json:"cancelled"`
}

// A reading is the storage as the checks read it.
type reading struct {
	records  map[string]record // by accessor
	config   *config
	rotation *rotation
}

const (
	ledgerPrefix = "ledger/"
	configKey    = "config"
	rotationKey  = "rotation"
	limitedKey   = "role/limited"
	staticPrefix = "static-creds/"
)

func (s *store) read() reading {
	r := reading{records: map[string]record{}}
	for key, value := range s.data {
		switch {
		case strings.HasPrefix(key, ledgerPrefix):
			rec := record{}
			mustDecode(key, value, &rec)
			r.records[rec.Accessor] = rec
		case key == configKey:
			r.config = &config{}
			mustDecode(key, value, r.config)
		case key == rotationKey:
			r.rotation = &rotation{}
			mustDecode(key, value, r.rotation)
		}
	}
	return r
}

func mustDecode(key string, value []byte, into any) {
	if err := json.Unmarshal(value, into); err != nil {
		panic(fmt.Sprintf("%s: %v", key, err))
	}
}
