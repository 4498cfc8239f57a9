package backend_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// The states of a record, as they are stored.
const (
	stateIssuing  = "issuing"
	stateActive   = "active"
	stateRevoking = "revoking"
)

// A stored is a record of the ledger as it is stored.
type stored struct {
	Key         string `json:"-"`
	Accessor    string `json:"accessor"`
	Role        string `json:"role"`
	State       string `json:"state"`
	TokenID     string `json:"token_id"`
	Fingerprint string `json:"fingerprint"`
}

// countFields are the fields of status that count records, by state.
var countFields = map[string]string{
	stateIssuing: "tokens_issuing", stateActive: "tokens_active", stateRevoking: "tokens_revoking",
}

// ledger returns the records that are stored.
func (e *engine) ledger() (records []stored) {
	e.t.Helper()
	for _, key := range e.records() {
		entry, err := e.storage.Storage.Get(context.Background(), key)
		if err != nil || entry == nil {
			e.t.Fatalf("read %s: %v", key, err)
		}
		r := stored{Key: key}
		if err := json.Unmarshal(entry.Value, &r); err != nil {
			e.t.Fatalf("read %s: %v", key, err)
		}
		records = append(records, r)
	}
	return records
}

// states counts the stored records by their state.
func (e *engine) states() map[string]int {
	e.t.Helper()
	counts := map[string]int{}
	for _, r := range e.ledger() {
		counts[r.State]++
	}
	return counts
}

// recordOf returns the record of the token with the ID, and whether there is
// one.
func (e *engine) recordOf(tokenID string) (stored, bool) {
	e.t.Helper()
	records := e.ledger()
	i := slices.IndexFunc(records, func(r stored) bool { return r.TokenID == tokenID })
	if i < 0 {
		return stored{}, false
	}
	return records[i], true
}

// accessorOf returns the accessor in the description of the token with the ID.
func (e *engine) accessorOf(tokenID string) string {
	e.t.Helper()
	for _, info := range e.cluster.Tokens() {
		if rest, ok := strings.CutPrefix(info.Description, "[vault:"+e.tag+":"); ok && info.ID == tokenID {
			accessor, _, _ := strings.Cut(rest, "]")
			return accessor
		}
	}
	e.t.Fatalf("token %s has no accessor", tokenID)
	return ""
}

// edit changes the stored JSON of a record behind the engine's back.
func (e *engine) edit(key string, change func(text string) string) {
	e.t.Helper()
	entry, err := e.storage.Storage.Get(context.Background(), key)
	if err != nil || entry == nil {
		e.t.Fatalf("read %s: %v", key, err)
	}
	text := change(string(entry.Value))
	if text == string(entry.Value) {
		e.t.Fatalf("nothing of %s was changed", key)
	}
	if err := e.storage.Storage.Put(context.Background(), &logical.StorageEntry{Key: key, Value: []byte(text)}); err != nil {
		e.t.Fatal(err)
	}
}

// Changes of a record's JSON for edit.
func ofANewerVersion(text string) string {
	return strings.Replace(text, `"version":1`, `"version":99`, 1)
}
func damaged(text string) string { return text[:len(text)/2] }

// secretOf returns the secret of the token with the ID.
func secretOf(t *testing.T, cluster *issuertest.Fake, tokenID string) issuer.Secret {
	t.Helper()
	secrets := cluster.Secrets()
	for i, info := range cluster.Tokens() {
		if info.ID == tokenID {
			return issuer.NewSecret(secrets[i])
		}
	}
	t.Fatalf("the cluster never had a token %s", tokenID)
	return issuer.Secret{}
}

// accepted reports whether the cluster accepts the token with the ID.
func (e *engine) accepted(tokenID string) bool {
	e.t.Helper()
	return e.cluster.Alive(secretOf(e.t, e.cluster, tokenID))
}

// rootID returns the ID of the configured root credential.
func (e *engine) rootID() string {
	e.t.Helper()
	return e.read("config").Data["mgmt_token_id"].(string)
}

// operatorsRoot adds a root credential that only the operator knows.
func (e *engine) operatorsRoot() issuer.Token { return e.cluster.Add("root", time.Time{}) }

// tryWrite sends a write that the engine may refuse, and returns its status and
// what it says.
func (e *engine) tryWrite(path string, data map[string]any) (int, string) {
	return e.try(logical.UpdateOperation, path, data)
}

// try sends a request that the engine may refuse, and returns its status and
// what it says.
func (e *engine) try(op logical.Operation, path string, data map[string]any) (int, string) {
	resp, err := e.do(context.Background(), op, path, data)
	status, text := statusOf(op, resp, err)
	if status == 0 {
		status = http.StatusOK
	}
	if resp != nil && len(resp.Warnings) > 0 {
		text += " " + strings.Join(resp.Warnings, " ")
	}
	return status, text
}

// refuseWith4xx sends a request that is refused as a wrong one or as a
// conflict, says each of words, and changes nothing that is stored.
func (e *engine) refuseWith4xx(op logical.Operation, path string, data map[string]any, words ...string) {
	e.t.Helper()
	before := e.storage.dump(e.t)
	status, text := e.try(op, path, data)
	if status != http.StatusBadRequest && status != http.StatusConflict {
		e.t.Errorf("%s %s: status %d, want 400 or 409: %s", op, path, status, text)
	}
	for _, word := range words {
		if !strings.Contains(text, word) {
			e.t.Errorf("%s %s: %q does not say %q", op, path, text, word)
		}
	}
	if e.storage.dump(e.t) != before {
		e.t.Errorf("%s %s: a refused request changed the storage", op, path)
	}
}

// sentTo returns the places where the secret was sent.
func (e *engine) sentTo(secret issuer.Secret) (places []string) {
	fakes := []*issuertest.Fake{e.cluster, e.data}
	for _, other := range e.others {
		fakes = append(fakes, other)
	}
	for _, fake := range fakes {
		for _, c := range fake.Opened() {
			if c.Root == secret {
				places = append(places, placeOf(c))
			}
		}
	}
	slices.Sort(places)
	return slices.Compact(places)
}

// placeOf describes where a credential is sent and what is trusted there.
func placeOf(c issuer.Cluster) string {
	return fmt.Sprintf("host=%s port=%s api_url=%s ca_cert=%d bytes insecure_tls=%v disable_tls=%v",
		c.Host, c.Port, c.APIURL, len(c.CACert), c.InsecureTLS, c.DisableTLS)
}

// elapse lets time pass on the engine's clock and on that of the test's bubble,
// with a tick every minute. It must be called in a synctest bubble.
func (e *engine) elapse(d time.Duration) {
	e.t.Helper()
	for ; d > 0; d -= time.Minute {
		stride := min(d, time.Minute)
		e.clock.advance(stride)
		<-time.After(stride)
		e.tick()
	}
}

// otherCluster adds a second cluster and returns it, and the change of config
// that moves the mount there.
func (e *engine) otherCluster() (*issuertest.Fake, map[string]any) {
	const id = "99999999-7777-4888-8999-aaaaaaaaaaaa"
	other, root := issuertest.NewFake(e.clock.Now)
	e.others[id] = other
	return other, map[string]any{"cluster_id": id, "mgmt_token": root.Secret.Reveal()}
}

// home is the change of config that moves the mount back to its first cluster.
func (e *engine) home() map[string]any {
	return map[string]any{"cluster_id": clusterID, "mgmt_token": e.root.Secret.Reveal()}
}

// with returns data with one field more.
func with(data map[string]any, field string, value any) map[string]any {
	more := map[string]any{}
	for f, v := range data {
		more[f] = v
	}
	more[field] = value
	return more
}

// tagged returns the tokens that the engine issued on its first cluster, dead
// ones too.
func (e *engine) tagged() (infos []issuer.Info) {
	for _, info := range e.cluster.Tokens() {
		if strings.HasPrefix(info.Description, "[vault:"+e.tag) {
			infos = append(infos, info)
		}
	}
	return infos
}
