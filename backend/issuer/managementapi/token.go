package managementapi

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
	errNoID        = errors.New("a token in the answer has no valid id")
	errUnclearTime = errors.New("a token in the answer has a time that cannot be read")
)

// A tokenJSON is a token as the API returns it. Only the answer that creates a
// token holds its access token.
type tokenJSON struct {
	ID          string    `json:"id"`
	Description string    `json:"description"`
	CreatedAt   timestamp `json:"createdAt"`
	ExpiresAt   timestamp `json:"expiresAt"`
	RevokedAt   timestamp `json:"revokedAt"`
	AccessToken string    `json:"accessToken"`
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

// idPattern allows more than the documented UUID, but no character that has a
// meaning in a path.
var idPattern = regexp.MustCompile(`^[0-9A-Za-z_-]{1,128}$`)

// plausibleID reports whether text may be the ID of a token. An empty ID in a
// path would mean the whole collection.
func plausibleID(text string) bool { return idPattern.MatchString(text) }

// A timestamp is a time that may not be set. That is written as an absent field,
// null, an empty string, or a time not after 1970-01-01.
type timestamp struct{ time.Time }

// UnmarshalJSON reads RFC 3339, with or without fractions of a second. Its error
// does not quote the text.
func (s *timestamp) UnmarshalJSON(text []byte) error {
	*s = timestamp{}
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

// decodeToken reads one token.
func decodeToken(r io.Reader) (t tokenJSON, err error) {
	if err := boundedjson.Value(r, httpapi.MaxAnswer, &t); err != nil {
		return tokenJSON{}, err
	}
	return t, nil
}

// decodeList reads an array of tokens and calls yield for each. It returns nil
// only if the array has ended and nothing follows it. An error of yield is
// returned as it is.
func decodeList(r io.Reader, yield func(issuer.Info) error) error {
	rest, err := boundedjson.Array(r, httpapi.MaxAnswer, func(t tokenJSON) error {
		info, err := t.info()
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
