module github.com/influxdb3-vault/vault-plugin-secrets-influxdb

go 1.26.0
