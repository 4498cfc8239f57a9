package simulator

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// A store contains the tokens of a cluster in the order of their creation. No
// token is ever removed: the real cluster lists revoked and expired tokens too.
type store struct {
	mu    sync.RWMutex // guards the fields below and the records
	byID  map[uuid.UUID]*record
	order []*record
	given map[string]uuid.UUID // secrets that were not derived
}

func (s *store) add(r record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID[r.id] = &r
	s.order = append(s.order, &r)
	if r.secret != "" {
		s.given[r.secret] = r.id
	}
}

// get returns a copy of the record id.
func (s *store) get(id uuid.UUID) (record, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.byID[id]
	if !ok {
		return record{}, false
	}
	return *r, true
}

// update calls change with the record id under the lock. It reports whether there
// is such a record.
func (s *store) update(id uuid.UUID, change func(*record)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.byID[id]
	if ok {
		change(r)
	}
	return ok
}

// each calls f with a copy of every record that exists now. It holds the lock only
// while it copies a batch, never while f runs.
func (s *store) each(f func(record) error) error {
	s.mu.RLock()
	todo := s.order[:len(s.order):len(s.order)]
	s.mu.RUnlock()
	const batchSize = 512
	batch := make([]record, 0, batchSize)
	for len(todo) > 0 {
		n := min(batchSize, len(todo))
		batch = batch[:0]
		s.mu.RLock()
		for _, r := range todo[:n] {
			batch = append(batch, *r)
		}
		s.mu.RUnlock()
		for _, r := range batch {
			if err := f(r); err != nil {
				return err
			}
		}
		todo = todo[n:]
	}
	return nil
}

// bySecret returns the token with this secret.
func (c *Cluster) bySecret(secret string) (record, bool) {
	c.tokens.mu.RLock()
	id, ok := c.tokens.given[secret]
	c.tokens.mu.RUnlock()
	if !ok {
		if id, ok = c.keys.id(secret); !ok {
			return record{}, false
		}
	}
	r, ok := c.tokens.get(id)
	return r, ok && c.secretOf(r) == secret
}

func (c *Cluster) secretOf(r record) string {
	if r.secret != "" {
		return r.secret
	}
	return c.keys.secret(r.kind, r.id)
}

// secretsIn returns the IDs of the tokens whose secrets text contains.
func (c *Cluster) secretsIn(text string) []string {
	var ids []string
	for _, id := range c.keys.within(text) {
		ids = append(ids, id.String())
	}
	c.tokens.mu.RLock()
	defer c.tokens.mu.RUnlock()
	for secret, id := range c.tokens.given {
		if strings.Contains(text, secret) {
			ids = append(ids, id.String())
		}
	}
	return ids
}

// add stores a token like t and returns it with all fields. If t has no ID, secret
// or time of creation, they are generated.
func (c *Cluster) add(t Token) (Token, error) {
	r := record{
		id:          uuid.New(),
		kind:        t.Kind,
		root:        t.Root,
		secret:      t.Secret,
		description: t.Description,
		permissions: t.Permissions,
		created:     t.CreatedAt,
		expires:     t.ExpiresAt.Truncate(time.Second),
		revoked:     t.RevokedAt,
	}
	if r.kind == "" {
		r.kind = Management
	}
	if r.created.IsZero() {
		r.created = c.now().UTC().Truncate(time.Microsecond)
	}
	if t.ID != "" {
		id, err := uuid.Parse(t.ID)
		if err != nil {
			return Token{}, fmt.Errorf("token id %q: %v", t.ID, err)
		}
		r.id = id
	}
	c.tokens.add(r)
	return c.token(r), nil
}
