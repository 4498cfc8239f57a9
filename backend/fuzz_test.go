package backend

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
)

const (
	fuzzAccessor = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	fuzzRoot     = "M.V1.rootROOTroot1234567890rootROOTroot1234567890rootROOT+/="
	fuzzPEM      = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
)

// FuzzDescription checks that every description begins with the tag of its mount,
// is printable and has the accessor, and that no text can pass for the tag of
// another mount.
func FuzzDescription(f *testing.F) {
	mine, other := newMountTag("mine"), newMountTag("other")
	for _, text := range []string{
		"", "root credential", "ci token-jenkins", other.tag(fuzzAccessor), "] " + other.tag(fuzzAccessor), "\x00\x7f\n\t\x1b[31m", "größer \xff\xfe", strings.Repeat("long ", 40),
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		accessor := newAccessor()
		d := mine.describe(accessor, text)
		if len(d) > maxDescription || strings.ContainsFunc(d, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%q is too long or not printable", d)
		}
		if got, ok := mine.accessor(d); !ok || got != accessor {
			t.Errorf("%q does not have its tag", d)
		}
		if _, ok := other.accessor(d); ok {
			t.Errorf("%q is taken for a token of another mount", d)
		}
		if got, ok := mine.accessor(text); ok && !strings.HasPrefix(text, mine.tag(got)) {
			t.Errorf("%q is taken for a token of this mount", text)
		}
	})
}

// A fuzzedMount is a mount whose cluster accepts every root credential.
type fuzzedMount struct {
	*backend
	storage logical.InmemStorage
}

func newFuzzedMount(t *testing.T) *fuzzedMount {
	t.Helper()
	fake, root := issuertest.NewFake(time.Now)
	m := &fuzzedMount{backend: newBackend(Options{Drivers: Drivers{issuer.Dedicated: {
		Management: oneCluster{fake.Open(issuer.Cluster{Root: root.Secret})},
		Database:   oneCluster{fake.Open(issuer.Cluster{Root: root.Secret})},
	}}}, "uuid")}
	if err := m.Setup(t.Context(), &logical.BackendConfig{System: logical.TestSystemView(), StorageView: &m.storage}); err != nil {
		t.Fatal(err)
	}
	return m
}

// A oneCluster is a driver that always opens the same issuer.
type oneCluster struct{ issuer.Issuer }

func (o oneCluster) Open(issuer.Cluster) issuer.Issuer { return o }

// write sends a request body, and reports whether it was accepted. Vault itself
// refuses a body that is not a JSON object.
func (m *fuzzedMount) write(t *testing.T, path string, body []byte) (accepted bool, answer string) {
	var data map[string]any
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	if decoder.Decode(&data) != nil || data == nil {
		return false, ""
	}
	req := &logical.Request{Operation: logical.CreateOperation, Path: path, Data: data, Storage: &m.storage, MountPoint: "influxdb/"}
	if _, _, err := m.HandleExistenceCheck(t.Context(), req); err != nil {
		return false, err.Error()
	}
	resp, err := m.HandleRequest(t.Context(), req)
	switch {
	case err != nil:
		return false, err.Error()
	case resp.IsError():
		return false, resp.Error().Error()
	}
	return true, ""
}

// FuzzConfig checks that a request for config either is refused, stores nothing and
// quotes no secret, or stores a config that is valid and is read as it was stored.
func FuzzConfig(f *testing.F) {
	for _, body := range []string{
		`{"product":"dedicated","account_id":"11111111-2222-4333-8444-555555555555","cluster_id":"66666666-7777-4888-8999-aaaaaaaaaaaa","mgmt_token":"` + fuzzRoot + `"}`,
		`{"product":"clustered","host":"c.example.com","port":443,"disable_tls":"true","mgmt_token":"` + fuzzRoot + `","api_url":"http://c.example.com"}`,
		`{"product":"clustered","host":"::1","insecure_tls":1,"mgmt_token":"` + fuzzRoot + `","rotation_period":"24h","rotation_ttl":0,"rotation_overlap":"1s","request_timeout":"40s","max_parallel":"64","verify":false}`,
		`{"product":"clustered","host":"c","mgmt_token":["` + fuzzRoot + `"],"client_key":{"a":1}}`,
		`{"product":"clustered","host":"c","mgmt_token":"` + fuzzRoot + `","ca_cert":"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n","client_cert":"x","client_key":"y"}`,
		`{"mgmt_token":"` + fuzzRoot + `","port":"http","request_timeout":"soon","max_parallel":1e99}`,
		`{"product":"clustered","host":"c","mgmt_token":"a","request_timeout":9223372036854775807,"rotation_period":-1,"expiry_warning":"100000000h"}`,
		`{"typo":1}`, `{"same_cluster":true,"force":"maybe"}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		m := newFuzzedMount(t)
		accepted, answer := m.write(t, configKey, body)
		entry, err := m.storage.Get(t.Context(), configKey)
		if err != nil || accepted != (entry != nil) {
			t.Fatalf("accepted: %v, stored: %v, %v", accepted, entry != nil, err)
		}
		if !accepted {
			var given struct {
				Root string `json:"mgmt_token"`
				Key  string `json:"client_key"`
			}
			_ = json.Unmarshal(body, &given) // a value that is not a string is not searched for
			for _, secret := range []string{given.Root, given.Key} {
				if len(secret) > 20 && strings.Contains(answer, secret) {
					t.Error("the answer quotes a secret")
				}
			}
			return
		}
		mustRoundTrip(t, entry)
	})
}

func mustRoundTrip(t *testing.T, entry *logical.StorageEntry) {
	t.Helper()
	c, err := configFrom(entry)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.validate(); err != nil {
		t.Errorf("an invalid config was stored: %v", err)
	}
	again, err := c.entry()
	if err != nil || !bytes.Equal(entry.Value, again.Value) {
		t.Errorf("the config is not read as it was stored: %v", err)
	}
}

// FuzzConfigFields checks that no config makes validate panic or quote a secret,
// and that a valid one is read as it was stored.
func FuzzConfigFields(f *testing.F) {
	f.Add("dedicated", "11111111-2222-4333-8444-555555555555", "", "", "", fuzzRoot, fuzzPEM, "", "", false, false, int64(30), int64(0), 4)
	f.Add("clustered", "", "::1", "8086", "https://[::1]:8086", fuzzRoot, "", "", "", true, false, int64(40), int64(3600), 64)
	f.Add("clustered", "", "h.example.com", "0", "http://u:p@h/%", "a b", "", fuzzPEM, "key", true, true, int64(-1), int64(1)<<62, -1)
	f.Fuzz(func(t *testing.T, product, id, host, port, api, root, ca, cert, key string, insecure, plain bool, timeout, period int64, parallel int) {
		c := defaultConfig
		c.Cluster = issuer.Cluster{
			Product: product, AccountID: id, ClusterID: id, Host: host, Port: port, APIURL: api, Root: issuer.NewSecret(root),
			CACert: ca, ClientCert: cert, ClientKey: issuer.NewSecret(key), InsecureTLS: insecure, DisableTLS: plain,
			Timeout: time.Duration(timeout) * time.Second, MaxParallel: parallel,
		}
		c.RootID = id
		c.Rotation.Schedule.Period = time.Duration(period) * time.Second
		err := c.validate()
		if err != nil {
			if len(root) > 20 && strings.Contains(err.Error(), root) || len(key) > 20 && strings.Contains(err.Error(), key) {
				t.Error("the error quotes a secret")
			}
			return
		}
		c.Fingerprint = c.currentFingerprint()
		entry, err := c.entry()
		if err != nil {
			t.Fatal(err)
		}
		mustRoundTrip(t, entry)
	})
}

// FuzzStoredSecrets checks that a stored config or rotation is read, or refused
// with an error that quotes nothing of it.
func FuzzStoredSecrets(f *testing.F) {
	f.Add([]byte(`{"version":1,"product":"dedicated","root_credential":"`+fuzzRoot+`"}`), "M.V1.other")
	f.Add([]byte(`{"version":1,"token":"`+fuzzRoot+`","root_credential":["`+fuzzRoot+`"]}`), "")
	f.Add([]byte(`{"version":1,"root_credential":"`+fuzzRoot), "x")
	f.Fuzz(func(t *testing.T, value []byte, token string) {
		if _, err := configFrom(&logical.StorageEntry{Key: configKey, Value: value}); err != nil && strings.Contains(err.Error(), "ROOT") {
			t.Error("the error about the config quotes a secret")
		}
		r, err := rotationFrom(&logical.StorageEntry{Key: rotationKey, Value: value})
		if err != nil {
			if strings.Contains(err.Error(), "ROOT") {
				t.Error("the error about the rotation quotes a secret")
			}
			return
		}
		r.Token = issuer.NewSecret(strings.ToValidUTF8(token, "?"))
		entry, err := r.entry()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := rotationFrom(entry); err != nil || again != r {
			t.Errorf("%+v is read as %+v, %v", r, again, err)
		}
	})
}

// FuzzRole checks that a request for a role either is refused and stores nothing,
// or stores a role that is valid and is read as it was stored.
func FuzzRole(f *testing.F) {
	for _, body := range []string{
		`{}`, `{"ttl":"1h","max_ttl":"8h","max_active":3}`, `{"ttl":3600,"max_ttl":1}`, `{"ttl":"-1h"}`, `{"ttl":"1e9h"}`,
		`{"description":"{{.RoleName}} for {{.DisplayName | truncate 10}}"}`, `{"description":"{{.Nothing}}"}`, `{"description":"{{"}`, `{"description":""}`,
		`{"token_type":"database","read_databases":["a","*"],"write_databases":"b,c"}`, `{"token_type":"other"}`, `{"write_databases":[1,{}]}`, `{"maxttl":1}`,
	} {
		f.Add("ci", []byte(body))
	}
	f.Add("a..b", []byte(`{}`))
	f.Fuzz(func(t *testing.T, name string, body []byte) {
		if bytes.Contains(body, []byte("{{")) && !bytes.Contains(body, []byte("RoleName")) {
			return // the tests of templates are in roles_test.go
		}
		m := newFuzzedMount(t)
		accepted, _ := m.write(t, "roles/"+name, body)
		stored, err := m.storage.List(t.Context(), rolePrefix)
		if err != nil || accepted != (len(stored) == 1) {
			t.Fatalf("accepted: %v, stored: %v, %v", accepted, stored, err)
		}
		if !accepted {
			return
		}
		r, err := loadRole(context.Background(), &m.storage, stored[0])
		if err == nil {
			err = r.validate()
		}
		if err != nil {
			t.Fatalf("an invalid role was stored: %v", err)
		}
		entry, err := r.entry()
		if err != nil {
			t.Fatal(err)
		}
		again, err := roleFrom(r.Name, entry)
		if diff := cmp.Diff(r, again); err != nil || diff != "" {
			t.Errorf("%v\n%s", err, diff)
		}
	})
}

// No schedule makes the engine panic, and one that is accepted has a next activation.
func FuzzSchedule(f *testing.F) {
	for _, cron := range []string{"0 3 * * *", "*/5 * * * SAT", "TZ=UTC", "CRON_TZ=x 0 3 * * *", "@every 1h", "0 0 31 2 *", "1-60/7,3 */25 ? JAN-FEB 7"} {
		f.Add(cron)
	}
	f.Fuzz(func(t *testing.T, cron string) {
		s := schedule{Cron: cron}
		if s.validate(time.Minute) == nil && s.next(time.Unix(1_700_000_000, 0)).IsZero() {
			t.Errorf("%q was accepted and has no next activation", cron)
		}
	})
}
