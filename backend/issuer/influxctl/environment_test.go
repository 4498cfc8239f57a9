package influxctl

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// On Windows a Go program finds its directories by these variables, and ends
// with an error if they are not set.
func TestEnvironment_OnWindows(t *testing.T) {
	home := filepath.Join("private", "home")
	got := environment("windows", home)
	for _, want := range []string{
		"USERPROFILE=" + home,
		"APPDATA=" + filepath.Join(home, "AppData", "Roaming"),
		"LOCALAPPDATA=" + filepath.Join(home, "AppData", "Local"),
		"HOME=" + home,
	} {
		if !slices.Contains(got, want) {
			t.Errorf("%q lacks %s", got, want)
		}
	}
	for _, variable := range environment("linux", home) {
		if strings.Contains(variable, "APPDATA") || strings.Contains(variable, "USERPROFILE") {
			t.Errorf("%s on Linux", variable)
		}
	}
}
