package simulator

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// The documented HTTP Management API v0, for database tokens.

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

// An apiOrder is the body of POST and PATCH.
type apiOrder struct {
	Description *string       `json:"description"`
	Permissions *[]Permission `json:"permissions"`
	ExpiresAt   *time.Time    `json:"expiresAt"`
}

// An apiCall carries out a request once its sender is authorised, and returns
// the status and the body to answer.
type apiCall func(*http.Request) (int, any, error)

func (c *Cluster) routeAPI(mux *http.ServeMux) {
	routes := []struct {
		method, path, op string
		call             apiCall
	}{
		{"GET", "/databases", opOther, c.apiDatabases},
		{"POST", "/tokens", opCreate, c.apiCreate},
		{"GET", "/tokens/{id}", opGet, c.apiGet},
		{"PATCH", "/tokens/{id}", opOther, c.apiChange},
		{"DELETE", "/tokens/{id}", opRevoke, c.apiRevoke},
	}
	for _, prefix := range []string{"/api/v0/accounts/{account}/clusters/{cluster}", "/api/v0"} {
		for _, r := range routes {
			mux.HandleFunc(r.method+" "+prefix+r.path, c.api(r.op, r.call))
		}
		mux.HandleFunc("GET "+prefix+"/tokens", c.apiList)
	}
	mux.HandleFunc("POST /api/v2/write", c.write)
}

// api serves call under the faults of op.
func (c *Cluster) api(op string, call apiCall) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var status int
		var body any
		fault, err := c.perform(r.Context(), op, func() (err error) {
			if err := c.admitAPI(r); err != nil {
				return err
			}
			status, body, err = call(r)
			return err
		})
		if !settleAPI(w, r, fault, err) {
			return
		}
		if status == http.StatusNoContent {
			w.WriteHeader(status)
			return
		}
		writeJSON(w, status, body)
	}
}

// settleAPI acts on a fault or an error, and tells whether the request is still
// to be answered.
func settleAPI(w http.ResponseWriter, r *http.Request, fault Fault, err error) bool {
	switch {
	case err != nil:
		no := refusalOf(err)
		if no.retryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(no.retryAfter))
		}
		writeJSON(w, no.status, map[string]any{"code": no.status, "message": no.text})
		return false
	case fault.Hang != "":
		<-r.Context().Done()
		return false
	case fault.Die != "":
		panic(http.ErrAbortHandler)
	}
	return true
}

// admitAPI checks the path and the credential of a request.
func (c *Cluster) admitAPI(r *http.Request) error {
	account, cluster := r.PathValue("account"), r.PathValue("cluster")
	if account == "" && c.product == Dedicated {
		return refuse(TextNotFound)
	}
	if err := c.authorise(bearer(r)); err != nil {
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
	order, err := readOrder(r)
	if err != nil {
		return 0, nil, err
	}
	t := Token{Kind: Database}
	if order.Description == nil || *order.Description == "" {
		return 0, nil, refuse(TextInvalidArgument + ": description is required")
	}
	t.Description = *order.Description
	if order.Permissions != nil {
		t.Permissions = *order.Permissions
	}
	if order.ExpiresAt != nil {
		t.ExpiresAt = *order.ExpiresAt
		if !t.ExpiresAt.After(c.now()) {
			return 0, nil, refuse(TextInvalidArgument + ": expiresAt is in the past")
		}
	}
	made := c.AddToken(t)
	answer := c.apiToken(made)
	answer.AccessToken = made.Secret
	return http.StatusOK, answer, nil
}

func (c *Cluster) apiGet(r *http.Request) (int, any, error) {
	t, ok := c.Token(r.PathValue("id"))
	if !ok || t.Kind != Database {
		return 0, nil, refuse(TextNotFound)
	}
	return http.StatusOK, c.apiToken(t), nil
}

func (c *Cluster) apiChange(r *http.Request) (int, any, error) {
	order, err := readOrder(r)
	if err != nil {
		return 0, nil, err
	}
	if order.Description == nil && order.Permissions == nil || order.ExpiresAt != nil {
		return 0, nil, refuse(TextInvalidArgument + ": only description and permissions can be changed")
	}
	id, err := uuid.Parse(r.PathValue("id"))
	if err != nil {
		return 0, nil, refuse(TextNotFound)
	}
	if old, ok := c.tokens.get(id); !ok || old.kind != Database {
		return 0, nil, refuse(TextNotFound)
	}
	changed, _ := c.tokens.update(id, func(r *record) {
		if order.Description != nil {
			r.description = *order.Description
		}
		if order.Permissions != nil {
			r.permissions = *order.Permissions
		}
	})
	return http.StatusOK, c.apiToken(c.token(changed)), nil
}

func (c *Cluster) apiRevoke(r *http.Request) (int, any, error) {
	return http.StatusNoContent, nil, c.revoke(Database, r.PathValue("id"))
}

// apiList streams the database tokens.
func (c *Cluster) apiList(w http.ResponseWriter, r *http.Request) {
	fault, err := c.perform(r.Context(), opList, func() error { return c.admitAPI(r) })
	if !settleAPI(w, r, fault, err) {
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
		panic(http.ErrAbortHandler) // the client has gone; there is nobody to tell
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
	if !ok || t.kind != Database || !c.accepted(t) || !t.mayWrite(r.URL.Query().Get("bucket")) {
		writeJSON(w, http.StatusUnauthorized, map[string]any{"code": "unauthorized", "message": "not authorized"})
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// bearer returns the request's bearer token, empty if it has none.
func bearer(r *http.Request) string {
	secret, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return ""
	}
	return secret
}

func readOrder(r *http.Request) (apiOrder, error) {
	var order apiOrder
	if err := json.NewDecoder(r.Body).Decode(&order); err != nil {
		return order, refuse(fmt.Sprintf("%s: %v", TextInvalidArgument, err))
	}
	return order, nil
}

// refusalOf turns any error into one that can be answered.
func refusalOf(err error) *refusal {
	if no, ok := errors.AsType[*refusal](err); ok {
		return no
	}
	return &refusal{text: err.Error(), exit: 1, status: http.StatusInternalServerError}
}
