package backend

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/hashicorp/vault/sdk/helper/template"
)

// maxDescription is the longest description of a token, including the tag. The
// limit of the cluster is not documented, see docs/vendor-facts.md,
// "description-limits".
const maxDescription = 100

// A mountTag marks the tokens of one mount: 12 hex digits that stay the same when
// the mount is moved.
type mountTag string

// newMountTag derives the tag from the backend UUID of the mount.
func newMountTag(backendUUID string) mountTag {
	sum := sha256.Sum256([]byte("influxdb mount tag " + backendUUID))
	return mountTag(hex.EncodeToString(sum[:6]))
}

// newAccessor returns a random accessor of at least 128 bits, in upper-case
// letters and digits.
func newAccessor() string { return rand.Text() }

// tag returns the start of a description. The tag is first because a limit on the
// length, or a table that wraps, cuts the end, and because a display name can
// then not forge it.
func (m mountTag) tag(accessor string) string { return fmt.Sprintf("[vault:%s:%s]", m, accessor) }

// describe returns the description of a token: the tag and text, made printable
// and cut to the maximum length.
func (m mountTag) describe(accessor, text string) string {
	d := strings.TrimSpace(m.tag(accessor) + " " + printable(text))
	return strings.TrimSpace(d[:min(len(d), maxDescription)])
}

var tagPattern = regexp.MustCompile(`^\[vault:([0-9a-f]{12}):([A-Z2-7]{20,64})\]`)

// accessor returns the accessor in a description that has the tag of this mount.
func (m mountTag) accessor(description string) (string, bool) {
	found := tagPattern.FindStringSubmatch(description)
	if found == nil || found[1] != string(m) {
		return "", false
	}
	return found[2], true
}

// defaultDescription is the template of roles without one.
const defaultDescription = "{{.RoleName}} {{.DisplayName}}"

// descriptionData holds the fields of a description template.
type descriptionData struct {
	RoleName    string
	DisplayName string
	EntityID    string
	MountPoint  string
}

// render executes a description template.
func (d descriptionData) render(text string) (string, error) {
	t, err := template.NewTemplate(template.Template(text))
	if err != nil {
		return "", err
	}
	return t.Generate(d)
}

// checkDescription checks that a template is allowed and produces text.
func checkDescription(text string) error {
	if err := checkTemplate(text); err != nil {
		return err
	}
	sample := descriptionData{RoleName: "role", DisplayName: "token-someone", EntityID: "entity", MountPoint: "influxdb/"}
	out, err := sample.render(text)
	if err != nil && strings.Contains(err.Error(), "can't evaluate field") {
		return errors.New("the template names an unknown field; the fields are .RoleName, .DisplayName, .EntityID and .MountPoint")
	}
	if err != nil {
		return err
	}
	if strings.TrimSpace(out) == "" {
		return errors.New("the template produces no text")
	}
	return nil
}
