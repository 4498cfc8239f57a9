# A Vault Proxy that logs in, and shares one leased token among the programs of a
# host. Programs ask it as they would ask Vault, without a Vault token:
#
#   curl --unix-socket proxy.sock http://localhost/v1/influxdb/creds/telegraf
#
# Prepare the login as in ../vault-agent/README.md, with policy.hcl of this folder, and
# start the Proxy: vault proxy -config=proxy.hcl
#
# Paths are relative to the folder in which the Proxy is started. VAULT_ADDR and
# VAULT_CACERT set the address and the CA of Vault.
#
# A test runs it.

auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = "role-id"
      secret_id_file_path                 = "secret-id"
      remove_secret_id_file_after_reading = false
    }
  }
}

api_proxy {
  use_auto_auth_token = true
}

# With a cache, all readers of a path share one lease, which the Proxy renews.
cache {}

# Every user who may write to the socket can read the tokens.
listener "unix" {
  address     = "proxy.sock"
  socket_mode = "0600"
  tls_disable = true
}
