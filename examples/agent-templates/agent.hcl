# A Vault Agent that renders the templates of this folder. Remove those you do
# not need.
#
# Templates that read the same path of creds/ share one lease, and so one token. When
# a lease cannot be renewed any more, the Agent reads a new credential and renders
# again before the old token ends. A path of static-creds/ has no lease: the Agent
# reads it again when the ttl of the answer is over.
#
# Prepare the login as in ../vault-agent/README.md, with policy.hcl of this folder, and
# create the folder for the files: mkdir -m 700 rendered
#
# A test renders them with a real Agent.

auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = "role-id"
      secret_id_file_path                 = "secret-id"
      remove_secret_id_file_after_reading = false
    }
  }
}

template_config {
  exit_on_retry_failure = true
}

template {
  source               = "terraform.env.ctmpl"
  destination          = "rendered/terraform.env"
  perms                = "0600"
  error_on_missing_key = true
}

template {
  source               = "chronograf.env.ctmpl"
  destination          = "rendered/chronograf.env"
  perms                = "0600"
  error_on_missing_key = true

  # Chronograf reads its environment only when it starts.
  exec {
    command = ["systemctl", "try-restart", "chronograf.service"]
  }
}

template {
  source               = "mcp.env.ctmpl"
  destination          = "rendered/mcp.env"
  perms                = "0600"
  error_on_missing_key = true
}

template {
  source               = "curl.conf.ctmpl"
  destination          = "rendered/curl.conf"
  perms                = "0600"
  error_on_missing_key = true
}

template {
  source               = "database.env.ctmpl"
  destination          = "rendered/database.env"
  perms                = "0600"
  error_on_missing_key = true
}

template {
  source               = "telegraf.conf.ctmpl"
  destination          = "rendered/telegraf.conf"
  perms                = "0600"
  error_on_missing_key = true

  exec {
    command = ["systemctl", "reload", "telegraf.service"]
  }
}

template {
  source               = "telegraf-fleet.conf.ctmpl"
  destination          = "rendered/telegraf-fleet.conf"
  perms                = "0600"
  error_on_missing_key = true

  exec {
    command = ["systemctl", "reload", "telegraf.service"]
  }
}

template {
  source               = "grafana.yaml.ctmpl"
  destination          = "rendered/grafana.yaml"
  perms                = "0600"
  error_on_missing_key = true

  exec {
    command = ["systemctl", "try-restart", "grafana-server.service"]
  }
}
