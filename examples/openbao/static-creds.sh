#!/usr/bin/env bash
# Usage: BAO_ADDR=https://… BAO_JWT=… static-creds.sh ROLE NAME
#
# Reads the token of static role NAME with a login in the same request (inline
# authentication of OpenBao): no OpenBao token is created or stored. ROLE is a role of
# the auth method jwt. Only static-creds can be read in this way: OpenBao refuses
# answers that have a lease, which those of creds have.
#
# Prints the token. Needs curl and jq.
set -euo pipefail
(($# == 2)) || {
	echo "usage: static-creds.sh ROLE NAME" >&2
	exit 2
}

# parameter NAME VALUE encodes a parameter of the login. The value may be a secret, so
# jq reads it from its environment, which other users cannot read.
parameter() {
	value=$2 jq -nr --arg key "$1" '{key: $key, value: env.value} | @base64' | tr '+/' '-_' | tr -d '=\n'
}

# The headers hold a secret, so curl reads them from its input.
curl -fsS --config - "$BAO_ADDR/v1/influxdb/static-creds/$2" <<EOF | jq -r .data.token
header = "X-Vault-Inline-Auth-Path: auth/jwt/login"
header = "X-Vault-Inline-Auth-Parameter-role: $(parameter role "$1")"
header = "X-Vault-Inline-Auth-Parameter-jwt: $(parameter jwt "$BAO_JWT")"
EOF
