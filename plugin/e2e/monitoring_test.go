package e2e

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
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
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sync/errgroup"
	"gopkg.in/yaml.v3"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// TestMonitoring_ScrapesAMount has a Vault Agent log in as in examples/monitoring,
// and scrapes a healthy mount, one whose cluster does not answer, and one without
// influxctl, with the token that the Agent keeps.
func TestMonitoring_ScrapesAMount(t *testing.T) {
	t.Parallel()
	s := vaulttest.Start(t)
	healthy, ill := newStage(t, s, "influxdb"), newStage(t, s, "ill")
	for _, st := range []*stage{healthy, ill} {
		st.write(t, "roles/ci", map[string]any{"ttl": "1h"})
		_, err := st.read(t.Context(), "ci", "")
		must(t, err)
	}
	root := healthy.cluster.AddToken(simulator.Token{Root: true, Description: "for Vault", ExpiresAt: time.Now().Add(30 * 24 * time.Hour)})
	healthy.write(t, "config", map[string]any{"mgmt_token": root.Secret})
	healthy.write(t, "static-roles/fleet", map[string]any{"token_type": "management", "rotation_period": "1h"})
	ill.cluster.SetFaults(simulator.Faults{Outage: true})
	for _, token := range ill.alive() {
		if err := s.Call(t.Context(), "DELETE", "ill/tokens/"+accessorOf(token), nil, nil); err == nil {
			t.Fatal("a token was revoked in an outage")
		}
	}
	loseAnswers(t, ill)
	must(t, s.Register(t.Context(), "bare", "INFLUXCTL_PATH=/nowhere/influxctl"))
	must(t, s.Mount(t.Context(), "bare", "bare"))

	scraper := s.As(agentToken(t, s))
	families := scrape(t, scraper, "influxdb")
	compareSamples(t, "influxdb", families, map[string]float64{
		"tokens active management role": 1, "tokens active management static_role": 1, "tokens revoking management role": 0,
		"operations_total issue success": 2, "operations_total issue failed": 0, "program_ok": 1, "ledger_loaded": 1,
	})
	for _, path := range []string{"influxdb/status", "influxdb/config", "ill/metrics"} {
		if err := scraper.Call(t.Context(), "GET", path, nil, nil); !vaulttest.HasStatus(err, http.StatusForbidden) {
			t.Errorf("the scraper may read %s: %v", path, err)
		}
	}
	of := scrape(t, s, "ill")
	compareSamples(t, "ill", of, map[string]float64{
		"tokens revoking management role": 1, "operations_total revoke failed": 1, "unsettled ci": 50,
	})
	compareSamples(t, "bare", scrape(t, s, "bare"), map[string]float64{"program_ok": 0, "operations_total issue success": 0})
	maps.Copy(families, of) // which has the metrics of a mount with problems too
	checkQueries(t, families)
}

// loseAnswers has the cluster create tokens and not answer, until the role is near
// its limit.
func loseAnswers(t *testing.T, st *stage) {
	t.Helper()
	st.cluster.SetFaults(simulator.Faults{Create: simulator.Fault{Die: simulator.DieKilled}})
	var reads errgroup.Group
	reads.SetLimit(4)
	for range 50 {
		reads.Go(func() error {
			if _, err := st.read(t.Context(), "ci", ""); err == nil {
				return errors.New("a token was issued without an answer of the cluster")
			}
			return nil
		})
	}
	must(t, reads.Wait())
}

// agentToken runs a Vault Agent with the configuration of examples/monitoring and
// returns the token that it writes.
func agentToken(t *testing.T, s *vaulttest.Server) string {
	t.Helper()
	dir := t.TempDir()
	for name, path := range map[string]string{"agent.hcl": "agent.hcl", "policy.hcl": "policy.hcl"} {
		must(t, os.WriteFile(filepath.Join(dir, name), exampleFile(t, "monitoring/"+path), 0o600))
	}
	script := strings.Join(append(consoleOf(t, "monitoring/README.md"), "VAULT_TOKEN= vault agent -config=agent.hcl -exit-after-auth"), "\n")
	cmd := exec.CommandContext(t.Context(), "bash", "-euc", script)
	cmd.Dir = dir
	cmd.Env = append(environ(), "VAULT_ADDR="+s.Addr, "VAULT_TOKEN="+s.Token, "HOME="+dir,
		"PATH="+s.Bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	token, err := os.ReadFile(filepath.Join(dir, "token"))
	must(t, err)
	return string(token)
}

// consoleOf returns the commands in the sh block of an example's README, without
// the one that runs the Agent forever.
func consoleOf(t *testing.T, page string) (commands []string) {
	t.Helper()
	_, block, found := strings.Cut(string(exampleFile(t, page)), "```sh\n")
	block, _, closed := strings.Cut(block, "```")
	if !found || !closed {
		t.Fatalf("%s has no commands", page)
	}
	for line := range strings.Lines(block) {
		if !strings.HasPrefix(line, "vault agent ") {
			commands = append(commands, strings.TrimSpace(line))
		}
	}
	return commands
}

// scrape reads the metrics of a mount as Prometheus does: with the token as a
// bearer token, and with Prometheus' own parser.
func scrape(t *testing.T, s *vaulttest.Server, mount string) map[string]*dto.MetricFamily {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Addr+"/v1/"+mount+"/metrics", http.NoBody)
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+s.Token)
	resp, err := s.HTTP.Do(req)
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Fatalf("%s/metrics: %s, %s", mount, resp.Status, resp.Header.Get("Content-Type"))
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	must(t, err)
	return families
}

// compareSamples compares samples, written as the name of the metric without its
// prefix and the values of its labels.
func compareSamples(t *testing.T, mount string, families map[string]*dto.MetricFamily, want map[string]float64) {
	t.Helper()
	got := map[string]float64{}
	for name, family := range families {
		for _, m := range family.Metric {
			key := strings.TrimPrefix(name, metricPrefix)
			for _, label := range m.Label {
				key += " " + label.GetValue()
			}
			got[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	for key, value := range want {
		if n, found := got[key]; !found || n != value {
			t.Errorf("%s: %s is %v (found: %v), want %v", mount, key, n, found, value)
		}
	}
}

const metricPrefix = "influxdb_secrets_"

var (
	metricInQuery = regexp.MustCompile(`(` + metricPrefix + `[a-z_]+)(?:\{([^}]*)\})?`)
	matcher       = regexp.MustCompile(`(\w+)(=~|!=|=)"([^"]*)"`)
)

// checkQueries checks that the dashboard, the alert rules and docs/operations.md
// use only metrics and labels that exist, and that the rules say what to do.
func checkQueries(t *testing.T, families map[string]*dto.MetricFamily) {
	t.Helper()
	queries := firstColumn(t, "../../docs/operations.md", "watch")
	var dashboard struct {
		Panels []struct {
			Targets []struct {
				Expr string `json:"expr"`
			} `json:"targets"`
		} `json:"panels"`
	}
	must(t, json.Unmarshal(exampleFile(t, "monitoring/dashboard.json"), &dashboard))
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			queries = append(queries, target.Expr)
		}
	}
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert       string            `yaml:"alert"`
				Expr        string            `yaml:"expr"`
				Annotations map[string]string `yaml:"annotations"`
			} `yaml:"rules"`
		} `yaml:"groups"`
	}
	must(t, yaml.Unmarshal(exampleFile(t, "monitoring/rules.yml"), &rules))
	for _, rule := range rules.Groups[0].Rules {
		queries = append(queries, rule.Expr)
		if !strings.HasPrefix(rule.Alert, "InfluxDBSecrets") || rule.Annotations["summary"] == "" || rule.Annotations["action"] == "" {
			t.Errorf("alert %q does not say what is wrong and what to do", rule.Alert)
		}
	}
	used := map[string]bool{}
	for _, query := range queries {
		for _, m := range metricInQuery.FindAllStringSubmatch(query, -1) {
			used[checkSelector(t, families, m[1], m[2])] = true
		}
	}
	for name := range families {
		if !used[name] {
			t.Errorf("no panel, alert or page uses %s", name)
		}
	}
}

// checkSelector checks that a metric exists and has the labels and values that a
// query selects. It returns the name of the metric.
func checkSelector(t *testing.T, families map[string]*dto.MetricFamily, name, selector string) string {
	t.Helper()
	family := families[name]
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, suffix); ok && family == nil && families[base].GetType() == dto.MetricType_HISTOGRAM {
			name, family = base, families[base]
		}
	}
	if family == nil {
		t.Errorf("there is no metric %s", name)
		return name
	}
	values := map[string]bool{}
	for _, m := range family.Metric {
		for _, label := range m.Label {
			values[label.GetName()+"="+label.GetValue()] = true
		}
	}
	for _, m := range matcher.FindAllStringSubmatch(selector, -1) {
		if m[1] != "mount" && !values[m[1]+"="+m[3]] {
			t.Errorf("%s has no label %s with the value %q", name, m[1], m[3])
		}
	}
	return name
}

// TestMonitoring_ScrapeConfigurations parses the configurations of Prometheus and
// Telegraf, which name the same path, token file and label.
func TestMonitoring_ScrapeConfigurations(t *testing.T) {
	var prometheus struct {
		RuleFiles     []string `yaml:"rule_files"`
		ScrapeConfigs []struct {
			JobName       string            `yaml:"job_name"`
			Scheme        string            `yaml:"scheme"`
			Authorization map[string]string `yaml:"authorization"`
			StaticConfigs []struct {
				Targets []string          `yaml:"targets"`
				Labels  map[string]string `yaml:"labels"`
			} `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	must(t, yaml.Unmarshal(exampleFile(t, "monitoring/prometheus.yml"), &prometheus))
	var telegraf struct {
		Inputs struct {
			Prometheus []struct {
				URLs        []string          `toml:"urls"`
				BearerToken string            `toml:"bearer_token"`
				Tags        map[string]string `toml:"tags"`
			} `toml:"prometheus"`
		} `toml:"inputs"`
	}
	must(t, toml.Unmarshal(exampleFile(t, "monitoring/telegraf.conf"), &telegraf))
	scrape, input := prometheus.ScrapeConfigs[0], telegraf.Inputs.Prometheus[0]
	target := scrape.StaticConfigs[0]
	url := scrape.Scheme + "://" + target.Targets[0] + target.Labels["__metrics_path__"]
	if diff := cmp.Diff([]string{url}, input.URLs); diff != "" || !strings.HasSuffix(url, "/v1/influxdb/metrics") {
		t.Errorf("they read different places: %s", diff)
	}
	if file := scrape.Authorization["credentials_file"]; file == "" || file != input.BearerToken || scrape.Authorization["type"] != "Bearer" {
		t.Errorf("they use different tokens: %q, %q", file, input.BearerToken)
	}
	if target.Labels["mount"] != "influxdb" || input.Tags["mount"] != "influxdb" {
		t.Error("the samples do not say which mount they are of")
	}
	for _, used := range []string{`job="` + scrape.JobName + `"`} {
		for _, file := range []string{"rules.yml", "dashboard.json"} {
			if !strings.Contains(strings.ReplaceAll(string(exampleFile(t, "monitoring/"+file)), `\"`, `"`), used) {
				t.Errorf("%s does not use %s", file, used)
			}
		}
	}
	if _, err := os.Stat("../../examples/monitoring/" + prometheus.RuleFiles[0]); err != nil {
		t.Error(err)
	}
}

// TestDocs_ListAllLogLinesAndEvents compares the tables of operations.md with the
// lines that the engine logs at warn and error, and with its events.
func TestDocs_ListAllLogLinesAndEvents(t *testing.T) {
	code := engineCode(t)
	for _, c := range []struct {
		table, pattern, prefix string
	}{
		{"Log line", `Logger\(\)\.(?:Warn|Error)\("([^"]+)"`, ""},
		{"Event", `\.event\(.*?, "([a-z-]+)",`, "influxdb/"},
	} {
		var found []string
		for _, m := range regexp.MustCompile(c.pattern).FindAllStringSubmatch(code, -1) {
			found = append(found, c.prefix+m[1])
		}
		slices.Sort(found)
		if diff := cmp.Diff(slices.Compact(found), firstColumn(t, "../../docs/operations.md", c.table)); diff != "" {
			t.Errorf("the table of %ss in docs/operations.md differs (-code +documented):\n%s", c.table, diff)
		}
	}
}

// engineCode returns the source of the engine.
func engineCode(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("../../backend/*.go")
	must(t, err)
	var code strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		must(t, err)
		if !strings.HasSuffix(file, "_test.go") {
			code.Write(text)
		}
	}
	return code.String()
}

// firstColumn returns, sorted, the words in `…` in the first column of the tables
// of a page whose first heading is the given one.
func firstColumn(t *testing.T, page, heading string) (words []string) {
	t.Helper()
	text, err := os.ReadFile(page)
	must(t, err)
	table := ""
	for line := range strings.Lines(string(text)) {
		cells := cellsOf(strings.TrimSpace(line))
		switch {
		case cells == nil:
			table = ""
		case table == "":
			table = cells[0]
		case table == heading:
			for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[0], -1) {
				words = append(words, m[1])
			}
		}
	}
	slices.Sort(words)
	return words
}
