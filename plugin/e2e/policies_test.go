package e2e

import (
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// Who the example policies are for.
var (
	operator    = []string{"operator"}
	application = []string{"application"}
	lookers     = []string{"operator", "auditor"}
	noPolicy    = []string(nil)
)

// An attempt is a request, and by whose policies it is allowed. Lease stands for
// the id of a living lease of the application's role.
type attempt struct {
	method, path string
	body         map[string]any
	allowed      []string
}

const livingLease = "LEASE"

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
	{"LIST", "tokens", nil, lookers},
	{"GET", "tokens/NONCE", nil, lookers},
	{"DELETE", "tokens/NONCE", nil, operator},
	{"POST", "tidy", nil, operator},
	{"GET", "status", nil, lookers},
	{"POST", "/sys/leases/renew", map[string]any{"lease_id": livingLease}, []string{"operator", "application", "auditor"}}, // as Vault's default policy has it
	{"POST", "/sys/leases/revoke", map[string]any{"lease_id": livingLease}, application},
	{"POST", "/sys/leases/revoke/" + livingLease, nil, application},
	{"POST", "/sys/leases/revoke-prefix/influxdb/creds/telegraf", nil, operator},
	{"POST", "/sys/mounts/influxdb/tune", map[string]any{"max_lease_ttl": "1h"}, noPolicy},
	{"DELETE", "config?force=true", nil, operator}, // last
}

// TestTheExamplePoliciesHold tries every operation of the engine with each of
// the example policies: what a policy allows works, and all else is a 403.
func TestTheExamplePoliciesHold(t *testing.T) {
	t.Parallel()
	s := vaulttest.Start(t)
	st := newStage(t, s, "influxdb")
	st.write(t, "roles/telegraf", map[string]any{"ttl": "1h", "max_ttl": "2h"})
	st.write(t, "roles/other", map[string]any{"ttl": "1h"})
	for _, policy := range []string{"auditor", "application", "operator"} {
		person := newPerson(t, s, policy)
		for _, a := range attempts {
			a.by(t, st, person, slices.Contains(a.allowed, policy), policy)
		}
	}
}

// newPerson is the server as it is met with a token of an example policy, which
// is loaded as it stands.
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

// by makes the attempt, and holds the answer against what the policy should
// allow.
func (a attempt) by(t *testing.T, st *stage, person *vaulttest.Server, allowed bool, policy string) {
	t.Helper()
	held, err := st.read(t.Context(), "telegraf", "")
	must(t, err)
	token, ok := st.cluster.Token(held.Data.ID)
	if !ok {
		t.Fatal("the cluster does not know the token")
	}
	if a.body["lease_id"] == livingLease {
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

// place is the path of the attempt, below the mount unless it begins with a
// slash. NONCE stands for that of the living lease's token.
func (a attempt) place(nonce, lease string) string {
	path := strings.NewReplacer("NONCE", nonce, livingLease, lease).Replace(a.path)
	if whole, ok := strings.CutPrefix(path, "/"); ok {
		return whole
	}
	return "influxdb/" + path
}
