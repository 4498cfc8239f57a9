// Package plugin is the composition root: it connects the engine with the drivers
// and serves it to Vault.
package plugin

import (
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	sdkplugin "github.com/hashicorp/vault/sdk/plugin"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/influxctl"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/influxdb3"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/managementapi"
)

// version is what `vault plugin list` shows. A release sets it with -ldflags.
var version = "v0.1.0-dev"

// Main runs the plugin binary until Vault ends it.
func Main() {
	show := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *show {
		fmt.Println(version)
		return
	}
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve() error {
	logger := newLogger(os.Getenv("VAULT_LOG_LEVEL"))
	if err := keepMemoryPrivate(); err != nil {
		logger.Warn("a core dump of this plugin may show secrets", "error", err)
	}
	endWithVault()
	debug.FreeOSMemory() // which the initialization of packages has used, one or two percent
	return sdkplugin.ServeMultiplex(&sdkplugin.ServeOpts{
		BackendFactoryFunc: factory(os.Getenv),
		TLSProviderFunc:    requireMutualTLS,
		Logger:             logger,
	})
}

// factory returns the factory of the engine with all drivers. getenv returns the
// variables of the plugin's registration (`vault plugin register -env=…`).
func factory(getenv func(string) string) logical.Factory {
	return backend.Factory(backend.Options{Version: version, Drivers: drivers(getenv, time.Now)})
}

// drivers is the table of drivers: by product, then by token type. now is the clock.
func drivers(getenv func(string) string, now func() time.Time) backend.Drivers {
	management := influxctl.New(influxctl.Config{
		Path:   getenv("INFLUXCTL_PATH"),
		SHA256: getenv("INFLUXCTL_SHA256"),
	})
	userAgent := "vault-plugin-secrets-influxdb/" + version
	database := managementapi.New(managementapi.Config{UserAgent: userAgent})
	server := influxdb3.New(influxdb3.Config{UserAgent: userAgent, Now: now})
	return backend.Drivers{
		issuer.Dedicated:  {backend.Management: management, backend.Database: database},
		issuer.Clustered:  {backend.Management: management, backend.Database: database},
		issuer.Core:       {backend.Management: server.Management()},
		issuer.Enterprise: {backend.Management: server.Management(), backend.Database: server.Database()},
		issuer.Cloud:      {backend.Management: server.Management(), backend.Database: server.Database()},
	}
}

// errNoMutualTLS is returned under a Vault older than 1.12.
var errNoMutualTLS = errors.New("Vault offered no certificate to the plugin (AutoMTLS): " +
	"this plugin needs Vault 1.12 or newer, or OpenBao")

// requireMutualTLS leaves TLS to go-plugin, which exchanges certificates with every
// Vault since 1.12 (AutoMTLS). Vault passes its certificate in PLUGIN_CLIENT_CERT.
// Without it, go-plugin would serve plain text, which is refused here.
func requireMutualTLS() (*tls.Config, error) {
	if os.Getenv("PLUGIN_CLIENT_CERT") == "" {
		return nil, errNoMutualTLS
	}
	return nil, nil
}

// newLogger returns a logger that writes one JSON object per line to stderr, as
// Vault expects. Vault filters by its own level, so without a known level
// everything is written.
func newLogger(level string) hclog.Logger {
	l := hclog.LevelFromString(level)
	if l == hclog.NoLevel {
		l = hclog.Trace
	}
	return hclog.New(&hclog.LoggerOptions{Level: l, Output: os.Stderr, JSONFormat: true})
}
