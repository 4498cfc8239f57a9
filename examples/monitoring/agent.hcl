# A Vault Agent that keeps a Vault token for the scraper in the file token. It
# renews the token, and logs in again when the token cannot be renewed any more.
# Prometheus and Telegraf read the file again for every scrape.
#
# Paths are relative to the folder in which the Agent is started. Run the Agent as
# the user of the scraper, or give its group access to the file. VAULT_ADDR and
# VAULT_CACERT set the address and the CA of Vault.

auto_auth {
  method "approle" {
    config = {
      role_id_file_path   = "role-id"
      secret_id_file_path = "secret-id"

      # The Agent reads secret-id again when it must log in again.
      remove_secret_id_file_after_reading = false
    }
  }

  sink "file" {
    config = {
      path = "token"
      mode = 0640
    }
  }
}
