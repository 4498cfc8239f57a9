package simulator

import (
	"cmp"
	"fmt"
	"slices"
)

// LatestVersion is the version of influxctl that is simulated by default.
const LatestVersion = "2.12.0"

// A version is major, minor and patch.
type version [3]int

// The versions in which the behavior changed, from the release notes of
// influxctl.
var (
	revokeContinues = version{2, 9, 8}  // revoke continues with further IDs after an error
	createTable     = version{2, 11, 0} // create prints more than the token
)

// version parses Version.
func (s Sidecar) version() (v version, err error) {
	text := cmp.Or(s.Version, LatestVersion)
	if _, err := fmt.Sscanf(text, "%d.%d.%d", &v[0], &v[1], &v[2]); err != nil {
		return v, fmt.Errorf("version %q in %s: %w", text, SidecarName, err)
	}
	return v, nil
}

// String returns what `influxctl version` prints.
func (v version) String() string {
	return fmt.Sprintf("influxctl v%d.%d.%d linux/amd64", v[0], v[1], v[2])
}

// since reports whether v is the version first or a later one.
func (v version) since(first version) bool {
	return slices.Compare(v[:], first[:]) >= 0
}
