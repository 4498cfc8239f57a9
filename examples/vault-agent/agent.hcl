# A Vault Agent that keeps an influxctl profile with a living management token.
#
# Paths are relative to the folder that the Agent is started in. The address of
# Vault, and the CA to trust, come from VAULT_ADDR and VAULT_CACERT.

auto_auth {
  method "approle" {
    config = {
      role_id_file_path   = "role-id"
      secret_id_file_path = "secret-id"

      # The Agent deletes secret-id once it has read it, and needs a new one at
      # its next start. Where nobody brings it one, set this:
      # remove_secret_id_file_after_reading = false
    }
  }
}

template {
  source      = "config.toml.ctmpl"
  destination = "profile/config.toml"
  perms       = "0600"

  # The Agent would make the folder readable by all. Make it first, for its
  # user alone: mkdir -m 700 profile
  create_dest_dirs = false

  # A template that cannot be rendered as it stands is a mistake to hear of.
  error_on_missing_key = true
}
