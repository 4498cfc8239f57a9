#!/usr/bin/env bash
# Runs every check that is not a test: the shape of the tree, the modules, and
# the linters, which it builds into .tools/ first if their versions have changed.
set -euo pipefail
cd "$(dirname "$0")/.."
linter=.tools/golangci-lint

# up_to_date says whether the linter is there, in the version that go.mod asks for.
up_to_date() {
	local version
	version=$(awk '$1 == "github.com/golangci/golangci-lint/v2" { print $2 }' scripts/lint/go.mod)
	[[ -x $linter && $($linter version) == *"version ${version#v} built with $(go env GOVERSION)"* ]]
}

# build makes the linter under a name of its own first, so that nobody runs half
# a binary. A linter from an older Go cannot read code for a newer one.
build() {
	echo "lint.sh: building golangci-lint into .tools/ (once; 2 minutes on 2 cores)" >&2
	mkdir -p .tools
	(cd scripts/lint && CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w" \
		-o "../../$linter.$$" github.com/golangci/golangci-lint/v2/cmd/golangci-lint)
	mv "$linter.$$" "$linter"
}

up_to_date || build
go run ./scripts/layout
go mod verify
go mod tidy -diff
"$linter" run ./...
