package influxdb3

import (
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/boundedjson"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/httpapi"
)

var (
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
	err = boundedjson.Value(in, httpapi.MaxAnswer, &made)
	return made, err
}

// decodePing reads the answer to a ping. A body that is not JSON is not an
// error: the headers say the same.
func decodePing(in io.Reader) (said pingJSON, err error) {
	err = boundedjson.Value(in, httpapi.MaxAnswer, &said)
	if errors.Is(err, boundedjson.ErrSyntax) {
		return pingJSON{}, nil
	}
	return said, err
}

// decodeList decodes an array of rows as it arrives and calls yield for each. It
// returns nil only if the array is closed and nothing follows it: a token that is
// missing in an incomplete list may exist. An error of yield is returned as it
// is.
func decodeList(in io.Reader, yield func(issuer.Info) error) error {
	rest, err := boundedjson.Array(in, httpapi.MaxAnswer, func(row rowJSON) error {
		info, err := row.info()
		if err != nil {
			return err
		}
		return yield(info)
	})
	if err != nil {
		return err
	}
	return boundedjson.End(rest, httpapi.MaxAnswer)
}
