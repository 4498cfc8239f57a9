package influxdb3server

import (
	"bytes"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// A queryOrder is the body of a query.
type queryOrder struct {
	DB     *string        `json:"db"`
	Q      *string        `json:"q"`
	Format string         `json:"format"`
	Params map[string]any `json:"params"`
}

// columns are those of system.tokens that may hold a value. Two more,
// created_by_token_id and description, are null over HTTP.
var columns = []string{"token_id", "name", "hash", "created_at", "description", "created_by_token_id",
	"updated_at", "updated_by_token_id", "expiry", "permissions"}

// hashDigits is how many hex digits of the hash are shown.
const hashDigits = 9

var selectTokens = regexp.MustCompile(`(?i)^\s*select\s+(\*|[a-z_]+(?:\s*,\s*[a-z_]+)*)\s+from\s+system\.tokens\s*;?\s*$`)

// query answers SELECT on system.tokens without conditions, and on any other
// database nothing but SELECT 1.
func (n *Node) query(r request) answer {
	var q queryOrder
	if r.Method == http.MethodGet {
		v := r.URL.Query()
		db, sql := v.Get("db"), v.Get("q")
		q.DB, q.Q, q.Format = &db, &sql, v.Get("format")
	} else if err := json.Unmarshal(r.body, &q); err != nil {
		return text(http.StatusBadRequest, "serde json error: %v", err)
	}
	switch accept := r.Header.Get("Accept"); {
	case q.DB == nil || q.Q == nil:
		return text(http.StatusBadRequest, "serde json error: missing field")
	case !slices.Contains([]string{"", "*/*", "application/json", "application/jsonl", "text/csv"}, accept):
		return text(http.StatusBadRequest, "unsupported mime type: %s", accept)
	case q.Format != "json" && !(q.Format == "" && accept != "application/jsonl" && accept != "text/csv"):
		return text(http.StatusBadRequest, "simulator: only format=json")
	case *q.DB != "_internal":
		return n.queryDatabase(r, *q.DB, *q.Q)
	case !n.cluster.admin(r.caller):
		return forbidden
	}
	match := selectTokens.FindStringSubmatch(*q.Q)
	if match == nil {
		return text(http.StatusBadRequest, "simulator: the query is not supported: %s", *q.Q)
	}
	return n.listTokens(match[1])
}

func (n *Node) queryDatabase(r request, db, sql string) answer {
	switch {
	case !slices.Contains(n.cluster.options.Databases, db):
		return text(http.StatusNotFound, `{"error": "database not found: %s"}`, db)
	case !r.caller.may(db, "read"):
		return forbidden
	case !strings.EqualFold(sql, "SELECT 1"):
		return text(http.StatusBadRequest, "simulator: the query is not supported: %s", sql)
	}
	return answer{status: http.StatusOK, contentType: "application/json", body: []byte(`[{"Int64(1)":1}]`)}
}

// listTokens writes the selected columns of all tokens. Null columns are
// omitted. The column hash does not exist on a server without authentication.
func (n *Node) listTokens(selected string) answer {
	wanted := columns
	if selected != "*" {
		wanted = strings.FieldsFunc(strings.ToLower(selected), func(r rune) bool { return strings.ContainsRune(", \t\n", r) })
	}
	for _, column := range wanted {
		if !slices.Contains(columns, column) || column == "hash" && n.cluster.options.WithoutAuth && selected != "*" {
			return text(http.StatusBadRequest, "Schema error: No field named %s.", column)
		}
	}
	var out bytes.Buffer
	out.WriteByte('[')
	for i, t := range n.catalog.tokens() {
		if i > 0 {
			out.WriteByte(',')
		}
		writeRow(&out, t, wanted, n.cluster.options.WithoutAuth)
	}
	out.WriteByte(']')
	return answer{status: http.StatusOK, contentType: "application/json", body: out.Bytes()}
}

func writeRow(out *bytes.Buffer, t *Token, wanted []string, withoutAuth bool) {
	separator := byte('{')
	for _, column := range wanted {
		var value any
		switch column {
		case "token_id":
			value = t.ID
		case "name":
			value = t.Name
		case "hash":
			if !withoutAuth {
				value = t.Hash[:hashDigits]
			}
		case "created_at":
			value = sqlTime(t.CreatedAt)
		case "expiry":
			if s := optional(t.Expiry, sqlTime); s != nil {
				value = *s
			}
		case "permissions":
			value = t.rights()
		}
		if value == nil {
			continue
		}
		encoded, _ := json.Marshal(value)
		out.WriteByte(separator)
		out.WriteString(`"` + column + `":`)
		out.Write(encoded)
		separator = ','
	}
	if separator == '{' {
		out.WriteByte('{')
	}
	out.WriteByte('}')
}
