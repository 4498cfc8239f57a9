package simulator

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// The HTTP Management API v0 for database tokens, as InfluxData documents it.

// An apiToken is a database token as the API shows it.
type apiToken struct {
	AccountID   string       `json:"accountId"`
	ClusterID   string       `json:"clusterId,omitempty"`
	ID          string       `json:"id"`
	Description string       `json:"description"`
	Permissions []Permission `json:"permissions"`
	CreatedAt   time.Time    `json:"createdAt"`
	ExpiresAt   time.Time    `json:"expiresAt,omitzero"`
	RevokedAt   time.Time    `json:"revokedAt,omitzero"`
	AccessToken string       `json:"accessToken,omitempty"`
}

// An apiRequest is the body of POST.
type apiRequest struct {
	Description string       `json:"description"`
	Permissions []Permission `json:"permissions"`
	ExpiresAt   *time.Time   `json:"expiresAt"`
}

// An apiHandler handles a request whose credential was accepted. It returns the
// status and the body of the answer.
type apiHandler func(*http.Request) (int, any, error)

func (c *Cluster) routeManagementAPI() {
	routes := []struct {
		method, path, op string
		handle           apiHandler
	}{
		{"GET", "/databases", opOther, c.apiDatabases},
		{"POST", "/tokens", opCreate, c.apiCreate},
		{"GET", "/tokens/{id}", opGet, c.apiGet},
		{"DELETE", "/tokens/{id}", opRevoke, c.apiRevoke},
	}
	for _, prefix := range []string{"/api/v0/accounts/{account}/clusters/{cluster}", "/api/v0"} {
		for _, r := range routes {
			c.mux.HandleFunc(r.method+" "+prefix+r.path, c.api(r.op, r.handle))
		}
		c.mux.HandleFunc("GET "+prefix+"/tokens", c.apiList)
	}
	c.mux.HandleFunc("POST /api/v2/write", c.write)
}

// api returns a handler that performs the operation op under its faults.
func (c *Cluster) api(op string, handle apiHandler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var status int
		var body any
		fault, err := c.perform(r.Context(), op, func() (err error) {
			if err := c.authorizeAPI(r); err != nil {
				return err
			}
			status, body, err = handle(r)
			return err
		})
		if answeredFault(w, r, fault, err) {
			return
		}
		if status == http.StatusNoContent {
			w.WriteHeader(status)
			return
		}
		writeJSON(w, status, body)
	}
}

// answeredFault acts on a fault or an error. It reports whether there was one,
// so that no answer is left to write.
func answeredFault(w http.ResponseWriter, r *http.Request, fault Fault, err error) bool {
	switch {
	case err != nil:
		refused := refusalOf(err)
		writeJSON(w, refused.status, map[string]any{"code": refused.status, "message": refused.text})
		return true
	case fault.Hang != "":
		<-r.Context().Done()
		return true
	case fault.Die != "":
		panic(http.ErrAbortHandler)
	}
	return false
}

// authorizeAPI checks the path and the credential of a request.
func (c *Cluster) authorizeAPI(r *http.Request) error {
	account, cluster := r.PathValue("account"), r.PathValue("cluster")
	if account == "" && c.product == Dedicated {
		return refuse(TextNotFound)
	}
	if err := c.authorize(bearer(r)); err != nil {
		return err
	}
	if account != "" && (account != c.accountID || cluster != c.clusterID) {
		return refuse(TextNotFound)
	}
	return nil
}

func (c *Cluster) apiDatabases(*http.Request) (int, any, error) {
	return http.StatusOK, []string{}, nil
}

func (c *Cluster) apiCreate(r *http.Request) (int, any, error) {
	var request apiRequest
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		return 0, nil, refuse(fmt.Sprintf("%s: %v", TextInvalidArgument, err))
	}
	if request.Description == "" {
		return 0, nil, refuse(TextInvalidArgument + ": description is required")
	}
	t := Token{Kind: Database, Description: request.Description, Permissions: request.Permissions}
	if request.ExpiresAt != nil {
		t.ExpiresAt = *request.ExpiresAt
		if !t.ExpiresAt.After(c.now()) {
			return 0, nil, refuse(TextInvalidArgument + ": expiresAt is in the past")
		}
	}
	created := c.AddToken(t)
	answer := c.apiToken(created)
	answer.AccessToken = created.Secret
	return http.StatusOK, answer, nil
}

func (c *Cluster) apiGet(r *http.Request) (int, any, error) {
	t, ok := c.Token(r.PathValue("id"))
	if !ok || t.Kind != Database {
		return 0, nil, refuse(TextNotFound)
	}
	return http.StatusOK, c.apiToken(t), nil
}

func (c *Cluster) apiRevoke(r *http.Request) (int, any, error) {
	return http.StatusNoContent, nil, c.revokeKind(Database, r.PathValue("id"))
}

// apiList writes the database tokens.
func (c *Cluster) apiList(w http.ResponseWriter, r *http.Request) {
	fault, err := c.perform(r.Context(), opList, func() error { return c.authorizeAPI(r) })
	if answeredFault(w, r, fault, err) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	lag := time.Duration(c.Faults().ListLag)
	stream := newArray(w)
	err = c.tokens.each(func(r record) error {
		r, shown := c.asListed(r, lag)
		if !shown || r.kind != Database {
			return nil
		}
		return stream.add(c.apiToken(c.token(r)))
	})
	if errors.Join(err, stream.close()) != nil {
		panic(http.ErrAbortHandler) // the client has disconnected
	}
}

func (c *Cluster) apiToken(t Token) apiToken {
	a := apiToken{
		AccountID:   c.accountID,
		ID:          t.ID,
		Description: t.Description,
		Permissions: append([]Permission{}, t.Permissions...), // never null
		CreatedAt:   t.CreatedAt,
		ExpiresAt:   t.ExpiresAt,
		RevokedAt:   t.RevokedAt,
	}
	if c.product != Clustered {
		a.ClusterID = c.clusterID
	}
	return a
}

// write accepts any data for a database that the token may write to.
func (c *Cluster) write(w http.ResponseWriter, r *http.Request) {
	secret := bearer(r)
	if secret == "" {
		secret = strings.TrimPrefix(r.Header.Get("Authorization"), "Token ")
	}
	t, ok := c.bySecret(secret)
	if !ok || t.kind != Database || !t.live(c.now()) || !t.mayWrite(r.URL.Query().Get("bucket")) {
		writeJSON(w, http.StatusUnauthorized, map[string]any{"code": "unauthorized", "message": "not authorized"})
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// bearer returns the bearer token of a request; empty if it has none.
func bearer(r *http.Request) string {
	secret, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return ""
	}
	return secret
}
