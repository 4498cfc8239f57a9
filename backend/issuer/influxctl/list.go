package influxctl

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/boundedjson"
)

const (
	// maxEntry is the largest entry of a list and the longest line beside the
	// list, in bytes.
	maxEntry = 1 << 20

	// maxLines is the largest number of lines before and after a list.
	maxLines = 1000
)

var (
	errNotList     = errors.New("influxctl management list: the output is not a list in JSON")
	errLongEntry   = fmt.Errorf("influxctl management list: an entry is longer than %d bytes", maxEntry)
	errEntryNoID   = errors.New("influxctl management list: an entry has no id")
	errUnclearTime = errors.New("influxctl management list: an entry has a time that cannot be read")

	arrayStart = regexp.MustCompile(`^\s*\[\s*(?:[{\]]|$)`) // not a log line such as "[WARN]"
	nullLine   = regexp.MustCompile(`^\s*null\s*(?:\n|$)`)
)

// decodeList reads a list as it arrives and calls yield for each entry. The list
// is an array in JSON, with log lines before and after it, or nothing: see
// docs/vendor-facts.md, "list-json". It returns nil only if the list is complete.
// An error of yield is returned as it is.
func decodeList(r io.Reader, yield func(issuer.Info) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	found, err := skipToArray(in)
	if err != nil || !found {
		return err
	}
	rest, err := boundedjson.Array(in, maxEntry, func(e entry) error {
		info, err := e.info()
		if err != nil {
			return err
		}
		return yield(info)
	})
	switch {
	case errors.Is(err, boundedjson.ErrSyntax):
		return errNotList
	case errors.Is(err, boundedjson.ErrTooLong):
		return errLongEntry
	case err != nil:
		return err
	}
	return onlyLogLines(bufio.NewReader(rest))
}

// skipToArray reads lines until it finds the array. Without an array, only empty
// output and null are an empty list.
func skipToArray(in *bufio.Reader) (found bool, err error) {
	hasText := false
	for range maxLines {
		start, err := in.Peek(64)
		switch {
		case err != nil && err != io.EOF:
			return false, err
		case arrayStart.Match(start):
			return true, nil
		case nullLine.Match(start):
			_, _ = in.Discard(bytes.Index(start, []byte("null")) + len("null")) // cannot fail after Peek
			return false, onlyLogLines(in)
		}
		blank, err := skipLine(in)
		hasText = hasText || !blank
		switch {
		case err == io.EOF && !hasText:
			return false, nil
		case err == io.EOF:
			return false, errNotList
		case err != nil:
			return false, err
		}
	}
	return false, errNotList
}

// onlyLogLines reads the rest and fails unless there are only log lines. Entries
// of a second list would be missing from the result.
func onlyLogLines(in *bufio.Reader) error {
	for range maxLines {
		start, err := in.Peek(16)
		if err != nil && err != io.EOF {
			return err
		}
		log := logLine.Match(start)
		blank, err := skipLine(in)
		switch {
		case !blank && !log:
			return errNotList
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
	return errNotList
}

// skipLine reads to the end of the line and reports whether the line is blank.
func skipLine(in *bufio.Reader) (blank bool, err error) {
	blank = true
	for n := 0; n < maxEntry; {
		part, err := in.ReadSlice('\n')
		n += len(part)
		blank = blank && len(bytes.TrimSpace(part)) == 0
		if err != bufio.ErrBufferFull {
			return blank, err
		}
	}
	return blank, errNotList
}

// An entry is a token in the list. It is a protobuf message as encoding/json
// writes it, without fields that are zero, or as protojson does.
type entry struct {
	ID          string `json:"id"`
	Description string `json:"description"`

	Prefix    string    `json:"token_prefix"`
	CreatedAt timestamp `json:"created_at"`
	ExpiresAt timestamp `json:"expires_at"`
	RevokedAt timestamp `json:"revoked_at"`

	CamelPrefix    string    `json:"tokenPrefix"`
	CamelCreatedAt timestamp `json:"createdAt"`
	CamelExpiresAt timestamp `json:"expiresAt"`
	CamelRevokedAt timestamp `json:"revokedAt"`
}

func (e *entry) info() (issuer.Info, error) {
	if e.ID == "" {
		return issuer.Info{}, errEntryNoID
	}
	return issuer.Info{
		ID:          e.ID,
		Description: e.Description,
		Prefix:      cmp.Or(e.Prefix, e.CamelPrefix),
		CreatedAt:   cmp.Or(e.CreatedAt, e.CamelCreatedAt).time(),
		ExpiresAt:   cmp.Or(e.ExpiresAt, e.CamelExpiresAt).time(),
		RevokedAt:   cmp.Or(e.RevokedAt, e.CamelRevokedAt).time(),
	}, nil
}

// A timestamp is a time in the list. The zero value is a time that is not set,
// which is written as an absent field, null, {}, an empty string, or a time not
// after 1970-01-01.
type timestamp struct {
	Seconds int64 `json:"seconds"`
	Nanos   int64 `json:"nanos"`
}

// lastSecond is the end of the year 9999, the last second in protobuf and in RFC
// 3339.
const lastSecond = 253402300799

// UnmarshalJSON reads {"seconds", "nanos"} or RFC 3339.
func (s *timestamp) UnmarshalJSON(text []byte) error {
	*s = timestamp{}
	var err error
	if text[0] == '"' {
		err = s.unmarshalString(text)
	} else {
		type structure timestamp // without this method
		err = json.Unmarshal(text, (*structure)(s))
	}
	if err != nil || s.Seconds > lastSecond || s.Nanos < 0 || s.Nanos > 999_999_999 {
		return errUnclearTime
	}
	if s.Seconds <= 0 {
		*s = timestamp{}
	}
	return nil
}

func (s *timestamp) unmarshalString(text []byte) error {
	var value string
	if err := json.Unmarshal(text, &value); err != nil || value == "" {
		return err
	}
	t, err := time.Parse(time.RFC3339, value)
	if err == nil {
		*s = timestamp{t.Unix(), int64(t.Nanosecond())}
	}
	return err
}

func (s timestamp) time() time.Time {
	if s == (timestamp{}) {
		return time.Time{}
	}
	return time.Unix(s.Seconds, s.Nanos).UTC()
}
