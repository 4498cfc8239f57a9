package influxdb3

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

var (
	errUnreadable  = errors.New("the answer is not the documented JSON")
	errTooLong     = fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	errNoName      = errors.New("a token in the answer has no name")
	errUnclearTime = errors.New("a token in the answer has a time that cannot be read")
	errOtherName   = errors.New("the answer names another token")
	errNoSecret    = errors.New("the answer does not hold its secret")
	errNoExpiry    = errors.New("the answer says that it never expires")
)

// A createdJSON is the answer to a create. It is the only answer with a secret.
type createdJSON struct {
	Name      *string `json:"name"`
	Token     string  `json:"token"`
	CreatedAt stamp   `json:"created_at"`
	Expiry    stamp   `json:"expiry"`
}

// A rowJSON is a row of system.tokens. Null columns are absent.
type rowJSON struct {
	Name      *string `json:"name"`
	Hash      string  `json:"hash"` // the first digits of the SHA-512 of the secret
	CreatedAt stamp   `json:"created_at"`
	Expiry    stamp   `json:"expiry"`
}

// A pingJSON is the answer to GET /ping.
type pingJSON struct {
	ProductName string `json:"product_name"`
	Version     string `json:"version"`
}

var hexDigits = regexp.MustCompile(`^[0-9a-fA-F]{4,128}$`)

func (row *rowJSON) info() (issuer.Info, error) {
	if row.Name == nil {
		return issuer.Info{}, errNoName
	}
	info := issuer.Info{ID: *row.Name, Description: *row.Name, CreatedAt: row.CreatedAt.Time, ExpiresAt: row.Expiry.Time}
	if hexDigits.MatchString(row.Hash) {
		info.HashPrefix = row.Hash
	}
	return info, nil
}

// A stamp is a time. It is zero if it is absent, null or in a year with more
// than four digits, which is as good as never.
type stamp struct{ time.Time }

// timeLayouts are RFC 3339, as in the answer to a create, and a time without a
// zone, as in the answer to a query, which is UTC. Both may have decimals.
var timeLayouts = []string{time.RFC3339, "2006-01-02T15:04:05"}

var farFuture = regexp.MustCompile(`^\+?[0-9]{5,}-`)

// UnmarshalJSON reads a time. Its error does not quote the text.
func (s *stamp) UnmarshalJSON(text []byte) error {
	*s = stamp{}
	var value *string
	if json.Unmarshal(text, &value) != nil {
		return errUnclearTime
	}
	if value == nil || farFuture.MatchString(*value) {
		return nil
	}
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, *value); err == nil {
			s.Time = t.UTC()
			return nil
		}
	}
	return errUnclearTime
}

// decodeCreated reads the answer to a create.
func decodeCreated(in io.Reader) (made createdJSON, err error) {
	err = decodeOne(in, &made)
	return made, err
}

// decodePing reads the answer to a ping. A body that is not JSON is not an
// error: the headers say the same.
func decodePing(in io.Reader) (said pingJSON, err error) {
	err = decodeOne(in, &said)
	if errors.Is(err, errUnreadable) {
		return pingJSON{}, nil
	}
	return said, err
}

// decodeOne reads one JSON value of at most maxAnswer bytes.
func decodeOne(in io.Reader, into any) error {
	text, err := io.ReadAll(io.LimitReader(in, maxAnswer+1))
	switch {
	case err != nil:
		return brokenOff(err)
	case len(text) > maxAnswer:
		return errTooLong
	}
	if err := json.Unmarshal(text, into); err != nil {
		return decodingError(err)
	}
	return nil
}

// decodeList reads an array of rows as it arrives and calls yield for each. It
// returns nil only if the array is closed and nothing follows: a token that is
// missing in an incomplete list may exist. An error of yield is returned as it
// is.
func decodeList(in io.Reader, yield func(issuer.Info) error) error {
	limited := &bounded{in: in}
	decoder := json.NewDecoder(limited)
	if err := expect(decoder, json.Delim('[')); err != nil {
		return err
	}
	for decoder.More() {
		var row rowJSON
		if err := decoder.Decode(&row); err != nil {
			return decodingError(err)
		}
		if limited.decoded(decoder.InputOffset()) > maxAnswer {
			return errTooLong
		}
		info, err := row.info()
		if err != nil {
			return err
		}
		if err := yield(info); err != nil {
			return err
		}
	}
	if err := expect(decoder, json.Delim(']')); err != nil {
		return err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return decodingError(err)
	}
	return nil
}

func expect(decoder *json.Decoder, want json.Token) error {
	got, err := decoder.Token()
	switch {
	case err != nil:
		return decodingError(err)
	case got != want:
		return errUnreadable
	}
	return nil
}

// decodingError returns an error that quotes nothing of the answer. A nil error
// means that there was more than expected.
func decodingError(err error) error {
	var syntax *json.SyntaxError
	var unfit *json.UnmarshalTypeError
	switch {
	case errors.Is(err, errTooLong), errors.Is(err, errUnclearTime):
		return err
	case err == nil, errors.As(err, &syntax), errors.As(err, &unfit), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errUnreadable
	}
	return brokenOff(err)
}

// brokenOff is the error of an answer that does not end.
func brokenOff(err error) error {
	const what = "the answer breaks off"
	if errors.Is(err, context.Canceled) {
		return inDoubt(what, err)
	}
	return unreachable(inDoubt(what, err))
}

// A bounded reader fails when the decoder asks for more than one entry may be
// long.
type bounded struct {
	in   io.Reader
	read int64
	done int64 // up to where entries have been decoded
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.read-b.done > maxAnswer {
		return 0, errTooLong
	}
	n, err := b.in.Read(p)
	b.read += int64(n)
	return n, err
}

// decoded notes that an entry ends at offset, and returns its length.
func (b *bounded) decoded(offset int64) int64 {
	length := offset - b.done
	b.done = offset
	return length
}
