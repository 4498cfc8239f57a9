# For those who run the engine: config, roles, repairs. Not for reading tokens.
#
# Tested as it stands, on a mount at influxdb/, by plugin/e2e/policies_test.go.

path "influxdb/config" {
  capabilities = ["create", "update", "read", "delete"]
}

path "influxdb/config/check" {
  capabilities = ["update"]
}

path "influxdb/config/rotate-root" {
  capabilities = ["update"]
}

path "influxdb/roles" {
  capabilities = ["list"]
}

path "influxdb/roles/*" {
  capabilities = ["create", "update", "read", "delete", "list"]
}

path "influxdb/tokens" {
  capabilities = ["list"]
}

# To delete is to revoke the token.
path "influxdb/tokens/*" {
  capabilities = ["read", "delete", "list"]
}

path "influxdb/tidy" {
  capabilities = ["update"]
}

path "influxdb/status" {
  capabilities = ["read"]
}

# To end all leases of the mount, before it is moved to another cluster or
# disabled.
path "sys/leases/revoke-prefix/influxdb/*" {
  capabilities = ["update", "sudo"]
}
