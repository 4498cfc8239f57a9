# What a CI job may do: borrow one kind of token, and give it back.
path "influxdb/creds/automation" {
  capabilities = ["read"]
}

path "sys/leases/revoke/influxdb/creds/automation/*" {
  capabilities = ["update"]
}
