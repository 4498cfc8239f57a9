#!/usr/bin/env bash
# Usage: scripts/release/sign.sh FOLDER — signs the checksums of a release, and
# so all of it: FOLDER/*_SHA256SUMS.sig.
#
# The private key, armored and without a passphrase, is read from standard input
# and stands nowhere but in a scratch folder that goes when this ends. The
# signature is then checked by the public key in scripts/release/key.asc, which
# is the one that users are told of: a release signed by any other key fails.
set -euo pipefail
sums=$(cd "${1:?usage: sign.sh FOLDER}" && ls "$PWD"/*_SHA256SUMS)
public=$(dirname "$0")/key.asc
scratch=$(mktemp -d)
trap 'gpgconf --homedir "$scratch/private" --kill all; gpgconf --homedir "$scratch/public" --kill all; rm -rf "$scratch"' EXIT
mkdir -m 700 "$scratch/private" "$scratch/public"

gpg --homedir "$scratch/private" --batch --quiet --import
gpg --homedir "$scratch/private" --batch --quiet --yes --detach-sign --output "$sums.sig" "$sums"

gpg --homedir "$scratch/public" --batch --quiet --import "$public"
if ! gpg --homedir "$scratch/public" --batch --trust-model always --verify "$sums.sig" "$sums"; then
	rm -f "$sums.sig"
	echo "sign.sh: the key that signed is not the one in $public" >&2
	exit 1
fi
