# What a CI job may do: read credentials of one role, and revoke their leases.
path "influxdb/creds/automation" {
  capabilities = ["read"]
}

path "sys/leases/revoke/influxdb/creds/automation/*" {
  capabilities = ["update"]
}
