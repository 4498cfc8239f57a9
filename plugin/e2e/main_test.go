// Package e2e tests the plugin binary on real servers: Vault or OpenBao, Vault
// Agent, and the pages and examples that users read.
package e2e

import (
	"flag"
	"os"
	"runtime"
	"strconv"
	"testing"
)

// TestMain lets more tests run in parallel than there are processors, because
// they spend most of their time waiting. A -parallel on the command line still
// takes precedence.
func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", strconv.Itoa(max(6, runtime.GOMAXPROCS(0)))); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// must ends the test if there is an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
