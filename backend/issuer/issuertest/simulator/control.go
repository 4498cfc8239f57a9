package simulator

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net/http"
)

// The control API, for tests and for `make dev`. It asks for no credential.

// An addOrder is the body of POST /sim/control/tokens: a token to make, or
// with a count that many like it.
type addOrder struct {
	Token
	Count int `json:"count"`
}

// runsAnswer is the body of GET /sim/control/runs.
type runsAnswer struct {
	Peak    int   `json:"peak"`
	Running int   `json:"running"`
	Runs    []Run `json:"runs"`
}

func (c *Cluster) routeControl(mux *http.ServeMux) {
	mux.HandleFunc("GET /sim/control/faults", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, c.Faults())
	})
	mux.HandleFunc("PUT /sim/control/faults", c.controlFaults)
	mux.HandleFunc("GET /sim/control/tokens", c.controlTokens)
	mux.HandleFunc("POST /sim/control/tokens", c.controlAdd)
	mux.HandleFunc("GET /sim/control/tokens/{id}", func(w http.ResponseWriter, r *http.Request) {
		answerKnown(w, r, c.Token)
	})
	mux.HandleFunc("DELETE /sim/control/tokens/{id}", func(w http.ResponseWriter, r *http.Request) {
		c.Kill(r.PathValue("id"))
		answerKnown(w, r, c.Token)
	})
	mux.HandleFunc("GET /sim/control/roots", c.controlRoots)
	mux.HandleFunc("POST /sim/control/roots", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, c.AddRoot())
	})
	mux.HandleFunc("GET /sim/control/runs", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, runsAnswer{Peak: c.Peak(), Running: c.Running(), Runs: c.Runs()})
	})
	mux.HandleFunc("DELETE /sim/control/runs", func(w http.ResponseWriter, _ *http.Request) {
		c.ResetRuns()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /sim/control/violations", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, append([]string{}, c.Violations()...)) // never null
	})
}

func (c *Cluster) controlFaults(w http.ResponseWriter, r *http.Request) {
	var faults Faults
	if !readJSON(w, r, &faults) {
		return
	}
	c.SetFaults(faults)
	writeJSON(w, http.StatusOK, faults)
}

// controlTokens streams the tokens, all or those of ?kind=, dead ones too.
func (c *Cluster) controlTokens(w http.ResponseWriter, r *http.Request) {
	kind := Kind(r.URL.Query().Get("kind"))
	w.Header().Set("Content-Type", "application/json")
	stream := newArray(w)
	err := c.tokens.each(func(r record) error {
		if kind != "" && r.kind != kind {
			return nil
		}
		return stream.add(c.token(r))
	})
	if errors.Join(err, stream.close()) != nil {
		panic(http.ErrAbortHandler) // the client has gone; there is nobody to tell
	}
}

func (c *Cluster) controlAdd(w http.ResponseWriter, r *http.Request) {
	var order addOrder
	if !readJSON(w, r, &order) {
		return
	}
	if order.Count > 0 {
		c.AddTokens(order.Count, order.Token)
		writeJSON(w, http.StatusOK, map[string]int{"count": order.Count})
		return
	}
	made, err := c.mint(order.Token)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	writeJSON(w, http.StatusOK, made)
}

// controlRoots answers the root tokens' secrets, the first one first.
func (c *Cluster) controlRoots(w http.ResponseWriter, _ *http.Request) {
	var roots []string
	c.tokens.each(func(r record) error { // f never fails
		if r.root {
			roots = append(roots, c.secretOf(r))
		}
		return nil
	})
	writeJSON(w, http.StatusOK, roots)
}

func answerKnown(w http.ResponseWriter, r *http.Request, find func(string) (Token, bool)) {
	t, ok := find(r.PathValue("id"))
	if !ok {
		http.Error(w, "no such token", http.StatusNotFound)
		return
	}
	writeJSON(w, http.StatusOK, t)
}

// readJSON reads the body of a request strictly. If it cannot, it answers and
// returns false.
func readJSON(w http.ResponseWriter, r *http.Request, v any) bool {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

// writeJSON answers v. A client that has gone is not told.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// An array streams a JSON array, however long.
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
