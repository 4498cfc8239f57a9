package simulator

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Forms of the output of `management list --format json`. The zero value is the
// documented one: the JSON of protobuf structures, where zero fields are absent.
const (
	ListRFC3339   = "rfc3339"     // times are strings
	ListCamel     = "camel"       // protojson: times are strings and keys camelCase
	ListZeros     = "zeros"       // unset fields are {} and null, not absent
	ListEpoch     = "epoch"       // times are strings, unset ones 1970-01-01T00:00:00Z
	ListWrapped   = "wrapped"     // an object with the array under "tokens"
	ListNothing   = "nothing"     // no output, although there are tokens
	ListNull      = "null"        // null, although there are tokens
	ListEmpty     = "empty-array" // [], although there are tokens
	ListTruncated = "truncated"   // ends in the middle of the list, with exit status 0
	ListHTML      = "html"        // an error page of a proxy
)

// ListShapes are all forms. The documented one is "".
var ListShapes = []string{
	"", ListRFC3339, ListCamel, ListZeros, ListEpoch, ListWrapped, ListNothing,
	ListNull, ListEmpty, ListTruncated, ListHTML,
}

// A protoTime is a protobuf timestamp as encoding/json writes it.
type protoTime struct {
	Seconds int64 `json:"seconds,omitempty"`
	Nanos   int   `json:"nanos,omitempty"`
}

// A listEntry is a management token as the command lists it. A time is a
// protoTime or a string.
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

// entryOf returns the entry of t in a list of the given form.
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

// stamps returns how a form of list writes times. Nil leaves the key out.
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
		return func(t time.Time) any { return timeOrEpoch(t) }
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

// timeOrEpoch writes an unset time as the epoch, as tables do.
func timeOrEpoch(t time.Time) string {
	if t.IsZero() {
		t = time.Unix(0, 0)
	}
	return t.UTC().Format(time.RFC3339)
}

// writeList writes the management tokens to w in a form.
func (c *Cluster) writeList(w io.Writer, format, shape string) error {
	out := bufio.NewWriterSize(w, 1<<16)
	var err error
	switch {
	case format == formatTable:
		err = c.eachListed(func(t Token) error {
			_, err := fmt.Fprintf(out, "%s  %s  %s  %s  %s\n",
				t.ID, t.Prefix, timeOrEpoch(t.ExpiresAt), timeOrEpoch(t.RevokedAt), t.Description)
			return err
		})
	case shape == ListNothing:
	case shape == ListNull:
		out.WriteString("null\n")
	case shape == ListEmpty:
		out.WriteString("[]\n")
	case shape == ListHTML:
		out.WriteString(htmlPage)
	default:
		err = c.writeListJSON(out, shape)
	}
	return errors.Join(err, out.Flush())
}

// errTruncate ends a list that is meant to be incomplete.
var errTruncate = errors.New("truncate the list")

func (c *Cluster) writeListJSON(out *bufio.Writer, shape string) error {
	limit := -1
	if shape == ListTruncated {
		limit = c.countListed() / 2
	}
	open, end := "[", "]\n"
	if shape == ListWrapped {
		open, end = `{"tokens":[`, "]}\n"
	}
	out.WriteString(open)
	encoder := json.NewEncoder(out)
	n := 0
	err := c.eachListed(func(t Token) error {
		if n == limit {
			return errTruncate
		}
		if n > 0 {
			out.WriteByte(',')
		}
		n++
		return encoder.Encode(entryOf(t, c.accountID, shape))
	})
	if shape == ListTruncated {
		out.WriteString(`,{"id":"`)
		return nil
	}
	out.WriteString(end)
	return err
}

// eachListed calls f with the management tokens that a list shows now.
func (c *Cluster) eachListed(f func(Token) error) error {
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
	c.eachListed(func(Token) error { // the function returns no error
		n++
		return nil
	})
	return n
}
