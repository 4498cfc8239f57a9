package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// published are the results on which docs/performance.md reports.
func published(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../../docs/performance/results.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The published results can be drawn, and every plot is an SVG document with
// text.
func TestRun_DrawsPublishedResults(t *testing.T) {
	folder := t.TempDir()
	if err := run(strings.NewReader(published(t)), folder); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"latency.svg", "rates.svg", "revocation.svg", "ledger.svg"} {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Error(err)
			continue
		}
		texts := 0
		for decoder := xml.NewDecoder(bytes.NewReader(text)); ; {
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
	}
}

// A result that is missing is an error that names it.
func TestRun_MissingResult(t *testing.T) {
	const missing = "a ledger of 10000 records: until all records are known"
	from := strings.ReplaceAll(published(t), missing, "another")
	if err := run(strings.NewReader(from), t.TempDir()); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("error %v", err)
	}
}
