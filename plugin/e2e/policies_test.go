package e2e

import (
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// The names of the example policies.
var (
	operator    = []string{"operator"}
	application = []string{"application"}
	lookers     = []string{"operator", "auditor"}
	noPolicy    = []string(nil)
)

// An attempt is a request and the policies that allow it. LEASE stands for the ID
// of a valid lease of the application's role.
type attempt struct {
	method, path string
	body         map[string]any
	allowed      []string
}

const validLease = "LEASE"

var attempts = []attempt{
	{"GET", "config", nil, lookers},
	{"POST", "config", map[string]any{"request_timeout": "20s"}, operator},
	{"POST", "config/check", nil, operator},
	{"POST", "config/rotate-root", nil, operator},
	{"LIST", "roles", nil, lookers},
	{"GET", "roles/telegraf", nil, lookers},
	{"POST", "roles/new", map[string]any{"ttl": "1h"}, operator},
	{"POST", "roles/telegraf", map[string]any{"ttl": "30m"}, operator},
	{"DELETE", "roles/new", nil, operator},
	{"GET", "creds/telegraf", nil, application},
	{"POST", "creds/telegraf", map[string]any{"ttl": "10m"}, application},
	{"GET", "creds/other", nil, noPolicy},
	{"LIST", "static-roles", nil, lookers},
	{"GET", "static-roles/other", nil, lookers},
	{"POST", "static-roles/other", map[string]any{"rotation_period": "2h"}, operator},
	{"GET", "static-creds/other", nil, noPolicy},
	{"POST", "/sys/leases/revoke-prefix/influxdb", nil, operator},
	{"LIST", "tokens", nil, lookers},
	{"LIST", "tokens/detailed", nil, lookers},
	{"GET", "tokens/ACCESSOR", nil, lookers},
	{"DELETE", "tokens/ACCESSOR", nil, operator},
	{"POST", "tidy", nil, operator},
	{"GET", "status", nil, lookers},
	{"GET", "metrics", nil, lookers},
	{"POST", "/sys/leases/renew", map[string]any{"lease_id": validLease}, []string{"operator", "application", "auditor"}}, // as Vault's default policy has it
	{"POST", "/sys/leases/revoke", map[string]any{"lease_id": validLease}, application},
	{"POST", "/sys/leases/revoke/" + validLease, nil, application},
	{"POST", "/sys/leases/revoke-prefix/influxdb/creds/telegraf", nil, operator},
	{"POST", "/sys/mounts/influxdb/tune", map[string]any{"max_lease_ttl": "1h"}, noPolicy},
	{"DELETE", "config?force=true", nil, operator}, // last
}

// TestPolicies_AllowWhatTheySay tries every operation of the engine with each of
// the example policies. What a policy allows must work; all else must be a 403.
func TestPolicies_AllowWhatTheySay(t *testing.T) {
	t.Parallel()
	s := vaulttest.Start(t)
	st := newStage(t, s, "influxdb")
	st.write(t, "roles/telegraf", map[string]any{"ttl": "1h", "max_ttl": "2h"})
	st.write(t, "roles/other", map[string]any{"ttl": "1h"})
	st.write(t, "static-roles/other", map[string]any{"read_databases": "metrics", "rotation_period": "1h", "defer_initial_creds": true})
	for _, policy := range []string{"auditor", "application", "operator"} {
		person := newPerson(t, s, policy)
		for _, a := range attempts {
			a.by(t, st, person, slices.Contains(a.allowed, policy), policy)
		}
	}
}

// newPerson loads an example policy and returns the server with a Vault token that
// has only this policy.
func newPerson(t *testing.T, s *vaulttest.Server, policy string) *vaulttest.Server {
	t.Helper()
	text, err := os.ReadFile("../../examples/policies/" + policy + ".hcl")
	must(t, err)
	must(t, s.Call(t.Context(), "POST", "sys/policies/acl/"+policy, map[string]any{"policy": string(text)}, nil))
	var made struct {
		Auth struct {
			Token string `json:"client_token"`
		} `json:"auth"`
	}
	must(t, s.Call(t.Context(), "POST", "auth/token/create", map[string]any{"policies": []string{policy}}, &made))
	return s.As(made.Auth.Token)
}

// by makes the attempt and compares the answer with what the policy should allow.
func (a attempt) by(t *testing.T, st *stage, person *vaulttest.Server, allowed bool, policy string) {
	t.Helper()
	held, err := st.read(t.Context(), "telegraf", "")
	must(t, err)
	token, ok := st.cluster.Token(held.Data.ID)
	if !ok {
		t.Fatal("the cluster does not know the token")
	}
	if a.body["lease_id"] == validLease {
		a.body = map[string]any{"lease_id": held.Lease}
	}
	err = person.Call(t.Context(), a.method, a.place(accessorOf(token), held.Lease), a.body, nil)
	switch {
	case allowed && err != nil:
		t.Errorf("the %s may %s %s: %v", policy, a.method, a.path, err)
	case !allowed && !vaulttest.HasStatus(err, http.StatusForbidden):
		t.Errorf("the %s may not %s %s, which is answered: %v", policy, a.method, a.path, err)
	}
}

// place returns the path of the attempt, below the mount unless it begins with a
// slash. ACCESSOR stands for that of the token of the lease.
func (a attempt) place(accessor, lease string) string {
	path := strings.NewReplacer("ACCESSOR", accessor, validLease, lease).Replace(a.path)
	if whole, ok := strings.CutPrefix(path, "/"); ok {
		return whole
	}
	return "influxdb/" + path
}
