# The plugin's registration, the mount, three roles and the example policies.
#
# The config with the root credential is not here, because Terraform would store the
# credential in its state. Write it by hand, once, and let the engine rotate it:
#
#   vault write influxdb/config product=dedicated account_id=… cluster_id=… \
#       mgmt_token=@root-credential rotation_period=720h
#   vault write -f influxdb/config/rotate-root
#
# A test writes the roles to a real Vault and parses the file as HCL. It was not
# validated with the provider.

terraform {
  required_version = ">= 1.5"
  required_providers {
    vault = {
      source  = "hashicorp/vault"
      version = ">= 4.0"
    }
  }
}

variable "plugin_version" {
  description = "The version that the plugin's file reports. Its name ends in _VERSION_linux_amd64."
  type        = string
  default     = "v0.1.0"
}

variable "plugin_sha256" {
  description = "The SHA-256 checksum of the plugin's file."
  type        = string
}

variable "influxctl_path" {
  description = "The path of influxctl on Vault's servers."
  type        = string
  default     = "/usr/local/bin/influxctl"
}

resource "vault_plugin" "influxdb" {
  type    = "secret"
  name    = "vault-plugin-secrets-influxdb"
  version = var.plugin_version
  command = "vault-plugin-secrets-influxdb_${var.plugin_version}_linux_amd64"
  sha256  = var.plugin_sha256
  env     = ["INFLUXCTL_PATH=${var.influxctl_path}"]
}

resource "vault_mount" "influxdb" {
  path                  = "influxdb"
  type                  = vault_plugin.influxdb.name
  plugin_version        = vault_plugin.influxdb.version
  description           = "Tokens of InfluxDB 3"
  max_lease_ttl_seconds = 86400
}

# Terraform keeps the fields that are listed here. It ignores the fields that only a
# read shows, such as effective_ttl.
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
