package backend_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

// Before anything is configured, every path answers.
func TestPaths_BeforeAnythingIsConfigured(t *testing.T) {
	e := newEngine(t)
	e.refuse(404, readOp, "config", nil)
	e.refuse(404, listOp, "roles/", nil)
	e.refuse(404, readOp, "roles/automation", nil)
	e.refuse(400, readOp, "creds/automation", nil, "no role", "automation")
	e.refuse(400, updateOp, "config/check", nil, "config")
	e.refuse(400, updateOp, "config/rotate-root", nil, "config")
	e.must(deleteOp, "config", nil)
	e.must(deleteOp, "roles/automation", nil)
	status := e.read("status")
	if status.Data["configured"] != false || status.Data["tokens_active"] != 0 {
		t.Errorf("status: %v", status.Data)
	}
	e.write("roles/automation", nil)
	e.refuse(400, readOp, "creds/automation", nil, "no cluster is configured")
	e.refuse(404, listOp, "tokens/", nil)
	e.refuse(404, readOp, "tokens/AAAA", nil)
	e.must(deleteOp, "tokens/AAAA", nil)
	e.refuse(400, updateOp, "tidy", nil, "no cluster is configured")
}

func TestConfig_IsReadWithoutSecrets(t *testing.T) {
	e := newEngine(t)
	e.configure(map[string]any{"mgmt_token": " " + e.root.Secret.Reveal() + "\n", "request_timeout": "20s"})
	want := map[string]any{
		"product": "dedicated", "account_id": accountID, "cluster_id": clusterID, "host": "", "port": "", "api_url": "",
		"mgmt_token_id": e.root.ID, "mgmt_token_expires_at": "never", "ca_cert": "", "client_cert": "", "insecure_tls": false, "disable_tls": false,
		"request_timeout": 20, "max_parallel": 4, "mount_tag": e.tag, "disable_automated_rotation": false,
		"rotation_period": 0, "rotation_ttl": 8760 * 3600, "rotation_overlap": 100, "expiry_warning": 7 * 24 * 3600,
	}
	if diff := cmp.Diff(want, e.read("config").Data); diff != "" {
		t.Error(diff)
	}
	e.cluster.SetHook(down) // reading does not need the cluster
	e.read("config")
	e.read("status")
}

func TestConfig_RefusesInvalidFields(t *testing.T) {
	e := newEngine(t)
	cert, key := selfSigned(t)
	for _, c := range []struct {
		change map[string]any
		words  string
	}{
		{map[string]any{"product": nil}, "product is required"},
		{map[string]any{"product": "serverless"}, "product must be"},
		{map[string]any{"mgmt_token": nil}, "mgmt_token is required"},
		{map[string]any{"mgmt_token": "  \n"}, "mgmt_token is required"},
		{map[string]any{"mgmt_token": "two words"}, "mgmt_token is not a token"},
		{map[string]any{"mgmt_token": "M.V1.\x00"}, "mgmt_token is not a token"},
		{map[string]any{"mgmt_token": strings.Repeat("x", 5000)}, "mgmt_token has 5000 characters"},
		{map[string]any{"account_id": nil}, "account_id and cluster_id are required"},
		{map[string]any{"account_id": "42"}, "account_id must be a UUID"},
		{map[string]any{"cluster_id": "../../etc/passwd"}, "cluster_id must be a UUID"},
		{map[string]any{"mgmt_token_id": "root"}, "mgmt_token_id must be a UUID"},
		{map[string]any{"product": "clustered"}, "host is required"},
		{map[string]any{"host": "https://c.example.com"}, "host must be"},
		{map[string]any{"host": "c.example.com:443"}, "host must be"},
		{map[string]any{"host": "c.example.com\nport = 1"}, "host must be"},
		{map[string]any{"host": "-c"}, "host must be"},
		{map[string]any{"port": "0"}, "port must be"},
		{map[string]any{"api_url": "cluster.example.com"}, "api_url must be an origin"},
		{map[string]any{"api_url": "http://cluster.example.com"}, "api_url must begin with https"},
		{map[string]any{"api_url": "http://127.0.0.1.example.com"}, "api_url must begin with https"},
		{map[string]any{"api_url": "ftp://127.0.0.1"}, "api_url must begin with https"},
		{map[string]any{"api_url": "https://cluster.example.com/api/v0"}, "api_url must be an origin"},
		{map[string]any{"api_url": "https://cluster.example.com?x=y"}, "api_url must be an origin"},
		{map[string]any{"api_url": "https://user:pass@cluster.example.com"}, "api_url must be an origin"},
		{map[string]any{"api_url": "https://"}, "api_url must be an origin"},
		{map[string]any{"port": "http"}, "port must be"},
		{map[string]any{"ca_cert": "not PEM"}, "ca_cert: must be one certificate or more"},
		{map[string]any{"ca_cert": key}, "ca_cert: must hold certificates only"},
		{map[string]any{"ca_cert": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}))}, "ca_cert: certificate 1 cannot be parsed"},
		{map[string]any{"client_cert": cert}, "must be set together"},
		{map[string]any{"client_key": key}, "must be set together"},
		{map[string]any{"client_cert": cert, "client_key": cert}, "client_cert and client_key must be"},
		{map[string]any{"disable_tls": true}, "not for product=dedicated"},
		{map[string]any{"product": "clustered", "host": "h", "disable_tls": true, "insecure_tls": true}, "disable_tls excludes"},
		{map[string]any{"request_timeout": "41s"}, "request_timeout must be"},
		{map[string]any{"request_timeout": 0}, "request_timeout must be"},
		{map[string]any{"request_timeout": "soon"}, "request_timeout"},
		{map[string]any{"max_parallel": 0}, "max_parallel must be"},
		{map[string]any{"max_parallel": 65}, "max_parallel must be"},
		{map[string]any{"mgmt_token": []any{"hunter2"}}, "mgmt_token must be given once"},
		{map[string]any{"client_key": map[string]any{"hunter2": 1}}, "client_key must be given once"},
		{map[string]any{"rotation_period": "10m"}, "rotation_period must be at least 1h"},
		{map[string]any{"rotation_ttl": "10m"}, "rotation_ttl must be at least 1h"},
		{map[string]any{"rotation_period": "24h", "rotation_ttl": "25h"}, "at least twice rotation_period"},
		{map[string]any{"rotation_overlap": "-1s"}, "rotation_overlap"},
		{map[string]any{"expiry_warning": "1000000h"}, "100 years"},
		{map[string]any{"mgmt_tokn": "x"}, `did you mean "mgmt_token"`},
	} {
		e.refuse(400, createOp, "config", e.config(c.change), c.words)
	}
	if e.cluster.Calls(issuertest.BeforeList) > 0 {
		t.Error("the cluster was asked about a config that is invalid without asking")
	}
	e.configure(map[string]any{"product": "clustered", "host": "c.example.com", "port": 8443, "ca_cert": cert, "client_cert": cert, "client_key": key})
	if got := e.read("config").Data["port"]; got != "8443" {
		t.Errorf("port %v", got)
	}
}

func TestConfig_IsVerifiedBeforeItIsStored(t *testing.T) {
	e := newEngine(t)
	e.refuse(400, createOp, "config", e.config(map[string]any{"mgmt_token": "M.V1.wrong"}), "nothing was stored", "root credential not accepted")
	e.cluster.SetHook(func(context.Context, issuertest.Step) error { return errors.New("no route") })
	e.refuse(502, createOp, "config", e.config(), "no route")
	e.configure(map[string]any{"verify": false})
	e.cluster.SetHook(nil)
	e.refuse(400, updateOp, "config", map[string]any{"mgmt_token": "M.V1.wrong"}, "nothing was stored")
}

// An update changes the fields that it names and no others.
func TestConfig_PartialUpdate(t *testing.T) {
	e := newEngine(t)
	e.configure(map[string]any{"request_timeout": "20s", "max_parallel": 7, "host": "a.example.com", "rotation_overlap": "1m", "rotation_ttl": "2h"})
	for _, change := range []map[string]any{{"max_parallel": 5}, {"request_timeout": 10}, {"rotation_ttl": 0}, {"expiry_warning": 7200}, {"disable_automated_rotation": true}} {
		want := e.read("config").Data
		e.write("config", change)
		for field, value := range change {
			want[field] = value
		}
		if diff := cmp.Diff(want, e.read("config").Data); diff != "" {
			t.Errorf("%v: %s", change, diff)
		}
	}
	e.write("roles/automation", nil)
	e.rootWorks()
}

// A stored root credential is not sent to another place than the one it was
// written for, whatever else the request says.
func TestConfig_StoredRootIsNotSentToANewPlace(t *testing.T) {
	cert, _ := selfSigned(t)
	for _, c := range []struct {
		from, to map[string]any
	}{
		{nil, map[string]any{"host": "evil.example.com"}},
		{nil, map[string]any{"port": "8443"}},
		{nil, map[string]any{"api_url": "https://evil.example.com"}},
		{nil, map[string]any{"insecure_tls": true}},
		{nil, map[string]any{"ca_cert": cert}},
		{nil, map[string]any{"product": "clustered", "host": "evil.example.com"}},
		{map[string]any{"product": "clustered", "host": "a"}, map[string]any{"disable_tls": true}},
	} {
		e := newEngine(t)
		e.configure(c.from)
		calls := e.cluster.Calls(issuertest.BeforeList)
		for _, extra := range []string{"force", "same_cluster", "verify"} {
			change := map[string]any{extra: extra != "verify"}
			for field, value := range c.to {
				change[field] = value
			}
			e.refuse(400, updateOp, "config", change, "give mgmt_token again")
		}
		if e.cluster.Calls(issuertest.BeforeList) != calls {
			t.Errorf("%v: the root credential was sent", withoutSecrets(c.to))
		}
		c.to["mgmt_token"] = e.root.Secret.Reveal()
		e.write("config", c.to)
	}
}

// While the ledger holds tokens, moving to another cluster and deleting the config
// need force. What another cluster says about a token proves nothing.
func TestConfig_LeavingTheClusterNeedsForce(t *testing.T) {
	e := ready(t, nil)
	_, move := e.otherCluster()
	h := e.creds()
	e.refuse(409, updateOp, "config", move, "lease revoke", "same_cluster", "force")
	e.refuse(409, deleteOp, "config", nil, "lease revoke", "or give force=true")

	move["force"] = true
	e.write("config", move)
	e.clock.advance(11 * time.Minute) // the token is old enough for ErrUnknown of its own cluster
	if err := e.revoke(h); err == nil {
		t.Error("the answer of another cluster was taken as a proof")
	}
	if !e.cluster.Alive(h.secret()) || len(e.records()) != 1 {
		t.Error("the token was revoked, or its record is gone")
	}
	e.configure(map[string]any{"force": true})
	if err := e.revoke(h); err != nil || e.cluster.Alive(h.secret()) {
		t.Errorf("after the return to its cluster: %v", err)
	}
	e.must(deleteOp, "config", nil)
	e.refuse(404, readOp, "config", nil)
}

func TestConfig_SameClusterUnderANewName(t *testing.T) {
	e := newEngine(t)
	e.configure(map[string]any{"product": "clustered", "host": "old.example.com"})
	e.write("roles/automation", nil)
	h := e.creds()
	e.write("config", map[string]any{"host": "new.example.com", "mgmt_token": e.root.Secret.Reveal(), "same_cluster": true})
	e.write("config", map[string]any{"max_parallel": 2})
	if err := e.revoke(h); err != nil || e.cluster.Alive(h.secret()) {
		t.Errorf("revocation under the new name: %v", err)
	}
}

func TestConfig_FindsTheIDOfTheRootCredential(t *testing.T) {
	e := newEngine(t)
	e.configure()
	if got := e.read("config").Data["mgmt_token_id"]; got != e.root.ID {
		t.Errorf("found %v, want %s", got, e.root.ID)
	}
	other := e.cluster.Add("another program", e.clock.Now().Add(time.Hour))
	e.refuse(400, updateOp, "config", map[string]any{"mgmt_token_id": other.ID}, "is not the ID of mgmt_token")

	next := e.cluster.Add("the next root credential", e.clock.Now().Add(24*time.Hour))
	e.write("config", map[string]any{"mgmt_token": next.Secret.Reveal()})
	config := e.read("config").Data
	if config["mgmt_token_id"] != next.ID || config["mgmt_token_expires_at"] != e.clock.Now().Add(24*time.Hour).UTC().Format(time.RFC3339) {
		t.Errorf("after another root credential was written: %v", config)
	}
}

// Of two writes at the same time, the slower one is refused.
func TestConfig_ConcurrentWritesDoNotMix(t *testing.T) {
	e := newEngine(t)
	e.configure()
	e.cluster.SetHook(func(context.Context, issuertest.Step) error {
		e.cluster.SetHook(nil)
		e.write("config", map[string]any{"max_parallel": 9})
		return nil
	})
	_, err := e.do(t.Context(), updateOp, "config", map[string]any{"max_parallel": 3})
	if status, _ := statusOf(updateOp, nil, err); status != 409 {
		t.Errorf("the slower of two writes: %v", err)
	}
	if got := e.read("config").Data["max_parallel"]; got != 9 {
		t.Errorf("max_parallel %v", got)
	}
}

func TestPaths_RefuseUnknownFields(t *testing.T) {
	e := ready(t, nil)
	for path, ops := range map[string][]logical.Operation{
		"config": {createOp, updateOp, readOp, deleteOp}, "config/check": {updateOp}, "config/rotate-root": {updateOp}, "roles/": {listOp},
		"roles/automation": {createOp, updateOp, readOp, deleteOp}, "creds/automation": {readOp, updateOp}, "status": {readOp},
		"tokens/": {listOp}, "tokens/AAAA": {readOp, deleteOp}, "tidy": {updateOp},
	} {
		for _, op := range ops {
			e.refuse(400, op, path, map[string]any{"typo": 1}, `unknown field "typo"`)
		}
	}
	e.refuse(400, updateOp, "roles/automation", map[string]any{"maxttl": "1h"}, `did you mean "max_ttl"`)
	e.refuse(400, readOp, "creds/automation", map[string]any{"tll": "1h"}, `did you mean "ttl"`)
	e.refuse(400, updateOp, "config", map[string]any{strings.Repeat("long", 1000): 1}, "(4000 bytes)")
}

// A config or role that a newer version has stored is not used.
func TestConfig_OfANewerVersion(t *testing.T) {
	e := ready(t, nil)
	for _, key := range []string{"config", "role/automation"} {
		entry, err := e.storage.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		newer := *entry
		newer.Value = []byte(strings.Replace(string(entry.Value), `"version":1`, `"version":2`, 1))
		if err := e.storage.Put(t.Context(), &newer); err != nil {
			t.Fatal(err)
		}
		e.refuse(500, readOp, "creds/automation", nil, "newer version of this plugin")
		if err := e.storage.Put(t.Context(), entry); err != nil {
			t.Fatal(err)
		}
	}
}

// selfSigned returns a certificate and its key, in PEM.
func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}
