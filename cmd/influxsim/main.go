// Command influxsim runs the simulators of InfluxDB 3, for tests and for
// `make dev`.
//
// Started under the name influxctl, it is the simulated influxctl. Otherwise its
// first argument says what to serve:
//
//	influxsim cluster [--listen 127.0.0.1:0] [--product dedicated|clustered] [--root-file FILE]
//	influxsim server --root-file FILE [--listen 127.0.0.1:0] [--control 127.0.0.1:0]
//	    [--product core|enterprise|cloud] [--databases NAME,NAME]
//
// cluster serves an InfluxDB Cloud Dedicated or InfluxDB Clustered cluster. As
// soon as it listens, it prints one line of JSON with url, account_id, cluster_id
// and root, the secret of the root credential. With --root-file it writes the
// secret to that file instead.
//
// server serves an InfluxDB 3 Core, Enterprise or Cloud server with an operator
// token and a named admin token, the root credential, whose secret it writes to
// --root-file. As soon as it listens, it prints one line of JSON with url and
// control, the URL of its control API.
//
// Both stop at SIGINT or SIGTERM. The control API of a simulator needs no
// credential. Serve it on a loopback address only.
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

// run runs the command that args names until ctx is done.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	commands := map[string]func(context.Context, []string, io.Writer) error{
		"cluster": runCluster,
		"server":  runServer,
	}
	if len(args) == 0 || commands[args[0]] == nil {
		return errors.New("usage: influxsim cluster|server [flags]")
	}
	return commands[args[0]](ctx, args[1:], stdout)
}

// An announcement is the line that says how to reach the cluster.
type announcement struct {
	URL       string `json:"url"`
	AccountID string `json:"account_id"`
	ClusterID string `json:"cluster_id"`
	Root      string `json:"root,omitempty"`
}

func runCluster(ctx context.Context, args []string, stdout io.Writer) error {
	var options simulator.Options
	flags := flag.NewFlagSet("influxsim cluster", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:0", "`address` to listen on")
	rootFile := flags.String("root-file", "", "`file` to write the root credential to, instead of printing it")
	flags.StringVar(&options.Product, "product", "", "dedicated or clustered; empty serves both")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	cluster := simulator.NewCluster(options)
	return serve(ctx, *listen, cluster, func(url string) error {
		line := announcement{URL: url, AccountID: cluster.AccountID(), ClusterID: cluster.ClusterID(), Root: cluster.Root()}
		if *rootFile != "" {
			line.Root = ""
			if err := writeSecret(*rootFile, cluster.Root()); err != nil {
				return err
			}
		}
		return json.NewEncoder(stdout).Encode(line)
	})
}

// writeSecret writes a secret to a new file that only its owner can read.
func writeSecret(path, secret string) error {
	return os.WriteFile(path, []byte(secret+"\n"), 0o600)
}

// serve serves handler at an address until ctx is done. It calls announce with
// the URL as soon as it listens.
func serve(ctx context.Context, address string, handler http.Handler, announce func(url string) error) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := announce("http://" + listener.Addr().String()); err != nil {
		return errors.Join(err, listener.Close())
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
