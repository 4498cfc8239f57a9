package simulator

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
)

// LatestVersion is the version of influxctl that is simulated by default.
const LatestVersion = "2.12.0"

// A version is major, minor and patch.
type version [3]int

// What changed when, from the release notes of influxctl.
var (
	hasManagement  = version{2, 6, 0}
	hasTimeout     = version{2, 9, 7}
	revokeContinue = version{2, 9, 8} // goes on with further IDs after an error
	hasSort        = version{2, 9, 9}
	createTable    = version{2, 11, 0} // create prints more than the bare token
)

var versionNumber = regexp.MustCompile(`^(\d+)\.(\d+)\.(\d+)$`)

// version is what the CLI behaves like.
func (s Sidecar) version() version {
	match := versionNumber.FindStringSubmatch(cmp.Or(s.Version, LatestVersion))
	if match == nil {
		match = versionNumber.FindStringSubmatch(LatestVersion)
	}
	var v version
	for i := range v {
		v[i], _ = strconv.Atoi(match[i+1]) // digits only
	}
	return v
}

// versionText is what `influxctl version` prints.
func (s Sidecar) versionText() string {
	v := cmp.Or(s.Version, LatestVersion)
	if !versionNumber.MatchString(v) {
		return v
	}
	return fmt.Sprintf("influxctl v%s linux/amd64", v)
}

// since tells whether v is first or later.
func (v version) since(first version) bool {
	return slices.Compare(v[:], first[:]) >= 0
}
