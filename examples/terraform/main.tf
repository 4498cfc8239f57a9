# The plugin's registration, the mount, three roles and the example policies.
#
# The config with the root token is not here on purpose: Terraform would keep the
# token in its state. Write it by hand, once, and let the engine rotate it:
#
#   vault write influxdb/config product=dedicated account_id=… cluster_id=… \
#       mgmt_token=@root-token rotation_period=720h
#   vault write -f influxdb/config/rotate-root
#
# The roles are written to a real Vault in plugin/e2e/examples_test.go. It is
# parsed as HCL; not validated against the provider.

terraform {
  required_version = ">= 1.5"
  required_providers {
    vault = {
      source  = "hashicorp/vault"
      version = ">= 4.0"
    }
  }
}

variable "plugin_sha256" {
  description = "The SHA-256 checksum of the plugin's binary."
  type        = string
}

variable "influxctl_path" {
  description = "Where influxctl is on Vault's servers."
  type        = string
  default     = "/usr/local/bin/influxctl"
}

resource "vault_plugin" "influxdb" {
  type    = "secret"
  name    = "vault-plugin-secrets-influxdb"
  command = "vault-plugin-secrets-influxdb"
  sha256  = var.plugin_sha256
  env     = ["INFLUXCTL_PATH=${var.influxctl_path}"]
}

resource "vault_mount" "influxdb" {
  path                  = "influxdb"
  type                  = vault_plugin.influxdb.name
  description           = "Tokens of InfluxDB 3"
  max_lease_ttl_seconds = 86400
}

# A role's fields that stand here are kept as they are here; what the engine adds
# when it is read (effective_ttl and the like) is left alone.
resource "vault_generic_endpoint" "automation" {
  path                 = "influxdb/roles/automation"
  ignore_absent_fields = true
  data_json = jsonencode({
    ttl        = 3600
    max_ttl    = 86400
    max_active = 20
  })
  depends_on = [vault_mount.influxdb]
}

resource "vault_generic_endpoint" "telegraf" {
  path                 = "influxdb/roles/telegraf"
  ignore_absent_fields = true
  data_json = jsonencode({
    token_type      = "database"
    write_databases = ["metrics"]
    ttl             = 3600
    max_ttl         = 86400
  })
  depends_on = [vault_mount.influxdb]
}

resource "vault_generic_endpoint" "grafana" {
  path                 = "influxdb/roles/grafana"
  ignore_absent_fields = true
  data_json = jsonencode({
    token_type     = "database"
    read_databases = ["metrics"]
    ttl            = 3600
    max_ttl        = 86400
  })
  depends_on = [vault_mount.influxdb]
}

resource "vault_policy" "this" {
  for_each = toset(["operator", "application", "auditor"])
  name     = "influxdb-${each.key}"
  policy   = file("${path.module}/../policies/${each.key}.hcl")
}
