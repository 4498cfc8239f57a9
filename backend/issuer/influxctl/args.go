package influxctl

import (
	"strings"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// influxctl parses arguments with urfave/cli v2: global flags come before the
// command, flags before positional arguments, and a value that begins with a dash
// must be in the same argument as its flag. See docs/vendor-facts.md,
// "flag-order". No argument is a secret: the root credential is in the profile.
// --debug and --trace are never used, because they may print it.

// profileName is the name of the only profile in the profile file.
const profileName = "vault"

// versionArgs are the arguments of `influxctl version`.
var versionArgs = []string{"version"}

// managementArgs returns the arguments of `influxctl management verb`.
func managementArgs(profile string, timeout time.Duration, verb string, rest ...string) []string {
	return append([]string{
		"--config", profile, "--profile", profileName, "--timeout", timeout.String(),
		"management", verb,
	}, rest...)
}

// createArgs returns what follows `management create`. The expiry is in UTC and
// whole seconds, the form that all versions read in the same way. See
// docs/vendor-facts.md, "expiry-format". Without an expiry the token never
// expires.
func createArgs(r issuer.Request) []string {
	args := []string{"--description=" + r.Description}
	if !r.ExpiresAt.IsZero() {
		args = append(args, "--expires-at="+r.ExpiresAt.UTC().Format("2006-01-02T15:04:05Z"))
	}
	return append(args, "--format", "json")
}

// listArgs returns what follows `management list`.
func listArgs() []string { return []string{"--format", "json"} }

// revokeArgs returns what follows `management revoke`. Without --force the
// program asks for confirmation.
func revokeArgs(ids []string) []string { return append([]string{"--force"}, ids...) }

// plausibleID reports whether id can be an argument. It must not be a flag, and
// must be a single word also for a shell script in place of the program.
func plausibleID(id string) bool {
	return id != "" && len(id) <= 128 && id[0] != '-' && !strings.ContainsFunc(id, func(r rune) bool {
		return r <= ' ' || r > '~'
	})
}
