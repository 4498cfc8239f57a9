package influxdb3server

import (
	"net/http"
	"slices"
)

// An Op is a kind of request.
type Op string

// The kinds of request that a fault can hit.
const (
	Ping   Op = "ping"
	Create Op = "create" // both kinds of token
	Delete Op = "delete"
	Query  Op = "query"
)

// opOf returns the kind of a request; empty if it is none of them.
func opOf(r *http.Request) Op {
	switch {
	case r.URL.Path == pathPing:
		return Ping
	case r.URL.Path == pathNamedAdmin || r.URL.Path == pathResource:
		return Create
	case r.URL.Path == pathToken && r.Method == http.MethodDelete:
		return Delete
	case r.URL.Path == pathQuery:
		return Query
	}
	return ""
}

// A Fault is what goes wrong with a request.
type Fault struct {
	Op    Op  // empty: every request
	Times int // how many requests it hits; 0: all

	// Apply makes the server do what was asked before the fault shows.
	Apply bool

	Cut  bool // the connection ends without an answer
	Hang bool // no answer comes until the client gives up

	// Conflict answers an applied create by 409, as a server does that has lost
	// the answer of its object store and replays its own entry in the log. It
	// needs Apply.
	Conflict bool

	// Status and Body replace the answer.
	Status      int
	Body        string
	ContentType string

	NoExpiry bool   // the created token never expires
	Truncate int    // bytes that are missing at the end of the body
	UUID     string // replaces the header cluster-uuid
	Foreign  bool   // the answer has no header cluster-uuid, as one of a proxy
}

// Page is the HTML page of a proxy, as a Body.
const Page = "<html>\r\n<head><title>404 Not Found</title></head>\r\n<body>\r\n<center><h1>404 Not Found</h1></center>\r\n</body>\r\n</html>\r\n"

// ProxyAnswer is a fault that answers as a proxy does, without asking the
// server.
func ProxyAnswer(op Op, status int) Fault {
	return Fault{Op: op, Status: status, Body: Page, ContentType: "text/html", Foreign: true}
}

// Inject adds a fault. Of several that fit a request, the one that was added
// first hits it.
func (c *Cluster) Inject(f Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, &f)
}

// Heal removes all faults.
func (c *Cluster) Heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = nil
}

// take returns the fault that hits a request. The caller holds the lock.
func (c *Cluster) take(r *http.Request) *Fault {
	op := opOf(r)
	for i, f := range c.faults {
		if f.Op != "" && f.Op != op {
			continue
		}
		copied := *f
		if f.Times == 1 {
			c.faults = slices.Delete(c.faults, i, i+1)
		}
		f.Times = max(0, f.Times-1)
		return &copied
	}
	return nil
}

// act hangs or cuts the connection.
func (f *Fault) act(r *http.Request) {
	if f.Hang {
		<-r.Context().Done()
	}
	if f.Hang || f.Cut {
		panic(http.ErrAbortHandler)
	}
}

// answers reports whether the fault replaces the answer.
func (f *Fault) answers() bool { return f.Status != 0 }

func (f *Fault) answer() answer {
	return answer{status: f.Status, contentType: f.ContentType, body: []byte(f.Body)}
}
