#!/usr/bin/env bash
# Usage: scripts/dev.sh FOLDER [PRODUCT]
#
# `make dev` builds the plugin and the simulators into FOLDER and calls this
# script. It starts a simulated InfluxDB 3, a Vault (or OpenBao) on raft storage
# and the plugin. It shows what the plugin does and then waits for Ctrl-C.
#
# PRODUCT is dedicated (the default), core, enterprise or cloud.
#
# All files are in a temporary folder, which is removed when the script ends.
set -euo pipefail
built=$(cd "${1:?usage: dev.sh FOLDER [PRODUCT]}" && pwd)
product=${2:-dedicated}
case $product in
dedicated) title="InfluxDB Cloud Dedicated" ;;
core) title="InfluxDB 3 Core" ;;
enterprise) title="InfluxDB 3 Enterprise" ;;
cloud) title="InfluxDB 3 Cloud" ;;
*)
	echo "dev.sh: unknown product $product: use dedicated, core, enterprise or cloud" >&2
	exit 1
	;;
esac
binary=$("$(dirname "$0")/vault.sh")
# The words of the server: its name, its command, and the prefix of its variables.
if [[ $("$binary" version) == OpenBao* ]]; then
	server=OpenBao cli=bao prefix=BAO
else
	server=Vault cli=vault prefix=VAULT
fi
scratch=$(mktemp -d)
started=()
trap finish EXIT
trap 'exit 0' INT TERM HUP

# finish stops the processes that were started and their children, and removes
# the temporary folder.
finish() {
	local status=$? pid
	trap '' INT TERM HUP
	((status == 0)) || show_logs
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

# show_logs prints the last lines of the logs, before they are removed.
show_logs() {
	echo "dev.sh: failed; the last lines of the logs are:" >&2
	tail -n 20 "$scratch"/*.log >&2 2>/dev/null || true
}

# start LOG COMMAND ARG... runs a server in the background. It has a process
# group of its own, so that Ctrl-C does not reach it.
start() {
	local log=$1
	shift
	set -m
	"$@" >"$scratch/$log" 2>&1 </dev/null &
	started+=($!)
	set +m
}

# await COMMAND ARG... repeats a command until it succeeds, while the server that was
# started last runs, for at most 30 s.
await() {
	for _ in $(seq 150); do
		! "$@" >/dev/null 2>&1 || return 0
		kill -0 "${started[${#started[@]} - 1]}" 2>/dev/null || break
		sleep 0.2
	done
	echo "dev.sh: the server ended, or 30 seconds passed, before this succeeded: $*" >&2
	return 1
}

# say LINE... prints an explanation of the commands that follow, in bold on a
# terminal.
say() {
	echo
	if [[ -t 1 ]]; then printf '\033[1m# %s\033[0m\n' "$@"; else printf '# %s\n' "$@"; fi
}

# run COMMAND ARG... prints a command and runs it. The argument BREAK is not part
# of the command: the printed command continues on a new line there.
run() {
	local arg line='$' command=()
	for arg; do
		if [[ $arg == BREAK ]]; then
			line+=$' \\\n   '
		else
			line+=" $arg"
			command+=("$arg")
		fi
	done
	echo "$line"
	"${command[@]}" </dev/null
}

# show ARG... prints and runs a command of the Vault or OpenBao command line.
show() { run "$cli" "$@"; }

# column NAME prints a value from the credential that was shown last.
column() { awk -v name="$1" '$1 == name { print $2 }' "$scratch/credential"; }

# field FILE NAME prints a string from a JSON file.
field() { sed -n 's/.*"'"$2"'": *"\([^"]*\)".*/\1/p' "$1" | head -n 1; }

# free_port prints a port on which nothing listens. It is below those that systems
# give to connections and to servers that ask for any port.
free_port() {
	local port
	while port=$((20000 + RANDOM % 12000)); (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
	echo "$port"
}

checksum() {
	if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d ' ' -f 1
}

# ask METHOD PATH TOKEN sends a request with a token to InfluxDB and prints the
# status of the answer. It does not need curl, which some machines do not have.
ask() {
	local address=${url#http://} line
	printf '$ %s %s%s\n  Authorization: Bearer %.9s…\n' "$1" "$url" "$2" "$3"
	exec 9<>"/dev/tcp/${address%:*}/${address#*:}"
	printf '%s %s HTTP/1.0\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Length: 0\r\n\r\n' "$1" "$2" "$address" "$3" >&9
	IFS=$'\r' read -r line _ <&9
	exec 9>&-
	echo "  ${line#* }"
}

# administer TOKEN lists something that only a token with administrative rights
# can list.
administer() {
	case $product in
	dedicated) ask GET "/api/v0/accounts/$account_id/clusters/$cluster_id/databases" "$1" ;;
	*) ask GET "/api/v3/query_sql?db=_internal&q=SELECT+name+FROM+system.tokens" "$1" ;;
	esac
}

# write_to DATABASE TOKEN writes data.
write_to() {
	case $product in
	dedicated) ask POST "/api/v2/write?bucket=$1" "$2" ;;
	*) ask POST "/api/v3/write_lp?db=$1" "$2" ;;
	esac
}

# start_influxdb starts the simulated InfluxDB and sets url. It writes the root
# credential to the file root-credential.
start_influxdb() {
	mkdir "$scratch/bin"
	cp "$built/influxsim" "$scratch/bin/influxsim"
	if [[ $product == dedicated ]]; then start_cluster; else start_server; fi
}

# start_cluster starts a Cloud Dedicated cluster and makes the simulated influxctl
# ready to use it.
start_cluster() {
	ln "$scratch/bin/influxsim" "$scratch/bin/influxctl"
	start influxdb.log "$scratch/bin/influxsim" cluster --product dedicated --root-file "$scratch/root-credential"
	await grep -q '"url"' "$scratch/influxdb.log"
	url=$(field "$scratch/influxdb.log" url)
	account_id=$(field "$scratch/influxdb.log" account_id)
	cluster_id=$(field "$scratch/influxdb.log" cluster_id)
	printf '{"url": "%s", "interactive": true}\n' "$url" >"$scratch/bin/influxsim.json"
	(umask 077 && printf '[[profile]]\nname = "default"\nproduct = "dedicated"\naccount_id = "%s"\ncluster_id = "%s"\nmgmt_token = "%s"\n' \
		"$account_id" "$cluster_id" "$(cat "$scratch/root-credential")" >"$scratch/influxctl.toml")
}

# start_server starts a Core, Enterprise or Cloud server.
start_server() {
	start influxdb.log "$scratch/bin/influxsim" server --product "$product" --root-file "$scratch/root-credential" --databases metrics,logs
	await grep -q '"url"' "$scratch/influxdb.log"
	url=$(field "$scratch/influxdb.log" url)
	control=$(field "$scratch/influxdb.log" control)
}

start_vault() {
	mkdir "$scratch/raft" "$scratch/plugins"
	cp "$built/vault-plugin-secrets-influxdb" "$scratch/plugins/"
	ln -s "$binary" "$scratch/bin/$cli"
	unset "${!VAULT_@}" "${!BAO_@}" # OpenBao reads both
	export PATH=$scratch/bin:$PATH HOME=$scratch TMPDIR=$scratch
	# Another program can take a port before the server does. Other ports are tried then.
	for _ in 1 2 3; do
		run_server
		! await init_vault 2>"$scratch/await.log" || break
		grep -q 'address already in use' "$scratch/$cli.log"
	done
	"$cli" operator unseal "$(sed -n '/unseal_keys_b64/{n;s/.*"\(.*\)".*/\1/p;}' "$scratch/init.json")" >/dev/null
	token=$(field "$scratch/init.json" root_token)
	export "${prefix}_TOKEN=$token"
	await "$cli" secrets list
}

# run_server starts the server on free ports.
run_server() {
	local port peers
	port=$(free_port)
	peers=$(free_port)
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
	address=http://127.0.0.1:$port
	export "${prefix}_ADDR=$address"
	start "$cli.log" "$cli" server -config="$scratch/vault.hcl"
}

init_vault() { "$cli" operator init -key-shares=1 -key-threshold=1 -format=json >"$scratch/init.json"; }

register() {
	local version environment=() about=("Register the plugin under its version. $server runs a plugin only if its checksum matches.")
	version=$(plugins/vault-plugin-secrets-influxdb -version)
	if [[ $product == dedicated ]]; then
		about+=("The plugin runs influxctl, the command line tool of $title. Here it is simulated.")
		environment=(BREAK env=INFLUXCTL_PATH="$scratch/bin/influxctl")
	fi
	say "${about[@]}"
	# Through the API, because `bao plugin register` has no -env.
	show write sys/plugins/catalog/secret/vault-plugin-secrets-influxdb BREAK \
		version="$version" command=vault-plugin-secrets-influxdb BREAK \
		sha256="$(checksum plugins/vault-plugin-secrets-influxdb)" ${environment[@]+"${environment[@]}"}
	show secrets enable -path=influxdb vault-plugin-secrets-influxdb
}

configure() {
	local host=${url#http://}
	if [[ $product == dedicated ]]; then
		say "Configure the cluster and the root credential: the management token with which the" \
			"plugin issues and revokes all others. It is read from a file, and never shown again."
		show write influxdb/config product=dedicated BREAK account_id="$account_id" cluster_id="$cluster_id" BREAK \
			api_url="$url" mgmt_token=@root-credential
	else
		say "Configure the server and the root credential: the admin token with which the plugin" \
			"issues and revokes all others. It is read from a file, and never shown again."
		show write influxdb/config product="$product" BREAK host="${host%:*}" port="${host#*:}" disable_tls=true BREAK \
			admin_token=@root-credential
	fi
	show read influxdb/config

	say "Check the configuration: the plugin issues a token, finds it in the list, and revokes it."
	show write -force influxdb/config/check
}

lease() {
	local token lease
	say "A role describes tokens. The tokens of this role have administrative rights. A lease" \
		"lasts for one hour, and can be renewed until it is eight hours old."
	show write influxdb/roles/automation ttl=1h max_ttl=8h

	say "Each read issues a token under a lease. When the lease ends, the plugin revokes the" \
		"token. If that is not possible, the token expires at expires_at, 30 seconds after the" \
		"latest end of the lease."
	show read influxdb/creds/automation | tee credential
	token=$(column token)
	lease=$(column lease_id)

	say "InfluxDB accepts the token."
	administer "$token"

	say "Renew the lease. This needs no request to InfluxDB."
	show lease renew "$lease"

	say "Revoke the lease. The token is revoked with it. (-sync waits for that.)"
	show lease revoke -sync "$lease"
	administer "$token"
}

lease_of_a_database_token() {
	local token
	say "Applications that only read or write data need no administrative rights. They use a" \
		"database token. This one can write to the database metrics, and nothing else."
	show write influxdb/roles/telegraf token_type=database write_databases=metrics BREAK ttl=1h max_ttl=24h
	show read influxdb/creds/telegraf | tee credential
	token=$(column token)
	write_to metrics "$token"
	write_to logs "$token"
	show lease revoke -sync "$(column lease_id)"
	write_to metrics "$token"
}

static_role() {
	local rights=(token_type=database write_databases=metrics) previous
	[[ $product != core ]] || rights=(token_type=management)
	say "A static role has one token for many readers. The plugin replaces it every 24 hours." \
		"The previous token stays valid for a grace period, here one hour."
	show write influxdb/static-roles/sensors "${rights[@]}" BREAK rotation_period=24h rotation_grace_period=1h
	show read influxdb/static-creds/sensors | tee credential
	previous=$(column token)

	say "A second read returns the same token. There is no lease: ttl says when to read again."
	show read -field=token_id influxdb/static-creds/sensors
	echo

	say "Replace the token now."
	show write -force influxdb/rotate-role/sensors
	show read influxdb/static-creds/sensors | tee credential

	say "The previous token still works, so that readers have time to get the new one."
	write_to metrics "$previous"
	write_to metrics "$(column token)"
}

overview() {
	say "Issue one more token under a lease, and keep it."
	show read influxdb/creds/automation

	say "The ledger lists every token that may be valid: those of the static role, and the one" \
		"under a lease."
	show list -detailed influxdb/tokens/detailed

	say "The status of the mount counts the tokens and shows failures, without a request to" \
		"InfluxDB."
	show read influxdb/status
}

# try_next prints how to go on in another terminal.
try_next() {
	local list="curl $control/tokens"
	[[ $product != dedicated ]] || list="influxctl --config $scratch/influxctl.toml management list" # with the root credential
	cat <<-TEXT

		$server and InfluxDB run until Ctrl-C. To use them in another terminal, paste this there:

		  export ${prefix}_ADDR=$address ${prefix}_TOKEN=$token
		  export PATH=$scratch/bin:\$PATH

		Try next:

		  $cli path-help influxdb
		      shows the paths of the plugin
		  $list
		      lists the tokens that InfluxDB has
		  $cli lease revoke -sync -prefix influxdb/creds
		      revokes all leases and their tokens
		  $cli delete influxdb/static-roles/sensors
		      deletes the static role and revokes its tokens
		  $cli write -force influxdb/config/rotate-root
		      replaces the root credential; the previous one is revoked after 100 seconds
		  tail -f $scratch/$cli.log
		      shows the log of $server and the plugin
	TEXT
}

control=
start_influxdb
start_vault
cd "$scratch"
echo
echo "A simulated $title runs at $url, and $server at $address."
register
configure
lease
[[ $product == core ]] || lease_of_a_database_token
static_role
overview
try_next
wait "${started[${#started[@]} - 1]}" # if $server dies, the script ends
