//go:build race

package vaulttest

// RaceFlags makes [Build] use the race detector when the tests use it. A race in
// the plugin then appears in the server's log, which the test checks at its end.
var RaceFlags = []string{"-race"}
