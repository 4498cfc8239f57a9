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
)

const (
	// maxEntry bounds one entry of a list, and one line beside the list.
	maxEntry = 1 << 20

	// maxLines bounds the lines before and after a list.
	maxLines = 1000
)

var (
	errNotList     = errors.New("influxctl management list: the answer is not a list in JSON")
	errLongEntry   = fmt.Errorf("influxctl management list: an entry is longer than %d bytes", maxEntry)
	errEntryNoID   = errors.New("influxctl management list: an entry has no id")
	errUnclearTime = errors.New("influxctl management list: an entry holds a time that cannot be read")

	arrayStart = regexp.MustCompile(`^\s*\[\s*(?:[{\]]|$)`) // and not a log line such as "[WARN]"
	nullLine   = regexp.MustCompile(`^\s*null\s*(?:\n|$)`)
)

// decodeList reads a list as it arrives and calls yield for each entry. It
// returns nil only if the list has ended as it should: what is not in a list
// that breaks off may exist all the same. An error of yield is returned as is.
func decodeList(r io.Reader, yield func(issuer.Info) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	found, err := skipToArray(in)
	if err != nil || !found {
		return err
	}
	entries := &bounded{in: in}
	decoder := json.NewDecoder(entries)
	if err := openArray(decoder); err != nil {
		return err
	}
	for decoder.More() {
		var e entry
		if err := decoder.Decode(&e); err != nil {
			return listError(err)
		}
		entries.done = decoder.InputOffset()
		info, err := e.info()
		if err != nil {
			return err
		}
		if err := yield(info); err != nil {
			return err
		}
	}
	if _, err := decoder.Token(); err != nil {
		return listError(err)
	}
	return onlyLog(bufio.NewReader(io.MultiReader(decoder.Buffered(), in)))
}

func openArray(decoder *json.Decoder) error {
	if _, err := decoder.Token(); err != nil {
		return listError(err)
	}
	return nil
}

// listError keeps the errors that are ours or the system's. JSON's may quote
// what they stumbled over.
func listError(err error) error {
	var syntax *json.SyntaxError
	var unfit *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax), errors.As(err, &unfit), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errNotList
	}
	return err
}

// skipToArray reads up to the array, past lines of a log. Without one, only
// nothing at all and null are an empty list.
func skipToArray(in *bufio.Reader) (found bool, err error) {
	words := false
	for range maxLines {
		start, err := in.Peek(64)
		switch {
		case err != nil && err != io.EOF:
			return false, err
		case arrayStart.Match(start):
			return true, nil
		case nullLine.Match(start):
			_, _ = in.Discard(bytes.Index(start, []byte("null")) + len("null")) // which was seen
			return false, onlyLog(in)
		}
		blank, err := skipLine(in)
		words = words || !blank
		switch {
		case err == io.EOF && !words:
			return false, nil
		case err == io.EOF:
			return false, errNotList
		case err != nil:
			return false, err
		}
	}
	return false, errNotList
}

// onlyLog reads the rest, which may be nothing but lines of a log: a second
// list there would be missed.
func onlyLog(in *bufio.Reader) error {
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

// skipLine reads to the end of the line and reports whether that was blank.
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

// A bounded reader fails when the decoder asks for more than an entry may be
// long.
type bounded struct {
	in   io.Reader
	read int64
	done int64 // how far entries have been decoded
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.read-b.done > maxEntry {
		return 0, errLongEntry
	}
	n, err := b.in.Read(p)
	b.read += int64(n)
	return n, err
}

// An entry is a token in the list: JSON of protobuf structures, where fields
// that are zero are absent, or the same as protojson writes it.
type entry struct {
	ID          string `json:"id"`
	Description string `json:"description"`

	Prefix    string `json:"token_prefix"`
	CreatedAt stamp  `json:"created_at"`
	ExpiresAt stamp  `json:"expires_at"`
	RevokedAt stamp  `json:"revoked_at"`

	CamelPrefix    string `json:"tokenPrefix"`
	CamelCreatedAt stamp  `json:"createdAt"`
	CamelExpiresAt stamp  `json:"expiresAt"`
	CamelRevokedAt stamp  `json:"revokedAt"`
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

// A stamp is a time in the list. Not set, it is absent, null, {}, empty, or the
// first moment of some calendar: all of which is the zero stamp.
type stamp struct {
	Seconds int64 `json:"seconds"`
	Nanos   int64 `json:"nanos"`
}

// lastSecond is the end of the year 9999, the last that protobuf and RFC 3339
// can say.
const lastSecond = 253402300799

// UnmarshalJSON reads {"seconds", "nanos"} or RFC 3339.
func (s *stamp) UnmarshalJSON(text []byte) error {
	*s = stamp{}
	var err error
	if text[0] == '"' {
		err = s.unmarshalString(text)
	} else {
		type structure stamp // without this method
		err = json.Unmarshal(text, (*structure)(s))
	}
	if err != nil || s.Seconds > lastSecond || s.Nanos < 0 || s.Nanos > 999_999_999 {
		return errUnclearTime
	}
	if s.Seconds <= 0 {
		*s = stamp{}
	}
	return nil
}

func (s *stamp) unmarshalString(text []byte) error {
	var value string
	if err := json.Unmarshal(text, &value); err != nil || value == "" {
		return err
	}
	t, err := time.Parse(time.RFC3339, value)
	if err == nil {
		*s = stamp{t.Unix(), int64(t.Nanosecond())}
	}
	return err
}

func (s stamp) time() time.Time {
	if s == (stamp{}) {
		return time.Time{}
	}
	return time.Unix(s.Seconds, s.Nanos).UTC()
}
