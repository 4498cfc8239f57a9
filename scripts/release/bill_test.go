package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
)

// A bill as a scanner reads it.
type bill struct {
	BOMFormat    string
	SerialNumber string
	Metadata     struct{ Component part }
	Components   []part
	Dependencies []struct {
		Ref       string
		DependsOn []string
	}
}

type part struct {
	Ref     string `json:"bom-ref"`
	Name    string
	Version string
	PURL    string
	Hashes  []struct{ Alg, Content string }
}

func TestBill_NamesLinkedModules(t *testing.T) {
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	sum, err := checksum(binary)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "bill.json")
	if err := writeBill(path, binary, sum, "v1.2.3"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var b bill
	if err := json.Unmarshal(text, &b); err != nil {
		t.Fatal(err)
	}
	plugin := b.Metadata.Component
	if b.BOMFormat != "CycloneDX" || plugin.Version != "v1.2.3" || plugin.Hashes[0].Content != sum {
		t.Errorf("the plugin is %+v", plugin)
	}
	// This test is linked with the library that writes the bill, and with Go's own.
	for _, want := range []string{
		"pkg:golang/github.com/CycloneDX/cyclonedx-go@v",
		"pkg:golang/stdlib@" + strings.TrimPrefix(runtime.Version(), "go"),
	} {
		if !slices.ContainsFunc(b.Components, func(p part) bool { return strings.HasPrefix(p.PURL, want) }) {
			t.Errorf("%s is not among %+v", want, b.Components)
		}
	}
	if uses := b.Dependencies[0]; uses.Ref != plugin.Ref || len(uses.DependsOn) != len(b.Components) {
		t.Errorf("the plugin depends on %v", uses)
	}
}

func TestBill_SameBinaryHasTheSameBill(t *testing.T) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		t.Fatal("no build information")
	}
	first, err := billOf(info, "aa", "v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	again, err := billOf(info, "aa", "v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	other, err := billOf(info, "bb", "v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	if first.SerialNumber != again.SerialNumber || first.SerialNumber == other.SerialNumber {
		t.Errorf("serial numbers: %s, %s, %s", first.SerialNumber, again.SerialNumber, other.SerialNumber)
	}
}

func TestBill_ReplacedModuleIsRefused(t *testing.T) {
	info := &debug.BuildInfo{Deps: []*debug.Module{{Path: "example.com/a", Replace: &debug.Module{Path: "../a"}}}}
	if _, err := billOf(info, "", "v1.2.3"); err != errReplaced {
		t.Errorf("a replaced module gives %v", err)
	}
}
