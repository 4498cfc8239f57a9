# What an application needs to get tokens of the role automation. Renewing and
# revoking its own leases is allowed by Vault's policy "default".
path "influxdb/creds/automation" {
  capabilities = ["read"]
}
