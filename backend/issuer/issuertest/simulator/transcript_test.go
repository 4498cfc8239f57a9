package simulator_test

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
)

var update = flag.Bool("update", false, "write the transcripts in testdata")

// TestTranscripts compares what the command prints with the transcripts in
// testdata. The samples of the real influxctl that its documentation and release
// notes contain are in them. In a transcript,
//
//	# starts a comment
//	> starts a new cluster with the sample tokens, and gives the fields of the Sidecar
//	$ is a run of the command
//
// and all other lines are output. Values that differ from run to run are
// replaced by <…>, and the ID of a new token by IIIIIIII-….
func TestTranscripts(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join("testdata", "*.txt"))
	if err != nil || len(paths) == 0 {
		t.Fatal("no transcripts:", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := replay(t, string(text))
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(text), got); diff != "" {
				t.Errorf("-want +got (go test -run TestTranscripts -update writes it)\n%s", diff)
			}
		})
	}
}

// replay runs the commands of a transcript and returns it with their output.
func replay(t *testing.T, transcript string) string {
	t.Helper()
	var r *rig
	var got strings.Builder
	comment := true // the last line was one
	for line := range strings.Lines(transcript) {
		if line = strings.TrimSuffix(line, "\n"); line == "" {
			continue
		}
		kind, rest, _ := strings.Cut(line, " ")
		if (kind == "#" || kind == ">") && !comment {
			got.WriteString("\n")
		}
		comment = kind == "#"
		switch kind {
		case "#":
			got.WriteString(line + "\n")
		case ">":
			got.WriteString(line + "\n")
			r = newRigWith(t, sidecarOf(t, rest))
			r.addSamples()
		case "$":
			got.WriteString(line + "\n")
			args := strings.Fields(strings.TrimPrefix(rest, "influxctl"))
			got.WriteString(r.transcribe(r.run(args...)))
		}
	}
	return got.String()
}

// sidecarOf parses fields such as "version=2.11.0 shape=flat".
func sidecarOf(t *testing.T, text string) (s simulator.Sidecar) {
	t.Helper()
	for _, field := range strings.Fields(text) {
		switch name, value, _ := strings.Cut(field, "="); name {
		case "version":
			s.Version = value
		case "shape":
			s.Shape = value
		case "list_shape":
			s.ListShape = value
		case "dedicated":
		default:
			t.Fatalf("transcript: unknown field %q", field)
		}
	}
	return s
}

// addSamples adds the tokens of the list in the documentation.
func (r *rig) addSamples() {
	at := func(seconds, nanos int64) time.Time { return time.Unix(seconds, nanos).UTC() }
	for _, token := range []simulator.Token{
		{
			ID: "0b0e5c7e-7a0b-4a53-9d0e-1f1c2d3e4f50", Secret: "M.V1.+5Jkq0rest", Description: "vault:m1:role-a:7f3c",
			CreatedAt: at(1767236645, 622095000), ExpiresAt: at(1767323045, 0),
		},
		{
			ID: "1b0e5c7e-7a0b-4a53-9d0e-1f1c2d3e4f51", Secret: "M.V1.ynmfrest", Description: "old <&>",
			CreatedAt: at(1767236000, 0), RevokedAt: at(1767240000, 1000),
		},
		{
			ID: "2b0e5c7e-7a0b-4a53-9d0e-1f1c2d3e4f52", Secret: "M.V1.Eij4rest",
			CreatedAt: at(1767236000, 0),
		},
	} {
		r.AddToken(token)
	}
}

// transcribe returns a result as a transcript shows it.
func (r *rig) transcribe(got result) string {
	var text strings.Builder
	text.WriteString(got.stdout)
	if got.stdout != "" && !strings.HasSuffix(got.stdout, "\n") {
		text.WriteString("<no newline>\n")
	}
	if got.stderr != "" {
		text.WriteString("<stderr>\n" + got.stderr)
	}
	if got.exit != 0 {
		text.WriteString("<exit " + strconv.Itoa(got.exit) + ">\n")
	}
	tokens := r.Tokens()
	root, rest := tokens[0], tokens[4:]
	replacements := []string{
		root.ID, "<root-id>", root.CreatedBy, "<user>", accountID, "<account>", r.dir, "<dir>", "\x1b", "<esc>",
	}
	slices.Reverse(rest)
	for _, t := range rest {
		replacements = append(replacements, t.Secret, "<secret>", t.ID, "IIIIIIII-IIII-IIII-IIII-IIIIIIIIIIII", t.Prefix, "<prefix>")
	}
	return strings.NewReplacer(replacements...).Replace(text.String())
}

// The transcripts show the forms of create. This test checks that there is one
// of each, and that they contain the token unless the form is broken.
func TestTranscripts_CoverEveryShape(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "create-shapes.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, shape := range simulator.CreateShapes() {
		if shape == "gigabyte" {
			continue // see TestShapes_Gigabyte
		}
		_, rest, found := strings.Cut(string(text), "\n> shape="+shape+"\n")
		output, _, _ := strings.Cut(rest, "\n> ")
		if shown := strings.Contains(output, "<secret>"); !found || shown == showsNoToken(shape) {
			t.Errorf("%q: in the transcript: %v, the token is shown: %v", shape, found, shown)
		}
	}
	text, err = os.ReadFile(filepath.Join("testdata", "list-shapes.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, shape := range simulator.ListShapes {
		if !strings.Contains(string(text), "\n> list_shape="+shape+"\n") {
			t.Errorf("list %q: not in the transcript", shape)
		}
	}
}

// showsNoToken reports whether a form of create does not contain the token.
func showsNoToken(shape string) bool {
	switch shape {
	case "empty", "null", "html", "no-secret", "help":
		return true
	}
	return false
}
