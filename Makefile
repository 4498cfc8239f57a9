# `make` lists what there is to make.

VERSION ?= v0.1.0-dev
MODULE  := github.com/influxdb3-vault/vault-plugin-secrets-influxdb
OUT     := .build
PRODUCT := dedicated
LDFLAGS := -s -w -X $(MODULE)/plugin.version=$(VERSION)

# The tests in plugin/e2e need a Vault, and plugin/bench has benchmarks only.
UNIT = $(shell go list ./... | grep -v -e '^$(MODULE)/plugin/e2e$$' -e '^$(MODULE)/plugin/bench$$')

.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: dev
dev: build ## start a Vault, a simulated InfluxDB (PRODUCT=dedicated, core, enterprise or cloud) and the plugin, and show what they do; Ctrl-C ends it
	@scripts/dev.sh $(OUT) $(PRODUCT)

.PHONY: build
build: ## the plugin and the simulator, into .build/
	@mkdir -p $(OUT)
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(OUT)/ ./cmd/...

.PHONY: release
release: ## the plugin for every platform, from the tag of this commit, with checksums and bills of materials, into dist/
	@rm -rf dist
	go run ./scripts/release

.PHONY: unit
unit: ## the quick tests: all but those on a real Vault
	go test -shuffle=on -timeout 5m $(UNIT)

.PHONY: test
test: ## every test, those on a real Vault too, with the race detector
	@scripts/vault.sh >/dev/null
	go test -race -shuffle=on -timeout 20m ./plugin/e2e ./... # the longest first
	go test -count=1 ./backend/simulation # runs one goroutine at a time, so it has no locks

.PHONY: mutants
mutants: ## plant one bug at a time and see whether the tests find it, each for $MUTANT_TIME (1m); BUG=name selects some
	go run ./scripts/mutants $(BUG)

.PHONY: fuzz
fuzz: ## every fuzz target, each for $FUZZTIME (10s)
	@scripts/fuzz.sh $${FUZZTIME:-10s}

# Long tests on a real Vault, of which `make test` runs short forms. Each prints
# what it has measured.
LONG = go test -count=1 -v -timeout 90m ./plugin/e2e

.PHONY: chaos
chaos: ## disturb three nodes $CHAOS_DISTURBANCES times (210) in the order of $CHAOS_SEED; 40 minutes
	CHAOS_DISTURBANCES=$${CHAOS_DISTURBANCES:-210} $(LONG) -run TestChaos

.PHONY: simulate
simulate: ## random walks through the engine on two nodes with faults, from new seeds, for $SIMULATE_FOR (10m); a failure prints how to repeat it
	SIMULATE_FRESH=$${SIMULATE_FOR:-10m} go test -count=1 -v -timeout 2h -run 'TestWalk_FreshSeeds' ./backend/simulation

.PHONY: kills
kills: ## kill plugin and Vault during $STATIC_KILLS (50) rotations of static roles; 3 minutes
	STATIC_KILLS=$${STATIC_KILLS:-50} $(LONG) -run TestStaticRole_SurvivesKills

.PHONY: outage
outage: ## leases that end in an outage of $OUTAGE_MINUTES (16), longer than Vault tries to revoke them
	OUTAGE_MINUTES=$${OUTAGE_MINUTES:-16} $(LONG) -run 'TestOutage|TestDrain'

.PHONY: load
load: ## how many processes end $LOAD_LEASES (1000), and what a start with $START_RECORDS (100000) takes
	LOAD_LEASES=$${LOAD_LEASES:-1000} START_RECORDS=$${START_RECORDS:-100000} $(LONG) -parallel 1 -run 'TestLoad|TestStart'
	go test -run '^$$' -bench 'Load|Tick' ./backend

.PHONY: bench
bench: ## measure the engine and draw the results, into .build/bench/; half an hour
	@mkdir -p $(OUT)/bench
	BENCH_OUTPUT=$(abspath $(OUT))/bench/results.jsonl go test -run '^$$' -bench Engine -benchtime 1x -timeout 60m ./plugin/bench
	go run ./plugin/bench/plots $(OUT)/bench <$(OUT)/bench/results.jsonl

.PHONY: conformance
conformance: ## the promises of an issuer, and the facts behind them, on the cluster of an influxctl profile ($INFLUXCTL_CONFIG, $INFLUXCTL_PROFILE, $INFLUXCTL_PATH) and on an InfluxDB 3 ($INFLUXDB3_URL, $INFLUXDB3_ADMIN_TOKEN); where there is none, on the simulator
	go test -count=1 -run 'TestRealCluster|AtHand$$' -timeout 30m -v ./backend/issuer/influxctl ./backend/issuer/influxdb3

.PHONY: lint
lint: ## formatting, linters, the modules, and who may import whom
	@scripts/lint.sh

.PHONY: fmt
fmt: ## format the code
	gofmt -w $$(git ls-files '*.go')

.PHONY: clean
clean: ## remove what was built, but for the Vault in .tools/
	rm -rf $(OUT) dist coverage.out
