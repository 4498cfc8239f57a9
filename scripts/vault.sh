#!/usr/bin/env bash
# Prints the path of a Vault binary, the first of:
#
#   $VAULT_BINARY                      if it is set
#   vault (1.16 or newer) or bao       if on PATH
#   .tools/vault                       built here from the Go module proxy
#
# The build happens once. What is going on is told on stderr.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
built=$root/.tools/vault

# recent_enough PATH says whether a binary on PATH may be used as it is.
recent_enough() {
	local version major minor
	version=$("$1" version 2>/dev/null | sed -n 's/^Vault v\([0-9][0-9.]*\).*/\1/p')
	IFS=. read -r major minor _ <<<"$version"
	((${major:-0} > 1 || (${major:-0} == 1 && ${minor:-0} >= 16)))
}

# up_to_date says whether $built is there, in the version that go.mod asks for.
up_to_date() {
	local version
	version=$(awk '$1 == "github.com/hashicorp/vault" { print $2 }' "$root/scripts/vault/go.mod")
	[[ -x $built && $("$built" version) == "Vault $version"* ]]
}

# build makes $built under a name of its own first, so that nobody ever runs
# half a binary.
build() {
	new=$built.$$
	trap 'rm -f "$new"' EXIT
	echo "vault.sh: no Vault found; building one into .tools/ (once; 3 minutes of downloads and 6 of compiling on 2 cores)" >&2
	cd "$root/scripts/vault"
	CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -tags minimal -trimpath -buildvcs=false \
		-ldflags "-s -w" -o "$new" github.com/hashicorp/vault >&2
	"$new" version >&2
	mv "$new" "$built"
}

# built_here builds unless it is done, one at a time where flock exists.
# Without it two builds at once waste time and nothing else.
built_here() {
	mkdir -p "$root/.tools"
	if command -v flock >/dev/null; then
		exec 9>"$root/.tools/vault.lock"
		flock 9
	fi
	up_to_date || (build)
	echo "$built"
}

if [[ -n ${VAULT_BINARY:-} ]]; then
	"$VAULT_BINARY" version >/dev/null || {
		echo "vault.sh: VAULT_BINARY=$VAULT_BINARY does not run" >&2
		exit 1
	}
	case $VAULT_BINARY in
	*/*) echo "$(cd "$(dirname "$VAULT_BINARY")" && pwd)/$(basename "$VAULT_BINARY")" ;; # callers change the folder
	*) command -v "$VAULT_BINARY" ;;
	esac
elif found=$(command -v vault) && recent_enough "$found"; then
	echo "$found"
elif found=$(command -v bao); then
	echo "$found"
else
	built_here
fi
