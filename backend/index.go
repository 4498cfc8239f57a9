package backend

import (
	"container/heap"
	"time"
)

// An index holds in memory what is needed of each record to know what is due
// and how many there are. It is not safe for concurrent use.
type index struct {
	byNonce map[string]*indexed
	queue   dueQueue
	states  map[state]int
	absent  int            // of the pending: looked for in vain
	active  map[string]int // by role: what max_active counts
}

// An indexed is what the index holds of a record.
type indexed struct {
	kind, role, nonce, tokenID string
	state                      state
	due, expiresAt             time.Time
	absent                     bool // pending, and the token was looked for in vain
	place                      int  // in the queue
}

func newIndex() *index {
	return &index{byNonce: map[string]*indexed{}, states: map[state]int{}, active: map[string]int{}}
}

// set makes the index agree with a record.
func (x *index) set(r record) {
	x.remove(r.Nonce)
	e := &indexed{
		kind: r.Kind, role: r.Role, nonce: r.Nonce, tokenID: r.TokenID,
		state: r.State, due: r.Due, expiresAt: r.ExpiresAt, absent: r.State == pending && r.Absences > 0,
	}
	x.byNonce[r.Nonce] = e
	x.count(e, 1)
	heap.Push(&x.queue, e)
}

// remove forgets a record, if it is there.
func (x *index) remove(nonce string) {
	e := x.byNonce[nonce]
	if e == nil {
		return
	}
	delete(x.byNonce, nonce)
	x.count(e, -1)
	heap.Remove(&x.queue, e.place)
}

func (x *index) count(e *indexed, n int) {
	x.states[e.state] += n
	if e.absent {
		x.absent += n
	} else {
		x.active[e.role] += n
		if x.active[e.role] == 0 {
			delete(x.active, e.role)
		}
	}
}

// next returns the record that is due first, or nil.
func (x *index) next() *indexed {
	if len(x.queue) == 0 {
		return nil
	}
	return x.queue[0]
}

// due returns the records that are due at now.
func (x *index) due(now time.Time) (found []indexed) {
	var walk func(place int)
	walk = func(place int) {
		if place >= len(x.queue) || x.queue[place].due.After(now) {
			return
		}
		found = append(found, *x.queue[place])
		walk(2*place + 1)
		walk(2*place + 2)
	}
	walk(0)
	return found
}

// all returns all records.
func (x *index) all() []indexed {
	found := make([]indexed, len(x.queue))
	for i, e := range x.queue {
		found[i] = *e
	}
	return found
}

// A dueQueue is a heap of records, the one due first on top.
type dueQueue []*indexed

func (q dueQueue) Len() int           { return len(q) }
func (q dueQueue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q dueQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

func (q *dueQueue) Push(e any) {
	e.(*indexed).place = len(*q)
	*q = append(*q, e.(*indexed))
}

func (q *dueQueue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return e
}
