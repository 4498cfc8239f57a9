package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

// TestDocs_MatchARealVault runs the commands of README and docs, and the examples,
// on a real Vault, and compares docs/api.md with the mount. The pages use the
// mount influxdb/ one after the other.
func TestDocs_MatchARealVault(t *testing.T) {
	t.Parallel()
	s := vaulttest.Start(t)
	must(t, os.Symlink("vault", filepath.Join(s.Bin, "bao"))) // its registration API is the same
	built := t.TempDir()
	vaulttest.Build(t, built, "./cmd/influxsim")
	for _, version := range releases {
		must(t, os.Mkdir(filepath.Join(built, version), 0o700))
		vaulttest.Build(t, filepath.Join(built, version), "./cmd/"+vaulttest.PluginCommand, "-ldflags=-X "+module+"/plugin.version="+version)
	}
	for _, page := range pages(t) {
		if steps := stepsOf(t, page); len(steps) > 0 {
			t.Run(filepath.Base(page), func(t *testing.T) { newDesk(t, s, built).runPage(t, page, steps) })
		}
	}
	t.Run("Reference", func(t *testing.T) { compareReference(t, s) })
	t.Run("Compose", func(t *testing.T) { composeLeases(t, newDesk(t, s, built)) })
	t.Run("Bootstrap", func(t *testing.T) { bootstrapRotates(t, newDesk(t, s, built)) })
	for name, example := range map[string]func(*testing.T, *desk){
		"Agent":      agentRenders,
		"CI":         jobBorrows,
		"Kubernetes": kubernetesRequests,
		"Proxy":      proxyShares,
		"Terraform":  terraformRoles,
		"OpenBao":    openBaoRequests,
		"Ephemeral":  terraformEphemeral,
	} {
		t.Run(name, func(t *testing.T) { example(t, newExample(t, s, built)) })
	}
}

// runPage runs every command in the console blocks of a page and compares its
// output with the output that the page shows:
//
//	$ COMMAND     is run by bash; a line that ends in \ goes on in the next
//	text          must be printed; … stands for any text, alone for any lines
//	Error …       at the start of what is printed: the command must fail
//
// A sequence of blanks counts as one, because the width of a table depends on its
// contents. All commands of a page run in the same shell.
func (d *desk) runPage(t *testing.T, page string, steps []step) {
	if page != "../../README.md" { // which begins with nothing
		d.run(t, furnishing)
	}
	d.run(t, steps)
}

// pages returns the documents whose commands are run.
func pages(t *testing.T) []string {
	t.Helper()
	docs, err := filepath.Glob("../../docs/*.md")
	must(t, err)
	return append([]string{"../../README.md"}, docs...)
}

// A step is a command of a page and the output that the page shows.
type step struct {
	line    int
	command string
	shown   []string
}

// stepsOf reads the console blocks of a page.
func stepsOf(t *testing.T, page string) (steps []step) {
	t.Helper()
	text, err := os.ReadFile(page)
	must(t, err)
	inside := false
	for i, line := range strings.Split(string(text), "\n") {
		switch {
		case line == "```console":
			inside = true
		case strings.HasPrefix(line, "```"):
			inside = false
		case !inside:
		case strings.HasPrefix(line, "$ "):
			steps = append(steps, step{line: i + 1, command: line[2:]})
		case len(steps) == 0:
			t.Fatalf("%s:%d: output of no command", page, i+1)
		default:
			last := &steps[len(steps)-1]
			if len(last.shown) == 0 && strings.HasSuffix(last.command, `\`) {
				last.command += "\n" + line
			} else {
				last.shown = append(last.shown, line)
			}
		}
	}
	return steps
}

// releases are the versions that the pages install.
var releases = []string{"v0.1.0", "v0.2.0"}

// The paths that the pages use.
const (
	usualCLI     = "/usr/local/bin/influxctl"
	usualPlugins = "/etc/vault.d/plugins"
)

// furnishing is done before the pages other than README.
var furnishing = []step{
	{command: `vault plugin register -env=INFLUXCTL_PATH=` + usualCLI + ` -sha256="$(sha256sum ` + usualPlugins + `/` + vaulttest.PluginCommand + ` | cut -d ' ' -f 1)" secret ` + vaulttest.PluginCommand},
	{command: `vault secrets enable -path=influxdb ` + vaulttest.PluginCommand},
	{command: `vault write influxdb/config product=dedicated account_id=$ACCOUNT_ID cluster_id=$CLUSTER_ID mgmt_token=@root-credential api_url=$API_URL ca_cert=@ca.pem`},
	{command: `vault write influxdb/roles/automation ttl=1h max_ttl=8h`},
	{command: `vault write influxdb/roles/telegraf token_type=database write_databases=metrics ttl=1h max_ttl=24h`},
}

// A desk is a folder in which an operator runs commands, and a simulated cluster.
type desk struct {
	server  *vaulttest.Server
	cluster *simulator.Cluster
	origin  string // of the cluster's API, in plain text
	secure  string // the same, with TLS
	dir     string
	env     []string
	here    *strings.Replacer // from the paths of the pages to those of the test
	there   *strings.Replacer // and back
}

// newDesk provides the files that the pages use, with programs from the folder
// built. The mount influxdb/ is disabled at the end of the test.
func newDesk(t *testing.T, s *vaulttest.Server, built string) *desk {
	t.Helper()
	cluster := simulator.NewCluster(simulator.Options{})
	plain, secure := httptest.NewServer(cluster), httptest.NewTLSServer(cluster)
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "cli"), 0o700))
	for _, version := range releases {
		released(t, dir, version, filepath.Join(built, version, vaulttest.PluginCommand))
	}
	cli, err := simulator.Install(filepath.Join(dir, "cli"), filepath.Join(built, "influxsim"), simulator.Sidecar{URL: plain.URL})
	must(t, err)
	operators := cluster.AddToken(simulator.Token{Root: true, Description: "for Vault", ExpiresAt: time.Now().Add(365 * 24 * time.Hour)})
	must(t, os.WriteFile(filepath.Join(dir, "root-credential"), []byte(operators.Secret), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600))
	root, err := filepath.Abs("../..")
	must(t, err)
	for _, sub := range []string{"examples", "scripts"} {
		must(t, os.Symlink(filepath.Join(root, sub), filepath.Join(dir, sub)))
	}
	d := &desk{
		server: s, cluster: cluster, origin: plain.URL, secure: secure.URL, dir: dir,
		env: append(environ(), "VAULT_ADDR="+s.Addr, "VAULT_TOKEN="+s.Token, "HOME="+dir,
			"PATH="+s.Bin+string(filepath.ListSeparator)+os.Getenv("PATH"),
			"ACCOUNT_ID="+cluster.AccountID(), "CLUSTER_ID="+cluster.ClusterID(), "API_URL="+secure.URL),
		// README names no address of the Management API: it is InfluxData's.
		here:  strings.NewReplacer(usualCLI, cli, usualPlugins, s.Plugins, "product=dedicated host=", "product=dedicated api_url=$API_URL ca_cert=@ca.pem host="),
		there: strings.NewReplacer(cli, usualCLI, s.Plugins, usualPlugins),
	}
	t.Cleanup(func() { d.clear(t) })
	return d
}

// environ returns the environment without the variables of the command lines of
// Vault and OpenBao.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(variable string) bool {
		return strings.HasPrefix(variable, "VAULT_") || strings.HasPrefix(variable, "BAO_")
	})
}

// released writes a program and its checksum under the names that a release uses.
func released(t *testing.T, dir, version, program string) {
	t.Helper()
	content, err := os.ReadFile(program)
	must(t, err)
	name := vaulttest.PluginCommand + "_" + version + "_linux_amd64"
	must(t, os.WriteFile(filepath.Join(dir, name), content, 0o700))
	must(t, os.WriteFile(filepath.Join(dir, vaulttest.PluginCommand+"_"+version+"_SHA256SUMS"),
		fmt.Appendf(nil, "%x  %s\n", sha256.Sum256(content), name), 0o600))
}

const module = "github.com/influxdb3-vault/vault-plugin-secrets-influxdb"

// clear disables the mount and checks what must hold after every page.
func (d *desk) clear(t *testing.T) {
	steps := []step{{command: "vault secrets disable influxdb"}, {command: "vault plugin deregister secret " + vaulttest.PluginCommand + " || true"}}
	for _, version := range releases {
		steps = append(steps, step{command: "vault plugin deregister -version=" + version + " secret " + vaulttest.PluginCommand + " || true"})
	}
	d.run(t, steps)
	for _, token := range d.cluster.Tokens() {
		d.server.KeepSecret(token.Secret)
	}
	for _, violation := range d.cluster.Violations() {
		t.Errorf("the CLI was called in a way that is not allowed: %s", violation)
	}
}

// likeVault defines a shell function that adds to the command line of OpenBao what
// the pages use and it does not have: -env of `plugin register`.
const likeVault = `
vault() {
	if [[ "$1 $2" != "plugin register" ]]; then command vault "$@"; return; fi
	local name=${!#} word fields=()
	for word in "${@:3:$#-4}"; do fields+=("${word#-}"); done
	[[ " ${fields[*]}" == *" command="* ]] || fields+=("command=$name")
	command vault write "sys/plugins/catalog/secret/$name" "${fields[@]}" >/dev/null || return
	echo "Success! Registered plugin: $name"
}
`

// isOpenBao reports whether the server is OpenBao.
func isOpenBao(t *testing.T, s *vaulttest.Server) bool {
	t.Helper()
	version, err := exec.CommandContext(context.WithoutCancel(t.Context()), filepath.Join(s.Bin, "vault"), "version").Output()
	must(t, err)
	return strings.HasPrefix(string(version), "OpenBao")
}

// border separates the outputs of the steps.
const border = "----8<----"

// run runs the steps in bash, one after the other, and compares their outputs.
func (d *desk) run(t *testing.T, steps []step) {
	t.Helper()
	script := strings.Builder{}
	if isOpenBao(t, d.server) {
		script.WriteString(likeVault)
	}
	for _, s := range steps {
		fmt.Fprintf(&script, "{ %s\n} 2>&1\nprintf '\\n%s%%d\\n' $?\n", s.command, border)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "bash", "-c", d.here.Replace(script.String())) // also in a clean-up
	cmd.Dir, cmd.Env = d.dir, d.env
	out, err := cmd.Output()
	must(t, err)
	rest := d.there.Replace(string(out))
	for _, s := range steps {
		output, after, _ := strings.Cut(rest, "\n"+border)
		status, after, _ := strings.Cut(after, "\n")
		rest = after
		if problem := s.compare(status, output); problem != "" {
			t.Errorf("line %d: $ %s\n%s", s.line, s.command, problem)
		}
	}
}

// compare says how the output of a step differs from what its page shows.
func (s step) compare(status, output string) string {
	fails := len(s.shown) > 0 && strings.HasPrefix(s.shown[0], "Error ")
	switch {
	case (status != "0") != fails:
		return fmt.Sprintf("exit status %s:\n%s", status, output)
	case len(s.shown) > 0 && !shownAs(s.shown).MatchString(plainLines(output)):
		return fmt.Sprintf("printed:\n%s\nshown:\n%s", output, strings.Join(s.shown, "\n"))
	}
	return ""
}

var blanks = regexp.MustCompile(`[ \t]+`)

// plainLines returns the text without empty lines, with sequences of blanks as one.
func plainLines(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(blanks.ReplaceAllString(line, " ")); line != "" {
			lines = append(lines, line+"\n")
		}
	}
	return strings.Join(lines, "")
}

// shownAs returns a pattern that matches the output that a page shows.
func shownAs(shown []string) *regexp.Regexp {
	var pattern strings.Builder
	for line := range strings.Lines(plainLines(strings.Join(shown, "\n"))) {
		switch line {
		case "…\n":
			pattern.WriteString(`(?:.*\n)*`)
		default:
			pattern.WriteString(strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*"))
		}
	}
	return regexp.MustCompile(`\A` + pattern.String() + `\z`)
}

func TestStep_ComparesOutput(t *testing.T) {
	for _, c := range []struct {
		shown, status, output string
		good                  bool
	}{
		{"", "0", "whatever", true},
		{"", "2", "whatever", false},
		{"a   …", "0", "a  b\n", true},
		{"a\n…\nz", "0", "a\nb\n\nc\nz", true},
		{"a\nz", "0", "a\nb\nz", false},
		{"a", "0", "ab", false},
		{"Error of …", "2", "Error of mine", true},
		{"Error of …", "0", "Error of mine", false},
	} {
		s := step{}
		if c.shown != "" {
			s.shown = strings.Split(c.shown, "\n")
		}
		if problem := s.compare(c.status, c.output); (problem == "") != c.good {
			t.Errorf("shown %q, printed %q with status %s: %s", c.shown, c.output, c.status, problem)
		}
	}
}

// A reference describes a path of the mount.
type reference struct {
	Methods    []string
	Parameters map[string]string // types
	Answer     []string          // fields
}

// compareReference compares docs/api.md with the OpenAPI document and the help
// that Vault serves for a mount.
func compareReference(t *testing.T, s *vaulttest.Server) {
	must(t, s.Register(t.Context(), "influxdb"))
	must(t, s.Mount(t.Context(), "influxdb", "influxdb"))
	defer func() { must(t, s.Call(t.Context(), "DELETE", "sys/mounts/influxdb", nil, nil)) }()
	served, defaults := servedReference(t, s)
	for path, r := range served {
		if slices.Equal(r.Methods, []string{"LIST"}) { // not every server has its query in the document
			r.Parameters = helpOf(t, s, path)
			served[path] = r
		}
	}
	documented, documentedDefaults := documentedReference(t)
	if diff := cmp.Diff(served, documented); diff != "" {
		t.Errorf("docs/api.md differs from the OpenAPI document (-served +documented):\n%s", diff)
	}
	for parameter, value := range defaults {
		if got := documentedDefaults[parameter]; got != value {
			t.Errorf("docs/api.md gives the default of %s as %q; it is %q", parameter, got, value)
		}
	}
	for path, r := range served {
		help := helpOf(t, s, path)
		if diff := cmp.Diff(r.Parameters, help); diff != "" {
			t.Errorf("the help of %s differs from its OpenAPI document (-openapi +help):\n%s", path, diff)
		}
	}
}

// A schema describes a value in an OpenAPI document.
type schema struct {
	Type       string            `json:"type"`
	Format     string            `json:"format"`
	Default    any               `json:"default"`
	Properties map[string]schema `json:"properties"`
}

type parameter struct {
	Name   string `json:"name"`
	In     string `json:"in"`
	Schema schema `json:"schema"`
}

type openAPIOperation struct {
	ID         string      `json:"operationId"`
	Parameters []parameter `json:"parameters"`
}

type openAPIPath struct {
	Parameters []parameter       `json:"parameters"`
	Get        *openAPIOperation `json:"get"`
	Post       *openAPIOperation `json:"post"`
	Delete     *openAPIOperation `json:"delete"`
}

type openAPI struct {
	Paths      map[string]openAPIPath `json:"paths"`
	Components struct {
		Schemas map[string]schema `json:"schemas"`
	} `json:"components"`
}

// named returns the properties of an operation's Request or Response. Vault drops
// a plugin's references to schemas but keeps the schemas, which are named after
// the operation.
func (o openAPI) named(op *openAPIOperation, what string) map[string]schema {
	var name strings.Builder
	for word := range strings.SplitSeq(op.ID, "-") {
		name.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	return o.Components.Schemas[name.String()+what].Properties
}

// servedReference reads the mount's part of the server's OpenAPI document, and
// the defaults in it.
func servedReference(t *testing.T, s *vaulttest.Server) (map[string]reference, map[string]string) {
	t.Helper()
	var document openAPI
	must(t, s.Call(t.Context(), "GET", "sys/internal/specs/openapi", nil, &document))
	served, defaults := map[string]reference{}, map[string]string{}
	for path, p := range document.Paths {
		name, ours := strings.CutPrefix(path, "/influxdb/")
		if !ours {
			continue
		}
		r := reference{Parameters: map[string]string{}}
		note := func(name string, s schema) {
			r.Parameters[name] = typeName(s)
			if s.Default != nil {
				defaults[placeholder.ReplaceAllString(path[len("/influxdb/"):], ":$1")+" "+name] = defaultText(s)
			}
		}
		for method, op := range p.operations() {
			r.Methods = append(r.Methods, method)
			checkQuery(t, name, method, op)
			for _, parameter := range op.Parameters {
				if parameter.In != "query" { // but in the body of another method
					note(parameter.Name, parameter.Schema)
				}
			}
			if method == "POST" {
				for name, s := range document.named(op, "Request") {
					note(name, s)
				}
			}
			r.Answer = slices.AppendSeq(r.Answer, maps.Keys(document.named(op, "Response")))
		}
		for _, parameter := range p.Parameters {
			note(parameter.Name, parameter.Schema)
		}
		served[placeholder.ReplaceAllString(name, ":$1")] = r.sorted()
	}
	return served, defaults
}

// checkQuery checks that parameters of requests without a body are documented as
// query parameters.
func checkQuery(t *testing.T, path, method string, op *openAPIOperation) {
	t.Helper()
	want := map[string]string{"creds/{role} GET": "ttl", "config DELETE": "force"}[path+" "+method]
	if want != "" && !slices.ContainsFunc(op.Parameters, func(p parameter) bool { return p.Name == want && p.In == "query" }) {
		t.Errorf("%s %s documents no %s in its query", method, path, want)
	}
}

var placeholder = regexp.MustCompile(`\{(\w+)\}`)

func (p openAPIPath) operations() map[string]*openAPIOperation {
	operations := map[string]*openAPIOperation{"GET": p.Get, "POST": p.Post, "DELETE": p.Delete}
	if p.Get != nil && slices.ContainsFunc(p.Get.Parameters, func(p parameter) bool { return p.Name == "list" }) {
		operations["LIST"] = p.Get
		delete(operations, "GET")
	}
	maps.DeleteFunc(operations, func(_ string, op *openAPIOperation) bool { return op == nil })
	return operations
}

func (r reference) sorted() reference {
	for _, list := range []*[]string{&r.Methods, &r.Answer} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	return r
}

// typeName returns the name that the reference uses for a type.
func typeName(s schema) string {
	if s.Format == "duration" {
		return "duration"
	}
	return map[string]string{"string": "string", "boolean": "bool", "integer": "integer", "array": "list", "object": "map"}[s.Type]
}

// defaultText formats a default as the reference does.
func defaultText(s schema) string {
	if n, ok := s.Default.(float64); ok && s.Format == "duration" {
		text := strings.TrimSuffix(strings.Replace((time.Duration(n)*time.Second).String(), "m0s", "m", 1), "h0m")
		if n >= 3600 && !strings.ContainsAny(text, "ms") {
			text = strings.TrimSuffix(text, "h") + "h"
		}
		return text
	}
	return fmt.Sprint(s.Default)
}

// helpOf returns the parameters that `vault path-help` shows for a path.
func helpOf(t *testing.T, s *vaulttest.Server, path string) map[string]string {
	t.Helper()
	var answer struct {
		Help string `json:"help"`
	}
	example := regexp.MustCompile(`:\w+`).ReplaceAllString(path, "some")
	must(t, s.Call(t.Context(), "GET", "influxdb/"+example+"?help=1", nil, &answer))
	parameters := map[string]string{}
	names := map[string]string{"string": "string", "bool": "bool", "int": "integer", "duration (sec)": "duration", "slice": "list", "keypair": "map"}
	for _, found := range regexp.MustCompile(`(?m)^    (\w+) \((.+)\)$`).FindAllStringSubmatch(answer.Help, -1) {
		parameters[found[1]] = names[found[2]]
	}
	return parameters
}

// documentedReference reads docs/api.md: in each section whose heading is a path
// in `…`, the tables that begin with Method, Parameter and Field. The second
// result holds the defaults, by path and parameter.
func documentedReference(t *testing.T) (map[string]reference, map[string]string) {
	t.Helper()
	text, err := os.ReadFile("../../docs/api.md")
	must(t, err)
	documented, defaults := map[string]reference{}, map[string]string{}
	path, table := "", ""
	for scan := bufio.NewScanner(bytes.NewReader(text)); scan.Scan(); {
		line := scan.Text()
		if heading := regexp.MustCompile("^## `([^`]+)`$").FindStringSubmatch(line); heading != nil {
			path = heading[1]
			documented[path] = reference{Parameters: map[string]string{}}
			continue
		}
		if strings.HasPrefix(line, "## ") {
			path = ""
		}
		cells := cellsOf(line)
		switch {
		case cells == nil:
			table = ""
		case table == "":
			table = cells[0]
		case path != "" && !strings.HasPrefix(cells[0], "---"):
			documented[path] = documented[path].with(table, cells)
			if table == "Parameter" {
				defaults[path+" "+strings.Trim(cells[0], "`")] = strings.Trim(cells[2], "`")
			}
		}
	}
	for path, r := range documented {
		documented[path] = r.sorted()
	}
	return documented, defaults
}

// cellsOf splits a row of a table; it returns nil for any other line.
func cellsOf(line string) (cells []string) {
	if !strings.HasPrefix(line, "|") {
		return nil
	}
	for cell := range strings.SplitSeq(strings.Trim(line, "|"), "|") {
		cells = append(cells, strings.TrimSpace(cell))
	}
	return cells
}

// with adds a row of a table to the reference.
func (r reference) with(table string, cells []string) reference {
	switch table {
	case "Method":
		r.Methods = append(r.Methods, strings.Trim(cells[0], "`"))
	case "Parameter":
		r.Parameters[strings.Trim(cells[0], "`")] = cells[1]
	case "Field":
		for field := range strings.SplitSeq(cells[0], ", ") {
			r.Answer = append(r.Answer, strings.Trim(field, "`"))
		}
	}
	return r
}

// TestLinks_LeadSomewhere follows the links from the documents to each other and to
// files of the repository.
func TestLinks_LeadSomewhere(t *testing.T) {
	for _, page := range append(pages(t), examplePages(t)...) {
		text, err := os.ReadFile(page)
		must(t, err)
		for _, link := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			path, section, _ := strings.Cut(link[1], "#")
			target := page
			if path != "" {
				target = filepath.Join(filepath.Dir(page), path)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %v", page, err)
			} else if section != "" && !slices.Contains(sectionsOf(t, target), section) {
				t.Errorf("%s: %s has no section %s", page, target, section)
			}
		}
	}
}

func examplePages(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob("../../examples/*/*.md")
	must(t, err)
	more, err := filepath.Glob("../../examples/*.md")
	must(t, err)
	return append(append(found, more...), "../../CHANGELOG.md")
}

// sectionsOf returns the anchors of the headings of a page.
func sectionsOf(t *testing.T, page string) (sections []string) {
	t.Helper()
	text, err := os.ReadFile(page)
	must(t, err)
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(string(text), -1) {
		name := regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		sections = append(sections, strings.ReplaceAll(name, " ", "-"))
	}
	return sections
}
