package simulator

import (
	"cmp"
	"context"
	"net/http"
	"strings"
	"time"
)

// Texts of errors in the wording of gRPC and Go, which the real CLI's errors
// are made of. They serve as Fault.Error and in Faults.RevokeErrors.
const (
	TextUnauthenticated   = `rpc error: code = Unauthenticated desc = invalid or expired token`
	TextPermissionDenied  = `rpc error: code = PermissionDenied desc = permission denied`
	TextNotFound          = `rpc error: code = NotFound desc = token not found`
	TextAlreadyRevoked    = `rpc error: code = FailedPrecondition desc = token already revoked`
	TextInvalidArgument   = `rpc error: code = InvalidArgument desc = invalid argument`
	TextAlreadyExists     = `rpc error: code = AlreadyExists desc = a token with this description exists`
	TextUnavailable       = `rpc error: code = Unavailable desc = connection error: desc = "transport: Error while dialing: dial tcp 192.0.2.1:443: connect: connection refused"`
	TextNoSuchHost        = `rpc error: code = Unavailable desc = dns: A record lookup error: lookup cluster.invalid: no such host`
	TextUntrusted         = `rpc error: code = Unavailable desc = connection error: desc = "transport: authentication handshake failed: tls: failed to verify certificate: x509: certificate signed by unknown authority"`
	TextDeadlineExceeded  = `rpc error: code = DeadlineExceeded desc = context deadline exceeded`
	TextUnimplemented     = `rpc error: code = Unimplemented desc = unknown service token_management.public.v1.TokenManagementPublicService`
	TextResourceExhausted = `rpc error: code = ResourceExhausted desc = too many requests`
	TextInternal          = `rpc error: code = Internal desc = internal error`
)

// A Duration is a time.Duration that is a Go duration string in JSON.
type Duration time.Duration

func (d Duration) MarshalText() ([]byte, error) {
	return []byte(time.Duration(d).String()), nil
}

func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// Faults is what is wrong with a cluster and its CLI. The zero value is a
// cluster in good health.
type Faults struct {
	// Outage refuses every operation as a cluster out of reach would: the CLI
	// says so in gRPC's words, the HTTP API answers 503.
	Outage bool `json:"outage,omitempty"`

	// ListLag is how long lists do not show that a token was made or revoked.
	ListLag Duration `json:"list_lag,omitzero"`

	// NewTokenDelay is how long a new token is not accepted as a credential.
	// Roots made by NewCluster and AddRoot are accepted at once.
	NewTokenDelay Duration `json:"new_token_delay,omitzero"`

	// RevokeErrors refuses to revoke the tokens with these IDs, with the given
	// texts.
	RevokeErrors map[string]string `json:"revoke_errors,omitempty"`

	// RevokeDeadError is the text that revoking a revoked or expired token
	// fails with; empty means that it succeeds.
	RevokeDeadError string `json:"revoke_dead_error,omitempty"`

	Create Fault `json:"create,omitzero"`
	List   Fault `json:"list,omitzero"`
	Revoke Fault `json:"revoke,omitzero"` // HTTP: DELETE
	Get    Fault `json:"get,omitzero"`    // HTTP only: GET of one token
	Any    Fault `json:"any,omitzero"`    // an operation whose own fault is absent or used up
}

// When tells whether something happens before or after the cluster has carried
// out the operation.
type When string

// The moments at which things happen.
const (
	Before When = "before"
	After  When = "after"
)

// How a CLI process may die.
const (
	DieKilled = "kill"  // by SIGKILL, silently
	DiePanic  = "panic" // exit status 2 and a goroutine trace on standard error
)

// A Fault is what is wrong with one operation, whichever face it comes by.
type Fault struct {
	// Times and For limit the fault to so many operations, and to a time after
	// it was set. Zero means no limit.
	Times int      `json:"times,omitempty"`
	For   Duration `json:"for,omitzero"`

	// Latency passes before the operation is carried out: a client that gives
	// up meanwhile has changed nothing. LatencyAfter passes after it.
	Latency      Duration `json:"latency,omitzero"`
	LatencyAfter Duration `json:"latency_after,omitzero"`

	// Error refuses the operation with this text. The CLI exits with Exit (0
	// stands for 1); the HTTP API answers Status, or if that is 0 the one that
	// the text's gRPC code stands for, with a Retry-After of so many seconds if
	// it is not 0. Committed carries the operation out nevertheless.
	Error      string `json:"error,omitempty"`
	Exit       int    `json:"exit,omitempty"`
	Status     int    `json:"status,omitempty"`
	RetryAfter int    `json:"retry_after,omitempty"`
	Committed  bool   `json:"committed,omitempty"`

	// Hang makes the CLI process hang, deaf to its own --timeout, and the HTTP
	// API keep the connection open without an answer.
	Hang When `json:"hang,omitempty"`

	// Grandchild makes the CLI start a child that keeps its standard output
	// open, before it hangs, dies or, without either, goes on and exits.
	Grandchild bool `json:"grandchild,omitempty"`

	// Die ends the CLI process in the given way once the operation was carried
	// out; the HTTP API takes it for Cut. Cut closes the connection then, on either face.
	Die string `json:"die,omitempty"`
	Cut bool   `json:"cut,omitempty"`

	// Shape is the form of the CLI's output, one of CreateShapes or ListShapes.
	// It goes before that of the Sidecar.
	Shape string `json:"shape,omitempty"`
}

// The operations faults can be set for.
const (
	opCreate = "create"
	opList   = "list"
	opRevoke = "revoke"
	opGet    = "get"
	opOther  = "other" // only Faults.Any
)

func (f *Faults) of(op string) *Fault {
	switch op {
	case opCreate:
		return &f.Create
	case opList:
		return &f.List
	case opRevoke:
		return &f.Revoke
	case opGet:
		return &f.Get
	}
	return &f.Any
}

// take returns the fault that befalls an operation now, and counts it.
func (c *Cluster) take(op string) Fault {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.faults.Outage {
		return Fault{Error: TextUnavailable}
	}
	age := c.now().Sub(c.faultsSet)
	for _, f := range []*Fault{c.faults.of(op), &c.faults.Any} {
		if *f == (Fault{}) || f.For > 0 && age >= time.Duration(f.For) {
			continue
		}
		taken := *f
		switch f.Times {
		case 0:
		case 1:
			*f = Fault{}
		default:
			f.Times--
		}
		return taken
	}
	return Fault{}
}

// A refusal is an operation's error as the cluster words it.
type refusal struct {
	text       string
	exit       int
	status     int
	retryAfter int
}

func (r *refusal) Error() string { return r.text }

func refuse(text string) error {
	return &refusal{text: text, exit: 1, status: statusOf(text)}
}

func (f Fault) refusal() error {
	return &refusal{
		text:       f.Error,
		exit:       cmp.Or(f.Exit, 1),
		status:     cmp.Or(f.Status, statusOf(f.Error)),
		retryAfter: f.RetryAfter,
	}
}

// statusOf is the HTTP status for an error text with a gRPC code in it.
func statusOf(text string) int {
	_, after, _ := strings.Cut(text, "code = ")
	code, _, _ := strings.Cut(after, " ")
	switch code {
	case "Unauthenticated":
		return http.StatusUnauthorized
	case "PermissionDenied":
		return http.StatusForbidden
	case "NotFound":
		return http.StatusNotFound
	case "InvalidArgument", "FailedPrecondition":
		return http.StatusBadRequest
	case "AlreadyExists":
		return http.StatusConflict
	case "Unavailable":
		return http.StatusServiceUnavailable
	case "ResourceExhausted":
		return http.StatusTooManyRequests
	case "DeadlineExceeded":
		return http.StatusGatewayTimeout
	}
	return http.StatusInternalServerError
}

// perform carries out an operation under whatever fault befalls it. The fault
// is returned for the face to act on what only it can do; with Hang set to
// Before, commit was not called.
func (c *Cluster) perform(ctx context.Context, op string, commit func() error) (Fault, error) {
	f := c.take(op)
	if err := wait(ctx, f.Latency); err != nil {
		return f, err
	}
	if f.Hang == Before {
		return f, nil
	}
	if f.Error != "" && !f.Committed {
		return f, f.refusal()
	}
	if err := commit(); err != nil {
		return f, err
	}
	if err := wait(ctx, f.LatencyAfter); err != nil {
		return f, err
	}
	if f.Cut {
		panic(http.ErrAbortHandler)
	}
	if f.Error != "" {
		return f, f.refusal()
	}
	return f, nil
}

// wait lets d pass unless the client leaves first.
func wait(ctx context.Context, d Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(time.Duration(d))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return refuse(TextDeadlineExceeded)
	}
}
