# For auditors: read everything but credentials, change nothing. None of these
# paths answers a secret.
#
# A test loads this file as it is. It assumes a mount at influxdb/.

path "influxdb/config" {
  capabilities = ["read"]
}

path "influxdb/roles" {
  capabilities = ["list"]
}

path "influxdb/roles/*" {
  capabilities = ["read", "list"]
}

path "influxdb/static-roles" {
  capabilities = ["list"]
}

path "influxdb/static-roles/*" {
  capabilities = ["read", "list"]
}

path "influxdb/tokens" {
  capabilities = ["list"]
}

path "influxdb/tokens/*" {
  capabilities = ["read", "list"]
}

path "influxdb/status" {
  capabilities = ["read"]
}

path "influxdb/metrics" {
  capabilities = ["read"]
}
