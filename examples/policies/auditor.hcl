# For those who look, and change nothing. Nothing of this shows a secret.
#
# Tested as it stands, on a mount at influxdb/, by plugin/e2e/policies_test.go.

path "influxdb/config" {
  capabilities = ["read"]
}

path "influxdb/roles" {
  capabilities = ["list"]
}

path "influxdb/roles/*" {
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
