#!/usr/bin/env bash
# Usage: scripts/lint.sh
#
# Runs every check that is not a test: the top level of the tree, the packages
# of the plugin binary, the references to vendor facts, the modules and the linters. Linters of the versions in
# scripts/lint/go.mod are built into .tools/ first.
set -euo pipefail
cd "$(dirname "$0")/.."

# up_to_date TOOL MODULE reports whether .tools/TOOL has the version that
# scripts/lint/go.mod asks for and was built by the Go of this machine. A linter
# built by an older Go cannot read code for a newer one.
up_to_date() {
	local version about
	version=$(awk -v module="$2" '$1 == module { print $2 }' scripts/lint/go.mod)
	[[ -x .tools/$1 ]] && about=$(go version -m ".tools/$1") &&
		[[ $about == *": $(go env GOVERSION)"$'\n'*"mod"$'\t'"$2"$'\t'"$version"$'\t'* ]]
}

# need TOOL MODULE builds a tool if it is not up to date. It builds under another
# name, so that nobody runs an unfinished file.
need() {
	! up_to_date "$1" "$2" || return 0
	echo "lint.sh: building $1 into .tools/ (once; about 2 minutes on 2 cores)" >&2
	mkdir -p .tools
	(cd scripts/lint && CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w" \
		-o "../../.tools/$1.$$" "$2/cmd/$1")
	mv ".tools/$1.$$" ".tools/$1"
}

# check_top_level fails if the top level holds a file or folder that is not
# listed here. Names that git ignores and names that begin with a dot may be there.
check_top_level() {
	local name
	for name in *; do
		case $name in
		backend | cmd | docs | examples | plugin | scripts) ;;
		go.mod | go.sum | CHANGELOG.md | LICENSE | Makefile | README.md | SECURITY.md) ;;
		*)
			git check-ignore --quiet "$name" || {
				echo "lint.sh: the top level must not hold $name" >&2
				return 1
			}
			;;
		esac
	done
}

# check_plugin_binary fails if the plugin binary contains code of a test, of a
# simulator or of a script, or a library that only those use.
check_plugin_binary() {
	local module linked forbidden
	module=$(go list -m)
	linked=$(go list -deps ./cmd/vault-plugin-secrets-influxdb)
	forbidden=$(grep -E \
		-e "^$module/(scripts|.*/issuertest|.*/simulator)(/|\$)" \
		-e '^github\.com/(CycloneDX|anishathalye/porcupine|getkin/kin-openapi|google/go-cmp|hashicorp/vault/api)(/|$)' \
		-e '^github\.com/(rogpeppe/go-internal|urfave/cli)(/|$)' \
		-e '^(go\.etcd\.io/bbolt|pgregory\.net/rapid)(/|$)' <<<"$linked") || return 0
	echo "lint.sh: the plugin binary must not contain:" >&2
	echo "$forbidden" >&2
	return 1
}

# check_vendor_facts fails if a comment names an entry of docs/vendor-facts.md that
# does not exist.
check_vendor_facts() {
	local names name status=0
	names=$(git ls-files -z '*.go' | xargs -0 cat | tr '\n' ' ' | sed -E 's#[[:space:]]+//[[:space:]]+# #g' |
		grep -oE 'vendor-facts\.md, "[^"]*"' | sort -u | cut -d '"' -f 2)
	for name in $names; do
		grep -qxF "### $name" docs/vendor-facts.md || {
			echo "lint.sh: docs/vendor-facts.md has no entry $name" >&2
			status=1
		}
	done
	return "$status"
}

check_top_level
check_plugin_binary
check_vendor_facts
need golangci-lint github.com/golangci/golangci-lint/v2
need actionlint github.com/rhysd/actionlint
go mod verify
go mod tidy -diff
.tools/golangci-lint run ./...
.tools/actionlint .github/workflows/*.yml examples/ci/github-actions.yml
