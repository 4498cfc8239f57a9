package simulator

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"
)

// The private API between the simulated command and the cluster. A request
// carries the management token of the profile. The header faultHeader of the
// answer holds the Fault that the command must act on.

const faultHeader = "Sim-Fault"

// A cliError is the body of a refused request.
type cliError struct {
	Error string `json:"error"`
}

type createRequest struct {
	Description string    `json:"description"`
	ExpiresAt   time.Time `json:"expires_at,omitzero"`
}

type createAnswer struct {
	Token     Token  `json:"token"`
	AccountID string `json:"account_id"`
}

type revokeRequest struct {
	IDs         []string `json:"ids"`
	StopAtError bool     `json:"stop_at_error"`
}

// A revokeResult is about one ID. An empty error is a success.
type revokeResult struct {
	ID    string `json:"id"`
	Error string `json:"error,omitempty"`
}

// A childReport says that a run has started a process.
type childReport struct {
	Run int `json:"run"`
	Pid int `json:"pid"`
}

// An endReport says that a run has ended.
type endReport struct {
	Run  int `json:"run"`
	Exit int `json:"exit"`
}

func (c *Cluster) routeCLI() {
	c.mux.HandleFunc("POST /sim/cli/run", c.startRun)
	c.mux.HandleFunc("POST /sim/cli/child", func(w http.ResponseWriter, r *http.Request) {
		var child childReport
		if readJSON(w, r, &child) {
			c.runs.update(child.Run, func(r *Run) { r.Pids = append(r.Pids, child.Pid) })
		}
	})
	c.mux.HandleFunc("POST /sim/cli/end", func(w http.ResponseWriter, r *http.Request) {
		var end endReport
		if readJSON(w, r, &end) {
			c.runs.end(end.Run, end.Exit)
		}
	})
	c.mux.HandleFunc("POST /sim/cli/create", c.cliCreate)
	c.mux.HandleFunc("GET /sim/cli/list", c.cliList)
	c.mux.HandleFunc("POST /sim/cli/revoke", c.cliRevoke)
}

// authorizeCLI checks the credential of a request, and that it is meant for
// this cluster.
func (c *Cluster) authorizeCLI(r *http.Request) error {
	product := r.Header.Get("Sim-Product")
	if c.product != "" && product != c.product {
		return refuse(TextUnimplemented)
	}
	if err := c.authorize(bearer(r)); err != nil {
		return err
	}
	other := r.Header.Get("Sim-Account") != c.accountID || r.Header.Get("Sim-Cluster") != c.clusterID
	if product == Dedicated && other {
		return refuse(TextPermissionDenied)
	}
	return nil
}

func (c *Cluster) cliCreate(w http.ResponseWriter, r *http.Request) {
	var request createRequest
	if !readJSON(w, r, &request) {
		return
	}
	var created Token
	fault, err := c.perform(r.Context(), opCreate, func() error {
		if err := c.authorizeCLI(r); err != nil {
			return err
		}
		if !request.ExpiresAt.IsZero() && !request.ExpiresAt.After(c.now()) {
			return refuse(TextInvalidArgument)
		}
		created = c.AddToken(Token{Description: request.Description, ExpiresAt: request.ExpiresAt})
		return nil
	})
	answerCLI(w, fault, err, createAnswer{Token: created, AccountID: c.accountID})
}

func (c *Cluster) cliRevoke(w http.ResponseWriter, r *http.Request) {
	var request revokeRequest
	if !readJSON(w, r, &request) {
		return
	}
	var results []revokeResult
	fault, err := c.perform(r.Context(), opRevoke, func() error {
		if err := c.authorizeCLI(r); err != nil {
			return err
		}
		for _, id := range request.IDs {
			result := revokeResult{ID: id}
			if err := c.revokeKind(Management, id); err != nil {
				result.Error = err.Error()
			}
			results = append(results, result)
			if result.Error != "" && request.StopAtError {
				break
			}
		}
		return nil
	})
	answerCLI(w, fault, err, results)
}

// revokeKind revokes the token id if it is of that kind and no fault prevents it.
func (c *Cluster) revokeKind(kind Kind, id string) error {
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
	c.revoke(parsed)
	return nil
}

// cliList writes what the command prints.
func (c *Cluster) cliList(w http.ResponseWriter, r *http.Request) {
	fault, err := c.perform(r.Context(), opList, func() error { return c.authorizeCLI(r) })
	if err != nil || fault.Hang != "" {
		answerCLI(w, fault, err, nil)
		return
	}
	query := r.URL.Query()
	format, shape := query.Get("format"), query.Get("shape")
	if fault.Shape != "" {
		shape = fault.Shape
	}
	if !slices.Contains(ListShapes, shape) {
		answerCLI(w, fault, fmt.Errorf("unknown list shape %q", shape), nil)
		return
	}
	setFault(w, fault)
	if err := c.writeList(w, format, shape); err != nil {
		panic(http.ErrAbortHandler) // the client has disconnected
	}
}

// answerCLI answers a request of the command.
func answerCLI(w http.ResponseWriter, fault Fault, err error, answer any) {
	setFault(w, fault)
	if err == nil {
		writeJSON(w, http.StatusOK, answer)
		return
	}
	refused := refusalOf(err)
	writeJSON(w, refused.status, cliError{Error: refused.text})
}

func setFault(w http.ResponseWriter, fault Fault) {
	text, err := json.Marshal(fault)
	if err != nil {
		panic(err) // cannot happen: strings, numbers and durations
	}
	w.Header().Set(faultHeader, string(text))
}
