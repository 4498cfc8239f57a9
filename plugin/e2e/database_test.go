package e2e

import (
	"net/http"
	"net/url"

	"github.com/rogpeppe/go-internal/testscript"
)

// write STATUS TOKEN DATABASE writes a point to a database of the cluster. It
// succeeds if the cluster answers with the HTTP status.
func writeData(ts *testscript.TestScript, st *story, args []string) error {
	if len(args) != 3 {
		ts.Fatalf("usage: write STATUS TOKEN DATABASE")
	}
	return st.answers(ts, args[0], args[1], http.MethodPost, "/api/v2/write?bucket="+url.QueryEscape(args[2]), "home temp=21.5")
}
