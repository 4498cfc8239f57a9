package influxdb3

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/httpapi"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator/influxdb3server"
)

const uuid = "01234567-89ab-4def-8123-456789abcdef"

func inspect(ctx context.Context, s *stage, where issuer.Cluster) (issuer.Server, error) {
	return s.Management().Open(where).(issuer.Inspector).Inspect(ctx)
}

func TestInspect_IdentifiesTheServer(t *testing.T) {
	for _, c := range []struct {
		options influxdb3server.Options
		product string // in config
		want    issuer.Server
		says    string // the error
		warns   bool
	}{
		{influxdb3server.Options{}, issuer.Core, issuer.Server{Product: issuer.Core, Version: "3.11.5", UUID: uuid}, "", false},
		{influxdb3server.Options{Version: "3.8.4"}, issuer.Core, issuer.Server{Product: issuer.Core, Version: "3.8.4", UUID: uuid}, "", false},
		{influxdb3server.Options{Version: "3.8.3"}, issuer.Core, issuer.Server{Product: issuer.Core, Version: "3.8.3", UUID: uuid}, "", true},
		{influxdb3server.Options{Version: "3.1.0"}, issuer.Core, issuer.Server{Product: issuer.Core, Version: "3.1.0"}, "", true},
		{influxdb3server.Options{Version: "3.12.0-nightly"}, issuer.Core, issuer.Server{Product: issuer.Core, Version: "3.12.0-nightly", UUID: uuid}, "", false},
		{influxdb3server.Options{Version: "3.0.3"}, issuer.Core, issuer.Server{Product: issuer.Core, Version: "3.0.3"}, "of version 3.0.3: 3.1.0 or later is needed", false},
		{influxdb3server.Options{Version: "2.7.12", Build: "OSS"}, issuer.Core, issuer.Server{Product: "OSS", Version: "2.7.12"}, "the server is InfluxDB 2.7.12 (OSS), and not InfluxDB 3 Core", false},
		{influxdb3server.Options{Version: "nightly"}, issuer.Core, issuer.Server{Product: issuer.Core, Version: "nightly"}, "cannot be read", false},
		{influxdb3server.Options{}, issuer.Enterprise, issuer.Server{Product: issuer.Core, Version: "3.11.5", UUID: uuid}, "the server is InfluxDB 3 Core, and not InfluxDB 3 Enterprise", false},
		{influxdb3server.Options{}, issuer.Cloud, issuer.Server{Product: issuer.Core, Version: "3.11.5", UUID: uuid}, "the server is InfluxDB 3 Core, and not InfluxDB 3 Cloud", false},
		{influxdb3server.Options{Product: issuer.Enterprise}, issuer.Core, issuer.Server{Product: issuer.Enterprise, Version: "3.11.5", UUID: uuid}, "the server is InfluxDB 3 Enterprise, and not InfluxDB 3 Core", false},
		{influxdb3server.Options{Product: issuer.Enterprise}, issuer.Enterprise, issuer.Server{Product: issuer.Enterprise, Version: "3.11.5", UUID: uuid}, "", false},
		{influxdb3server.Options{Product: issuer.Cloud}, issuer.Enterprise, issuer.Server{Product: issuer.Cloud, Version: "3.11.5", UUID: uuid}, "the server is InfluxDB 3 Cloud, and not InfluxDB 3 Enterprise", false},
		{influxdb3server.Options{Product: issuer.Cloud}, issuer.Cloud, issuer.Server{Product: issuer.Cloud, Version: "3.11.5", UUID: uuid}, "", false},
		{influxdb3server.Options{Product: issuer.Cloud, Build: "Enterprise"}, issuer.Cloud, issuer.Server{Product: issuer.Cloud, Version: "3.11.5", UUID: uuid}, "", false},
		{influxdb3server.Options{Build: "Clustered"}, issuer.Core, issuer.Server{Product: "Clustered", Version: "3.11.5", UUID: uuid}, "the server is Clustered, and not InfluxDB 3 Core", false},
		{influxdb3server.Options{Build: "-"}, issuer.Core, issuer.Server{Product: issuer.Core, Version: "3.11.5", UUID: uuid}, "", false},
		{influxdb3server.Options{WithoutAuth: true}, issuer.Core, issuer.Server{Product: issuer.Core, Version: "3.11.5", UUID: uuid}, "", false},
	} {
		c.options.UUID = uuid
		s := simulate(t, c.options)
		got, err := inspect(t.Context(), s.stage, s.cluster(c.product))
		if warns := got.Warning != ""; warns != c.warns || warns && !strings.Contains(got.Warning, "3.8.4") {
			t.Errorf("%+v: warning %q", c.options, got.Warning)
		}
		got.Warning = ""
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%+v, -want +got\n%s", c.options, diff)
		}
		if want := map[bool]string{true: "ok", false: "invalid"}[c.says == ""]; kindOf(err) != want || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v as %s: %v", c.options, c.product, err)
		}
		if sent := s.requests(""); len(sent) != 1 || sent[0] != "GET /ping" {
			t.Errorf("sent: %q", sent)
		}
	}
}

func TestInspect_ServersThatAreNone(t *testing.T) {
	header := func(build, version string, status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Influxdb-Build", build)
			w.Header().Set("X-Influxdb-Version", version)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    string
		says    string
	}{
		"InfluxDB 1":                  {header("OSS", "1.8.10", 204, ""), "invalid", "InfluxDB 1.8.10 (OSS)"},
		"InfluxDB 2":                  {header("OSS", "v2.7.1", 204, ""), "invalid", "InfluxDB 2.7.1 (OSS)"},
		"a page":                      {answer(200, influxdb3server.Page), "invalid", "does not say that it is InfluxDB 3"},
		"nothing":                     {answer(200, ""), "invalid", "does not say that it is InfluxDB 3"},
		"another API":                 {answer(200, `{"status":"pass"}`), "invalid", "does not say that it is InfluxDB 3"},
		"404":                         {answer(404, "404 page not found"), "invalid", "no InfluxDB 3 server"},
		"401":                         {answer(401, `{"error":"the request was not authenticated"}`), "unauthorized", "admin_token"},
		"401 with headers":            {header("Core", "3.9.0", 401, ""), "unauthorized", "admin_token"},
		"403":                         {answer(403, ""), "unauthorized", ""},
		"500":                         {answer(500, ""), "doubt", ""},
		"503 with headers":            {header("Core", "3.9.0", 503, ""), "doubt unreachable", ""},
		"a redirect":                  {answer(302, ""), "doubt", "redirect"},
		"a secret as version":         {header("Core", "apiv3_5Ecr3t", 200, ""), "invalid", "redacted"},
		"a secret as build":           {header("apiv3_5Ecr3t", "3.9.0", 200, ""), "invalid", "redacted"},
		"a body that is no JSON":      {header("Core", "3.9.0", 200, "OK"), "ok", ""},
		"a body of a megabyte":        {header("Core", "3.9.0", 200, strings.Repeat("a", httpapi.MaxAnswer+1)), "doubt", "longer"},
		"product in the body only":    {answer(200, `{"product_name":"InfluxDB 3 Core","version":"3.9.0"}`), "ok", ""},
		"Enterprise in the body only": {answer(200, `{"product_name":"InfluxDB 3 Enterprise","version":"3.9.0"}`), "invalid", "InfluxDB 3 Enterprise"},
		"no product":                  {answer(200, `{"version":"3.9.0"}`), "ok", ""},
		"no product, version 2":       {answer(200, `{"version":"2.9.0"}`), "invalid", "2.9.0"},
	} {
		s := newStage(t, c.handler)
		server, err := inspect(t.Context(), s, s.cluster(issuer.Core))
		if kindOf(err) != c.want || err != nil && !strings.Contains(err.Error(), c.says) || strings.Contains(texts(err)+server.Version+server.Product, "5Ecr3t") {
			t.Errorf("%s: %+v, %v", name, server, err)
		}
	}
}

func TestInspect_ChecksThePinnedUUID(t *testing.T) {
	for _, c := range []struct {
		version, pinned, want string
	}{
		{"3.7.0", uuid, "ok"}, {"3.7.0", strings.ToUpper(uuid), "ok"}, {"3.7.0", "", "ok"}, {"3.6.0", "", "ok"},
		{"3.7.0", otherUUID, "invalid"}, {"3.6.0", uuid, "invalid"},
	} {
		s := simulate(t, influxdb3server.Options{UUID: uuid, Version: c.version})
		where := s.cluster(issuer.Core)
		where.UUID = c.pinned
		if _, err := inspect(t.Context(), s.stage, where); kindOf(err) != c.want {
			t.Errorf("%s, pinned %q: %v", c.version, c.pinned, err)
		}
	}
}

func TestTraits_DescribeTheProducts(t *testing.T) {
	s := New(Config{})
	for _, product := range products {
		for _, d := range []issuer.Driver{s.Management(), s.Database()} {
			i := d.Open(issuer.Cluster{Product: product, Host: "h"})
			traits := i.(issuer.Describer).Traits()
			core := product == issuer.Core
			if !traits.KeepsExpired || !traits.OneList || (traits.UnknownAge < 0) != core || (traits.SpreadTime == 0) != core {
				t.Errorf("%s: %+v", product, traits)
			}
			if id := i.(issuer.Namer).IDOf(issuer.Request{Description: "d"}); id != "d" {
				t.Error(id)
			}
			if got := i.(issuer.UUIDReporter).ReportedUUID(); got != "" {
				t.Error(got)
			}
		}
	}
}
