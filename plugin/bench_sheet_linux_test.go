package plugin_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// A sheet is what was measured.
type sheet struct {
	rows  [][5]string // what, ours, yardstick, ratio, bar
	parts []string    // lines of go test -bench

	disturbances []float64 // shares of the CPUs that others took when rounds began
}

func (s *sheet) add(what, ours, yardstick, ratio, bar string) {
	s.rows = append(s.rows, [5]string{what, ours, yardstick, ratio, bar})
	fmt.Println(strings.Join([]string{what, ours, yardstick, ratio, bar}, " | ")) // it takes a while
}

// addLoad adds what two loads came to.
func (s *sheet) addLoad(what string, ours, yardstick measurement) {
	s.add(what, perSecond(ours), perSecond(yardstick), fmt.Sprintf("%.2f", ours.perSecond()/yardstick.perSecond()), "")
}

func inWords(clients int) string {
	if clients == 1 {
		return "1 client"
	}
	return fmt.Sprintf("%d clients", clients)
}

// perSecond is the rate of a load, and p50 and p99 of its calls.
func perSecond(m measurement) string {
	return fmt.Sprintf("%.1f/s, %.1f ms, %.1f ms", m.perSecond(), m.at(.5), m.at(.99))
}

func megabytes(n float64) string    { return fmt.Sprintf("%.1f MB", n) }
func milliseconds(n float64) string { return fmt.Sprintf("%.1f ms", n) }
func seconds(n float64) string      { return fmt.Sprintf("%.2f s", n) }
func ratio(a, b float64) string     { return fmt.Sprintf("%.2f", a/b) }

// bar says what is to be reached, and whether it was.
func bar(reached bool, text string) string {
	if reached {
		return text + ": yes"
	}
	return text + ": **no**"
}

const (
	page    = "../docs/performance.md"
	opening = "<!-- measured by make bench: begin -->\n"
	closing = "<!-- measured by make bench: end -->\n"
)

// publish puts what was measured into its place in the page.
func (s *sheet) publish(b *testing.B) {
	text, err := os.ReadFile(page)
	must(b, err)
	before, rest, found := bytes.Cut(text, []byte(opening))
	_, after, ends := bytes.Cut(rest, []byte(closing))
	if !found || !ends {
		b.Fatalf("%s has no place for what was measured", page)
	}
	fmt.Print(s)
	must(b, os.WriteFile(page, fmt.Appendf(nil, "%s%s\n%s\n%s%s%s", before, opening, s.machine(b), s, closing, after), 0o644))
}

// String is the table, in Markdown.
func (s *sheet) String() string {
	var text strings.Builder
	text.WriteString("| what | ours | yardstick | ratio | bar |\n|---|---|---|---|---|\n")
	for _, row := range s.rows {
		fmt.Fprintf(&text, "| %s |\n", strings.Join(row[:], " | "))
	}
	text.WriteString("\nThe pure parts, by `go test -bench`:\n\n```text\n")
	for _, line := range s.parts {
		fmt.Fprintln(&text, line)
	}
	text.WriteString("```\n\n")
	return text.String()
}

// machine says where the measurement was made.
func (s *sheet) machine(b *testing.B) string {
	b.Helper()
	vault, err := exec.CommandContext(b.Context(), vaultBinary(b), "version").Output()
	must(b, err)
	cpu := "unknown"
	info, _ := os.ReadFile("/proc/cpuinfo")
	if _, rest, found := strings.Cut(string(info), "model name\t: "); found {
		cpu, _, _ = strings.Cut(rest, "\n")
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	linux, _, _ := strings.Cut(strings.TrimSpace(string(release)), "-")
	version, _, _ := strings.Cut(string(vault), ", ")
	others := slices.Sorted(slices.Values(s.disturbances))
	return fmt.Sprintf("%d CPUs (%s), Linux %s, %s, %s, raft storage on one node, an audit log. "+
		"When rounds began, others took %.0f %% of the CPUs (median; at most %.0f %%).\n",
		runtime.NumCPU(), cpu, linux, strings.TrimSpace(version), runtime.Version(),
		100*others[len(others)/2], 100*others[len(others)-1])
}
