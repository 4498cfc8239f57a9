package main

import (
	"os/exec"
	"testing"
)

// Every bug can still be planted: a change of the code must change the patches, too.
func TestMutants_CanBePlanted(t *testing.T) {
	t.Chdir("../..")
	mutants, err := readMutants(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		if out, err := exec.CommandContext(t.Context(), "git", "apply", "--check", "-C1", m.file).CombinedOutput(); err != nil { //nolint:gosec // a file of this folder
			t.Errorf("%v: %s", err, out)
		}
	}
}
