package influxdb3server

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
)

// documents returns InfluxData's description of each product's API from the
// folder that OPENAPI_DIR names.
func documents(t *testing.T) map[string]routers.Router {
	t.Helper()
	dir := os.Getenv("OPENAPI_DIR")
	if dir == "" {
		t.Skip("OPENAPI_DIR is not set: the exact answers are checked by TestTokenCalls_AnswerAsTheProducts only")
	}
	all := map[string]routers.Router{}
	for _, product := range []string{Core, Enterprise, Cloud} {
		document, err := openapi3.NewLoader().LoadFromFile(filepath.Join(dir, "influxdb3-"+product+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		document.Servers = openapi3.Servers{{URL: "/"}} // whatever the host
		if all[product], err = gorillamux.NewRouter(document); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// judge holds a request and its answer against a document. The document is wrong
// in these points, which are left out or mended: a 201 has the content type
// "json"; an error 401 has none; 400, 403, 405 and 415 of the token calls are
// missing; the answer to a query is an array and not an object.
func judge(router routers.Router, r *http.Request, body string, answer *http.Response, answered string) error {
	route, params, err := router.FindRoute(r)
	if err != nil {
		return err
	}
	r.Body = io.NopCloser(strings.NewReader(body))
	options := &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc}
	asked := &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route, Options: options}
	header := answer.Header.Clone()
	if kind := header.Get("Content-Type"); kind == "json" || kind == "" && answer.StatusCode == http.StatusUnauthorized {
		header.Set("Content-Type", "application/json")
	}
	if r.URL.Path == pathQuery && answer.StatusCode == http.StatusOK {
		answered = `{"results":` + answered + `}`
	}
	got := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: asked, Status: answer.StatusCode, Header: header,
		Body: io.NopCloser(bytes.NewReader([]byte(answered))), Options: options,
	}
	return errors.Join(openapi3filter.ValidateRequest(context.Background(), asked), openapi3filter.ValidateResponse(context.Background(), got))
}

func TestAnswers_PassTheDocumentsOfInfluxData(t *testing.T) {
	for product, router := range documents(t) {
		c, _, root := newCluster(t, Options{Product: product, Databases: []string{"db"}})
		for _, e := range []struct {
			secret, call, body string
			status             int
		}{
			{root, "GET /ping", "", 200},
			{"", "GET /ping", "", 401},
			{root, "POST /api/v3/configure/token/named_admin", `{"token_name":"a","expiry_secs":60}`, 201},
			{root, "POST /api/v3/configure/token/named_admin", `{"token_name":"a","expiry_secs":60}`, 409},
			{"x", "POST /api/v3/configure/token/named_admin", `{"token_name":"b"}`, 401},
			{root, "POST /api/v3/enterprise/configure/token", `{"token_name":"r","expiry_secs":60,"permissions":[{"resource_type":"db","resource_names":["db","db"],"actions":["read","write"]}]}`, 201},
			{root, "POST /api/v3/query_sql", `{"db":"_internal","q":"SELECT * FROM system.tokens","format":"json"}`, 200},
			{root, "DELETE /api/v3/configure/token?token_name=a", "", 200},
			{root, "DELETE /api/v3/configure/token?token_name=a", "", 404},
			{"x", "DELETE /api/v3/configure/token?token_name=a", "", 401},
		} {
			if product == Core && strings.Contains(e.call, "enterprise") {
				continue
			}
			method, target, _ := strings.Cut(e.call, " ")
			answer := call(t, c, e.secret, method, target, e.body)
			r := httptest.NewRequest(method, target, nil)
			if e.body != "" {
				r.Header.Set("Content-Type", "application/json")
			}
			if answer.StatusCode != e.status {
				t.Errorf("%s, %s: %d", product, e.call, answer.StatusCode)
			}
			if err := judge(router, r, e.body, answer, bodyOf(t, answer)); err != nil {
				t.Errorf("%s, %s, answered by %d: %v", product, e.call, answer.StatusCode, err)
			}
			if err := judge(router, r, e.body, answer, `{"id":"x","error":5,"results":5,"token_name":5,"version":5}`); err == nil && e.status < 300 && method != "DELETE" {
				t.Errorf("%s, %s, answered by %d: no objection to a wrong answer", product, e.call, answer.StatusCode)
			}
		}
	}
}
