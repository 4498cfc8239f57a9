# A Vault Agent that keeps an influxctl profile with a valid management token.
#
# Paths are relative to the folder in which the Agent is started. VAULT_ADDR and
# VAULT_CACERT set the address and the CA of Vault.

auto_auth {
  method "approle" {
    config = {
      role_id_file_path   = "role-id"
      secret_id_file_path = "secret-id"

      # The Agent deletes secret-id after reading it, and needs a new one at its
      # next start. If nothing provides one, set
      # remove_secret_id_file_after_reading = false
    }
  }
}

template {
  source      = "config.toml.ctmpl"
  destination = "profile/config.toml"
  perms       = "0600"

  # The Agent would create a folder that everyone can read. Create it first, for
  # its user alone: mkdir -m 700 profile
  create_dest_dirs = false

  # Fail if the template names a field that does not exist.
  error_on_missing_key = true
}
