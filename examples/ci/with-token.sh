#!/usr/bin/env bash
# Usage: with-token.sh ROLE COMMAND [ARG...]
#
# Runs a command with a token of influxdb/creds/ROLE, and revokes the token when
# the command ends, also when it fails. For CI jobs.
#
# Needs VAULT_ADDR, and VAULT_JWT with VAULT_ROLE: the identity of the job, and the
# role of auth/jwt to log in with. With VAULT_TOKEN instead, that token is used and
# not revoked.
#
# The command gets INFLUXDB3_TOKEN, INFLUXDB3_ACCOUNT_ID and INFLUXDB3_CLUSTER_ID,
# which Terraform's provider influxdb3 reads, and INFLUXDB3_AUTH_TOKEN and
# INFLUXDB3_HOST_URL, which the command line influxdb3 reads. It does not get Vault's
# variables.
#
# A test runs it against a real Vault, with a JWT.
set -euo pipefail
role=${1:?usage: with-token.sh ROLE COMMAND [ARG...]}
shift

if [[ -n ${VAULT_JWT:-} ]]; then
	VAULT_TOKEN=$(printf %s "$VAULT_JWT" | vault write -field=token auth/jwt/login role="${VAULT_ROLE:?}" jwt=-)
	logged_in=yes
fi
export VAULT_TOKEN

# revoke revokes the lease, and then the Vault token of the login. The end of the
# Vault token would end the lease too, but would not report whether the InfluxDB
# token was revoked.
revoke() {
	local status=$?
	[[ -z ${lease:-} ]] || vault lease revoke -sync "$lease" >&2 || status=1
	[[ -z ${logged_in:-} ]] || vault token revoke -self >&2 || status=1
	exit "$status"
}
trap revoke EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

credential=$(vault read -format=json "influxdb/creds/$role")
field() { sed -n 's/^ *"'"$1"'": "\([^"]*\)",\{0,1\}$/\1/p' <<<"$credential"; }
lease=$(field lease_id)
(
	export INFLUXDB3_TOKEN INFLUXDB3_ACCOUNT_ID INFLUXDB3_CLUSTER_ID INFLUXDB3_AUTH_TOKEN INFLUXDB3_HOST_URL
	INFLUXDB3_TOKEN=$(field token)
	INFLUXDB3_ACCOUNT_ID=$(field account_id)
	INFLUXDB3_CLUSTER_ID=$(field cluster_id)
	INFLUXDB3_AUTH_TOKEN=$INFLUXDB3_TOKEN
	INFLUXDB3_HOST_URL=$(field url)
	unset VAULT_TOKEN VAULT_JWT
	exec "$@"
)
