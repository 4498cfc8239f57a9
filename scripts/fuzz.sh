#!/usr/bin/env bash
# Runs every fuzz target there is, one after the other, each for as long, or as
# often, as the first argument says (10s, 500x). What a target finds, it leaves
# in testdata/fuzz of its package, where `go test` tries it again for ever after:
# commit it together with the mend.
set -euo pipefail
cd "$(dirname "$0")/.."
limit=${1:-10s}
root=$PWD
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cache=$(go env GOCACHE)/fuzz

# run runs one target. When the time is up, Go before 1.27 may take its own
# deadline for a failure of the target (golang/go#75804).
run() {
	"$scratch/fuzz.test" -test.run '^$' -test.fuzz "^$1\$" -test.fuzztime "$limit" \
		-test.fuzzcachedir "$cache/$dir" </dev/null >"$scratch/log" 2>&1 && return
	grep -q 'context deadline exceeded' "$scratch/log" && ! grep -q 'Failing input written' "$scratch/log"
}

for dir in $(git ls-files '*_test.go' | xargs grep -l '^func Fuzz' | xargs -n 1 dirname | sort -u); do
	(cd "$dir" && go test -c -fuzz=Fuzz -o "$scratch/fuzz.test" .)
	cd "$dir"
	for target in $("$scratch/fuzz.test" -test.list '^Fuzz'); do
		if ! run "$target"; then
			cat "$scratch/log"
			exit 1
		fi
		echo "$dir $target:$(grep -o ' execs: [0-9]*' "$scratch/log" | tail -n 1)"
	done
	cd "$root"
done
