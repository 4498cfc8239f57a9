# For operators of the engine: config, roles, repairs. It does not allow reading
# credentials.
#
# A test loads this file as it is. It assumes a mount at influxdb/.

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

path "influxdb/static-roles" {
  capabilities = ["list"]
}

path "influxdb/static-roles/*" {
  capabilities = ["create", "update", "read", "delete", "list"]
}

path "influxdb/rotate-role/*" {
  capabilities = ["update"]
}

path "influxdb/tokens" {
  capabilities = ["list"]
}

# Deleting revokes the token. Updating (forget=true) deletes the record of a token
# whose cluster is gone.
path "influxdb/tokens/*" {
  capabilities = ["read", "update", "delete", "list"]
}

path "influxdb/tidy" {
  capabilities = ["update"]
}

path "influxdb/status" {
  capabilities = ["read"]
}

path "influxdb/metrics" {
  capabilities = ["read"]
}

# Revoke all leases of the mount, before it is disabled or moved to another
# cluster: vault lease revoke -prefix influxdb/
path "sys/leases/revoke-prefix/influxdb" {
  capabilities = ["update", "sudo"]
}

# Revoke the leases of one role: vault lease revoke -prefix influxdb/creds/NAME
path "sys/leases/revoke-prefix/influxdb/*" {
  capabilities = ["update", "sudo"]
}
