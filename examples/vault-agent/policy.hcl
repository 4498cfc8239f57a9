# What an application needs to get tokens of the role automation. Vault's default
# policy allows renewing the lease.
path "influxdb/creds/automation" {
  capabilities = ["read"]
}

# Vault's default policy does not allow revoking.
path "sys/leases/revoke/influxdb/creds/automation/*" {
  capabilities = ["update"]
}
