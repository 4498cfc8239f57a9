# For one application: the tokens of its own role, and the end of its own leases.
# Make one of these per role; here the role is telegraf.
#
# Tested as it stands, on a mount at influxdb/, by plugin/policies_test.go.

# POST is the same as GET, with a ttl in the body.
path "influxdb/creds/telegraf" {
  capabilities = ["read", "update"]
}

# A lease id is known to whoever was given the lease, and to nobody else without
# a policy for sys/leases/lookup. The default policy allows to renew already.
path "sys/leases/renew" {
  capabilities = ["update"]
}

path "sys/leases/revoke" {
  capabilities = ["update"]
}
