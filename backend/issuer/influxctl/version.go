package influxctl

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
)

// A version is a release of influxctl. The zero version is one that could not
// be read.
type version struct{ major, minor, patch int }

var (
	floorVersion   = version{2, 9, 7}  // has --timeout
	persistVersion = version{2, 9, 8}  // revokes the other tokens when one cannot be
	advisedVersion = version{2, 10, 0} // handles expiries and descriptions well
	tellingVersion = version{2, 11, 0} // says the id of a token that it creates
)

var versionText = regexp.MustCompile(`(\d{1,6})\.(\d{1,6})\.(\d{1,6})`)

// parseVersion finds the first version in what `influxctl version` prints, whose
// wording is not documented.
func parseVersion(text string) (v version, ok bool) {
	m := versionText.FindStringSubmatch(text)
	if m == nil {
		return version{}, false
	}
	v.major, _ = strconv.Atoi(m[1]) // digits, and few
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

// before reports whether v is an older release than w. A version that could not
// be read is before none.
func (v version) before(w version) bool {
	return v != version{} &&
		cmp.Or(cmp.Compare(v.major, w.major), cmp.Compare(v.minor, w.minor), cmp.Compare(v.patch, w.patch)) < 0
}

// warning is what an operator should know of a version that can be used.
func (v version) warning() string {
	switch {
	case v == version{}:
		return fmt.Sprintf("influxctl did not say a version that can be read; %v or later is needed, %v or later advised", floorVersion, tellingVersion)
	case v.before(advisedVersion):
		return fmt.Sprintf("influxctl %v is old: %v or later is advised, since older ones mishandle expiries, and do not say the id of a token that they create, so that every mint takes a list as well", v, tellingVersion)
	case v.before(tellingVersion):
		return fmt.Sprintf("influxctl %v does not say the id of a token that it creates, so that every mint takes a list as well: %v or later is advised", v, tellingVersion)
	}
	return ""
}
