# An OpenBao server (2.5 or newer) that sets up the plugin, the mount, its config and
# its roles when it starts, without a command. All secrets are in separate files.
#
# The initialize blocks run once, at the first start. Afterwards, change the mount by
# its API. Policies are those of ../policies.

storage "raft" {
  path    = "/var/lib/openbao"
  node_id = "node-1"
}

listener "tcp" {
  address       = "0.0.0.0:8200"
  tls_cert_file = "/etc/openbao/tls/server.pem"
  tls_key_file  = "/etc/openbao/tls/server.key"
}

api_addr     = "https://openbao.example.com:8200"
cluster_addr = "https://openbao.example.com:8201"

# Self-initialization needs an automatic unseal. Any seal will do. See OpenBao's
# documentation for when a static key is safe.
seal "static" {
  current_key_id = "2026-1"
  current_key    = "file:///etc/openbao/secrets/unseal.key"
}

plugin_directory     = "/opt/openbao/plugins"
plugin_auto_register = true

plugin "secret" "vault-plugin-secrets-influxdb" {
  command     = "vault-plugin-secrets-influxdb_v0.1.0_linux_amd64"
  binary_name = "vault-plugin-secrets-influxdb_v0.1.0_linux_amd64"
  version     = "v0.1.0"
  sha256sum   = "0000000000000000000000000000000000000000000000000000000000000000" # from the SHA256SUMS of the release
  env         = ["INFLUXCTL_PATH=/usr/local/bin/influxctl"]
}

initialize "influxdb" {
  request "mount" {
    operation = "update"
    path      = "sys/mounts/influxdb"
    data = {
      type        = "vault-plugin-secrets-influxdb"
      description = "Tokens of InfluxDB 3"
      config = {
        max_lease_ttl = "24h"
      }
    }
  }

  request "config" {
    operation = "update"
    path      = "influxdb/config"
    data = {
      product           = "dedicated"
      account_id        = "11111111-2222-4333-8444-555555555555"
      cluster_id        = "66666666-7777-4888-8999-aaaaaaaaaaaa"
      host              = "cluster.example.com"
      rotation_schedule = "0 3 * * SUN"
      mgmt_token = {
        eval_type   = "string"
        eval_source = "file"
        path        = "/etc/openbao/secrets/mgmt-token"
      }
    }
  }

  request "automation" {
    operation = "update"
    path      = "influxdb/roles/automation"
    data = {
      ttl     = "1h"
      max_ttl = "8h"
    }
  }

  request "telegraf" {
    operation = "update"
    path      = "influxdb/static-roles/telegraf"
    data = {
      token_type      = "database"
      write_databases = "metrics"
      rotation_period = "24h"
    }
  }

  # Replace the root credential from the file by one that only OpenBao knows. If the
  # cluster is slow to accept it, the engine goes on by itself, see status.
  request "rotate" {
    operation = "update"
    path      = "influxdb/config/rotate-root"
    data      = {}
  }
}

# The root token of a self-initialized server is revoked. Operators need a login.
initialize "operators" {
  request "policy" {
    operation = "update"
    path      = "sys/policies/acl/influxdb-operator"
    data = {
      policy = {
        eval_type   = "string"
        eval_source = "file"
        path        = "/etc/openbao/policies/operator.hcl"
      }
    }
  }

  request "login" {
    operation = "update"
    path      = "sys/auth/userpass"
    data = {
      type = "userpass"
    }
  }

  request "operator" {
    operation = "update"
    path      = "auth/userpass/users/operator"
    data = {
      token_policies = "influxdb-operator"
      password = {
        eval_type   = "string"
        eval_source = "file"
        path        = "/etc/openbao/secrets/operator-password"
      }
    }
  }
}
