#!/bin/sh
# Usage: list-databases.sh API_URL ACCOUNT_ID CLUSTER_ID
#
# Lists the databases of a Cloud Dedicated cluster over the HTTP Management API,
# with the token that the Agent keeps in rendered/curl.conf. API_URL is
# https://console.influxdata.com.
set -eu
exec curl --silent --show-error --fail --config rendered/curl.conf \
	"$1/api/v0/accounts/$2/clusters/$3/databases"
