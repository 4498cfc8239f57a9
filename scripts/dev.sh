#!/usr/bin/env bash
# Usage: scripts/dev.sh FOLDER — best through `make dev`, which builds the plugin
# and the simulator into FOLDER first.
#
# Starts a Vault on raft storage, a simulated InfluxDB 3 Cloud Dedicated cluster
# and the plugin, shows the life of a token, and stays up until Ctrl-C. All it
# writes is in a scratch folder that goes when it ends.
set -euo pipefail
built=$(cd "${1:?usage: dev.sh FOLDER}" && pwd)
vault=$("$(dirname "$0")/vault.sh")
scratch=$(mktemp -d)
started=()
trap 'finish' EXIT
trap 'exit 0' INT TERM

finish() {
	trap '' INT TERM
	for pid in "${started[@]}"; do
		kill "$pid" 2>/dev/null || true
	done
	wait
	rm -rf "$scratch"
}

# say prints a heading, bold on a terminal.
say() {
	if [[ -t 1 ]]; then printf '\n\033[1m# %s\033[0m\n' "$*"; else printf '\n# %s\n' "$*"; fi
}

# run shows a command and runs it, with the name that a user would type.
run() {
	printf '$ %s\n' "$*"
	[[ $1 != vault ]] || set -- "$vault" "${@:2}"
	"$@"
}

# start runs a server in the background: start LOG COMMAND ARG...
start() {
	local log=$1
	shift
	"$@" >"$scratch/$log" 2>&1 </dev/null &
	started+=($!)
}

# await COMMAND ARG... waits until a command succeeds, for half a minute at most.
await() {
	for _ in $(seq 150); do
		! "$@" >/dev/null 2>&1 || return 0
		sleep 0.2
	done
	echo "dev.sh: timed out waiting for: $*" >&2
	tail -n 20 "$scratch"/*.log >&2
	return 1
}

# field FILE NAME prints a string out of a JSON file.
field() { sed -n 's/.*"'"$2"'": *"\([^"]*\)".*/\1/p' "$1" | head -n 1; }

free_port() {
	local port
	while port=$((20000 + RANDOM)); (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
	echo "$port"
}

checksum() {
	if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d ' ' -f 1
}

# use TOKEN asks the cluster for its databases with a token, and prints the first
# line of the answer.
use() {
	local address=${cluster_url#http://} path=/api/v0/accounts/$account_id/clusters/$cluster_id/databases line
	printf '$ GET %s%s   (Authorization: Bearer %.9s…)\n' "$cluster_url" "$path" "$1"
	exec 3<>"/dev/tcp/${address%:*}/${address#*:}"
	printf 'GET %s HTTP/1.0\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n' "$path" "$address" "$1" >&3
	IFS=$'\r' read -r line _ <&3
	exec 3>&-
	echo "$line"
}

start_cluster() {
	start cluster.log "$built/influxctl-sim" cluster --product dedicated --root-file "$scratch/root"
	await grep -q '"url"' "$scratch/cluster.log"
	cluster_url=$(field "$scratch/cluster.log" url)
	account_id=$(field "$scratch/cluster.log" account_id)
	cluster_id=$(field "$scratch/cluster.log" cluster_id)
	mkdir "$scratch/cli"
	cp "$built/influxctl-sim" "$scratch/cli/influxctl"
	printf '{"url": "%s"}\n' "$cluster_url" >"$scratch/cli/influxctl-sim.json"
}

start_vault() {
	local port peers
	port=$(free_port)
	peers=$(free_port)
	mkdir "$scratch/raft" "$scratch/plugins"
	cp "$built/vault-plugin-secrets-influxdb" "$scratch/plugins/"
	cat >"$scratch/vault.hcl" <<-CONFIG
		storage "raft" {
			path                   = "$scratch/raft"
			node_id                = "dev"
			performance_multiplier = 1
		}
		listener "tcp" {
			address         = "127.0.0.1:$port"
			cluster_address = "127.0.0.1:$peers"
			tls_disable     = true
		}
		api_addr         = "http://127.0.0.1:$port"
		cluster_addr     = "https://127.0.0.1:$peers"
		plugin_directory = "$scratch/plugins"
		disable_mlock    = true
		log_level        = "debug"
	CONFIG
	unset "${!VAULT_@}"
	export VAULT_ADDR=http://127.0.0.1:$port HOME=$scratch
	start vault.log "$vault" server -config="$scratch/vault.hcl"
	await init_vault
	"$vault" operator unseal "$(sed -n '/unseal_keys_b64/{n;s/.*"\(.*\)".*/\1/p;}' "$scratch/init.json")" >/dev/null
	VAULT_TOKEN=$(field "$scratch/init.json" root_token)
	export VAULT_TOKEN
	await "$vault" secrets list
}

init_vault() { "$vault" operator init -key-shares=1 -key-threshold=1 -format=json >"$scratch/init.json"; }

set_up() {
	say "Register the plugin by its checksum, with the influxctl that it is to run, and mount it"
	run vault plugin register -sha256="$(checksum "$scratch/plugins/vault-plugin-secrets-influxdb")" \
		-env=INFLUXCTL_PATH="$scratch/cli/influxctl" secret vault-plugin-secrets-influxdb
	run vault secrets enable -path=influxdb vault-plugin-secrets-influxdb

	say "Tell it where the cluster is. The root token comes by standard input: '-' keeps it out of the process list"
	tr -d '\n' <"$scratch/root" | run vault write influxdb/config \
		product=dedicated account_id="$account_id" cluster_id="$cluster_id" mgmt_token=-
	run vault read influxdb/config

	say "A role is a recipe for tokens"
	run vault write influxdb/roles/automation ttl=1h max_ttl=8h
}

show() {
	say "Each read mints a token of its own, with a lease"
	run vault read -format=json influxdb/creds/automation | tee "$scratch/creds.json"
	local token lease
	token=$(field "$scratch/creds.json" token)
	lease=$(field "$scratch/creds.json" lease_id)

	say "The cluster accepts it"
	use "$token"

	say "Its lease can be renewed, up to the role's max_ttl"
	run vault lease renew "$lease"

	say "The end of the lease is the end of the token"
	run vault lease revoke -sync "$lease"
	use "$token"

	say "How the engine is doing"
	run vault read influxdb/status
}

echo "Starting a simulated cluster and a Vault …"
start_cluster
start_vault
set_up
show
cat <<EXPORTS

Up until Ctrl-C. In another terminal:

  export VAULT_ADDR=$VAULT_ADDR VAULT_TOKEN=$VAULT_TOKEN
  export PATH=$(dirname "$vault"):\$PATH

Vault's log, the plugin's in it: $scratch/vault.log
EXPORTS
wait
