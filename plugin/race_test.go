//go:build race

package plugin_test

// raceFlags builds the plugin with the race detector if the tests have it: a
// race shows up in the server's log.
var raceFlags = []string{"-race"}
