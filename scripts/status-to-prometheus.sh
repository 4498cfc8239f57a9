#!/usr/bin/env bash
# Usage: scripts/status-to-prometheus.sh MOUNT...
#
# Prints the status of mounts of the engine as Prometheus text, for a textfile
# collector. Needs bash and vault (or bao: VAULT_COMMAND=bao), a VAULT_ADDR, and a
# VAULT_TOKEN that may read MOUNT/status. From cron, once a minute:
#
#   status-to-prometheus.sh influxdb >$DIR/influxdb.prom.new && mv $DIR/influxdb.prom{.new,}
#
# A mount that does not answer is influxdb_secrets_up 0, and not a failure.
set -euo pipefail
(($# > 0)) || {
	echo "usage: status-to-prometheus.sh MOUNT..." >&2
	exit 2
}

# field JSON NAME prints a value from the data of an answer of `vault read
# -format=json`, which has each field of data on a line of its own, indented by 4.
field() { sed -n 's/^    "'"$2"'": "\{0,1\}\([^"]*[^",]\)"\{0,1\},\{0,1\}$/\1/p' <<<"$1"; }

# epoch TIME prints the seconds since 1970 of a time like 2026-01-31T12:00:00Z.
epoch() {
	[[ $1 =~ ^([0-9]+)-([0-9]+)-([0-9]+)T([0-9]+):([0-9]+):([0-9]+)Z$ ]] || return 1
	local y=$((10#${BASH_REMATCH[1]})) m=$((10#${BASH_REMATCH[2]})) d=$((10#${BASH_REMATCH[3]})) days
	if ((m > 2)); then ((m -= 3)); else ((m += 9, y -= 1)); fi # a year that ends with February
	days=$((365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + d - 1 - 719468))
	echo $(((days * 24 + 10#${BASH_REMATCH[4]}) * 3600 + 10#${BASH_REMATCH[5]} * 60 + 10#${BASH_REMATCH[6]}))
}

# metric NAME HELP begins a metric; sample LABELS VALUE adds to it, unless there
# is no value.
metric() {
	name=influxdb_secrets_$1
	printf '# HELP %s %s\n# TYPE %s gauge\n' "$name" "$2" "$name"
}
sample() { [[ -z $2 ]] || printf '%s{%s} %s\n' "$name" "$1" "$2"; }

# answers NAME [MAP] samples a field of every mount that answers, through a
# function if there is one.
answers() {
	local i value
	for i in "${!mounts[@]}"; do
		value=$(field "${status[i]}" "$1")
		[[ -z $value || $# == 1 ]] || value=$("$2" "$value") || value=
		sample "mount=\"${mounts[i]}\"" "$value"
	done
}
truth() { if [[ $1 == true ]]; then echo 1; else echo 0; fi; }

# presence NAME IF ELSE samples one of two values, as a field is there or not.
presence() {
	local i
	for i in "${!mounts[@]}"; do
		[[ -n ${status[i]} ]] || continue
		if [[ ${status[i]} == *$'\n    "'"$1"'": '* ]]; then sample "mount=\"${mounts[i]}\"" "$2"; else sample "mount=\"${mounts[i]}\"" "$3"; fi
	done
}

mounts=("${@%/}")
status=()
for mount in "${mounts[@]}"; do
	status+=("$("${VAULT_COMMAND:-vault}" read -format=json "$mount/status" 2>/dev/null || true)")
done

metric up "Whether status could be read."
for i in "${!mounts[@]}"; do
	if [[ -n ${status[i]} ]]; then sample "mount=\"${mounts[i]}\"" 1; else sample "mount=\"${mounts[i]}\"" 0; fi
done
metric configured "Whether the mount has a config."
answers configured truth
metric program_ok "Whether influxctl can be run."
presence cli_error 0 1
metric tokens "Tokens in the ledger, by state. Absent while not known."
for i in "${!mounts[@]}"; do
	for state in issuing active revoking; do
		sample "mount=\"${mounts[i]}\",state=\"$state\"" "$(field "${status[i]}" "tokens_$state")"
	done
done
metric ledger_loaded "Whether the counts of tokens are complete."
answers ledger_loaded truth
metric ledger_ok "Whether all records of the ledger can be read."
presence ledger_error 0 1
metric rotation_failing "Whether the last rotation of the root credential failed."
presence rotation_last_failure 1 0
for moment in "next_deadline:When the engine acts next on a record" \
	"mgmt_token_expires_at:When the root credential expires" "next_vault_rotation:When the root credential will be rotated" \
	"last_success_at:When the cluster last did what it was asked" "last_failure_at:When the cluster last did not"; do
	field=${moment%%:*}
	metric "${field%_at}_timestamp_seconds" "${moment#*:}, in seconds since 1970."
	answers "$field" epoch
done
