package influxdb3

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/redact"
)

const pathPing = "/ping"

// The versions that matter: 3.1.0 is the first with named admin tokens. Before
// 3.8.4, tokens that may read and write could delete databases on Enterprise.
var (
	oldestVersion      = version{3, 1, 0}
	recommendedVersion = version{3, 8, 4}
)

// names are the products' names.
var names = map[string]string{
	issuer.Core: "InfluxDB 3 Core", issuer.Enterprise: "InfluxDB 3 Enterprise", issuer.Cloud: "InfluxDB 3 Cloud",
}

// Inspect asks the server for its product, version and cluster-uuid. What was
// learned before an error is in the result.
func (c *cluster) Inspect(ctx context.Context) (issuer.Server, error) {
	server, err := c.inspect(ctx)
	if err != nil {
		return server, fmt.Errorf("identify the server: %w", err)
	}
	return server, nil
}

func (c *cluster) inspect(ctx context.Context) (server issuer.Server, err error) {
	var said pingJSON
	r, err := c.do(ctx, call{method: http.MethodGet, path: pathPing, want: http.StatusOK,
		read: func(in io.Reader) (err error) {
			said, err = decodePing(in)
			return err
		}})
	server.UUID = r.uuid
	if err != nil {
		return server, err
	}
	build := cmp.Or(r.header.Get("X-Influxdb-Build"), said.ProductName)
	text := cmp.Or(r.header.Get("X-Influxdb-Version"), said.Version)
	server.Product, server.Version = c.productOf(build), redact.Quote(text)
	switch {
	case r.source != nil:
		return server, invalid("%s", r.source)
	case !r.done && text == "":
		err := c.err(r)
		if r.status == http.StatusNotFound {
			err = invalid("there is no InfluxDB 3 server at this address: %s", err)
		}
		return server, err
	}
	v, known := parseVersion(text)
	if err := c.checkProduct(build, text, v, known); err != nil {
		return server, err
	}
	if !r.done {
		return server, c.err(r)
	}
	if v.less(recommendedVersion) {
		server.Warning = fmt.Sprintf("the server is of version %s: upgrade it to %s or later, which mends security defects", v, recommendedVersion)
	}
	return server, nil
}

// productOf returns the product of a build. The documentation of Cloud gives
// "Enterprise" as the build, and it runs the same engine, so that a server that
// is configured as Cloud may say either. Another product is returned as the
// server names it.
func (c *cluster) productOf(build string) string {
	lower := strings.ToLower(build)
	switch {
	case lower == "":
		return ""
	case strings.Contains(lower, "cloud"):
		return issuer.Cloud
	case strings.Contains(lower, "enterprise"):
		if c.Product == issuer.Cloud {
			return issuer.Cloud
		}
		return issuer.Enterprise
	case strings.Contains(lower, "core"):
		return issuer.Core
	}
	return redact.Quote(build)
}

// checkProduct returns an error if the server is not the configured product in a
// version that is supported.
func (c *cluster) checkProduct(build, text string, v version, known bool) error {
	product := c.productOf(build)
	is := cmp.Or(names[product], redact.Quote(build))
	switch {
	case text == "":
		return invalid("the server does not say that it is InfluxDB 3: check host and port in config")
	case known && v[0] != oldestVersion[0]:
		return invalid("the server is InfluxDB %s (%s), and not %s", v, cmp.Or(is, "no product named"), names[c.Product])
	case product != "" && product != c.Product:
		return invalid("the server is %s, and not %s: set product in config to what the server is", is, names[c.Product])
	case !known:
		return invalid("the server says version %q, which cannot be read", redact.Quote(text))
	case v.less(oldestVersion):
		return invalid("the server is of version %s: %s or later is needed, which has named admin tokens", v, oldestVersion)
	}
	return nil
}

// A version is major, minor and patch.
type version [3]int

var versionShape = regexp.MustCompile(`^v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(?:[-+.].*)?$`)

// parseVersion reads a version such as 3.8.4 or 3.12.0-rc.1.
func parseVersion(text string) (v version, ok bool) {
	parts := versionShape.FindStringSubmatch(strings.TrimSpace(text))
	if parts == nil {
		return v, false
	}
	for i := range v {
		v[i], _ = strconv.Atoi(parts[i+1]) // at most six digits, or empty
	}
	return v, true
}

func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

func (v version) less(w version) bool {
	for i := range v {
		if v[i] != w[i] {
			return v[i] < w[i]
		}
	}
	return false
}
