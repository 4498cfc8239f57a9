#!/usr/bin/env bash
# Usage: scripts/dev.sh FOLDER — best through `make dev`, which builds the plugin
# and the simulator into FOLDER first.
#
# Starts a simulated InfluxDB 3 Cloud Dedicated cluster, a Vault on raft storage
# and the plugin, shows the life of a token, and stays up until Ctrl-C. All it
# writes is in a scratch folder that goes when it ends, however it ends.
set -euo pipefail
built=$(cd "${1:?usage: dev.sh FOLDER}" && pwd)
vault=$("$(dirname "$0")/vault.sh")
scratch=$(mktemp -d)
started=()
trap finish EXIT
trap 'exit 0' INT TERM HUP

# finish ends what was started, and what that has started, and removes the
# scratch folder.
finish() {
	local status=$? pid
	trap '' INT TERM HUP
	((status == 0)) || complain
	for pid in ${started[@]+"${started[@]}"}; do
		kill "$pid" 2>/dev/null || true
	done
	for pid in ${started[@]+"${started[@]}"}; do
		wait "$pid" 2>/dev/null || true
		kill -KILL -- "-$pid" 2>/dev/null || true
	done
	cd /
	rm -rf "$scratch"
}

# complain shows how the logs end, before they go.
complain() {
	echo "dev.sh: stopped by a failure; the logs end in:" >&2
	tail -n 20 "$scratch"/*.log >&2 2>/dev/null || true
}

# start runs a server in the background, in a process group of its own that no
# Ctrl-C reaches: start LOG COMMAND ARG...
start() {
	local log=$1
	shift
	set -m
	"$@" >"$scratch/$log" 2>&1 </dev/null &
	started+=($!)
	set +m
}

# await COMMAND ARG... waits until a command succeeds, for half a minute at most.
await() {
	for _ in $(seq 150); do
		! "$@" >/dev/null 2>&1 || return 0
		sleep 0.2
	done
	echo "dev.sh: timed out waiting for: $*" >&2
	return 1
}

# say prints what the commands after it show, bold on a terminal.
say() {
	if [[ -t 1 ]]; then printf '\n\033[1m# %s\033[0m\n' "$*"; else printf '\n# %s\n' "$*"; fi
}

# run prints a command and runs it.
run() {
	printf '$ %s\n' "$*"
	"$@" </dev/null
}

# column NAME prints a value out of Vault's table of a credential.
column() { awk -v name="$1" '$1 == name { print $2 }' "$scratch/credential"; }

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

# ask METHOD PATH TOKEN sends the cluster a request with a token, and prints the
# first line of the answer. It does without curl, which not every machine has.
ask() {
	local address=${cluster_url#http://} line
	printf '$ %s %s%s\n  Authorization: Bearer %.9s…\n' "$1" "$cluster_url" "$2" "$3"
	exec 9<>"/dev/tcp/${address%:*}/${address#*:}"
	printf '%s %s HTTP/1.0\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n' "$1" "$2" "$address" "$3" >&9
	IFS=$'\r' read -r line _ <&9
	exec 9>&-
	echo "$line"
}

# use TOKEN asks the cluster for its databases with a management token.
use() { ask GET "/api/v0/accounts/$account_id/clusters/$cluster_id/databases" "$1"; }

# write_point TOKEN DATABASE writes to a database with a database token.
write_point() { ask POST "/api/v2/write?bucket=$2" "$1"; }

start_cluster() {
	mkdir "$scratch/bin"
	cp "$built/influxsim" "$scratch/bin/influxctl"
	ln "$scratch/bin/influxctl" "$scratch/bin/influxsim"
	start cluster.log "$scratch/bin/influxsim" cluster --product dedicated --root-file "$scratch/root-token"
	await grep -q '"url"' "$scratch/cluster.log"
	cluster_url=$(field "$scratch/cluster.log" url)
	account_id=$(field "$scratch/cluster.log" account_id)
	cluster_id=$(field "$scratch/cluster.log" cluster_id)
	printf '{"url": "%s", "interactive": true}\n' "$cluster_url" >"$scratch/bin/influxsim.json"
	(umask 077 && printf '[[profile]]\nname = "default"\nproduct = "dedicated"\naccount_id = "%s"\ncluster_id = "%s"\nmgmt_token = "%s"\n' \
		"$account_id" "$cluster_id" "$(cat "$scratch/root-token")" >"$scratch/influxctl.toml")
}

start_vault() {
	local port peers
	port=$(free_port)
	peers=$(free_port)
	mkdir "$scratch/raft" "$scratch/plugins"
	cp "$built/vault-plugin-secrets-influxdb" "$scratch/plugins/"
	ln -s "$vault" "$scratch/bin/vault" # which may be OpenBao's bao
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
	unset "${!VAULT_@}" "${!BAO_@}" # of which OpenBao heeds both, the latter first
	export PATH=$scratch/bin:$PATH HOME=$scratch TMPDIR=$scratch VAULT_ADDR=http://127.0.0.1:$port
	start vault.log vault server -config="$scratch/vault.hcl"
	await init_vault
	vault operator unseal "$(sed -n '/unseal_keys_b64/{n;s/.*"\(.*\)".*/\1/p;}' "$scratch/init.json")" >/dev/null
	VAULT_TOKEN=$(field "$scratch/init.json" root_token)
	export VAULT_TOKEN
	await vault secrets list
}

init_vault() { vault operator init -key-shares=1 -key-threshold=1 -format=json >"$scratch/init.json"; }

set_up() {
	say "Vault runs a plugin whose checksum it knows. Its environment names the influxctl to run (here a simulated one)."
	# Through the API, for OpenBao's `plugin register` has no -env.
	run vault write sys/plugins/catalog/secret/vault-plugin-secrets-influxdb command=vault-plugin-secrets-influxdb \
		sha256="$(checksum plugins/vault-plugin-secrets-influxdb)" env=INFLUXCTL_PATH="$scratch/bin/influxctl"
	run vault secrets enable -path=influxdb vault-plugin-secrets-influxdb

	say "The mount learns where its cluster is, and the root token: the management token that makes all others." \
		"It comes out of a file, and no command shows it again."
	run vault write influxdb/config product=dedicated \
		account_id="$account_id" cluster_id="$cluster_id" api_url="$cluster_url" mgmt_token=@root-token
	run vault read influxdb/config

	say "Does it all work? This makes a token, finds it, revokes it, and sees it dead."
	run vault write -force influxdb/config/check

	say "A role is a recipe for tokens. Without max_ttl its leases cannot be renewed."
	run vault write influxdb/roles/deploy ttl=15m
	run vault write influxdb/roles/automation ttl=1h max_ttl=8h
	run vault read influxdb/roles/automation
}

live_and_die() {
	local token lease
	say "Each read makes a token, under a lease. The token's own end, expires_at, is the last the lease can have, and 30s."
	run vault read influxdb/creds/automation | tee credential
	token=$(column token)
	lease=$(column lease_id)

	say "The cluster accepts the token."
	use "$token"

	say "Renewing the lease asks nothing of the cluster."
	run vault lease renew "$lease"

	say "The end of the lease is the end of the token (-sync waits for it)."
	run vault lease revoke -sync "$lease"
	use "$token"
}

read_and_write() {
	local token
	say "Applications that only read and write data get a database token, which can do no more than that."
	run vault write influxdb/roles/telegraf token_type=database write_databases=metrics ttl=1h
	run vault read influxdb/creds/telegraf | tee credential
	token=$(column token)
	write_point "$token" logs
	write_point "$token" metrics
	run vault lease revoke -sync "$(column lease_id)"
	write_point "$token" metrics
}

look_around() {
	say "The next one stays, so that there is something to see."
	run vault read influxdb/creds/deploy
	say "The tokens that are not known to be dead, and how the mount is doing."
	run vault list -detailed influxdb/tokens
	run vault read influxdb/status
}

start_cluster
start_vault
cd "$scratch"
echo
echo "A simulated InfluxDB 3 cluster is at $cluster_url, a Vault at $VAULT_ADDR."
set_up
live_and_die
read_and_write
look_around
cat <<EXPORTS

Up until Ctrl-C. To go on in another terminal, paste:

  export VAULT_ADDR=$VAULT_ADDR VAULT_TOKEN=$VAULT_TOKEN
  export PATH=$scratch/bin:\$PATH

What to try next:

  vault path-help influxdb                            # what there is to read and write
  vault lease revoke -sync -prefix influxdb/creds     # ends every token
  influxctl --config $scratch/influxctl.toml management list   # the tokens on the cluster
  tail -f $scratch/vault.log
EXPORTS
wait "${started[1]}" # Vault: should it die, so does this
