#!/usr/bin/env bash
# Runs every check that is not a test: the shape of the tree, the modules, and
# the linters, which it builds into .tools/ first if their versions have changed.
set -euo pipefail
cd "$(dirname "$0")/.."

# up_to_date TOOL MODULE says whether a tool is there, in the version of its
# module that go.mod asks for, and built by this Go: a linter from an older one
# cannot read code for a newer one.
up_to_date() {
	local version about
	version=$(awk -v module="$2" '$1 == module { print $2 }' scripts/lint/go.mod)
	[[ -x .tools/$1 ]] && about=$(go version -m ".tools/$1") &&
		[[ $about == *": $(go env GOVERSION)"$'\n'*"mod"$'\t'"$2"$'\t'"$version"$'\t'* ]]
}

# need TOOL MODULE builds a tool under a name of its own first, so that nobody
# runs half a binary.
need() {
	! up_to_date "$1" "$2" || return 0
	echo "lint.sh: building $1 into .tools/ (once; 2 minutes on 2 cores)" >&2
	mkdir -p .tools
	(cd scripts/lint && CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w" \
		-o "../../.tools/$1.$$" "$2/cmd/$1")
	mv ".tools/$1.$$" ".tools/$1"
}

need golangci-lint github.com/golangci/golangci-lint/v2
need actionlint github.com/rhysd/actionlint
go run ./scripts/layout
go mod verify
go mod tidy -diff
.tools/golangci-lint run ./...
.tools/actionlint .github/workflows/*.yml examples/ci/github-actions.yml
