# For Prometheus or Telegraf: read the metrics of one mount, nothing else. The
# metrics hold no secret and name no token.
#
# A test loads this file as it is. It assumes a mount at influxdb/.

path "influxdb/metrics" {
  capabilities = ["read"]
}
