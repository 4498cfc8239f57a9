// Command vault-plugin-secrets-influxdb is the plugin binary that Vault runs.
package main

import "github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin"

func main() { plugin.Main() }
