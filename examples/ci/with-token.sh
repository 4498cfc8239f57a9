#!/usr/bin/env bash
# Usage: with-token.sh ROLE COMMAND [ARG...]
#
# Runs a command with a token of influxdb/creds/ROLE, and gives the token back
# when the command has ended, however it did. For CI jobs.
#
# Needs VAULT_ADDR, and VAULT_JWT with VAULT_ROLE: the job's identity, and the role
# of auth/jwt to log in as. With VAULT_TOKEN instead, that one is used and kept.
#
# The command gets INFLUXDB3_TOKEN, INFLUXDB3_ACCOUNT_ID and INFLUXDB3_CLUSTER_ID,
# which is what Terraform's provider influxdb3 reads, and nothing of Vault's.
#
# Run against a real Vault, with a JWT, in plugin/e2e/examples_test.go.
set -euo pipefail
role=${1:?usage: with-token.sh ROLE COMMAND [ARG...]}
shift

if [[ -n ${VAULT_JWT:-} ]]; then
	VAULT_TOKEN=$(printf %s "$VAULT_JWT" | vault write -field=token auth/jwt/login role="${VAULT_ROLE:?}" jwt=-)
	mine=yes
fi
export VAULT_TOKEN

# The end of a Vault token is the end of its leases; revoking the lease first says
# whether the token really died.
give_back() {
	local status=$?
	[[ -z ${lease:-} ]] || vault lease revoke -sync "$lease" >&2 || status=1
	[[ -z ${mine:-} ]] || vault token revoke -self >&2 || status=1
	exit "$status"
}
trap give_back EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

credential=$(vault read -format=json "influxdb/creds/$role")
field() { sed -n 's/^ *"'"$1"'": "\([^"]*\)",\{0,1\}$/\1/p' <<<"$credential"; }
lease=$(field lease_id)
INFLUXDB3_TOKEN=$(field token) INFLUXDB3_ACCOUNT_ID=$(field account_id) INFLUXDB3_CLUSTER_ID=$(field cluster_id) \
	env -u VAULT_TOKEN -u VAULT_JWT "$@"
