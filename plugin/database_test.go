package plugin_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// write STATUS TOKEN DATABASE writes a point to a database of the cluster, and
// tells whether the cluster answers with the status.
func writeData(ts *testscript.TestScript, st *story, args []string) error {
	if len(args) != 3 {
		ts.Fatalf("usage: write STATUS TOKEN DATABASE")
	}
	target := st.web.URL + "/api/v2/write?bucket=" + url.QueryEscape(args[2])
	req, err := http.NewRequestWithContext(st.t.Context(), http.MethodPost, target, strings.NewReader("home temp=21.5"))
	ts.Check(err)
	req.Header.Set("Authorization", "Bearer "+args[1])
	resp, err := http.DefaultClient.Do(req)
	ts.Check(err)
	defer func() { _ = resp.Body.Close() }()
	if strconv.Itoa(resp.StatusCode) != args[0] {
		return fmt.Errorf("the cluster answers %s", resp.Status)
	}
	return nil
}
