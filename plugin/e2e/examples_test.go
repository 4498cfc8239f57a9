package e2e

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"
	"gopkg.in/yaml.v3"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator/influxdb3server"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// newExample returns a desk with the mount and the roles that the examples use.
func newExample(t *testing.T, s *vaulttest.Server, built string) *desk {
	t.Helper()
	d := newDesk(t, s, built)
	d.run(t, append(slices.Clone(furnishing),
		step{command: `vault write influxdb/config host=cluster.example.com mgmt_token=@root-credential`},
		step{command: `vault write influxdb/roles/grafana token_type=database read_databases=metrics ttl=1h max_ttl=24h`},
	))
	return d
}

// file reads a file of the desk's folder.
func (d *desk) file(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(d.dir, name))
	must(t, err)
	return string(text)
}

// alive returns the tokens that the cluster accepts, without root credentials.
func (d *desk) alive() []simulator.Token {
	return slices.DeleteFunc(d.cluster.Tokens(), func(token simulator.Token) bool { return !token.Live || token.Root })
}

// answer returns the HTTP status of a request to the cluster with a token.
func (d *desk) answer(t *testing.T, method, path, token string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, d.origin+path, http.NoBody)
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	must(t, errors.Join(err, resp.Body.Close()))
	return resp.StatusCode
}

// fleet makes the static roles that the examples use.
var fleet = step{command: `vault write influxdb/static-roles/telegraf write_databases=metrics rotation_period=24h &&
	vault write influxdb/static-roles/grafana read_databases=metrics rotation_period=168h`}

// agentRenders runs a real Vault Agent that renders every template. It parses each
// file in its own syntax and uses the tokens in them.
func agentRenders(t *testing.T, d *desk) {
	must(t, os.Mkdir(filepath.Join(d.dir, "stub"), 0o700))
	must(t, os.WriteFile(filepath.Join(d.dir, "stub", "systemctl"), []byte("#!/bin/sh\necho \"$@\" >>\"$(dirname \"$0\")/said\"\n"), 0o700))
	d.run(t, []step{
		fleet,
		{command: `vault policy write agent examples/agent-templates/policy.hcl`},
		{command: `vault auth enable approle || true`}, // another example may have done so
		{command: `vault write auth/approle/role/agent token_policies=agent token_period=24h`},
		{command: `mkdir agent && cp examples/agent-templates/* agent/ && cd agent && mkdir -m 700 rendered`},
		{command: `vault read -field=role_id auth/approle/role/agent/role-id >role-id`},
		{command: `vault write -force -field=secret_id auth/approle/role/agent/secret-id >secret-id`},
		{command: `env -u VAULT_TOKEN PATH="$PWD/../stub:$PATH" vault agent -config=agent.hcl -exit-after-auth`},
		{command: `./list-databases.sh ` + d.origin + ` $ACCOUNT_ID $CLUSTER_ID`},
	})
	manager, writer, reader := d.compareRendered(t)
	databases := "/api/v0/accounts/" + d.cluster.AccountID() + "/clusters/" + d.cluster.ClusterID() + "/databases"
	for _, c := range []struct {
		method, path, token string
		status              int
	}{
		{"GET", databases, manager, 200},
		{"POST", "/api/v2/write?bucket=metrics", writer, 204},
		{"POST", "/api/v2/write?bucket=metrics", reader, 401},
	} {
		if got := d.answer(t, c.method, c.path, c.token); got != c.status {
			t.Errorf("%s %s answers %d, want %d", c.method, c.path, got, c.status)
		}
	}
	if n := len(d.alive()); n != 5 {
		t.Errorf("%d tokens are alive, want 3 that the Agent read, and those of the static roles", n)
	}
	if said := d.file(t, "stub/said"); !strings.Contains(said, "reload telegraf.service") || !strings.Contains(said, "try-restart chronograf.service") {
		t.Errorf("systemctl was called with: %s", said)
	}
}

// compareRendered compares every rendered file with what its program needs, and
// returns the three tokens in them.
func (d *desk) compareRendered(t *testing.T) (manager, writer, reader string) {
	t.Helper()
	terraform, chronograf := d.variables(t, "terraform.env"), d.variables(t, "chronograf.env")
	mcp, database := d.variables(t, "mcp.env"), d.variables(t, "database.env")
	manager, writer, reader = terraform["INFLUXDB3_TOKEN"], database["INFLUX_TOKEN"], chronograf["INFLUXDB_TOKEN"]
	account, cluster := d.cluster.AccountID(), d.cluster.ClusterID()
	for _, c := range []struct {
		name      string
		got, want any
	}{
		{"terraform.env", terraform, map[string]string{"INFLUXDB3_ACCOUNT_ID": account, "INFLUXDB3_CLUSTER_ID": cluster, "INFLUXDB3_TOKEN": manager}},
		{"chronograf.env", chronograf, map[string]string{
			"INFLUXDB_V3_SUPPORT_ENABLED": "true", "INFLUXDB_TYPE": "influx-v3-cloud-dedicated", "INFLUXDB_URL": "https://cluster.example.com",
			"INFLUXDB_ACCOUNT_ID": account, "INFLUXDB_CLUSTER_ID": cluster, "INFLUXDB_MGMT_TOKEN": manager, "INFLUXDB_TOKEN": reader,
		}},
		{"mcp.env", mcp, map[string]string{
			"INFLUX_DB_PRODUCT_TYPE": "cloud-dedicated", "INFLUX_DB_ACCOUNT_ID": account, "INFLUX_DB_CLUSTER_ID": cluster, "INFLUX_DB_MANAGEMENT_TOKEN": manager,
		}},
		{"database.env", database, map[string]string{"INFLUX_HOST": "https://cluster.example.com", "INFLUX_DATABASE": "metrics", "INFLUX_TOKEN": writer}},
		{"telegraf.conf", d.decoded(t, "telegraf.conf", toml.Unmarshal), map[string]any{"outputs": map[string]any{"influxdb_v2": []any{map[string]any{
			"urls": []any{"https://cluster.example.com"}, "token": writer, "organization": "", "bucket": "metrics",
		}}}}},
		{"telegraf-fleet.conf", d.decoded(t, "telegraf-fleet.conf", toml.Unmarshal), map[string]any{"outputs": map[string]any{"influxdb_v2": []any{map[string]any{
			"urls": []any{"https://cluster.example.com"}, "token": d.sharedToken(t, "telegraf"), "organization": "", "bucket": "metrics",
		}}}}},
		{"grafana.yaml", d.decoded(t, "grafana.yaml", yaml.Unmarshal), map[string]any{"apiVersion": 1, "datasources": []any{map[string]any{
			"name": "InfluxDB", "type": "influxdb", "access": "proxy", "url": "https://cluster.example.com",
			"jsonData": map[string]any{"version": "SQL", "dbName": "metrics"}, "secureJsonData": map[string]any{"token": d.sharedToken(t, "grafana")},
		}}}},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s (-want +rendered):\n%s", c.name, diff)
		}
	}
	return manager, writer, reader
}

// sharedToken returns the current token of a static role.
func (d *desk) sharedToken(t *testing.T, role string) string {
	t.Helper()
	var answer struct {
		Data struct {
			Token string `json:"token"`
		} `json:"data"`
	}
	must(t, d.server.Call(t.Context(), "GET", "influxdb/static-creds/"+role, nil, &answer))
	return answer.Data.Token
}

// variables reads a rendered environment file as a program does that does not
// understand quotes.
func (d *desk) variables(t *testing.T, name string) map[string]string {
	t.Helper()
	variables := map[string]string{}
	for line := range strings.Lines(d.file(t, "agent/rendered/"+name)) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, found := strings.Cut(line, "=")
		if !found || !regexp.MustCompile(`^[A-Z][A-Z0-9_]*$`).MatchString(key) || strings.ContainsAny(value, ` "'$\`) {
			t.Errorf("%s: the line for %s needs quotes or is not NAME=value", name, key)
		}
		variables[key] = value
	}
	return variables
}

// decoded reads a rendered file in its own syntax.
func (d *desk) decoded(t *testing.T, name string, unmarshal func([]byte, any) error) map[string]any {
	t.Helper()
	var content map[string]any
	must(t, unmarshal([]byte(d.file(t, "agent/rendered/"+name)), &content))
	return content
}

// jobBorrows runs the script of the CI examples with the identity of a job: once
// with a job that succeeds, and once with a job that fails.
func jobBorrows(t *testing.T, d *desk) {
	jwt, public := identity(t)
	must(t, os.WriteFile(filepath.Join(d.dir, "public.pem"), public, 0o600))
	must(t, os.WriteFile(filepath.Join(d.dir, "jwt"), []byte(jwt), 0o600))
	job := `env -u VAULT_TOKEN VAULT_JWT="$(cat jwt)" VAULT_ROLE=influxdb-ci examples/ci/with-token.sh automation `
	d.run(t, []step{
		{command: `vault policy write influxdb-ci examples/ci/policy.hcl`},
		{command: `vault auth enable jwt`},
		{command: `vault write auth/jwt/config jwt_validation_pubkeys=@public.pem`},
		{command: `vault write auth/jwt/role/influxdb-ci role_type=jwt user_claim=sub bound_audiences=https://vault.example.com token_policies=influxdb-ci token_ttl=15m`},
		{command: job + `sh -c 'env >environment'`, shown: []string{"Success! Revoked lease: influxdb/creds/automation/…", "Success! Revoked token (if it existed)"}},
		{command: job + `sh -c 'exit 7' >said 2>&1; echo $?`, shown: []string{"7"}},
	})
	environment := d.file(t, "environment")
	for _, want := range []string{
		"INFLUXDB3_TOKEN=M.V1.", "INFLUXDB3_ACCOUNT_ID=" + d.cluster.AccountID(), "INFLUXDB3_CLUSTER_ID=" + d.cluster.ClusterID(),
		"INFLUXDB3_AUTH_TOKEN=M.V1.", "INFLUXDB3_HOST_URL=https://cluster.example.com",
	} {
		if !strings.Contains(environment, want) {
			t.Errorf("the command's environment lacks %.24s…", want)
		}
	}
	for _, kept := range []string{"VAULT_TOKEN=", "VAULT_JWT="} {
		if strings.Contains(environment, "\n"+kept) {
			t.Errorf("the command has %s in its environment", kept)
		}
	}
	if alive := d.alive(); len(alive) > 0 {
		t.Errorf("%d tokens are alive after their jobs", len(alive))
	}
}

// identity returns a JWT like those that CI systems give to jobs, and the public
// key that verifies it, in PEM.
func identity(t *testing.T) (jwt string, public []byte) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	claims, err := json.Marshal(map[string]any{
		"iss": "https://ci.example.com", "sub": "project_path:example/infrastructure:ref:main", "aud": "https://vault.example.com",
		"iat": time.Now().Unix(), "exp": time.Now().Add(5 * time.Minute).Unix(),
	})
	must(t, err)
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + encode(claims)
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	must(t, err)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	must(t, err)
	return signed + "." + encode(signature), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// TestCIJobs_Parse parses the jobs as YAML and their scripts with bash. No header is an
// argument of curl, which other users of a runner could read.
func TestCIJobs_Parse(t *testing.T) {
	var github struct {
		Permissions map[string]string `yaml:"permissions"`
		Jobs        map[string]struct {
			Steps []struct {
				Run string `yaml:"run"`
			} `yaml:"steps"`
		} `yaml:"jobs"`
	}
	var gitlab struct {
		Apply struct {
			IDTokens map[string]map[string]string `yaml:"id_tokens"`
			Script   []string                     `yaml:"script"`
		} `yaml:"apply"`
	}
	must(t, yaml.Unmarshal(exampleFile(t, "ci/github-actions.yml"), &github))
	must(t, yaml.Unmarshal(exampleFile(t, "ci/gitlab-ci.yml"), &gitlab))
	if github.Permissions["id-token"] != "write" || gitlab.Apply.IDTokens["VAULT_JWT"]["aud"] == "" {
		t.Error("a job has no identity to log in with")
	}
	scripts := gitlab.Apply.Script
	for _, step := range github.Jobs["apply"].Steps {
		scripts = append(scripts, step.Run)
	}
	borrowing := 0
	for _, script := range scripts {
		cmd := exec.CommandContext(t.Context(), "bash", "-n")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s\n%s", err, out, script)
		}
		if strings.Contains(script, "--header") {
			t.Errorf("a header is an argument:\n%s", script)
		}
		borrowing += strings.Count(script, "./with-token.sh automation ")
	}
	if borrowing != 2 {
		t.Errorf("%d jobs use with-token.sh, want 2", borrowing)
	}
}

// exampleFile reads a file of examples.
func exampleFile(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("../../examples/" + name)
	must(t, err)
	return text
}

// A manifest holds the fields of a Kubernetes object that the test needs.
type manifest struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Metadata   struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
	Spec struct {
		Mount      string         `yaml:"mount"`
		Path       string         `yaml:"path"`
		Method     string         `yaml:"method"`
		Parameters map[string]any `yaml:"parameters"`
	} `yaml:"spec"`
	StringData map[string]string `yaml:"stringData"`
}

// manifests reads the Kubernetes objects in an example.
func manifests(t *testing.T, file string) (all []manifest) {
	t.Helper()
	decoder := yaml.NewDecoder(bytes.NewReader(exampleFile(t, "kubernetes/"+file)))
	for {
		var m manifest
		err := decoder.Decode(&m)
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		if m.APIVersion == "" || m.Kind == "" || m.Metadata.Name == "" {
			t.Errorf("%s: an object without a name: %+v", file, m)
		}
		all = append(all, m)
	}
}

// request returns the method and the path of the request that an object makes, and
// the field of the answer that it needs. An object that makes none has no path.
func (m manifest) request(t *testing.T) (method, path, field string) {
	t.Helper()
	switch m.Kind {
	case "VaultDynamicSecret":
		method, path, field = m.Spec.Method, strings.TrimPrefix(m.Spec.Mount+"/"+m.Spec.Path, "/"), "token"
	case "SecretProviderClass":
		var objects []struct {
			Path string `yaml:"secretPath"`
			Key  string `yaml:"secretKey"`
		}
		text, _ := m.Spec.Parameters["objects"].(string)
		must(t, yaml.Unmarshal([]byte(text), &objects))
		path, field = objects[0].Path, objects[0].Key
	}
	if method == "" {
		method = "GET"
	}
	return method, strings.TrimPrefix(path, "/"), field
}

// kubernetesRequests makes the requests of the Kubernetes examples with the policy
// that they name. What reads again without renewing must get the shared token.
func kubernetesRequests(t *testing.T, d *desk) {
	d.run(t, []step{fleet})
	person := newPerson(t, d.server, "application")
	shared := d.sharedToken(t, "telegraf")
	for file, leased := range map[string]bool{
		"vault-secrets-operator.yaml": true, "vault-secrets-operator-static.yaml": false,
		"external-secrets.yaml": false, "secrets-store-csi.yaml": false,
	} {
		asked := 0
		for _, m := range manifests(t, file) {
			method, path, field := m.request(t)
			if path == "" {
				continue
			}
			var answer struct {
				Lease string         `json:"lease_id"`
				Data  map[string]any `json:"data"`
			}
			must(t, person.Call(t.Context(), method, path, nil, &answer))
			token, _ := answer.Data[field].(string)
			if !strings.HasPrefix(token, "apiv") || leased != (answer.Lease != "") || leased == (token == shared) {
				t.Errorf("%s: the answer of %s has the lease %q and not the right token", file, path, answer.Lease)
			}
			asked++
		}
		if asked != 1 {
			t.Errorf("%s: %d requests were made, want 1", file, asked)
		}
	}
}

// proxyShares runs a real Vault Proxy and asks it for credentials.
func proxyShares(t *testing.T, d *desk) {
	ask := `curl --silent --fail --retry 30 --retry-delay 1 --retry-all-errors --unix-socket proxy.sock http://localhost/v1/influxdb/`
	d.run(t, []step{
		fleet,
		{command: `vault policy write proxy examples/vault-proxy/policy.hcl`},
		{command: `vault auth enable approle || true`}, // another example may have done so
		{command: `vault write auth/approle/role/proxy token_policies=proxy token_period=24h`},
		{command: `mkdir proxy && cp examples/vault-proxy/* proxy/ && cd proxy`},
		{command: `vault read -field=role_id auth/approle/role/proxy/role-id >role-id`},
		{command: `vault write -force -field=secret_id auth/approle/role/proxy/secret-id >secret-id`},
		{command: `env -u VAULT_TOKEN vault proxy -config=proxy.hcl >proxy.log 2>&1 & proxy=$!`},
		{command: ask + `creds/telegraf >first`},
		{command: ask + `creds/telegraf >second`},
		{command: ask + `static-creds/telegraf >shared`},
		{command: `kill $proxy; wait $proxy || true`},
	})
	first, second, shared := d.token(t, "proxy/first"), d.token(t, "proxy/second"), d.token(t, "proxy/shared")
	if first != second || first == shared || shared != d.sharedToken(t, "telegraf") {
		t.Error("the Proxy does not share a leased token and the token of the static role")
	}
	if n := len(d.alive()); n != 3 {
		t.Errorf("%d tokens are alive, want one that is leased, and those of the static roles", n)
	}
}

// token returns the token in an answer of Vault that a command has stored.
func (d *desk) token(t *testing.T, name string) string {
	t.Helper()
	var answer struct {
		Data struct {
			Token string `json:"token"`
		} `json:"data"`
	}
	must(t, json.Unmarshal([]byte(d.file(t, name)), &answer))
	return answer.Data.Token
}

// An adminTokenFile is a file from which InfluxDB 3 makes its first admin token.
type adminTokenFile struct {
	Token  string `json:"token"`
	Name   string `json:"name"`
	Expiry int64  `json:"expiry_millis"`
}

// newServer returns a simulated InfluxDB 3 Core and its host and port. A POST to
// /start is what the start of a real server with --admin-token-file is.
func newServer(t *testing.T) (cluster *influxdb3server.Cluster, host, port string) {
	t.Helper()
	cluster = influxdb3server.New(influxdb3server.Options{Product: influxdb3server.Core})
	mux := http.NewServeMux()
	mux.Handle("/", cluster)
	mux.HandleFunc("POST /start", func(w http.ResponseWriter, r *http.Request) {
		var file adminTokenFile
		if err := json.NewDecoder(r.Body).Decode(&file); err != nil || len(file.Token) < 80 || !strings.HasPrefix(file.Token, "apiv3_") {
			http.Error(w, "not the file of an admin token", http.StatusBadRequest)
			return
		}
		cluster.AddToken(file.Name, file.Token, time.UnixMilli(file.Expiry))
	})
	web := httptest.NewServer(mux)
	t.Cleanup(web.Close)
	at, err := url.Parse(web.URL)
	must(t, err)
	t.Cleanup(func() {
		for _, violation := range cluster.Violations() {
			t.Errorf("the server got a request that must not be sent: %s", violation)
		}
	})
	return cluster, at.Hostname(), at.Port()
}

// composeLeases runs the commands of examples/docker-compose/README.md. In place of
// docker there is a script that starts a simulated server and runs the commands for
// Vault on the real Vault of the test.
func composeLeases(t *testing.T, d *desk) {
	cluster, host, port := newServer(t)
	must(t, os.Mkdir(filepath.Join(d.dir, "stub"), 0o700))
	must(t, os.WriteFile(filepath.Join(d.dir, "stub", "docker"), []byte(`#!/bin/sh
case "$1 $2" in
"compose up") exec curl --silent --show-error --fail --data-binary @tokens/admin-token.json http://`+host+":"+port+`/start ;;
"compose exec") shift 4; exec "$@" ;;
"compose down") ;;
*) exit 1 ;;
esac
`), 0o700))
	must(t, os.Symlink(d.server.Plugins, filepath.Join(d.dir, "plugins")))
	d.env = append(d.env, "PATH="+filepath.Join(d.dir, "stub")+":"+d.server.Bin+":"+os.Getenv("PATH"))
	d.here = strings.NewReplacer("host=influxdb ", "host="+host+" port="+port+" ", "127.0.0.1:8181", host+":"+port)
	page := "../../examples/docker-compose/README.md"
	d.run(t, stepsOf(t, page))
	if n := len(cluster.Tokens()); n != 2 {
		t.Errorf("the server has %d tokens, want the new root credential and the one that is still to be revoked", n)
	}
}

// TestComposeFile_MatchesItsPage checks that the containers have what the page needs.
func TestComposeFile_MatchesItsPage(t *testing.T) {
	var compose struct {
		Services map[string]struct {
			Image       string            `yaml:"image"`
			Command     any               `yaml:"command"`
			Environment map[string]string `yaml:"environment"`
			Ports       []string          `yaml:"ports"`
			Volumes     []string          `yaml:"volumes"`
			Secrets     []string          `yaml:"secrets"`
		} `yaml:"services"`
		Secrets map[string]struct {
			File string `yaml:"file"`
		} `yaml:"secrets"`
	}
	must(t, yaml.Unmarshal(exampleFile(t, "docker-compose/compose.yaml"), &compose))
	influxdb, vault := compose.Services["influxdb"], compose.Services["vault"]
	var local struct {
		Plugins string `json:"plugin_directory"`
	}
	must(t, json.Unmarshal([]byte(vault.Environment["VAULT_LOCAL_CONFIG"]), &local))
	if !slices.Contains(vault.Volumes, "./plugins:"+local.Plugins+":ro") {
		t.Errorf("Vault looks for plugins in %s and has the volumes %v", local.Plugins, vault.Volumes)
	}
	if vault.Environment["VAULT_TOKEN"] != vault.Environment["VAULT_DEV_ROOT_TOKEN_ID"] {
		t.Error("the commands on the page have another token than the root token of Vault")
	}
	command, _ := influxdb.Command.([]any)
	if secret := influxdb.Secrets[0]; !slices.Contains(command, any("--admin-token-file=/run/secrets/"+secret)) || compose.Secrets[secret].File != "tokens/admin-token.json" {
		t.Errorf("InfluxDB does not read the file of the page: %v", command)
	}
	// Docker gives a volume to root if the image does not have its folder. The image has
	// this one, which belongs to the user of the server.
	if !slices.Contains(influxdb.Volumes, "influxdb:/var/lib/influxdb3") {
		t.Errorf("InfluxDB may be unable to write to its volume: %v", influxdb.Volumes)
	}
	if !slices.Contains(influxdb.Ports, "127.0.0.1:8181:8181") {
		t.Errorf("the page cannot reach InfluxDB: %v", influxdb.Ports)
	}
}

// The server of the image is not root, and a new volume of Kubernetes often belongs to
// root.
func TestBootstrapManifest_ServerCanWriteToItsVolume(t *testing.T) {
	for document := range strings.SplitSeq(string(exampleFile(t, "kubernetes/influxdb3-bootstrap.yaml")), "\n---\n") {
		var set struct {
			Kind string `yaml:"kind"`
			Spec struct {
				Template struct {
					Spec struct {
						Security struct {
							Group int `yaml:"fsGroup"`
						} `yaml:"securityContext"`
					} `yaml:"spec"`
				} `yaml:"template"`
			} `yaml:"spec"`
		}
		must(t, yaml.Unmarshal([]byte(document), &set))
		if group := set.Spec.Template.Spec.Security.Group; set.Kind == "StatefulSet" && group != 1500 {
			t.Errorf("the volume belongs to group %d, want that of the image", group)
		}
	}
}

// bootstrapRotates starts a simulated server with the token of the Kubernetes example,
// and does what the example says.
func bootstrapRotates(t *testing.T, d *desk) {
	var boot adminTokenFile
	for _, m := range manifests(t, "influxdb3-bootstrap.yaml") {
		if m.Kind == "Secret" {
			must(t, json.Unmarshal([]byte(m.StringData["admin-token.json"]), &boot))
		}
	}
	if boot.Token != "apiv3_REPLACE_ME" || boot.Name == "" || boot.Name == influxdb3server.Operator {
		t.Fatalf("the Secret has the token %q with the name %q", boot.Token, boot.Name)
	}
	cluster, host, port := newServer(t)
	must(t, os.WriteFile(filepath.Join(d.dir, "boot-token"), []byte(cluster.AddToken(boot.Name, "", time.Now().Add(time.Hour))), 0o600))
	comment := string(exampleFile(t, "kubernetes/influxdb3-bootstrap.yaml"))
	write := regexp.MustCompile(`vault write influxdb/config .*`).FindString(comment)
	rotate := regexp.MustCompile(`vault write -f influxdb/config/rotate-root`).FindString(comment)
	d.run(t, furnishing[:2]) // a mount without a config
	d.here = strings.NewReplacer("host=influxdb3.influxdb.svc ", "host="+host+" port="+port+" ")
	d.run(t, []step{
		{command: write + ` <boot-token`},
		{command: rotate, shown: []string{"…", "previous_admin_token_id " + boot.Name, "…", "state rotated"}},
	})
}

// openBaoRequests makes the requests of the OpenBao example to the server, in their
// order, as OpenBao makes them when it initializes itself.
func openBaoRequests(t *testing.T, d *desk) {
	d.run(t, []step{{command: `vault secrets disable influxdb`}}) // the example enables it
	requests := initializeRequests(t, string(exampleFile(t, "openbao/openbao.hcl")))
	files := map[string]string{
		"/etc/openbao/secrets/mgmt-token": d.file(t, "root-credential"), "/etc/openbao/secrets/operator-password": "a password of the test",
		"/etc/openbao/policies/operator.hcl": string(exampleFile(t, "policies/operator.hcl")),
	}
	for _, r := range requests {
		for field, value := range r.data {
			if source, ok := value.(map[string]any); ok && source["eval_source"] == "file" {
				text, known := files[source["path"].(string)]
				if !known {
					t.Errorf("%s reads the file %s, which the test does not know", r.path, source["path"])
				}
				r.data[field] = text
			}
		}
		if r.path == "influxdb/config" { // which names an example, not the simulated cluster
			r.data["account_id"], r.data["cluster_id"] = d.cluster.AccountID(), d.cluster.ClusterID()
			r.data["api_url"], r.data["ca_cert"] = d.secure, d.file(t, "ca.pem")
		}
		must(t, d.server.Call(t.Context(), "POST", r.path, r.data, nil))
	}
	if len(requests) != 8 {
		t.Errorf("%d requests of eight were made", len(requests))
	}
	var login struct {
		Auth struct {
			Token string `json:"client_token"`
		} `json:"auth"`
	}
	must(t, d.server.Call(t.Context(), "POST", "auth/userpass/login/operator", map[string]any{"password": files["/etc/openbao/secrets/operator-password"]}, &login))
	var status struct {
		Data map[string]any `json:"data"`
	}
	must(t, d.server.As(login.Auth.Token).Call(t.Context(), "GET", "influxdb/status", nil, &status))
	if status.Data["next_vault_rotation"] == nil || status.Data["last_vault_rotation"] == nil {
		t.Errorf("the root credential is not rotated: %v", status.Data)
	}
	must(t, d.server.Call(t.Context(), "GET", "influxdb/static-creds/telegraf", nil, nil))
}

// An initializeRequest is a request block of an OpenBao configuration.
type initializeRequest struct {
	path string
	data map[string]any
}

// initializeRequests reads the request blocks of a configuration. It knows only the
// forms that the example uses: each block, map and value on lines of their own.
func initializeRequests(t *testing.T, config string) (requests []initializeRequest) {
	t.Helper()
	setting := regexp.MustCompile(`^\s*(\w+)\s+= (.+)$`)
	var maps []map[string]any // the data of the request, and the maps in it
	for line := range strings.Lines(config) {
		line = strings.TrimSuffix(line, "\n")
		m := setting.FindStringSubmatch(line)
		switch {
		case strings.HasPrefix(line, "  request "):
			requests = append(requests, initializeRequest{})
		case len(requests) == 0:
		case m != nil && m[1] == "path" && len(maps) == 0:
			must(t, json.Unmarshal([]byte(m[2]), &requests[len(requests)-1].path))
		case m != nil && m[2] == "{":
			inner := map[string]any{}
			if len(maps) == 0 {
				requests[len(requests)-1].data = inner
			} else {
				maps[len(maps)-1][m[1]] = inner
			}
			maps = append(maps, inner)
		case m != nil && len(maps) > 0:
			var value any
			must(t, json.Unmarshal([]byte(m[2]), &value))
			maps[len(maps)-1][m[1]] = value
		case strings.TrimSpace(line) == "}" && len(maps) > 0:
			maps = maps[:len(maps)-1]
		}
	}
	return requests
}

// terraformEphemeral makes the request of the ephemeral Terraform example to a real
// Vault, and checks that the answer has the values that the provider gets.
func terraformEphemeral(t *testing.T, d *desk) {
	text := string(exampleFile(t, "terraform/ephemeral/main.tf"))
	path := regexp.MustCompile(`(?m)^  path = "(.+)"$`).FindStringSubmatch(text)
	command := regexp.MustCompile(`(?m)^# (vault write influxdb/static-roles/.+)$`).FindStringSubmatch(text)
	if path == nil || command == nil {
		t.Fatal("the example has no path or no static role")
	}
	d.run(t, []step{{command: command[1]}})
	var answer struct {
		Lease string         `json:"lease_id"`
		Data  map[string]any `json:"data"`
	}
	must(t, d.server.Call(t.Context(), "GET", path[1], nil, &answer))
	if answer.Lease != "" {
		t.Error("the answer has a lease, which Terraform does not revoke")
	}
	for _, m := range regexp.MustCompile(`\.data\["(\w+)"\]`).FindAllStringSubmatch(text, -1) {
		if value, _ := answer.Data[m[1]].(string); value == "" {
			t.Errorf("the answer has no %s", m[1])
		}
	}
}

// terraformRoles writes the roles of the Terraform example to a real Vault, and
// compares what it reads back as Terraform would.
func terraformRoles(t *testing.T, d *desk) {
	endpoint := regexp.MustCompile(`(?s)resource "vault_generic_endpoint" "\w+" \{.*?path\s+= "([^"]+)".*?jsonencode\(\{(.*?)\}\)`)
	setting := regexp.MustCompile(`(\w+)\s+= (.+)`)
	found := endpoint.FindAllStringSubmatch(string(exampleFile(t, "terraform/main.tf")), -1)
	if len(found) != 3 {
		t.Fatalf("%d roles were found, want 3", len(found))
	}
	for _, role := range found {
		want := map[string]any{}
		for _, pair := range setting.FindAllStringSubmatch(role[2], -1) {
			var value any // what stands there is JSON too
			must(t, json.Unmarshal([]byte(pair[2]), &value))
			want[pair[1]] = value
		}
		must(t, d.server.Call(t.Context(), "POST", role[1], want, nil))
		var answer struct {
			Data map[string]any `json:"data"`
		}
		must(t, d.server.Call(t.Context(), "GET", role[1], nil, &answer))
		for key, value := range want {
			if diff := cmp.Diff(value, answer.Data[key]); diff != "" {
				t.Errorf("%s: Terraform would see a difference in %s at every plan:\n%s", role[1], key, diff)
			}
		}
	}
}

// TestSystemdUnit_Parses checks the lines of the unit, and runs systemd-analyze if
// the machine has it.
func TestSystemdUnit_Parses(t *testing.T) {
	text := string(exampleFile(t, "systemd/vault-agent-influxdb.service"))
	line := regexp.MustCompile(`^(|#.*|\[(Unit|Service|Install)\]|[A-Z][A-Za-z]+=\S.*)$`)
	for l := range strings.Lines(text) {
		if !line.MatchString(strings.TrimSuffix(l, "\n")) {
			t.Errorf("this is not a line of a unit: %s", l)
		}
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		return
	}
	unit := filepath.Join(t.TempDir(), "vault-agent-influxdb.service")
	must(t, os.WriteFile(unit, []byte(strings.Replace(text, "/usr/bin/vault ", "/bin/sh ", 1)), 0o600))
	if out, err := exec.CommandContext(t.Context(), analyze, "verify", unit).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// No argument of a program that examples/openbao/static-creds.sh runs is the JWT, which
// other users could read there. curl and jq are replaced.
func TestStaticCredsScript_KeepsTheJWTOutOfArguments(t *testing.T) {
	jq, err := exec.LookPath("jq") // the script needs it, and so does its test
	must(t, err)
	dir := t.TempDir()
	for name, script := range map[string]string{
		"jq":   "#!/bin/sh\necho \"$@\" >>" + dir + "/arguments\nexec " + jq + " \"$@\"\n",
		"curl": "#!/bin/sh\necho \"$@\" >>" + dir + "/arguments\ncat >" + dir + "/header\necho '{\"data\": {\"token\": \"apiv1_x\"}}'\n",
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o700))
	}
	cmd := exec.CommandContext(t.Context(), "../../examples/openbao/static-creds.sh", "telegraf-role", "telegraf")
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "BAO_ADDR=https://bao.invalid", "BAO_JWT=eyJ.the-jwt?>~")
	output, err := cmd.CombinedOutput()
	arguments, _ := os.ReadFile(filepath.Join(dir, "arguments"))
	if err != nil || string(output) != "apiv1_x\n" || strings.Contains(string(arguments), "the-jwt") {
		t.Errorf("%v, output %q, arguments:\n%s", err, output, arguments)
	}
	header, err := os.ReadFile(filepath.Join(dir, "header"))
	must(t, err)
	for name, value := range map[string]string{"role": "telegraf-role", "jwt": "eyJ.the-jwt?>~"} {
		_, sent, _ := strings.Cut(string(header), "Parameter-"+name+": ")
		sent, _, _ = strings.Cut(sent, `"`)
		text, err := base64.RawURLEncoding.DecodeString(sent)
		var parameter struct{ Key, Value string }
		if err == nil {
			err = json.Unmarshal(text, &parameter)
		}
		if err != nil || parameter.Key != name || parameter.Value != value {
			t.Errorf("%s: %+v, %v", name, parameter, err)
		}
	}
}
