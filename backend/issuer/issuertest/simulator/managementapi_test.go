package simulator_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
)

const (
	longPath  = "/api/v0/accounts/" + accountID + "/clusters/" + clusterID
	shortPath = "/api/v0"
	oneToken  = `{"description":"d","permissions":[{"action":"write","resource":"db"}],"expiresAt":"` + future + `"}`
)

// post creates a database token with the API.
func (r *rig) post(body string) (id, secret string) {
	r.t.Helper()
	status, text := r.request("POST", longPath+"/tokens", r.Root(), body)
	var made struct {
		ID          string `json:"id"`
		AccessToken string `json:"accessToken"`
	}
	if err := json.Unmarshal([]byte(text), &made); err != nil || status != http.StatusOK {
		r.t.Fatalf("POST: %d %s: %v", status, text, err)
	}
	return made.ID, made.AccessToken
}

func TestManagementAPI_ShowsDocumentedFields(t *testing.T) {
	r := newRig(t)
	id, secret := r.post(oneToken)
	if !strings.HasPrefix(secret, "apiv1_") || len(secret) < 64 {
		t.Errorf("the token is %q", secret)
	}
	want := map[string]any{
		"accountId":   accountID,
		"clusterId":   clusterID,
		"id":          id,
		"description": "d",
		"permissions": []any{map[string]any{"action": "write", "resource": "db"}},
		"createdAt":   "2030-01-01T00:00:00Z",
		"expiresAt":   future,
	}
	_, text := r.request("GET", longPath+"/tokens/"+id, r.Root(), "")
	var got map[string]any
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("-want +got\n" + diff)
	}
	_, text = r.request("GET", longPath+"/tokens", r.Root(), "")
	var list []map[string]any
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]map[string]any{want}, list); diff != "" {
		t.Error("list: -want +got\n" + diff)
	}
}

func TestManagementAPI_AnswersAsDocumented(t *testing.T) {
	r := newRig(t)
	id, _ := r.post(oneToken)
	management := r.create("m").ID
	for _, c := range []struct {
		method, path, body string
		status             int
		text               string
	}{
		{"GET", "/databases", "", 200, "[]"},
		{"GET", "/tokens", "", 200, id},
		{"POST", "/tokens", `{"description":"e","permissions":[]}`, 200, `"permissions":[]`},
		{"POST", "/tokens", `{"permissions":[]}`, 400, "description"},
		{"POST", "/tokens", `{`, 400, "InvalidArgument"},
		{"POST", "/tokens", `{"description":"e","expiresAt":"2001-01-01T00:00:00Z"}`, 400, "past"},
		{"GET", "/tokens/" + id, "", 200, id},
		{"GET", "/tokens/nonsense", "", 404, `"code":404`},
		{"GET", "/tokens/" + accountID, "", 404, "token not found"},
		{"GET", "/tokens/" + management, "", 404, "token not found"},
		{"DELETE", "/tokens/" + management, "", 404, "not found"},
		{"DELETE", "/tokens/" + accountID, "", 404, "not found"},
		{"DELETE", "/tokens/" + id, "", 204, ""},
		{"DELETE", "/tokens/" + id, "", 204, ""},
		{"GET", "/tokens/" + id, "", 200, `"revokedAt"`},
	} {
		status, text := r.request(c.method, longPath+c.path, r.Root(), c.body)
		if status != c.status || !strings.Contains(text, c.text) {
			t.Errorf("%s %s %s: %d %s", c.method, c.path, c.body, status, text)
		}
	}
}

func TestManagementAPI_PathsOfProduct(t *testing.T) {
	elsewhere := "/api/v0/accounts/" + clusterID + "/clusters/" + accountID
	for product, want := range map[string][3]int{
		"":                  {200, 200, 404},
		simulator.Dedicated: {200, 404, 404},
		simulator.Clustered: {200, 200, 404},
	} {
		c := simulator.NewCluster(simulator.Options{Product: product, AccountID: accountID, ClusterID: clusterID})
		r := &rig{Cluster: c, t: t, server: httptest.NewServer(c)}
		t.Cleanup(r.server.Close)
		var got [3]int
		for i, prefix := range []string{longPath, shortPath, elsewhere} {
			got[i], _ = r.request("GET", prefix+"/databases", c.Root(), "")
		}
		if got != want {
			t.Errorf("product %q: %v, want %v", product, got, want)
		}
		status, text := r.request("POST", longPath+"/tokens", c.Root(), oneToken)
		if shows := strings.Contains(text, "clusterId"); status != 200 || shows == (product == simulator.Clustered) {
			t.Errorf("product %q: %d %s", product, status, text)
		}
	}
}

func TestManagementToken_WorksUntilRevokedOrExpired(t *testing.T) {
	r := newRig(t)
	revoked, expiring := r.create("a"), r.AddToken(simulator.Token{ExpiresAt: r.clock.now().Add(time.Hour)})
	use := func(token string) int {
		status, _ := r.request("GET", longPath+"/databases", token, "")
		return status
	}
	for _, token := range []string{revoked.Secret, expiring.Secret} {
		if got := use(token); got != http.StatusOK {
			t.Errorf("a token that is neither revoked nor expired: %d", got)
		}
	}
	r.run("management", "revoke", "--force", revoked.ID)
	r.clock.advance(time.Hour)
	_, database := r.post(oneToken)
	for what, token := range map[string]string{
		"none": "", "unknown": "x", "revoked": revoked.Secret, "expired": expiring.Secret, "database token": database,
	} {
		if got := use(token); got != http.StatusUnauthorized {
			t.Errorf("%s: %d", what, got)
		}
	}
}

func TestDatabaseToken_WritesUntilRevoked(t *testing.T) {
	r := newRig(t)
	id, secret := r.post(oneToken)
	_, all := r.post(`{"description":"all","permissions":[{"action":"write","resource":"*"}]}`)
	_, reader := r.post(`{"description":"reader","permissions":[{"action":"read","resource":"db"}]}`)
	for _, c := range []struct {
		token, bucket string
		status        int
	}{
		{secret, "db", 204}, {secret, "other", 401}, {all, "other", 204}, {reader, "db", 401}, {r.Root(), "db", 401}, {"", "db", 401},
	} {
		if got, _ := r.request("POST", "/api/v2/write?bucket="+c.bucket, c.token, "m v=1"); got != c.status {
			t.Errorf("%+v: %d", c, got)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", r.server.URL+"/api/v2/write?bucket=db", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Token "+secret)
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusNoContent {
		t.Errorf("the scheme Token: %d", answer.StatusCode)
	}
	r.request("DELETE", longPath+"/tokens/"+id, r.Root(), "")
	if got, _ := r.request("POST", "/api/v2/write?bucket=db", secret, "m v=1"); got != http.StatusUnauthorized {
		t.Errorf("a revoked token: %d", got)
	}
}

func TestManagementAPI_Faults(t *testing.T) {
	r := newRig(t)
	r.SetFaults(simulator.Faults{Create: simulator.Fault{Error: "bad gateway", Status: 502, Committed: true}})
	if status, _ := r.request("POST", longPath+"/tokens", r.Root(), oneToken); status != 502 || !r.described("d").Live {
		t.Errorf("502 after the commit: %d", status)
	}
	r.SetFaults(simulator.Faults{Get: simulator.Fault{Error: simulator.TextResourceExhausted}})
	if status, _ := r.request("GET", longPath+"/tokens/"+accountID, r.Root(), ""); status != 429 {
		t.Errorf("too many requests: %d", status)
	}
	r.SetFaults(simulator.Faults{ListLag: simulator.Duration(time.Minute)})
	if _, text := r.request("GET", longPath+"/tokens", r.Root(), ""); strings.TrimSpace(text) != "[]" {
		t.Errorf("a lagging list shows %s", text)
	}
}

func TestManagementAPI_CutsConnectionAfterCommit(t *testing.T) {
	for _, fault := range []simulator.Fault{{Cut: true}, {Die: simulator.DieKilled}} {
		r := newRig(t)
		r.SetFaults(simulator.Faults{Create: fault})
		if err := r.attempt(t.Context()); err == nil {
			t.Error("there was an answer")
		}
		if !r.described("d").Live {
			t.Error("no token was created")
		}
	}
}

func TestManagementAPI_HangsUntilClientDisconnects(t *testing.T) {
	t.Parallel()
	for when, made := range map[simulator.When]int{simulator.Before: 0, simulator.After: 1} {
		r := newRig(t)
		r.SetFaults(simulator.Faults{Create: simulator.Fault{Hang: when}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if err := r.attempt(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", when, err)
		}
		cancel()
		if n := len(r.Tokens()) - 1; n != made {
			t.Errorf("%s: %d tokens created, want %d", when, n, made)
		}
	}
}

// attempt posts a token and returns the error of the HTTP client.
func (r *rig) attempt(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, "POST", r.server.URL+longPath+"/tokens", strings.NewReader(oneToken))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+r.Root())
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	return answer.Body.Close()
}
