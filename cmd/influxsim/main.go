// Command influxsim simulates an InfluxDB 3 cluster and its command line,
// for tests and for `make dev`.
//
// Started under the name influxctl it is the CLI. Otherwise it serves a
// cluster:
//
//	influxsim cluster [--listen 127.0.0.1:0] [--product dedicated|clustered]
//		[--account-id ID] [--cluster-id ID] [--root-file FILE]
//		[--tls-cert FILE --tls-key FILE]
//
// Once it listens it prints one line of JSON with url, account_id, cluster_id
// and, unless --root-file names a file for it, root: the secret of the first
// management token. It serves until SIGINT or SIGTERM. What it serves, its
// control API included, needs no credential and belongs on loopback.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
)

func main() {
	if simulator.IsCLI(os.Args) {
		os.Exit(simulator.Main(os.Args))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "influxsim:", err)
		os.Exit(1)
	}
}

// settings are what the flags say.
type settings struct {
	listen, rootFile string
	tlsCert, tlsKey  string
	options          simulator.Options
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) == 0 || args[0] != "cluster" {
		return errors.New("usage: influxsim cluster [flags]")
	}
	var s settings
	flags := flag.NewFlagSet("influxsim cluster", flag.ContinueOnError)
	flags.StringVar(&s.listen, "listen", "127.0.0.1:0", "`address` to listen on")
	flags.StringVar(&s.rootFile, "root-file", "", "`file` to write the root token to, instead of printing it")
	flags.StringVar(&s.tlsCert, "tls-cert", "", "`file` of the certificate to serve HTTPS with")
	flags.StringVar(&s.tlsKey, "tls-key", "", "`file` of the certificate's key")
	flags.StringVar(&s.options.Product, "product", "", "dedicated or clustered; empty serves both")
	flags.StringVar(&s.options.AccountID, "account-id", "", "account `UUID`; made up if empty")
	flags.StringVar(&s.options.ClusterID, "cluster-id", "", "cluster `UUID`; made up if empty")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return s.serve(ctx, stdout)
}

// serve runs the cluster until ctx is done.
func (s settings) serve(ctx context.Context, stdout io.Writer) error {
	cluster := simulator.NewCluster(s.options)
	listener, err := net.Listen("tcp", s.listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: cluster}
	closed := context.AfterFunc(ctx, func() { server.Close() })
	defer closed()
	if err := s.announce(cluster, listener.Addr().String(), stdout); err != nil {
		return errors.Join(err, listener.Close())
	}
	if s.tlsCert != "" {
		err = server.ServeTLS(listener, s.tlsCert, s.tlsKey)
	} else {
		err = server.Serve(listener)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// announcement is the line that tells how to use the cluster.
type announcement struct {
	URL       string `json:"url"`
	AccountID string `json:"account_id"`
	ClusterID string `json:"cluster_id"`
	Root      string `json:"root,omitempty"`
}

func (s settings) announce(cluster *simulator.Cluster, address string, stdout io.Writer) error {
	line := announcement{
		URL:       "http://" + address,
		AccountID: cluster.AccountID(),
		ClusterID: cluster.ClusterID(),
		Root:      cluster.Root(),
	}
	if s.tlsCert != "" {
		line.URL = "https://" + address
	}
	if s.rootFile != "" {
		line.Root = ""
		if err := os.WriteFile(s.rootFile, []byte(cluster.Root()+"\n"), 0o600); err != nil {
			return err
		}
	}
	return json.NewEncoder(stdout).Encode(line)
}
