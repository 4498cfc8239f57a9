package backend

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/vault/sdk/helper/template"
)

// maxDescription bounds a token's whole description, tag and all. What the
// cluster allows is not documented.
const maxDescription = 100

// A mountTag marks the tokens of one mount: 12 hex digits, the same for as long
// as the mount lives, wherever it is moved.
type mountTag string

// newMountTag derives the tag from the mount's backend UUID.
func newMountTag(backendUUID string) mountTag {
	sum := sha256.Sum256([]byte("influxdb mount tag " + backendUUID))
	return mountTag(hex.EncodeToString(sum[:6]))
}

// newNonce returns what tells one token from all others: at least 128 random
// bits, in upper-case letters and digits.
func newNonce() string { return rand.Text() }

// tag is what a description begins with. It stands first because a limit on
// length or a wrapped table eats the end, and because no display name can then
// forge it.
func (m mountTag) tag(nonce string) string { return fmt.Sprintf("[vault:%s:%s]", m, nonce) }

// describe puts the tag before text, which is made printable and cut to what
// the tag leaves.
func (m mountTag) describe(nonce, text string) string {
	d := strings.TrimSpace(m.tag(nonce) + " " + printable(text))
	return strings.TrimSpace(d[:min(len(d), maxDescription)])
}

var tagPattern = regexp.MustCompile(`^\[vault:([0-9a-f]{12}):([A-Z2-7]{20,64})\]`)

// nonce returns the nonce that a description bears, if it bears this mount's
// tag.
func (m mountTag) nonce(description string) (string, bool) {
	found := tagPattern.FindStringSubmatch(description)
	if found == nil || found[1] != string(m) {
		return "", false
	}
	return found[2], true
}

// printable replaces whatever is not printable ASCII, so that a table, a shell
// and a log show a description as it is.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError || r > '~':
			return '?'
		case r < ' ':
			return ' '
		}
		return r
	}, text)
}

// defaultDescription is the template of roles that name none.
const defaultDescription = "{{.RoleName}} {{.DisplayName}}"

// descriptionData is what a role's description template sees.
type descriptionData struct {
	RoleName    string
	DisplayName string
	EntityID    string
	MountPoint  string
}

// render applies a role's description template.
func (d descriptionData) render(text string) (string, error) {
	t, err := template.NewTemplate(template.Template(text))
	if err != nil {
		return "", err
	}
	return t.Generate(d)
}

// checkDescription proves that a template is a simple one and yields something.
func checkDescription(text string) error {
	if err := checkTemplate(text); err != nil {
		return err
	}
	sample := descriptionData{RoleName: "role", DisplayName: "token-someone", EntityID: "entity", MountPoint: "influxdb/"}
	out, err := sample.render(text)
	if err != nil {
		return err
	}
	if strings.TrimSpace(out) == "" {
		return errors.New("the template yields nothing")
	}
	return nil
}
