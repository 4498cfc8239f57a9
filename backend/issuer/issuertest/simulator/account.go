package simulator

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"
)

// The private API between the CLI face and the cluster, in place of the real
// CLI's gRPC. An operation is authorised by the profile's management token, and
// its answer bears in faultHeader what is left for the CLI to do wrong.

const faultHeader = "Sim-Fault"

// cliError is the body of a refused operation.
type cliError struct {
	Error string `json:"error"`
	Exit  int    `json:"exit"`
}

type createOrder struct {
	Description string    `json:"description"`
	ExpiresAt   time.Time `json:"expires_at,omitzero"`
}

type createAnswer struct {
	Token     Token  `json:"token"`
	AccountID string `json:"account_id"`
}

type revokeOrder struct {
	IDs         []string `json:"ids"`
	StopAtError bool     `json:"stop_at_error"`
}

// A revokeResult tells of one ID; an empty error is success.
type revokeResult struct {
	ID    string `json:"id"`
	Error string `json:"error,omitempty"`
}

type childReport struct {
	Run int `json:"run"`
	Pid int `json:"pid"`
}

type endReport struct {
	Run  int `json:"run"`
	Exit int `json:"exit"`
}

func (c *Cluster) routeCLI(mux *http.ServeMux) {
	mux.HandleFunc("POST /sim/cli/run", c.startRun)
	mux.HandleFunc("POST /sim/cli/child", func(w http.ResponseWriter, r *http.Request) {
		var child childReport
		if readJSON(w, r, &child) {
			c.runs.update(child.Run, func(r *Run) { r.Pids = append(r.Pids, child.Pid) })
		}
	})
	mux.HandleFunc("POST /sim/cli/end", func(w http.ResponseWriter, r *http.Request) {
		var end endReport
		if readJSON(w, r, &end) {
			c.runs.end(end.Run, end.Exit)
		}
	})
	mux.HandleFunc("POST /sim/cli/create", c.cliCreate)
	mux.HandleFunc("GET /sim/cli/list", c.cliList)
	mux.HandleFunc("POST /sim/cli/revoke", c.cliRevoke)
}

// admit checks who is asking, and for which cluster.
func (c *Cluster) admit(r *http.Request) error {
	product := r.Header.Get("Sim-Product")
	if c.product != "" && product != c.product {
		return refuse(TextUnimplemented)
	}
	if err := c.authorise(bearer(r)); err != nil {
		return err
	}
	elsewhere := r.Header.Get("Sim-Account") != c.accountID || r.Header.Get("Sim-Cluster") != c.clusterID
	if product == Dedicated && elsewhere {
		return refuse(TextPermissionDenied)
	}
	return nil
}

func (c *Cluster) cliCreate(w http.ResponseWriter, r *http.Request) {
	var order createOrder
	if !readJSON(w, r, &order) {
		return
	}
	var made Token
	fault, err := c.perform(r.Context(), opCreate, func() error {
		if err := c.admit(r); err != nil {
			return err
		}
		if !order.ExpiresAt.IsZero() && !order.ExpiresAt.After(c.now()) {
			return refuse(TextInvalidArgument)
		}
		made = c.AddToken(Token{Description: order.Description, ExpiresAt: order.ExpiresAt})
		return nil
	})
	answerCLI(w, fault, err, createAnswer{Token: made, AccountID: c.accountID})
}

func (c *Cluster) cliRevoke(w http.ResponseWriter, r *http.Request) {
	var order revokeOrder
	if !readJSON(w, r, &order) {
		return
	}
	var results []revokeResult
	fault, err := c.perform(r.Context(), opRevoke, func() error {
		if err := c.admit(r); err != nil {
			return err
		}
		for _, id := range order.IDs {
			result := revokeResult{ID: id}
			if err := c.revoke(Management, id); err != nil {
				result.Error = err.Error()
			}
			results = append(results, result)
			if result.Error != "" && order.StopAtError {
				break
			}
		}
		return nil
	})
	answerCLI(w, fault, err, results)
}

// revoke kills the token id of the given kind, unless a fault says otherwise.
func (c *Cluster) revoke(kind Kind, id string) error {
	faults := c.Faults()
	if text, ok := faults.RevokeErrors[id]; ok {
		return refuse(text)
	}
	parsed, err := uuid.Parse(id)
	if err != nil {
		return refuse(TextInvalidArgument)
	}
	r, ok := c.tokens.get(parsed)
	if !ok || r.kind != kind {
		return refuse(TextNotFound)
	}
	if !r.live(c.now()) && faults.RevokeDeadError != "" {
		return refuse(faults.RevokeDeadError)
	}
	c.kill(parsed)
	return nil
}

// cliList streams what the CLI prints.
func (c *Cluster) cliList(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	fault, err := c.perform(r.Context(), opList, func() error { return c.admit(r) })
	if err != nil || fault.Hang != "" {
		answerCLI(w, fault, err, nil)
		return
	}
	l := listing{format: query.Get("format"), sort: query.Get("sort"), shape: query.Get("shape")}
	if fault.Shape != "" {
		l.shape = fault.Shape
	}
	if !slices.Contains(ListShapes, l.shape) {
		answerCLI(w, fault, fmt.Errorf("no list shape is called %q", l.shape), nil)
		return
	}
	setFault(w, fault)
	if err := c.writeList(w, l); err != nil {
		panic(http.ErrAbortHandler) // the client has gone; there is nobody to tell
	}
}

// answerCLI answers an operation of the CLI.
func answerCLI(w http.ResponseWriter, fault Fault, err error, answer any) {
	setFault(w, fault)
	if err == nil {
		writeJSON(w, http.StatusOK, answer)
		return
	}
	no := refusalOf(err)
	writeJSON(w, no.status, cliError{Error: no.text, Exit: no.exit})
}

func setFault(w http.ResponseWriter, fault Fault) {
	text, err := json.Marshal(fault)
	if err != nil {
		panic(err) // strings, numbers and durations always marshal
	}
	w.Header().Set(faultHeader, string(text))
}
