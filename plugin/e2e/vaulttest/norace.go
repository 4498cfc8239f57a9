//go:build !race

package vaulttest

// RaceFlags is empty because the tests run without the race detector.
var RaceFlags []string
