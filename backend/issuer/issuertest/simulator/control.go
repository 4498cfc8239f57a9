package simulator

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net/http"
)

// The control API, for tests in another process. It needs no credential.

// An addRequest is the body of POST /sim/control/tokens: how many tokens to add,
// and what they have in common.
type addRequest struct {
	Count       int    `json:"count"`
	Kind        Kind   `json:"kind"`
	Description string `json:"description"`
}

// A runsAnswer is the body of GET /sim/control/runs.
type runsAnswer struct {
	Peak int   `json:"peak"`
	Runs []Run `json:"runs"`
}

func (c *Cluster) routeControl() {
	c.mux.HandleFunc("PUT /sim/control/faults", func(w http.ResponseWriter, r *http.Request) {
		var faults Faults
		if readJSON(w, r, &faults) {
			c.SetFaults(faults)
			w.WriteHeader(http.StatusNoContent)
		}
	})
	c.mux.HandleFunc("GET /sim/control/tokens", c.controlTokens)
	c.mux.HandleFunc("GET /sim/control/tokens/{id}", c.controlToken)
	c.mux.HandleFunc("POST /sim/control/tokens", func(w http.ResponseWriter, r *http.Request) {
		var request addRequest
		if readJSON(w, r, &request) {
			c.AddTokens(request.Count, Token{Kind: request.Kind, Description: request.Description})
			w.WriteHeader(http.StatusNoContent)
		}
	})
	c.mux.HandleFunc("GET /sim/control/runs", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, runsAnswer{Peak: c.Peak(), Runs: c.Runs()})
	})
	c.mux.HandleFunc("DELETE /sim/control/runs", func(w http.ResponseWriter, _ *http.Request) {
		c.ResetRuns()
		w.WriteHeader(http.StatusNoContent)
	})
}

// controlTokens writes all tokens with their secrets.
func (c *Cluster) controlTokens(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	stream := newArray(w)
	err := c.tokens.each(func(r record) error { return stream.add(c.token(r)) })
	if errors.Join(err, stream.close()) != nil {
		panic(http.ErrAbortHandler) // the client has disconnected
	}
}

func (c *Cluster) controlToken(w http.ResponseWriter, r *http.Request) {
	t, ok := c.Token(r.PathValue("id"))
	if !ok {
		http.Error(w, "no such token", http.StatusNotFound)
		return
	}
	writeJSON(w, http.StatusOK, t)
}

// readJSON reads the body of a request and refuses unknown fields. If it fails,
// it answers the request and returns false.
func readJSON(w http.ResponseWriter, r *http.Request, v any) bool {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

// writeJSON answers v. It ignores that the client may have disconnected.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// An array writes a JSON array of any length without holding it in memory.
type array struct {
	out     *bufio.Writer
	encoder *json.Encoder
	filled  bool
}

func newArray(w io.Writer) *array {
	out := bufio.NewWriterSize(w, 1<<16)
	out.WriteByte('[')
	return &array{out: out, encoder: json.NewEncoder(out)}
}

func (a *array) add(v any) error {
	if a.filled {
		a.out.WriteByte(',')
	}
	a.filled = true
	return a.encoder.Encode(v)
}

func (a *array) close() error {
	a.out.WriteString("]\n")
	return a.out.Flush()
}
