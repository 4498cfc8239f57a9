package managementapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

var (
	errUnreadable  = errors.New("the answer is not the JSON that is documented")
	errTooLong     = fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	errNoID        = errors.New("a token in the answer has no id that can be used")
	errUnclearTime = errors.New("a token in the answer holds a time that cannot be read")
)

// A tokenJSON is a token as the API shows it. The access token stands in the
// answer to its mint only.
type tokenJSON struct {
	ID          string `json:"id"`
	Description string `json:"description"`
	CreatedAt   stamp  `json:"createdAt"`
	ExpiresAt   stamp  `json:"expiresAt"`
	RevokedAt   stamp  `json:"revokedAt"`
	AccessToken string `json:"accessToken"`
}

func (t *tokenJSON) info() (issuer.Info, error) {
	if !plausibleID(t.ID) {
		return issuer.Info{}, errNoID
	}
	return issuer.Info{
		ID:          t.ID,
		Description: t.Description,
		CreatedAt:   t.CreatedAt.Time,
		ExpiresAt:   t.ExpiresAt.Time,
		RevokedAt:   t.RevokedAt.Time,
	}, nil
}

// idPattern is wider than the documented UUID, but nothing in it has a meaning
// in a path.
var idPattern = regexp.MustCompile(`^[0-9A-Za-z_-]{1,128}$`)

// plausibleID reports whether text may be a token's id. An empty one in a path
// would be the whole collection.
func plausibleID(text string) bool { return idPattern.MatchString(text) }

// A stamp is a time that may not be set: absent, null, empty, or not after the
// beginning of Unix time, which some encoders write for no time at all.
type stamp struct{ time.Time }

// UnmarshalJSON reads RFC 3339, with or without fractions of a second. Its
// error does not quote what it has read.
func (s *stamp) UnmarshalJSON(text []byte) error {
	*s = stamp{}
	var value string
	if json.Unmarshal(text, &value) != nil {
		return errUnclearTime
	}
	if value == "" {
		return nil
	}
	t, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return errUnclearTime
	}
	if t.Unix() > 0 {
		s.Time = t.UTC()
	}
	return nil
}

// decodeToken reads a single token.
func decodeToken(r io.Reader) (t tokenJSON, err error) {
	text, err := io.ReadAll(io.LimitReader(r, maxAnswer+1))
	switch {
	case err != nil:
		return tokenJSON{}, inDoubt("the answer breaks off", err)
	case len(text) > maxAnswer:
		return tokenJSON{}, errTooLong
	}
	if err := json.Unmarshal(text, &t); err != nil {
		return tokenJSON{}, decodingError(err)
	}
	return t, nil
}

// decodeList reads an array of tokens as it arrives and calls yield for each.
// It returns nil only if the array has ended and nothing follows: what is not
// in a list that breaks off may exist all the same. An error of yield is
// returned as is.
func decodeList(r io.Reader, yield func(issuer.Info) error) error {
	in := &bounded{in: r}
	decoder, err := openList(in)
	if err != nil {
		return err
	}
	for decoder.More() {
		var t tokenJSON
		if err := decoder.Decode(&t); err != nil {
			return decodingError(err)
		}
		if in.decoded(decoder.InputOffset()) > maxAnswer {
			return errTooLong
		}
		info, err := t.info()
		if err != nil {
			return err
		}
		if err := yield(info); err != nil {
			return err
		}
	}
	return closeList(decoder)
}

// openList reads the beginning of an array.
func openList(r io.Reader) (*json.Decoder, error) {
	decoder := json.NewDecoder(r)
	start, err := decoder.Token()
	switch {
	case err != nil:
		return nil, decodingError(err)
	case start != json.Delim('['):
		return nil, errUnreadable
	}
	return decoder, nil
}

// closeList reads the end of an array, after which nothing may follow.
func closeList(decoder *json.Decoder) error {
	if _, err := decoder.Token(); err != nil {
		return decodingError(err)
	}
	switch _, err := decoder.Token(); {
	case err == io.EOF:
		return nil
	case err == nil:
		return errUnreadable
	default:
		return decodingError(err)
	}
}

// decodingError keeps what is ours. JSON's own errors may quote what they have
// stumbled over, and those of the network what was received.
func decodingError(err error) error {
	var syntax *json.SyntaxError
	var unfit *json.UnmarshalTypeError
	switch {
	case errors.Is(err, errTooLong), errors.Is(err, errUnclearTime):
		return err
	case errors.As(err, &syntax), errors.As(err, &unfit), errors.Is(err, io.EOF):
		return errUnreadable
	}
	return inDoubt("the answer breaks off", err)
}

// A bounded reader fails when the decoder asks for more than an entry may be
// long.
type bounded struct {
	in   io.Reader
	read int64
	done int64 // how far entries have been decoded
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
