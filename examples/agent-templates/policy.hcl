# What the Agent of this folder may read.
path "influxdb/creds/automation" {
  capabilities = ["read"]
}

path "influxdb/creds/telegraf" {
  capabilities = ["read"]
}

path "influxdb/static-creds/telegraf" {
  capabilities = ["read"]
}

path "influxdb/static-creds/grafana" {
  capabilities = ["read"]
}

path "influxdb/creds/grafana" {
  capabilities = ["read"]
}
