# For one application: it may read tokens of its own role, and revoke its own leases.
# Make one policy per role. The role here is telegraf.
#
# A test loads this file as it is. It assumes a mount at influxdb/.

# POST is the same as GET, with ttl in the body.
path "influxdb/creds/telegraf" {
  capabilities = ["read", "update"]
}

# The shared token of a static role, if the application reads that instead.
path "influxdb/static-creds/telegraf" {
  capabilities = ["read"]
}

# Vault's default policy allows this already.
path "sys/leases/renew" {
  capabilities = ["update"]
}

# Vault's default policy does not allow revoking. `vault lease revoke` has the
# lease ID in the path, so that the policy can limit it to leases of the role.
path "sys/leases/revoke/influxdb/creds/telegraf/*" {
  capabilities = ["update"]
}

# Other clients, such as the Vault Secrets Operator, send the lease ID in the
# body. A lease ID is known only to the reader of the credential and to users who
# may look up leases. Remove this rule if no such client is used.
path "sys/leases/revoke" {
  capabilities = ["update"]
}
