package managementapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

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

// A contract checks exchanges with the API of a product.
type contract interface {
	// violation returns what is wrong with an exchange, or nil.
	violation(product string, e exchange) error
}

// theContract returns InfluxData's OpenAPI documents if OPENAPI_DIR names their
// directory, or else the table below, which was written from them.
func theContract(t *testing.T) contract {
	t.Helper()
	dir := os.Getenv("OPENAPI_DIR")
	if dir == "" {
		t.Log("OPENAPI_DIR is not set: exchanges are checked against the table in this file, not against InfluxData's OpenAPI documents")
		return table{}
	}
	return loadDocuments(t, dir)
}

// documents are InfluxData's OpenAPI documents, by product.
type documents map[string]routers.Router

func loadDocuments(t *testing.T, dir string) documents {
	t.Helper()
	all := documents{}
	for product, name := range map[string]string{
		issuer.Dedicated: "management-cloud-dedicated.yml", issuer.Clustered: "management-clustered.yml",
	} {
		document, err := openapi3.NewLoader().LoadFromFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		document.Servers = openapi3.Servers{{URL: "/api/v0"}} // on any host
		if all[product], err = gorillamux.NewRouter(document); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func (d documents) violation(product string, e exchange) error {
	r := httptest.NewRequest(e.method, e.path, bytes.NewReader(e.body))
	r.Header = e.header.Clone()
	route, params, err := d[product].FindRoute(r)
	if err != nil {
		return err
	}
	request := &openapi3filter.RequestValidationInput{
		Request: r, PathParams: params, Route: route,
		Options: &openapi3filter.Options{
			IncludeResponseStatus: true, MultiError: true, AuthenticationFunc: bearerOnly,
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

// uuidFormat makes the validator check the format, which it ignores by default.
var uuidFormat = openapi3.NewRegexpFormatValidator(openapi3.FormatOfStringForUUIDOfRFC4122)

// bearerOnly accepts a credential of the documented scheme.
func bearerOnly(_ context.Context, in *openapi3filter.AuthenticationInput) error {
	return checkBearer(in.RequestValidationInput.Request.Header)
}

func checkBearer(h http.Header) error {
	if scheme, credential, _ := strings.Cut(h.Get("Authorization"), " "); scheme != "Bearer" || credential == "" {
		return errors.New("no bearer token")
	}
	return nil
}

// A table is a contract with what the OpenAPI documents say about tokens.
type table struct{}

// A kind reports whether a JSON value is of some kind.
type kind func(any) bool

// An object has the kinds of its fields. A field with a "!" is required.
type object map[string]kind

const uuidPattern = `[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`

var (
	uuidText = matching(uuidPattern)
	moment   = kind(func(v any) bool { s, ok := v.(string); _, err := time.Parse(time.RFC3339, s); return ok && err == nil })
	anyText  = matching(`(?s).*`)

	permissions = arrayOf(object{"action": anyText, "resource": matching(`(?s).{1,64}`)}.is)
	created     = object{"!description": anyText, "permissions": permissions, "expiresAt": moment}
	shown       = object{
		"!id": uuidText, "!description": anyText, "!permissions": permissions,
		"!createdAt": moment, "expiresAt": moment, "revokedAt": moment,
	}
	complaint = object{"!code": func(v any) bool { _, ok := v.(float64); return ok }, "!message": anyText}
)

func matching(pattern string) kind {
	whole := regexp.MustCompile(`^(?:` + pattern + `)$`)
	return func(v any) bool { s, ok := v.(string); return ok && whole.MatchString(s) }
}

func arrayOf(element kind) kind {
	return func(v any) bool {
		list, ok := v.([]any)
		return ok && !slices.ContainsFunc(list, func(e any) bool { return !element(e) })
	}
}

func (o object) is(v any) bool {
	fields, ok := v.(map[string]any)
	for name, is := range o {
		value, there := fields[strings.TrimPrefix(name, "!")]
		ok = ok && (there && is(value) || !there && name[0] != '!')
	}
	return ok
}

// and returns o with more fields.
func (o object) and(more object) object {
	all := object{}
	for _, part := range []object{o, more} {
		for name, is := range part {
			all[name] = is
		}
	}
	return all
}

func (table) violation(product string, e exchange) error {
	collection, token := `/api/v0/tokens`, shown
	if product == issuer.Dedicated {
		collection = `/api/v0/accounts/` + uuidPattern + `/clusters/` + uuidPattern + `/tokens`
		token = shown.and(object{"!accountId": uuidText, "!clusterId": uuidText})
	}
	one := matching(collection + "/" + uuidPattern)(e.path)
	if !one && !matching(collection)(e.path) {
		return errors.New("no such path")
	}
	want, answers := http.StatusOK, kind(nil)
	switch {
	case e.method == http.MethodGet && one:
		answers = token.is
	case e.method == http.MethodGet:
		answers = arrayOf(token.is)
	case e.method == http.MethodPost && !one:
		answers = token.and(object{"!accessToken": matching(`.{64,}`)}).is
	case e.method == http.MethodDelete && one:
		want, answers = http.StatusNoContent, nil
	default:
		return errors.New("no such method")
	}
	if slices.Contains([]int{400, 401, 403, 404, 500}, e.status) || e.status == 409 && e.method == http.MethodPost {
		want, answers = e.status, complaint.is
	}
	return errors.Join(checkBearer(e.header), checkRequest(e), checkAnswer(e, want, answers))
}

func checkRequest(e exchange) error {
	if e.method != http.MethodPost {
		return nil
	}
	return checkJSON("request", e.header, e.body, created.is)
}

func checkAnswer(e exchange, want int, is kind) error {
	switch {
	case e.status != want:
		return errors.New("no such status")
	case is == nil:
		return nil
	}
	return checkJSON("answer", e.answerHeader, e.answer, is)
}

func checkJSON(what string, h http.Header, text []byte, is kind) error {
	var v any
	if err := json.Unmarshal(text, &v); err != nil || h.Get("Content-Type") != "application/json" || !is(v) {
		return fmt.Errorf("the %s is not what is documented", what)
	}
	return nil
}

// documented returns exchanges that follow the documents.
func documented(product string) map[string]exchange {
	collection, ids := shortPath, ""
	if product == issuer.Dedicated {
		collection = longPath
		ids = `"accountId":"` + accountID + `","clusterId":"` + clusterID + `",`
	}
	asks, says := http.Header{"Authorization": {"Bearer x"}, "Content-Type": {"application/json"}}, http.Header{"Content-Type": {"application/json"}}
	token := `{` + ids + `"id":"` + someID + `","description":"d","permissions":[{"action":"read","resource":"*"}],"createdAt":"2030-01-01T00:00:00.123Z"`
	newToken := token + `,"accessToken":"apiv1_` + strings.Repeat("5", 64) + `"}`
	body := `{"description":"d","permissions":[{"action":"write","resource":"db"}],"expiresAt":"2030-01-01T00:00:00Z"}`
	return map[string]exchange{
		"create":  {"POST", collection, asks, []byte(body), 200, says, []byte(newToken)},
		"list":    {"GET", collection, asks, nil, 200, says, []byte(`[` + token + `,"revokedAt":"2030-01-01T00:00:00Z"}]`)},
		"get":     {"GET", collection + "/" + someID, asks, nil, 200, says, []byte(token + `}`)},
		"delete":  {"DELETE", collection + "/" + someID, asks, nil, 204, http.Header{}, nil},
		"unknown": {"DELETE", collection + "/" + someID, asks, nil, 404, says, []byte(`{"code":404,"message":"not found"}`)},
	}
}

func TestContract_AcceptsOnlyDocumentedExchanges(t *testing.T) {
	contracts := []contract{table{}}
	if documents := theContract(t); documents != (table{}) {
		contracts = append(contracts, documents)
	}
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
		{"create", "a time in text", body(`{"description":"d","expiresAt":"tomorrow"}`)},
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
	for _, contract := range contracts {
		for _, product := range []string{issuer.Dedicated, issuer.Clustered} {
			for name, e := range documented(product) {
				if err := contract.violation(product, e); err != nil {
					t.Errorf("%T, %s, %s: %v", contract, product, name, err)
				}
			}
			for _, c := range wrong {
				e := documented(product)[c.exchange]
				c.change(&e)
				if contract.violation(product, e) == nil {
					t.Errorf("%T, %s, %s, %s: no violation", contract, product, c.exchange, c.how)
				}
			}
		}
	}
}
