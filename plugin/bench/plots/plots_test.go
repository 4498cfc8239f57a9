package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const published = "../../../docs/performance/results.jsonl"

// The published results can be drawn, and every plot is an SVG document with
// text.
func TestRun_DrawsPublishedResults(t *testing.T) {
	folder := t.TempDir()
	if err := run(published, folder); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"latency.svg", "rates.svg", "revocation.svg", "ledger.svg"} {
		file, err := os.Open(filepath.Join(folder, name))
		if err != nil {
			t.Error(err)
			continue
		}
		texts := 0
		for decoder := xml.NewDecoder(file); ; {
			token, err := decoder.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if start, ok := token.(xml.StartElement); ok && start.Name.Local == "text" {
				texts++
			}
		}
		if texts < 8 {
			t.Errorf("%s has %d texts", name, texts)
		}
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A result that is missing is an error that names it.
func TestRun_MissingResult(t *testing.T) {
	text, err := os.ReadFile(published)
	if err != nil {
		t.Fatal(err)
	}
	const missing = "a ledger of 10000 records: until all records are known"
	from := filepath.Join(t.TempDir(), "results.jsonl")
	if err := os.WriteFile(from, []byte(strings.ReplaceAll(string(text), missing, "another")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(from, t.TempDir()); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("error %v", err)
	}
}
