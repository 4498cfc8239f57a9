# For one application: the tokens of its own role, and the end of its own leases.
# Make one of these per role; here the role is telegraf.
#
# Tested as it stands, on a mount at influxdb/, by plugin/e2e/policies_test.go.

# POST is the same as GET, with a ttl in the body.
path "influxdb/creds/telegraf" {
  capabilities = ["read", "update"]
}

# The default policy allows to renew already.
path "sys/leases/renew" {
  capabilities = ["update"]
}

# `vault lease revoke` names the lease in the path, so that it can be limited to
# those of the role.
path "sys/leases/revoke/influxdb/creds/telegraf/*" {
  capabilities = ["update"]
}

# Other clients, such as the Vault Secrets Operator, name it in the body. A lease's
# id is known to whoever was given the lease, and to nobody else without a policy
# for sys/leases/lookup. Leave this out where no such client is used.
path "sys/leases/revoke" {
  capabilities = ["update"]
}
