package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// A stage is a mount of the engine that is configured for a simulated cluster of
// its own. The cluster runs in the test process, so that it outlives the server.
type stage struct {
	*vaulttest.Server
	cluster    *simulator.Cluster
	mounted    string   // path of the mount
	tag        string   // start of the descriptions of its tokens
	foreigners []string // IDs of tokens that the mount must not touch
}

// newStage registers the plugin under a name with a simulated influxctl, mounts
// it at a path of that name, and configures it for a new cluster. The cluster
// also has tokens that do not belong to the mount. They must be alive at the end
// of the test.
func newStage(t *testing.T, s *vaulttest.Server, name string) *stage {
	t.Helper()
	st := &stage{Server: s, cluster: simulator.NewCluster(simulator.Options{}), mounted: name}
	web := httptest.NewServer(st.cluster)
	t.Cleanup(web.Close)
	dir := filepath.Join(t.TempDir(), name)
	must(t, os.Mkdir(dir, 0o700))
	vaulttest.Build(t, dir, "./cmd/influxsim")
	influxctl, err := simulator.Install(dir, filepath.Join(dir, "influxsim"), simulator.Sidecar{URL: web.URL})
	must(t, err)
	must(t, s.Register(t.Context(), name, "INFLUXCTL_PATH="+influxctl))
	must(t, s.Mount(t.Context(), name, name))
	st.write(t, "config", map[string]any{
		"product": "dedicated", "account_id": st.cluster.AccountID(), "cluster_id": st.cluster.ClusterID(), "mgmt_token": st.cluster.Root(),
	})
	status := st.status(t)
	st.tag = "[vault:" + status.Tag + ":"
	st.addForeigners()
	t.Cleanup(func() { st.end(t) })
	return st
}

// addForeigners makes tokens of people, a token of another mount, and a token
// with this mount's tag in the middle of its description.
func (st *stage) addForeigners() {
	for _, token := range []simulator.Token{
		{Kind: simulator.Management, Description: "somebody's own"},
		{Kind: simulator.Management, Description: ""},
		{Kind: simulator.Management, Description: "[vault:0123456789ab:ABCDEFGHIJKLMNOPQRSTUVWXYZ] another mount's"},
		{Kind: simulator.Management, Description: "made for " + st.tag + "ABCDEFGHIJKLMNOPQRSTUVWXYZ]"},
		{Kind: simulator.Database, Description: "somebody's database token"},
	} {
		st.foreigners = append(st.foreigners, st.cluster.AddToken(token).ID)
	}
	for _, token := range st.cluster.Tokens() {
		if token.Root {
			st.foreigners = append(st.foreigners, token.ID)
		}
	}
}

// end checks what must hold after every test.
func (st *stage) end(t *testing.T) {
	for _, id := range st.foreigners {
		if token, ok := st.cluster.Token(id); !ok || !token.Live {
			t.Errorf("a token that does not belong to the mount was revoked: %q", token.Description)
		}
	}
	for _, violation := range st.cluster.Violations() {
		t.Errorf("the CLI was called in a way that is not allowed: %s", violation)
	}
	for _, token := range st.cluster.Tokens() {
		st.KeepSecret(token.Secret)
	}
}

// write writes to a path of the mount.
func (st *stage) write(t *testing.T, path string, data map[string]any) {
	t.Helper()
	must(t, st.Call(t.Context(), "POST", st.mounted+"/"+path, data, nil))
}

// A credential is an issued token and its lease.
type credential struct {
	Lease     string `json:"lease_id"`
	Duration  int    `json:"lease_duration"`
	Renewable bool   `json:"renewable"`
	Data      struct {
		ID string `json:"token_id"`
	} `json:"data"`

	until time.Time // earliest end of the lease, unless it is revoked
}

// read reads a credential of a role.
func (st *stage) read(ctx context.Context, role, query string) (*credential, error) {
	var c credential
	began := time.Now()
	if err := st.Call(ctx, "GET", st.mounted+"/creds/"+role+query, nil, &c); err != nil {
		return nil, err
	}
	c.until = began.Add(time.Duration(c.Duration) * time.Second)
	return &c, nil
}

// at returns the stage as it is seen through another node of a cluster, or with
// the Vault token of another person.
func (st *stage) at(node *vaulttest.Server) *stage {
	other := *st
	other.Server = node
	return &other
}

// issued returns all tokens that were ever issued with the mount's tag, those of
// root credentials included.
func (st *stage) issued() []simulator.Token {
	return slices.DeleteFunc(st.cluster.Tokens(), func(token simulator.Token) bool {
		return !strings.HasPrefix(token.Description, st.tag)
	})
}

// alive returns those of the issued tokens that the cluster accepts.
func (st *stage) alive() []simulator.Token {
	return slices.DeleteFunc(st.issued(), func(token simulator.Token) bool { return !token.Live })
}

var accessorInTag = regexp.MustCompile(`^\[vault:[0-9a-f]{12}:([A-Z2-7]+)\]`)

// accessorOf returns the accessor in the description of a token of the mount.
func accessorOf(token simulator.Token) string {
	return accessorInTag.FindStringSubmatch(token.Description)[1]
}

// mustAccountFor asserts the first promise of the engine, which must hold at any
// moment: every live token with the mount's tag is in the ledger, and the engine
// acts on it within the given time at the latest. Exceptions are the root
// credential and the one that a rotation is about to install. It returns how
// many tokens are alive, and how many of them are active in the ledger.
func (st *stage) mustAccountFor(t *testing.T, within time.Duration) (alive, active int) {
	t.Helper()
	tokens := st.alive()
	var ledger map[string]vaulttest.TokenInfo
	var status vaulttest.Status
	must(t, vaulttest.Eventually(t.Context(), time.Minute, func() (err error) {
		if ledger, err = st.ledger(t.Context()); err == nil {
			status, err = st.readStatus(t.Context())
		}
		return err
	}))
	for _, token := range tokens {
		if token.ID == status.RootID {
			continue
		}
		alive++
		info, recorded := ledger[accessorOf(token)]
		if !recorded {
			if now, _ := st.cluster.Token(token.ID); now.Live {
				t.Errorf("token %s, created at %s, is alive and not in the ledger", token.ID, token.CreatedAt)
			}
			continue
		}
		if info.State == vaulttest.StateActive {
			active++
		}
		info, err := st.tokenInfo(t.Context(), accessorOf(token))
		switch {
		case vaulttest.HasStatus(err, http.StatusNotFound): // revoked meanwhile
		case err != nil:
			t.Error(err)
		case token.ID != status.NextRootID && info.Deadline.After(time.Now().Add(within)):
			t.Errorf("token %s (%s) is alive, and its deadline is only at %s", token.ID, info.State, info.Deadline)
		}
	}
	return alive, active
}

// ledger lists the ledger, by accessor.
func (st *stage) ledger(ctx context.Context) (map[string]vaulttest.TokenInfo, error) {
	var answer struct {
		Data struct {
			Info map[string]vaulttest.TokenInfo `json:"key_info"`
		} `json:"data"`
	}
	err := st.Call(ctx, "LIST", st.mounted+"/"+vaulttest.DetailedList, nil, &answer)
	if vaulttest.HasStatus(err, http.StatusNotFound) {
		return nil, nil
	}
	return answer.Data.Info, err
}

// tokenInfo reads one record of the ledger.
func (st *stage) tokenInfo(ctx context.Context, accessor string) (vaulttest.TokenInfo, error) {
	var answer struct {
		Data vaulttest.TokenInfo `json:"data"`
	}
	err := st.Call(ctx, "GET", st.mounted+"/tokens/"+accessor, nil, &answer)
	return answer.Data, err
}

// readStatus reads the status of the mount.
func (st *stage) readStatus(ctx context.Context) (vaulttest.Status, error) {
	var answer struct {
		Data vaulttest.Status `json:"data"`
	}
	err := st.Call(ctx, "GET", st.mounted+"/status", nil, &answer)
	return answer.Data, err
}

// status is readStatus, and ends the test if it fails.
func (st *stage) status(t *testing.T) vaulttest.Status {
	t.Helper()
	status, err := st.readStatus(t.Context())
	must(t, err)
	return status
}

// leases returns the leases of a role that the server has.
func (st *stage) leases(ctx context.Context, role string) ([]string, error) {
	var answer struct {
		Data struct {
			Keys []string `json:"keys"`
		} `json:"data"`
	}
	err := st.Call(ctx, "LIST", "sys/leases/lookup/"+st.mounted+"/creds/"+role, nil, &answer)
	if vaulttest.HasStatus(err, http.StatusNotFound) {
		return nil, nil
	}
	return answer.Data.Keys, err
}

// irrevocable counts the leases that the server has given up revoking.
func (st *stage) irrevocable(ctx context.Context) (int, error) {
	var answer struct {
		Data struct {
			Count int `json:"lease_count"`
		} `json:"data"`
	}
	err := st.Call(ctx, "GET", "sys/leases/count?type=irrevocable", nil, &answer)
	return answer.Data.Count, err
}

// noLease fails while the server has a lease of one of the roles.
func (st *stage) noLease(ctx context.Context, roles ...string) error {
	for _, role := range roles {
		held, err := st.leases(ctx, role)
		if err != nil {
			return err
		}
		if len(held) > 0 {
			return fmt.Errorf("%d leases of role %s are left", len(held), role)
		}
	}
	return nil
}

// allDead fails while a token of the mount is alive, other than its root
// credential.
func (st *stage) allDead(ctx context.Context) error {
	alive := st.alive()
	if len(alive) == 0 {
		return nil
	}
	status, err := st.readStatus(ctx)
	if err != nil {
		return err
	}
	alive = slices.DeleteFunc(alive, func(token simulator.Token) bool { return token.ID == status.RootID })
	if len(alive) > 0 {
		return fmt.Errorf("%d tokens are alive", len(alive))
	}
	return nil
}

// fromEnv returns a number that make sets in the environment for a long run, or
// the number for a short run.
func fromEnv(t *testing.T, name string, short int) int {
	t.Helper()
	text, ok := os.LookupEnv(name)
	if !ok {
		return short
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("$%s: %v", name, err)
	}
	return n
}
