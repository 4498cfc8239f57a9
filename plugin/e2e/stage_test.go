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

// A stage is a mount of the engine, configured for a simulated cluster of its
// own. The cluster lives in the test's process, whatever becomes of the server.
type stage struct {
	*vaulttest.Server
	cluster    *simulator.Cluster
	mounted    string // path of the mount
	tag        string // what the descriptions of its tokens begin with
	foreigners []string
}

// newStage registers the plugin under a name, with a CLI that speaks to a new
// cluster, mounts it there and configures it. The cluster has tokens that are
// none of the mount's business; at the end of the test they must be alive.
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

// addForeigners makes tokens of people, of a mount elsewhere, and of one that
// pretends to be this mount's.
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

// end looks for what no test may leave.
func (st *stage) end(t *testing.T) {
	for _, id := range st.foreigners {
		if token, ok := st.cluster.Token(id); !ok || !token.Live {
			t.Errorf("a stranger's token was killed: %q", token.Description)
		}
	}
	for _, violation := range st.cluster.Violations() {
		t.Errorf("the CLI was called as it must not be: %s", violation)
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

// A credential is a token that was handed out, and its lease.
type credential struct {
	Lease     string `json:"lease_id"`
	Duration  int    `json:"lease_duration"`
	Renewable bool   `json:"renewable"`
	Data      struct {
		ID string `json:"token_id"`
	} `json:"data"`

	until time.Time // the lease lives at least so long, unless somebody ends it
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

// minted returns every token that was ever made with the mount's tag.
func (st *stage) minted() []simulator.Token {
	return slices.DeleteFunc(st.cluster.Tokens(), func(token simulator.Token) bool {
		return !strings.HasPrefix(token.Description, st.tag)
	})
}

// alive returns those of the mount's tokens that the cluster accepts.
func (st *stage) alive() []simulator.Token {
	return slices.DeleteFunc(st.minted(), func(token simulator.Token) bool { return !token.Live })
}

var nonceInTag = regexp.MustCompile(`^\[vault:[0-9a-f]{12}:([A-Z2-7]+)\]`)

// nonceOf is what the ledger knows a token of a mount by.
func nonceOf(token simulator.Token) string {
	return nonceInTag.FindStringSubmatch(token.Description)[1]
}

// ledger lists the ledger, by accessor.
func (st *stage) ledger(ctx context.Context) (map[string]vaulttest.TokenInfo, error) {
	var answer struct {
		Data struct {
			Info map[string]vaulttest.TokenInfo `json:"key_info"`
		} `json:"data"`
	}
	err := st.Call(ctx, "LIST", st.mounted+"/tokens", nil, &answer)
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

// leases returns the leases that the server holds of a role.
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

// irrevocable counts the leases that the server has given up.
func (st *stage) irrevocable(ctx context.Context) (int, error) {
	var answer struct {
		Data struct {
			Count int `json:"lease_count"`
		} `json:"data"`
	}
	err := st.Call(ctx, "GET", "sys/leases/count?type=irrevocable", nil, &answer)
	return answer.Data.Count, err
}

// noLease fails while the server holds a lease of any of the roles.
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

// allDead fails while a token of the mount lives.
func (st *stage) allDead() error {
	if n := len(st.alive()); n > 0 {
		return fmt.Errorf("%d tokens are alive", n)
	}
	return nil
}

// fromEnv is a number that make sets for a long run, or else what a short run
// is content with.
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
