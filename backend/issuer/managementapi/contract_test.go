package managementapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// An exchange is a request and its answer, as the server saw them.
type exchange struct {
	method, path string
	header       http.Header
	body         []byte
	status       int
	answerHeader http.Header
	answer       []byte
}

// A contract is the OpenAPI document of each product.
type contract map[string]routers.Router

// apiContract returns the documents of InfluxData in the folder OPENAPI_DIR, or
// in shared/openapi beside the checkout. If there are none, it returns our own in
// testdata, which describe the same facts for the requests that the driver sends.
func apiContract(t *testing.T) contract {
	t.Helper()
	beside := filepath.Join("..", "..", "..", "..", "shared", "openapi")
	if dir := os.Getenv("OPENAPI_DIR"); dir != "" {
		return loadContract(t, dir)
	}
	if _, err := os.Stat(beside); err == nil {
		return loadContract(t, beside)
	}
	return ownContract(t)
}

func ownContract(t *testing.T) contract {
	t.Helper()
	return loadContract(t, filepath.Join("testdata", "openapi"))
}

func loadContract(t *testing.T, dir string) contract {
	t.Helper()
	all := contract{}
	for product, name := range map[string]string{
		issuer.Dedicated: "management-cloud-dedicated.yml", issuer.Clustered: "management-clustered.yml",
	} {
		loader := openapi3.NewLoader()
		loader.IsExternalRefsAllowed = true
		document, err := loader.LoadFromFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		document.Servers = openapi3.Servers{{URL: "/api/v0"}} // on every host
		if all[product], err = gorillamux.NewRouter(document); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// check validates an exchange with a product.
func (c contract) check(product string, e exchange) error {
	r := httptest.NewRequest(e.method, e.path, bytes.NewReader(e.body))
	r.Header = e.header.Clone()
	route, params, err := c[product].FindRoute(r)
	if err != nil {
		return err
	}
	request := &openapi3filter.RequestValidationInput{
		Request: r, PathParams: params, Route: route,
		Options: &openapi3filter.Options{
			IncludeResponseStatus: true, MultiError: true, AuthenticationFunc: checkBearer,
			SchemaValidationOptions: []openapi3.SchemaValidationOption{openapi3.WithStringFormatValidator("uuid", uuidFormat)},
		},
	}
	response := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: request, Status: e.status, Header: e.answerHeader,
		Body: io.NopCloser(bytes.NewReader(e.answer)), Options: request.Options,
	}
	return errors.Join(
		openapi3filter.ValidateRequest(context.Background(), request),
		openapi3filter.ValidateResponse(context.Background(), response),
	)
}

// uuidFormat makes the validator check UUIDs, which it does not by default.
var uuidFormat = openapi3.NewRegexpFormatValidator(openapi3.FormatOfStringForUUIDOfRFC4122)

// checkBearer accepts any credential of the documented scheme.
func checkBearer(_ context.Context, in *openapi3filter.AuthenticationInput) error {
	header := in.RequestValidationInput.Request.Header.Get("Authorization")
	if scheme, credential, _ := strings.Cut(header, " "); scheme != "Bearer" || credential == "" {
		return errors.New("no bearer token")
	}
	return nil
}

// documentedExchanges returns exchanges that follow the documents.
func documentedExchanges(product string) map[string]exchange {
	collection, ids := shortPath, ""
	if product == issuer.Dedicated {
		collection = longPath
		ids = `"accountId":"` + accountID + `","clusterId":"` + clusterID + `",`
	}
	asked, answered := http.Header{"Authorization": {"Bearer x"}, "Content-Type": {"application/json"}}, http.Header{"Content-Type": {"application/json"}}
	token := `{` + ids + `"id":"` + someID + `","description":"d","permissions":[{"action":"read","resource":"*"}],"createdAt":"2030-01-01T00:00:00.123Z"`
	created := token + `,"accessToken":"apiv1_` + strings.Repeat("5", 64) + `"}`
	order := `{"description":"d","permissions":[{"action":"write","resource":"db"}],"expiresAt":"2030-01-01T00:00:00Z"}`
	return map[string]exchange{
		"create":  {"POST", collection, asked, []byte(order), 200, answered, []byte(created)},
		"list":    {"GET", collection, asked, nil, 200, answered, []byte(`[` + token + `,"revokedAt":"2030-01-01T00:00:00Z"}]`)},
		"get":     {"GET", collection + "/" + someID, asked, nil, 200, answered, []byte(token + `}`)},
		"delete":  {"DELETE", collection + "/" + someID, asked, nil, 204, http.Header{}, nil},
		"unknown": {"DELETE", collection + "/" + someID, asked, nil, 404, answered, []byte(`{"code":404,"message":"not found"}`)},
	}
}

func TestContract_FindsUndocumentedExchanges(t *testing.T) {
	contracts := map[string]contract{"our own": ownContract(t), "the one that tests use": apiContract(t)}
	body := func(text string) func(*exchange) { return func(e *exchange) { e.body = []byte(text) } }
	answer := func(text string) func(*exchange) { return func(e *exchange) { e.answer = []byte(text) } }
	wrong := []struct {
		exchange, how string
		change        func(*exchange)
	}{
		{"create", "no credential", func(e *exchange) { e.header = http.Header{"Content-Type": e.header["Content-Type"]} }},
		{"create", "another scheme", func(e *exchange) { e.header = e.header.Clone(); e.header.Set("Authorization", "Token x") }},
		{"create", "another type", func(e *exchange) { e.header = e.header.Clone(); e.header.Set("Content-Type", "text/plain") }},
		{"create", "no description", body(`{"permissions":[]}`)},
		{"create", "permissions are null", body(`{"description":"d","permissions":null}`)},
		{"create", "no name of a database", body(`{"description":"d","permissions":[{"action":"read","resource":""}]}`)},
		{"create", "a time in seconds", body(`{"description":"d","expiresAt":1767323045}`)},
		{"create", "a time in words", body(`{"description":"d","expiresAt":"tomorrow"}`)},
		{"create", "created", func(e *exchange) { e.status = 201 }},
		{"create", "a short token", func(e *exchange) { e.answer = bytes.Replace(e.answer, []byte("5555"), nil, 4) }},
		{"create", "an id that is no UUID", func(e *exchange) { e.answer = bytes.ReplaceAll(e.answer, []byte(someID), []byte("7")) }},
		{"list", "another path", func(e *exchange) { e.path = "/api/v1/tokens" }},
		{"list", "a wrapped list", func(e *exchange) { e.answer = append(append([]byte(`{"tokens":`), e.answer...), '}') }},
		{"list", "an entry without id", answer(`[{"description":"d"}]`)},
		{"get", "a list", func(e *exchange) { e.answer = append(append([]byte("["), e.answer...), ']') }},
		{"get", "an id that is no UUID", func(e *exchange) { e.path = strings.Replace(e.path, someID, "7", 1) }},
		{"delete", "the collection", func(e *exchange) { e.path = strings.TrimSuffix(e.path, "/"+someID) }},
		{"delete", "ok", func(e *exchange) { e.status = 200 }},
		{"unknown", "a code in letters", answer(`{"code":"not found","message":"m"}`)},
		{"unknown", "no message", answer(`{"code":404}`)},
		{"unknown", "a status that is not listed", func(e *exchange) { e.status = 502 }},
	}
	for source, held := range contracts {
		for _, product := range []string{issuer.Dedicated, issuer.Clustered} {
			for name, e := range documentedExchanges(product) {
				if err := held.check(product, e); err != nil {
					t.Errorf("%s, %s, %s: %v", source, product, name, err)
				}
			}
			for _, c := range wrong {
				e := documentedExchanges(product)[c.exchange]
				c.change(&e)
				if held.check(product, e) == nil {
					t.Errorf("%s, %s, %s, %s: no error", source, product, c.exchange, c.how)
				}
			}
		}
	}
}
