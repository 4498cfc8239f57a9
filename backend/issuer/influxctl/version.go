package influxctl

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
)

// A version is a release of influxctl. The zero version is one that could not be
// read.
type version struct{ major, minor, patch int }

// See docs/vendor-facts.md, "influxctl-versions".
var (
	minVersion             = version{2, 9, 7}  // has --timeout
	continueOnErrorVersion = version{2, 9, 8}  // revokes the other tokens when one fails
	expiryFixVersion       = version{2, 10, 0} // handles expiries and descriptions correctly
	printsIDVersion        = version{2, 11, 0} // prints the ID of a token that it creates
)

// describesBuild matches what `influxctl version` prints besides a version that
// can be read. A program whose output has nothing of it is another program, such
// as /bin/true, whose exit status proves nothing.
var describesBuild = regexp.MustCompile(`(?i)influxctl|amd64|x86|x64|\barm|aarch64|\d\.\d`)

var versionText = regexp.MustCompile(`(\d{1,6})\.(\d{1,6})\.(\d{1,6})`)

// parseVersion returns the first version in the output of `influxctl version`,
// whose form is not documented: docs/vendor-facts.md, "version-output".
func parseVersion(text string) (v version, ok bool) {
	m := versionText.FindStringSubmatch(text)
	if m == nil {
		return version{}, false
	}
	v.major, _ = strconv.Atoi(m[1]) // at most six digits
	v.minor, _ = strconv.Atoi(m[2])
	v.patch, _ = strconv.Atoi(m[3])
	return v, v != version{}
}

func (v version) String() string {
	if v == (version{}) {
		return ""
	}
	return fmt.Sprintf("%d.%d.%d", v.major, v.minor, v.patch)
}

// before reports whether v is an older release than w. It is false for a version
// that could not be read.
func (v version) before(w version) bool {
	return v != version{} &&
		cmp.Or(cmp.Compare(v.major, w.major), cmp.Compare(v.minor, w.minor), cmp.Compare(v.patch, w.patch)) < 0
}

// warning returns what an operator should know about a version that can be used.
func (v version) warning() string {
	switch {
	case v == version{}:
		return fmt.Sprintf("the version of influxctl could not be read; %v or later is required, %v or later is recommended", minVersion, printsIDVersion)
	case v.before(expiryFixVersion):
		return fmt.Sprintf("influxctl %v is old: %v or later is recommended, because older ones handle expiries wrongly and do not print the id of a new token, so that each issue needs a list as well", v, printsIDVersion)
	case v.before(printsIDVersion):
		return fmt.Sprintf("influxctl %v does not print the id of a new token, so that each issue needs a list as well: %v or later is recommended", v, printsIDVersion)
	}
	return ""
}
