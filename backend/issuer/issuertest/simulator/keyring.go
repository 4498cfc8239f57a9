package simulator

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"strings"

	"github.com/google/uuid"
)

// A keyring derives the secret of a token from its ID, and the ID from the
// secret, so that neither must be stored. A secret looks random: it is the
// encrypted ID and the authentication code of the ID.
type keyring struct {
	block cipher.Block
	key   []byte
}

func newKeyring() keyring {
	key := make([]byte, 32)
	rand.Read(key) // never fails
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // cannot happen: the length of the key is right
	}
	return keyring{block: block, key: key}
}

// A secretForm is the form of the secrets of one kind of token.
type secretForm struct {
	kind     Kind
	prefix   string
	size     int // bytes before encoding
	encoding *base64.Encoding
}

// All secrets of a form have the same length.
var secretForms = []secretForm{
	{Management, "M.V1.", 48, base64.StdEncoding},
	{Database, "apiv1_", 64, base64.RawURLEncoding},
}

func (f secretForm) length() int {
	return len(f.prefix) + f.encoding.EncodedLen(f.size)
}

// secret derives the secret of the token id.
func (k keyring) secret(kind Kind, id uuid.UUID) string {
	form := secretForms[0]
	if kind == Database {
		form = secretForms[1]
	}
	return form.prefix + form.encoding.EncodeToString(k.body(form, id))
}

func (k keyring) body(form secretForm, id uuid.UUID) []byte {
	body := make([]byte, aes.BlockSize, aes.BlockSize+sha512.Size)
	k.block.Encrypt(body, id[:])
	mac := hmac.New(sha512.New, k.key)
	mac.Write([]byte(form.prefix))
	mac.Write(id[:])
	return mac.Sum(body)[:form.size]
}

// id returns the ID of the token with this secret. It returns false if the secret
// was not derived by secret. The token need not exist.
func (k keyring) id(secret string) (uuid.UUID, bool) {
	for _, form := range secretForms {
		if !strings.HasPrefix(secret, form.prefix) || len(secret) != form.length() {
			continue
		}
		body, err := form.encoding.DecodeString(secret[len(form.prefix):])
		if err != nil {
			return uuid.UUID{}, false
		}
		var id uuid.UUID
		k.block.Decrypt(id[:], body[:aes.BlockSize])
		return id, hmac.Equal(body, k.body(form, id))
	}
	return uuid.UUID{}, false
}

// within returns the IDs of the derived secrets that text contains.
func (k keyring) within(text string) []uuid.UUID {
	var found []uuid.UUID
	for _, form := range secretForms {
		for rest := text; ; {
			_, after, ok := strings.Cut(rest, form.prefix)
			if !ok {
				break
			}
			if tail := form.length() - len(form.prefix); len(after) >= tail {
				if id, ok := k.id(form.prefix + after[:tail]); ok {
					found = append(found, id)
				}
			}
			rest = after
		}
	}
	return found
}
