// Package rootcredential says why a cluster of Cloud Dedicated or Clustered may
// have refused the root credential, and what to do about it.
package rootcredential

import (
	"regexp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// databaseToken matches the form of database tokens, see docs/vendor-facts.md,
// "token-form".
var databaseToken = regexp.MustCompile(`^apiv\d+_`)

// isDatabaseToken reports whether the root credential of c has the form of a
// database token.
func isDatabaseToken(c issuer.Cluster) bool { return databaseToken.MatchString(c.Root.Reveal()) }

const databaseTokenAdvice = "mgmt_token in config is a database token, which cannot manage tokens: " +
	"create a management token with `influxctl management create` and write it to config"

// place names the parameters of config that say which cluster c is.
func place(c issuer.Cluster) string {
	if c.Product == issuer.Dedicated {
		return "account_id and cluster_id"
	}
	return "host"
}

// NotAccepted says why the cluster may not know the root credential.
func NotAccepted(c issuer.Cluster) string {
	if isDatabaseToken(c) {
		return databaseTokenAdvice
	}
	return "the cluster does not accept mgmt_token: it is wrong, revoked or expired, or it belongs to another account or cluster; " +
		"check mgmt_token, " + place(c) + " in config"
}

// NotAllowed says why the cluster may know the root credential but not allow it
// to manage tokens.
func NotAllowed(c issuer.Cluster) string {
	if isDatabaseToken(c) {
		return databaseTokenAdvice
	}
	return "the cluster does not allow mgmt_token to do this: it is not a management token of this account, or it belongs to another account or cluster; " +
		"check mgmt_token, " + place(c) + " in config"
}
