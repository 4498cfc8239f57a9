package simulator

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Forms of `management list --format json`. The zero value is the documented
// one: JSON of protobuf structures, where fields that are zero are absent.
const (
	ListRFC3339   = "rfc3339"     // times are strings
	ListCamel     = "camel"       // protojson: times are strings and keys camelCase
	ListZeros     = "zeros"       // unset fields are {} and null, not absent
	ListEpoch     = "epoch"       // times are strings, unset ones 1970-01-01T00:00:00Z
	ListWrapped   = "wrapped"     // an object with the array under "tokens"
	ListNothing   = "nothing"     // no output at all, whatever there is
	ListNull      = "null"        // null, whatever there is
	ListEmpty     = "empty-array" // [], whatever there is
	ListTruncated = "truncated"   // breaks off half-way, with exit status 0
	ListHTML      = "html"        // a page of some proxy
)

// ListShapes names every form of list, the documented one by "".
var ListShapes = []string{
	"", ListRFC3339, ListCamel, ListZeros, ListEpoch, ListWrapped, ListNothing,
	ListNull, ListEmpty, ListTruncated, ListHTML,
}

// A protoTime is a protobuf timestamp as encoding/json sees it.
type protoTime struct {
	Seconds int64 `json:"seconds,omitempty"`
	Nanos   int   `json:"nanos,omitempty"`
}

// A listEntry is a management token as the CLI lists it. Times are *protoTime
// or strings.
type listEntry struct {
	ID          string `json:"id"`
	AccountID   string `json:"account_id"`
	TokenPrefix string `json:"token_prefix"`
	CreatedAt   any    `json:"created_at,omitempty"`
	ExpiresAt   any    `json:"expires_at,omitempty"`
	RevokedAt   any    `json:"revoked_at,omitempty"`
	Description any    `json:"description,omitempty"`
	CreatedBy   string `json:"created_by,omitempty"`
}

// camelEntry has the fields of listEntry under protojson's names.
type camelEntry struct {
	ID          string `json:"id"`
	AccountID   string `json:"accountId"`
	TokenPrefix string `json:"tokenPrefix"`
	CreatedAt   any    `json:"createdAt,omitempty"`
	ExpiresAt   any    `json:"expiresAt,omitempty"`
	RevokedAt   any    `json:"revokedAt,omitempty"`
	Description any    `json:"description,omitempty"`
	CreatedBy   string `json:"createdBy,omitempty"`
}

// entryOf describes t in the given form.
func entryOf(t Token, accountID, shape string) any {
	stamp := stamps(shape)
	e := listEntry{
		ID:          t.ID,
		AccountID:   accountID,
		TokenPrefix: t.Prefix,
		CreatedAt:   stamp(t.CreatedAt),
		ExpiresAt:   stamp(t.ExpiresAt),
		RevokedAt:   stamp(t.RevokedAt),
		CreatedBy:   t.CreatedBy,
	}
	switch {
	case t.Description != "":
		e.Description = t.Description
	case shape == ListZeros:
		e.Description = json.RawMessage("null")
	}
	if shape == ListCamel {
		return camelEntry(e)
	}
	return e
}

// stamps returns how a form of list writes times; nil leaves the key out.
func stamps(shape string) func(time.Time) any {
	switch shape {
	case ListRFC3339, ListCamel:
		return func(t time.Time) any {
			if t.IsZero() {
				return nil
			}
			return t.UTC().Format(time.RFC3339Nano)
		}
	case ListEpoch:
		return func(t time.Time) any { return tableTime(t) }
	case ListZeros:
		return func(t time.Time) any {
			if t.IsZero() {
				return protoTime{}
			}
			return protoTime{t.Unix(), t.Nanosecond()}
		}
	}
	return func(t time.Time) any {
		if t.IsZero() {
			return nil
		}
		return protoTime{t.Unix(), t.Nanosecond()}
	}
}

// tableTime is how tables write times: an unset one is the epoch.
func tableTime(t time.Time) string {
	if t.IsZero() {
		t = time.Unix(0, 0)
	}
	return t.UTC().Format(time.RFC3339)
}

// A listing is an order for a list of management tokens.
type listing struct {
	format string // json or table
	shape  string
	sort   string // a key of sortKeys; empty: as stored, by creation
}

// sortKeys are what lists can be sorted by.
var sortKeys = map[string]func(a, b Token) int{
	"created":     func(a, b Token) int { return a.CreatedAt.Compare(b.CreatedAt) },
	"id":          func(a, b Token) int { return strings.Compare(a.ID, b.ID) },
	"description": func(a, b Token) int { return strings.Compare(a.Description, b.Description) },
	"prefix":      func(a, b Token) int { return strings.Compare(a.Prefix, b.Prefix) },
	"expires":     func(a, b Token) int { return a.ExpiresAt.Compare(b.ExpiresAt) },
	"revoked":     func(a, b Token) int { return a.RevokedAt.Compare(b.RevokedAt) },
}

// writeList streams the management tokens to w.
func (c *Cluster) writeList(w io.Writer, l listing) error {
	out := bufio.NewWriterSize(w, 1<<16)
	switch {
	case l.format == formatTable:
		if err := c.writeListTable(out, l); err != nil {
			return err
		}
	case l.shape == ListNothing:
	case l.shape == ListNull:
		out.WriteString("null\n")
	case l.shape == ListEmpty:
		out.WriteString("[]\n")
	case l.shape == ListHTML:
		out.WriteString(htmlPage)
	default:
		if err := c.writeListJSON(out, l); err != nil {
			return err
		}
	}
	return out.Flush()
}

// errBreakOff ends a list that is meant to be incomplete.
var errBreakOff = errors.New("list breaks off")

func (c *Cluster) writeListJSON(out *bufio.Writer, l listing) error {
	limit := -1
	if l.shape == ListTruncated {
		limit = c.countListed() / 2
	}
	open, end := "[", "]\n"
	if l.shape == ListWrapped {
		open, end = `{"tokens":[`, "]}\n"
	}
	out.WriteString(open)
	encoder := json.NewEncoder(out)
	n := 0
	err := c.eachListed(l.sort, func(t Token) error {
		if n == limit {
			return errBreakOff
		}
		if n > 0 {
			out.WriteByte(',')
		}
		n++
		return encoder.Encode(entryOf(t, c.accountID, l.shape))
	})
	if l.shape == ListTruncated {
		out.WriteString(`,{"id":"`)
		return nil
	}
	out.WriteString(end)
	return err
}

func (c *Cluster) writeListTable(out *bufio.Writer, l listing) error {
	const row = "| %-36s | %-40s | %-9s | %-20s | %-20s | %-20s |\n"
	border := "+" + strings.Repeat("-", 38) + "+" + strings.Repeat("-", 42) + "+" + strings.Repeat("-", 11) +
		strings.Repeat("+"+strings.Repeat("-", 22), 3) + "+\n"
	out.WriteString(border)
	fmt.Fprintf(out, row, "ID", "DESCRIPTION", "PREFIX", "CREATED AT", "EXPIRES AT", "REVOKED AT")
	out.WriteString(border)
	err := c.eachListed(l.sort, func(t Token) error {
		_, err := fmt.Fprintf(out, row, t.ID, t.Description, t.Prefix,
			tableTime(t.CreatedAt), tableTime(t.ExpiresAt), tableTime(t.RevokedAt))
		return err
	})
	out.WriteString(border)
	return err
}

// eachListed calls f with the management tokens that a list shows now.
func (c *Cluster) eachListed(sort string, f func(Token) error) error {
	if sort == "" || sort == "created" {
		return c.eachManagement(f)
	}
	var all []Token
	c.eachManagement(func(t Token) error { // f never fails
		all = append(all, t)
		return nil
	})
	slices.SortStableFunc(all, sortKeys[sort])
	for _, t := range all {
		if err := f(t); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) eachManagement(f func(Token) error) error {
	lag := time.Duration(c.Faults().ListLag)
	return c.tokens.each(func(r record) error {
		r, shown := c.asListed(r, lag)
		if !shown || r.kind != Management {
			return nil
		}
		return f(c.token(r))
	})
}

func (c *Cluster) countListed() int {
	n := 0
	c.eachManagement(func(Token) error { // f never fails
		n++
		return nil
	})
	return n
}
