package e2e

import (
	"bufio"
	"cmp"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

var update = flag.Bool("update", false, "write the transcripts in testdata/dev that the tests compare with")

// TestMakeDev_ShowsTour compares what `make dev` prints with the transcripts in
// testdata/dev, line by line. To change a transcript, run the test with -update
// and read the difference.
func TestMakeDev_ShowsTour(t *testing.T) {
	t.Parallel()
	for _, product := range []string{"dedicated", "core", "enterprise"} {
		t.Run(product, func(t *testing.T) {
			t.Parallel()
			tr := startTour(t, product)
			got := normalize(tr.read(t), tr.scratch)
			if *update {
				must(t, os.WriteFile(transcriptOf(product), []byte(got), 0o600))
			}
			want, err := os.ReadFile(transcriptOf(product))
			must(t, err)
			compareLines(t, string(want), got)
			tr.interrupt(t)
		})
	}
}

func transcriptOf(product string) string { return filepath.Join("testdata", "dev", product+".txt") }

// asOpenBao is a program that says it is OpenBao. It runs the server that the
// test has, which may be Vault, with the variables of OpenBao.
const asOpenBao = `#!/bin/sh
[ "$1" != version ] || { echo "OpenBao v2.4.0"; exit; }
VAULT_ADDR=$BAO_ADDR VAULT_TOKEN=$BAO_TOKEN exec %q "$@"
`

// TestMakeDev_SpeaksOfOpenBao runs the tour on OpenBao. With product=cloud it is
// the tour of product=enterprise, apart from the names.
func TestMakeDev_SpeaksOfOpenBao(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "bao")
	must(t, os.WriteFile(program, fmt.Appendf(nil, asOpenBao, vaulttest.Binary(t)), 0o700))
	tr := startTour(t, "cloud", "VAULT_BINARY="+program)
	transcript := tr.read(t)
	if wrong := regexp.MustCompile(`(?m)^(?:#.*Vault|\$ vault|.*VAULT_|  vault).*`).FindString(transcript); wrong != "" {
		t.Errorf("on OpenBao, a line says %q", wrong)
	}
	text, err := os.ReadFile(transcriptOf("enterprise"))
	must(t, err)
	want := strings.NewReplacer("enterprise", "cloud", "Enterprise", "Cloud").Replace(string(text))
	compareLines(t, want, normalize(transcript, tr.scratch))
	tr.interrupt(t)
}

// compareLines reports the first line that differs.
func compareLines(t *testing.T, want, got string) {
	t.Helper()
	wanted, printed := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(wanted), len(printed)) {
		a, b := lineAt(wanted, i), lineAt(printed, i)
		if a != b {
			t.Errorf("line %d is\n%s\nwant\n%s\nAll:\n%s", i+1, b, a, got)
			return
		}
	}
}

func lineAt(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(no line)"
}

func TestMakeDev_RefusesUnknownProduct(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "../../scripts/dev.sh", t.TempDir(), "v1").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "unknown product v1: use dedicated, core, enterprise or cloud") {
		t.Errorf("%v, output %q", err, out)
	}
}

// What differs between two runs of the tour. A value that occurs again gets the
// same number again, so that the transcripts show which values are equal.
var varying = []struct {
	pattern  *regexp.Regexp // of which group 1 is the value
	word     string
	numbered bool
}{
	{pattern: regexp.MustCompile(`_TOKEN=(\S+)`), word: "vault-token"},
	{pattern: regexp.MustCompile(`(M\.V1\.[\w+/=-]{20,}|apiv[13]_[\w-]{20,})`), word: "token", numbered: true},
	{pattern: regexp.MustCompile(`(\b[0-9a-f]{64}\b)`), word: "sha256"},
	{pattern: regexp.MustCompile(`(\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b)`), word: "uuid", numbered: true},
	{pattern: regexp.MustCompile(`(\b[0-9a-f]{12}\b)`), word: "mount-tag", numbered: true},
	{pattern: regexp.MustCompile(`(\b[A-Z2-7]{26}\b)`), word: "accessor", numbered: true},
	{pattern: regexp.MustCompile(`creds/\w+/(\w{24})\b`), word: "lease", numbered: true},
	{pattern: regexp.MustCompile(`(\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)`), word: "time"},
	{pattern: regexp.MustCompile(`(?m)(?:ok: | )in ([\d.]+m?s)$`), word: "duration"},
	{pattern: regexp.MustCompile(`at most ([\d.]+s)`), word: "duration"},
	{pattern: regexp.MustCompile(`(?m)^ttl +(2[34]h\S*)$`), word: "duration"}, // of a static role, with its jitter
	{pattern: regexp.MustCompile(`(\b\d{5}\b)`), word: "port"},
}

// normalize replaces what differs between two runs, and between Vault and
// OpenBao.
func normalize(transcript, scratch string) string {
	text := regexp.MustCompile(regexp.QuoteMeta(scratch)+`/tmp\.\w+`).ReplaceAllLiteralString(transcript, "<folder>")
	text = strings.NewReplacer("OpenBao", "Vault", "bao", "vault", "BAO_", "VAULT_").Replace(text)
	text = sortLedger(text)
	text = expandPrefixes(text)
	for _, v := range varying {
		numbers := map[string]int{}
		text = replaceGroup(v.pattern, text, func(value string) string {
			if !v.numbered {
				return "<" + v.word + ">"
			}
			if numbers[value] == 0 {
				numbers[value] = len(numbers) + 1
			}
			return fmt.Sprintf("<%s %d>", v.word, numbers[value])
		})
	}
	return regexp.MustCompile(`(\S)  +`).ReplaceAllString(text, "$1  ") // the widths of columns
}

// replaceGroup replaces group 1 of each match.
func replaceGroup(pattern *regexp.Regexp, text string, replace func(string) string) string {
	var out strings.Builder
	end := 0
	for _, m := range pattern.FindAllStringSubmatchIndex(text, -1) {
		out.WriteString(text[end:m[2]])
		out.WriteString(replace(text[m[2]:m[3]]))
		end = m[3]
	}
	return out.String() + text[end:]
}

// sortLedger puts the lines of the ledger, which are sorted by their random
// accessors, into the order in which the accessors occur in the text.
func sortLedger(text string) string {
	row := regexp.MustCompile(`^[A-Z2-7]{26} `)
	lines := strings.Split(text, "\n")
	first := slices.IndexFunc(lines, row.MatchString)
	if first < 0 {
		return text
	}
	end := first
	for end < len(lines) && row.MatchString(lines[end]) {
		end++
	}
	slices.SortFunc(lines[first:end], func(a, b string) int {
		return cmp.Compare(strings.Index(text, a[:26]), strings.Index(text, b[:26]))
	})
	return strings.Join(lines, "\n")
}

// expandPrefixes replaces the beginnings of tokens ("apiv1_a8O…") by the tokens,
// which are all in the text.
func expandPrefixes(text string) string {
	beginning := regexp.MustCompile(`(\S{9}…)`)
	return replaceGroup(beginning, text, func(cut string) string {
		prefix := strings.TrimSuffix(cut, "…")
		token := regexp.MustCompile(regexp.QuoteMeta(prefix) + `[\w+/=-]{20,}`).FindString(text)
		return cmp.Or(token, cut)
	})
}

// untilCtrlC runs a command until it ends or until standard input ends. Then it
// sends an interrupt to the whole process group, as a terminal does on Ctrl-C. It
// also does so if the test is killed. The process that waits keeps no output
// open, so that the output ends with the command.
const untilCtrlC = `exec 3<&0; (cat <&3; kill -INT 0) >/dev/null 2>&1 & exec "$0" "$@" </dev/null 3<&-`

// A tour is a run of `make dev`.
type tour struct {
	cmd     *exec.Cmd
	stdin   io.Closer     // closing it is Ctrl-C
	lines   *bufio.Reader // standard output and standard error
	witness *os.File      // at its end when no process of the tour is left
	scratch string        // its folder for temporary files
}

// startTour runs `make dev` with further variables in its environment.
func startTour(t *testing.T, product string, env ...string) *tour {
	t.Helper()
	vaulttest.Binary(t) // which may build it: the wait below is not for that
	tr := &tour{scratch: t.TempDir()}
	tr.cmd = exec.Command("/bin/sh", "-c", untilCtrlC, "make", "--no-print-directory", "dev", "OUT="+t.TempDir(), "PRODUCT="+product)
	tr.cmd.Dir = "../.."
	tr.cmd.Env = append(append(os.Environ(), env...), "TMPDIR="+tr.scratch)
	tr.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := tr.cmd.StdinPipe()
	must(t, err)
	out, write, err := os.Pipe()
	must(t, err)
	witness, held, err := os.Pipe()
	must(t, err)
	tr.cmd.Stdout, tr.cmd.Stderr = write, write
	tr.cmd.ExtraFiles = []*os.File{nil, held} // file descriptor 4, which every process of the tour inherits
	must(t, tr.cmd.Start())
	must(t, write.Close())
	must(t, held.Close())
	tr.stdin, tr.lines, tr.witness = stdin, bufio.NewReader(out), witness
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = tr.cmd.Wait() // ended by the interrupt
		_ = out.Close()
		_ = witness.Close()
	})
	return tr
}

// upTo reads what the tour prints, up to the first line with a prefix.
func (tr *tour) upTo(t *testing.T, prefix string) string {
	t.Helper()
	var transcript strings.Builder
	for {
		line, err := tr.lines.ReadString('\n')
		transcript.WriteString(line)
		if err != nil {
			t.Fatalf("make dev ended before %q:\n%s", prefix, transcript.String())
		}
		if strings.HasPrefix(line, prefix) {
			return transcript.String()
		}
	}
}

// read reads the tour to its end, without what make prints before.
func (tr *tour) read(t *testing.T) string {
	t.Helper()
	tr.upTo(t, "A simulated")
	return tr.upTo(t, "      shows the log of")
}

// interrupt is Ctrl-C. No process and no file of the tour must be left.
func (tr *tour) interrupt(t *testing.T) {
	t.Helper()
	must(t, tr.stdin.Close())
	must(t, tr.witness.SetReadDeadline(time.Now().Add(30*time.Second)))
	if _, err := io.Copy(io.Discard, tr.witness); err != nil {
		t.Errorf("processes are left: %v", err)
	}
	left, err := os.ReadDir(tr.scratch)
	must(t, err)
	if len(left) > 0 {
		t.Errorf("files are left: %v", left)
	}
}
