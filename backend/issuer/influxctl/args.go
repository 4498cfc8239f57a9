package influxctl

import (
	"strings"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// influxctl parses with urfave/cli v2: global flags stand before the command,
// flags before arguments, and what starts with a dash can be a value only in
// one word with its flag. No argument is a secret: the root token stands in the
// profile. --debug and --trace are never set, since they may print it.

// profileName is the name of the one profile in the file.
const profileName = "vault"

// versionArgs ask the program for its version.
var versionArgs = []string{"version"}

// managementArgs are the arguments of `influxctl management verb`.
func managementArgs(profile string, timeout time.Duration, verb string, rest ...string) []string {
	return append([]string{
		"--config", profile, "--profile", profileName, "--timeout", timeout.String(),
		"management", verb,
	}, rest...)
}

// createArgs is what follows `management create`. The time is in UTC and whole
// seconds, the one form that every version reads alike. Without one the token
// never expires.
func createArgs(r issuer.Request) []string {
	args := []string{"--description=" + r.Description}
	if !r.ExpiresAt.IsZero() {
		args = append(args, "--expires-at="+r.ExpiresAt.UTC().Format("2006-01-02T15:04:05Z"))
	}
	return append(args, "--format", "json")
}

// listArgs is what follows `management list`.
func listArgs() []string { return []string{"--format", "json"} }

// revokeArgs is what follows `management revoke`. Without --force it prompts.
func revokeArgs(ids []string) []string { return append([]string{"--force"}, ids...) }

// plausibleID reports whether id can be an argument: not a flag, and not more
// than one word to whatever wrapper script stands in for the program.
func plausibleID(id string) bool {
	return id != "" && len(id) <= 128 && id[0] != '-' && !strings.ContainsFunc(id, func(r rune) bool {
		return r <= ' ' || r > '~'
	})
}
