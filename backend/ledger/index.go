package ledger

import (
	"container/heap"
	"time"
)

// An Entry is what the index holds of a record.
type Entry struct {
	TokenType   string
	Role        string
	Accessor    string
	TokenID     string
	Fingerprint string
	State       State
	Deadline    time.Time // may be later than the stored one, see Ledger.Postpone
	ExpiresAt   time.Time

	Absent        bool // issuing, and at least one list did not show the token
	OutlivesLease bool // its RevokeOn is RevokeOnExpiry

	position int // in the queue
}

// A group is the records of one role on one cluster. Limits apply to groups.
type group struct{ role, fingerprint string }

// A class is a set of records of a group that are counted together.
type class struct {
	tokenType string
	state     State
	absent    bool
}

// An index holds an entry for every record, ordered by deadline and counted by
// group and class. It is not safe for concurrent use.
type index struct {
	byAccessor map[string]*Entry
	queue      deadlineQueue
	counts     map[group]map[class]int
	names      map[string]string // see intern
}

func newIndex() *index {
	return &index{byAccessor: map[string]*Entry{}, counts: map[group]map[class]int{}, names: map[string]string{}}
}

// intern returns a copy of s that all entries share. A ledger holds many records
// and few roles, token types and fingerprints.
func (x *index) intern(s string) string {
	if name, ok := x.names[s]; ok {
		return name
	}
	x.names[s] = s
	return s
}

// set adds or replaces the entry of a record.
func (x *index) set(r Record) {
	x.remove(r.Accessor)
	e := &Entry{
		TokenType: x.intern(r.TokenType), Role: x.intern(r.Role), Accessor: r.Accessor, TokenID: r.TokenID,
		Fingerprint: x.intern(r.Fingerprint), State: State(x.intern(string(r.State))), Deadline: r.Deadline, ExpiresAt: r.ExpiresAt,
		Absent: r.State == Issuing && r.Absences > 0, OutlivesLease: r.RevokeOn == RevokeOnExpiry,
	}
	x.add(e)
}

// add adds an entry that is not in the index.
func (x *index) add(e *Entry) {
	x.byAccessor[e.Accessor] = e
	x.count(e, 1)
	heap.Push(&x.queue, e)
}

// remove removes an entry if it exists.
func (x *index) remove(accessor string) {
	e := x.byAccessor[accessor]
	if e == nil {
		return
	}
	delete(x.byAccessor, accessor)
	x.count(e, -1)
	heap.Remove(&x.queue, e.position)
}

// postpone moves the deadline of an entry without changing the record.
func (x *index) postpone(accessor string, deadline time.Time) {
	if e := x.byAccessor[accessor]; e != nil {
		e.Deadline = deadline
		heap.Fix(&x.queue, e.position)
	}
}

func (x *index) count(e *Entry, n int) {
	g, c := group{e.Role, e.Fingerprint}, class{e.TokenType, e.State, e.Absent}
	if x.counts[g] == nil {
		x.counts[g] = map[class]int{}
	}
	if x.counts[g][c] += n; x.counts[g][c] == 0 {
		delete(x.counts[g], c)
	}
	if len(x.counts[g]) == 0 {
		delete(x.counts, g)
	}
}

// tally counts the records of a group: those that max_active counts, those that
// are issuing and not looked for yet, and those that are issuing and were not
// found. Records that were not found most likely have no token.
func (x *index) tally(g group) (counted, unsettled, absent int) {
	for c, n := range x.counts[g] {
		switch {
		case c.absent:
			absent += n
			continue
		case c.state == Issuing:
			unsettled += n
		}
		counted += n
	}
	return counted, unsettled, absent
}

// next returns the entry with the earliest deadline, or nil.
func (x *index) next() *Entry {
	if len(x.queue) == 0 {
		return nil
	}
	return x.queue[0]
}

// due returns the entries whose deadline is not after now. It visits no others.
func (x *index) due(now time.Time) (found []Entry) {
	var visit func(position int)
	visit = func(position int) {
		if position >= len(x.queue) || x.queue[position].Deadline.After(now) {
			return
		}
		found = append(found, *x.queue[position])
		visit(2*position + 1) // the children in the heap
		visit(2*position + 2)
	}
	visit(0)
	return found
}

func (x *index) all() []Entry {
	all := make([]Entry, len(x.queue))
	for i, e := range x.queue {
		all[i] = *e
	}
	return all
}

// A deadlineQueue is a heap, for package container/heap.
type deadlineQueue []*Entry

func (q deadlineQueue) Len() int           { return len(q) }
func (q deadlineQueue) Less(i, j int) bool { return q[i].Deadline.Before(q[j].Deadline) }
func (q deadlineQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].position, q[j].position = i, j
}

// Push is called by container/heap only.
func (q *deadlineQueue) Push(e any) {
	entry := e.(*Entry)
	entry.position = len(*q)
	*q = append(*q, entry)
}

// Pop is called by container/heap only.
func (q *deadlineQueue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return e
}
