package influxdb3server

import (
	"encoding/json"
	"net/http"
	"time"
)

// Control returns a handler with which tests in other processes look into the
// cluster and disturb it:
//
//	GET  /tokens      the tokens, with the hashes of their secrets
//	POST /check       {"token": SECRET}: whether the newest catalog accepts it
//	POST /outage      {"on": true}: connections end without an answer
//	POST /backup      copies the catalog
//	POST /restore     restores the last copy
//	GET  /violations  the requests that must never be sent
//
// It must not be reachable by the clients of the cluster.
func (c *Cluster) Control() http.Handler {
	var last Backup
	mux := http.NewServeMux()
	mux.HandleFunc("GET /tokens", func(w http.ResponseWriter, _ *http.Request) { reply(w, c.shown()) })
	mux.HandleFunc("GET /violations", func(w http.ResponseWriter, _ *http.Request) { reply(w, c.Violations()) })
	mux.HandleFunc("POST /check", func(w http.ResponseWriter, r *http.Request) {
		var asked struct{ Token string }
		if read(w, r, &asked) {
			reply(w, map[string]bool{"accepted": c.Accepts(asked.Token)})
		}
	})
	mux.HandleFunc("POST /outage", func(w http.ResponseWriter, r *http.Request) {
		var asked struct{ On bool }
		if read(w, r, &asked) {
			c.SetOutage(asked.On)
		}
	})
	mux.HandleFunc("POST /backup", func(http.ResponseWriter, *http.Request) {
		taken := c.Backup()
		c.mu.Lock()
		defer c.mu.Unlock()
		last = taken
	})
	mux.HandleFunc("POST /restore", func(w http.ResponseWriter, _ *http.Request) {
		c.mu.Lock()
		backup := last
		c.mu.Unlock()
		if backup.catalog.byName == nil {
			http.Error(w, "there is no backup", http.StatusConflict)
			return
		}
		c.Restore(backup)
	})
	return mux
}

// A shownToken is a token as GET /tokens shows it.
type shownToken struct {
	ID          uint64     `json:"id"`
	Name        string     `json:"name"`
	Hash        string     `json:"hash"`
	CreatedAt   time.Time  `json:"created_at"`
	Expiry      *time.Time `json:"expiry,omitempty"`
	Permissions []string   `json:"permissions,omitempty"`
	Live        bool       `json:"live"`
}

func (c *Cluster) shown() []shownToken {
	all := []shownToken{}
	for _, t := range c.Tokens() {
		s := shownToken{ID: t.ID, Name: t.Name, Hash: t.Hash, CreatedAt: t.CreatedAt, Permissions: t.Permissions}
		if !t.Expiry.IsZero() {
			s.Expiry = &t.Expiry
		}
		c.mu.Lock()
		s.Live = t.Live(c.now())
		c.mu.Unlock()
		all = append(all, s)
	}
	return all
}

func read(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(into); err != nil {
		http.Error(w, "the body is not the JSON that is expected", http.StatusBadRequest)
		return false
	}
	return true
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
