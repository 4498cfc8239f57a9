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

// An exchanged is a request and its answer, as the server saw them.
type exchanged struct {
	method, path string
	header       http.Header
	body         []byte
	status       int
	answerHeader http.Header
	answer       []byte
}

// A contract says what is wrong with an exchange with a product's API.
type contract interface {
	judge(product string, e exchanged) error
}

// theContract is InfluxData's own description of the API, if the folder that
// holds it is named by OPENAPI_DIR. Else it is the table below, which tells the
// same facts by our own understanding.
func theContract(t *testing.T) contract {
	t.Helper()
	dir := os.Getenv("OPENAPI_DIR")
	if dir == "" {
		t.Log("OPENAPI_DIR is not set: exchanges are held against our own table, not against InfluxData's OpenAPI documents")
		return table{}
	}
	return loadDocuments(t, dir)
}

// documents is InfluxData's description, by product.
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
		document.Servers = openapi3.Servers{{URL: "/api/v0"}} // whatever the host
		if all[product], err = gorillamux.NewRouter(document); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func (d documents) judge(product string, e exchanged) error {
	r := httptest.NewRequest(e.method, e.path, bytes.NewReader(e.body))
	r.Header = e.header.Clone()
	route, params, err := d[product].FindRoute(r)
	if err != nil {
		return err
	}
	asked := &openapi3filter.RequestValidationInput{
		Request: r, PathParams: params, Route: route,
		Options: &openapi3filter.Options{
			IncludeResponseStatus: true, MultiError: true, AuthenticationFunc: bearerOnly,
			SchemaValidationOptions: []openapi3.SchemaValidationOption{openapi3.WithStringFormatValidator("uuid", uuidFormat)},
		},
	}
	answered := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: asked, Status: e.status, Header: e.answerHeader,
		Body: io.NopCloser(bytes.NewReader(e.answer)), Options: asked.Options,
	}
	return errors.Join(
		openapi3filter.ValidateRequest(context.Background(), asked),
		openapi3filter.ValidateResponse(context.Background(), answered),
	)
}

// uuidFormat makes the validator look at what it leaves alone otherwise.
var uuidFormat = openapi3.NewRegexpFormatValidator(openapi3.FormatOfStringForUUIDOfRFC4122)

// bearerOnly is satisfied by a credential of the documented scheme.
func bearerOnly(_ context.Context, in *openapi3filter.AuthenticationInput) error {
	return checkBearer(in.RequestValidationInput.Request.Header)
}

func checkBearer(h http.Header) error {
	if scheme, credential, _ := strings.Cut(h.Get("Authorization"), " "); scheme != "Bearer" || credential == "" {
		return errors.New("no bearer token")
	}
	return nil
}

// table tells by our own understanding what the API's documents say of tokens.
type table struct{}

// A kind says whether a JSON value is of some kind.
type kind func(any) bool

// An object says of what kind its fields are. Those with a "!" must be there.
type object map[string]kind

const uuidPattern = `[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`

var (
	uuidText = matching(uuidPattern)
	moment   = kind(func(v any) bool { s, ok := v.(string); _, err := time.Parse(time.RFC3339, s); return ok && err == nil })
	anyText  = matching(`(?s).*`)

	permissions = arrayOf(object{"action": anyText, "resource": matching(`(?s).{1,64}`)}.is)
	ordered     = object{"!description": anyText, "permissions": permissions, "expiresAt": moment}
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

func (table) judge(product string, e exchanged) error {
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
	return errors.Join(checkBearer(e.header), checkOrder(e), checkAnswer(e, want, answers))
}

func checkOrder(e exchanged) error {
	if e.method != http.MethodPost {
		return nil
	}
	return checkJSON("request", e.header, e.body, ordered.is)
}

func checkAnswer(e exchanged, want int, is kind) error {
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

// documented are exchanges as they should be.
func documented(product string) map[string]exchanged {
	collection, ids := shortPath, ""
	if product == issuer.Dedicated {
		collection = longPath
		ids = `"accountId":"` + accountID + `","clusterId":"` + clusterID + `",`
	}
	asks, says := http.Header{"Authorization": {"Bearer x"}, "Content-Type": {"application/json"}}, http.Header{"Content-Type": {"application/json"}}
	token := `{` + ids + `"id":"` + someID + `","description":"d","permissions":[{"action":"read","resource":"*"}],"createdAt":"2030-01-01T00:00:00.123Z"`
	minted := token + `,"accessToken":"apiv1_` + strings.Repeat("5", 64) + `"}`
	order := `{"description":"d","permissions":[{"action":"write","resource":"db"}],"expiresAt":"2030-01-01T00:00:00Z"}`
	return map[string]exchanged{
		"mint":    {"POST", collection, asks, []byte(order), 200, says, []byte(minted)},
		"list":    {"GET", collection, asks, nil, 200, says, []byte(`[` + token + `,"revokedAt":"2030-01-01T00:00:00Z"}]`)},
		"get":     {"GET", collection + "/" + someID, asks, nil, 200, says, []byte(token + `}`)},
		"delete":  {"DELETE", collection + "/" + someID, asks, nil, 204, http.Header{}, nil},
		"unknown": {"DELETE", collection + "/" + someID, asks, nil, 404, says, []byte(`{"code":404,"message":"not found"}`)},
	}
}

func TestContract_AcceptsOnlyDocumentedExchanges(t *testing.T) {
	contracts := []contract{table{}}
	if held := theContract(t); held != (table{}) {
		contracts = append(contracts, held)
	}
	body := func(text string) func(*exchanged) { return func(e *exchanged) { e.body = []byte(text) } }
	answer := func(text string) func(*exchanged) { return func(e *exchanged) { e.answer = []byte(text) } }
	spoilt := []struct {
		exchange, how string
		spoil         func(*exchanged)
	}{
		{"mint", "no credential", func(e *exchanged) { e.header = http.Header{"Content-Type": e.header["Content-Type"]} }},
		{"mint", "another scheme", func(e *exchanged) { e.header = e.header.Clone(); e.header.Set("Authorization", "Token x") }},
		{"mint", "another type", func(e *exchanged) { e.header = e.header.Clone(); e.header.Set("Content-Type", "text/plain") }},
		{"mint", "no description", body(`{"permissions":[]}`)},
		{"mint", "permissions are null", body(`{"description":"d","permissions":null}`)},
		{"mint", "no name of a database", body(`{"description":"d","permissions":[{"action":"read","resource":""}]}`)},
		{"mint", "a time in seconds", body(`{"description":"d","expiresAt":1767323045}`)},
		{"mint", "a time in words", body(`{"description":"d","expiresAt":"tomorrow"}`)},
		{"mint", "created", func(e *exchanged) { e.status = 201 }},
		{"mint", "a short token", func(e *exchanged) { e.answer = bytes.Replace(e.answer, []byte("5555"), nil, 4) }},
		{"mint", "an id that is no UUID", func(e *exchanged) { e.answer = bytes.ReplaceAll(e.answer, []byte(someID), []byte("7")) }},
		{"list", "another path", func(e *exchanged) { e.path = "/api/v1/tokens" }},
		{"list", "a wrapped list", func(e *exchanged) { e.answer = append(append([]byte(`{"tokens":`), e.answer...), '}') }},
		{"list", "an entry without id", answer(`[{"description":"d"}]`)},
		{"get", "a list", func(e *exchanged) { e.answer = append(append([]byte("["), e.answer...), ']') }},
		{"get", "an id that is no UUID", func(e *exchanged) { e.path = strings.Replace(e.path, someID, "7", 1) }},
		{"delete", "the collection", func(e *exchanged) { e.path = strings.TrimSuffix(e.path, "/"+someID) }},
		{"delete", "ok", func(e *exchanged) { e.status = 200 }},
		{"unknown", "a code in letters", answer(`{"code":"not found","message":"m"}`)},
		{"unknown", "no message", answer(`{"code":404}`)},
		{"unknown", "a status that is not listed", func(e *exchanged) { e.status = 502 }},
	}
	for _, held := range contracts {
		for _, product := range []string{issuer.Dedicated, issuer.Clustered} {
			for name, e := range documented(product) {
				if err := held.judge(product, e); err != nil {
					t.Errorf("%T, %s, %s: %v", held, product, name, err)
				}
			}
			for _, c := range spoilt {
				e := documented(product)[c.exchange]
				c.spoil(&e)
				if held.judge(product, e) == nil {
					t.Errorf("%T, %s, %s, %s: no objection", held, product, c.exchange, c.how)
				}
			}
		}
	}
}
