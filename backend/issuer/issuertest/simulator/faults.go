package simulator

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"
	"time"
)

// Texts of errors as gRPC and Go write them. The real command builds its errors
// from such texts. Use them in Fault.Error and Faults.RevokeErrors.
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

// A Duration is a time.Duration that is a string such as "1m30s" in JSON.
type Duration time.Duration

func (d Duration) MarshalText() ([]byte, error) {
	return []byte(time.Duration(d).String()), nil
}

func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// Faults says how a cluster and its command misbehave. The zero value is a
// healthy cluster.
type Faults struct {
	// Outage refuses every operation, as if the cluster were not reachable: the
	// command prints a gRPC error, the HTTP API answers 503.
	Outage bool `json:"outage,omitempty"`

	// ListLag is how long lists do not show that a token was created or revoked.
	ListLag Duration `json:"list_lag,omitzero"`

	// RevokeErrors are the texts with which the tokens with these IDs are
	// refused to be revoked.
	RevokeErrors map[string]string `json:"revoke_errors,omitempty"`

	// RevokeDeadError is the text with which it is refused to revoke a token
	// that is already revoked or expired. If it is empty, this succeeds.
	RevokeDeadError string `json:"revoke_dead_error,omitempty"`

	Create Fault `json:"create,omitzero"`
	List   Fault `json:"list,omitzero"`
	Revoke Fault `json:"revoke,omitzero"` // HTTP: DELETE
	Get    Fault `json:"get,omitzero"`    // HTTP only: GET of one token
	Any    Fault `json:"any,omitzero"`    // an operation without a fault of its own
}

// When says whether something happens before or after the cluster has carried
// out the operation.
type When string

// The values of When.
const (
	Before When = "before"
	After  When = "after"
)

// How the process of the command may end.
const (
	DieKilled = "kill"  // SIGKILL, without output
	DiePanic  = "panic" // exit status 2 and a goroutine trace on standard error
)

// A Fault says how one operation misbehaves, by the command and by the HTTP API.
type Fault struct {
	// Times is the number of operations that the fault affects. Zero: all.
	Times int `json:"times,omitempty"`

	// Latency passes before the operation is carried out. A client that gives up
	// in that time has changed nothing. LatencyAfter passes after it.
	Latency      Duration `json:"latency,omitzero"`
	LatencyAfter Duration `json:"latency_after,omitzero"`

	// Error refuses the operation with this text. The command exits with 1. The
	// HTTP API answers Status, or if that is 0, the status for the gRPC code in
	// the text. If Committed is set, the operation is carried out nevertheless.
	Error     string `json:"error,omitempty"`
	Status    int    `json:"status,omitempty"`
	Committed bool   `json:"committed,omitempty"`

	// Hang makes the process of the command hang, whatever its --timeout is, and
	// the HTTP API keep the connection open without an answer.
	Hang When `json:"hang,omitempty"`

	// Grandchild makes the command start a process that keeps its standard output
	// open. This happens before the command hangs, dies or exits.
	Grandchild bool `json:"grandchild,omitempty"`

	// Die ends the process of the command in this way after the operation was
	// carried out. The HTTP API does the same as for Cut. Cut closes the
	// connection after the operation was carried out.
	Die string `json:"die,omitempty"`
	Cut bool   `json:"cut,omitempty"`

	// Shape is the form of the output of the command, one of CreateShapes or
	// ListShapes. It overrides that of the Sidecar.
	Shape string `json:"shape,omitempty"`
}

// The operations.
const (
	opCreate = "create"
	opList   = "list"
	opRevoke = "revoke"
	opGet    = "get"
	opOther  = "other" // only Faults.Any affects it
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

// nextFault returns the fault of an operation that begins now, and counts it.
func (c *Cluster) nextFault(op string) Fault {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.faults.Outage {
		return Fault{Error: TextUnavailable}
	}
	for _, f := range []*Fault{c.faults.of(op), &c.faults.Any} {
		if *f == (Fault{}) {
			continue
		}
		fault := *f
		switch f.Times {
		case 0:
		case 1:
			*f = Fault{}
		default:
			f.Times--
		}
		return fault
	}
	return Fault{}
}

// A refusal is the error of a refused operation.
type refusal struct {
	text   string
	status int // of the HTTP API
}

func (r *refusal) Error() string { return r.text }

func refuse(text string) error {
	return &refusal{text: text, status: statusOf(text)}
}

func (f Fault) refusal() error {
	return &refusal{text: f.Error, status: cmp.Or(f.Status, statusOf(f.Error))}
}

// refusalOf returns err as a refusal.
func refusalOf(err error) *refusal {
	if refused, ok := errors.AsType[*refusal](err); ok {
		return refused
	}
	return &refusal{text: err.Error(), status: http.StatusInternalServerError}
}

// statusOf returns the HTTP status for the gRPC code in the text of an error.
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

// perform carries out an operation under its fault: it calls commit, unless the
// fault prevents that. It returns the fault, because only the caller can act on
// Hang, Grandchild, Die and Shape. If Hang is Before, commit was not called.
func (c *Cluster) perform(ctx context.Context, op string, commit func() error) (Fault, error) {
	f := c.nextFault(op)
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

// wait returns after d, or with an error as soon as the client disconnects.
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
