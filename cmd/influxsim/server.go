package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator/influxdb3server"
)

const (
	// rootName is the name of the root credential, and rootLife is its life.
	rootName = "vault-root"
	rootLife = 365 * 24 * time.Hour
)

// A serverAnnouncement is the line that says how to reach the server.
type serverAnnouncement struct {
	URL     string `json:"url"`
	Control string `json:"control"`
}

// serverFlags are the parsed arguments of influxsim server.
type serverFlags struct {
	listen, control, rootFile string
	options                   influxdb3server.Options
}

func parseServerFlags(args []string) (f serverFlags, err error) {
	flags := flag.NewFlagSet("influxsim server", flag.ContinueOnError)
	flags.StringVar(&f.listen, "listen", "127.0.0.1:0", "`address` to listen on")
	flags.StringVar(&f.control, "control", "127.0.0.1:0", "`address` of the control API")
	flags.StringVar(&f.rootFile, "root-file", "", "`file` to write the root credential to (required)")
	flags.StringVar(&f.options.Product, "product", influxdb3server.Core, "core, enterprise or cloud")
	databases := flags.String("databases", "", "`names` of the databases that exist, comma-separated")
	if err := flags.Parse(args); err != nil {
		return f, err
	}
	if *databases != "" {
		f.options.Databases = strings.Split(*databases, ",")
	}
	products := []string{influxdb3server.Core, influxdb3server.Enterprise, influxdb3server.Cloud}
	switch {
	case flags.NArg() > 0:
		return f, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case !slices.Contains(products, f.options.Product):
		return f, fmt.Errorf("--product must be %s", strings.Join(products, ", "))
	case f.rootFile == "":
		return f, errors.New("--root-file is required: the root credential is not printed")
	}
	return f, nil
}

func runServer(ctx context.Context, args []string, stdout io.Writer) error {
	f, err := parseServerFlags(args)
	if err != nil {
		return err
	}
	cluster := influxdb3server.New(f.options)
	cluster.AddToken(influxdb3server.Operator, "", time.Time{})
	root := cluster.AddToken(rootName, "", time.Now().Add(rootLife))
	if err := writeSecret(f.rootFile, root); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	control, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- serve(ctx, f.control, cluster.Control(), func(url string) error {
			control <- url
			return nil
		})
	}()
	select {
	case err := <-ended:
		return err
	case at := <-control:
		err = serve(ctx, f.listen, cluster, func(url string) error {
			return json.NewEncoder(stdout).Encode(serverAnnouncement{url, at})
		})
	}
	stop()
	return errors.Join(err, <-ended)
}
