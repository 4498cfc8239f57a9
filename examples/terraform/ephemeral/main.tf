# Terraform that needs a token of InfluxDB while it runs. An ephemeral resource keeps
# the token out of the state and out of plan files.
#
# Read this first:
#
# - Use a static role, as here. Terraform opens an ephemeral resource at plan and
#   again at apply, and vault_generic_secret does not revoke a lease when it is
#   closed. With creds/ROLE, each run would issue two tokens, which stay valid until
#   their leases end.
# - The provider reads with a child token of 20 minutes (max_lease_ttl_seconds of the
#   provider). A lease ends with that token, in the middle of an apply that takes
#   longer. A static role has no lease, so this does not happen.
# - If it must be creds/ROLE, set max_lease_ttl_seconds above the length of a run, and
#   give the role a short ttl. For a job that runs Terraform, ../../ci is simpler: it
#   gets one token, passes it in the environment, and revokes it.
#
# A test makes the request to a real Vault. It was not run with the provider.

terraform {
  required_version = ">= 1.10" # the first with ephemeral resources
  required_providers {
    vault = {
      source  = "hashicorp/vault"
      version = ">= 5.0"
    }
    influxdb3 = {
      source = "komminarlabs/influxdb3"
    }
  }
}

# vault write influxdb/static-roles/terraform token_type=management rotation_period=24h
ephemeral "vault_generic_secret" "influxdb" {
  path = "influxdb/static-creds/terraform"
}

provider "influxdb3" {
  account_id = ephemeral.vault_generic_secret.influxdb.data["account_id"]
  cluster_id = ephemeral.vault_generic_secret.influxdb.data["cluster_id"]
  token      = ephemeral.vault_generic_secret.influxdb.data["token"]
}
