# What the programs behind the Proxy may read. Vault's default policy allows renewing
# the lease.
path "influxdb/creds/telegraf" {
  capabilities = ["read"]
}

path "influxdb/static-creds/telegraf" {
  capabilities = ["read"]
}
