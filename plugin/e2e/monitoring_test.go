package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// TestPrometheusScript_ShowsStatus runs the script on a healthy mount, on mounts
// with an outage and without influxctl, and on one that does not exist.
func TestPrometheusScript_ShowsStatus(t *testing.T) {
	t.Parallel()
	s := vaulttest.Start(t)
	well, ill := newStage(t, s, "well"), newStage(t, s, "ill")
	for _, st := range []*stage{well, ill} {
		st.write(t, "roles/ci", map[string]any{"ttl": "1h"})
		_, err := st.read(t.Context(), "ci", "")
		must(t, err)
	}
	ill.cluster.SetFaults(simulator.Faults{Outage: true})
	for _, token := range ill.alive() {
		if err := s.Call(t.Context(), "DELETE", "ill/tokens/"+accessorOf(token), nil, nil); err == nil {
			t.Fatal("a token was revoked in an outage")
		}
	}
	must(t, s.Register(t.Context(), "bare", "INFLUXCTL_PATH=/nowhere/influxctl"))
	must(t, s.Mount(t.Context(), "bare", "bare"))

	text := prometheusText(t, s, "well/", "ill", "bare", "nowhere")
	for _, line := range []string{
		`influxdb_secrets_up{mount="well"} 1`,
		`influxdb_secrets_up{mount="bare"} 1`,
		`influxdb_secrets_up{mount="nowhere"} 0`,
		`influxdb_secrets_configured{mount="well"} 1`,
		`influxdb_secrets_configured{mount="bare"} 0`,
		`influxdb_secrets_program_ok{mount="well"} 1`,
		`influxdb_secrets_program_ok{mount="bare"} 0`,
		`influxdb_secrets_tokens{mount="well",state="active"} 1`,
		`influxdb_secrets_tokens{mount="well",state="revoking"} 0`,
		`influxdb_secrets_tokens{mount="ill",state="revoking"} 1`,
		`influxdb_secrets_rotation_failing{mount="well"} 0`,
		`influxdb_secrets_ledger_ok{mount="ill"} 1`,
	} {
		if !slices.Contains(text, line) {
			t.Errorf("there is no line %s in\n%s", line, strings.Join(text, "\n"))
		}
	}
	checkPrometheusText(t, text)
	for _, watched := range firstColumn(t, "../../docs/operations.md", "watch") {
		name, _, _ := strings.Cut(watched, "{")
		if !slices.Contains(text, "# TYPE "+name+" gauge") {
			t.Errorf("docs/operations.md says to watch %s, which the script does not print", name)
		}
	}
	if recent := regexp.MustCompile(`(?m)^influxdb_secrets_last_success_timestamp_seconds\{mount="well"\} 1[789]\d{8}$`); !recent.MatchString(strings.Join(text, "\n")) {
		t.Errorf("the last success is not in seconds since 1970:\n%s", strings.Join(text, "\n"))
	}
}

// checkPrometheusText checks the syntax of the lines.
func checkPrometheusText(t *testing.T, text []string) {
	t.Helper()
	sample := regexp.MustCompile(`^influxdb_secrets_[a-z_]+\{mount="[a-z]+"(,state="[a-z]+")?\} \d+$`)
	comment := regexp.MustCompile(`^# (HELP influxdb_secrets_[a-z_]+ .+\.|TYPE influxdb_secrets_[a-z_]+ gauge)$`)
	for _, line := range text {
		if !sample.MatchString(line) && !comment.MatchString(line) {
			t.Errorf("this is not a line of Prometheus text: %q", line)
		}
	}
}

// prometheusText runs the script and returns the lines that it prints.
func prometheusText(t *testing.T, s *vaulttest.Server, mounts ...string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "../../scripts/status-to-prometheus.sh", mounts...)
	cmd.Env = append(environ(), "VAULT_ADDR="+s.Addr, "VAULT_TOKEN="+s.Token,
		"PATH="+s.Bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	out, err := cmd.Output()
	must(t, err)
	return strings.Split(strings.TrimSpace(string(out)), "\n")
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
