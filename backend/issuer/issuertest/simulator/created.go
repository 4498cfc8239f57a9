package simulator

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// The formats of --format.
const (
	formatTable = "table"
	formatJSON  = "json"
)

const htmlPage = "<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head><body>Bad Gateway</body></html>\n"

// A created is the token that `management create` prints.
type created struct {
	token     Token
	accountID string
	version   version
	stdout    io.Writer
	stderr    io.Writer
}

// CreateShapes returns the names of all forms of the output of `management create
// --format json`. The first one is "", the same as "flat". No sample of the real
// output is published. All forms except BrokenCreateShapes show one token in a
// way that a tolerant parser can find.
func CreateShapes() []string {
	return slices.Concat([]string{""}, slices.Sorted(maps.Keys(createShapes)))
}

// BrokenCreateShapes are the CreateShapes from which the token, although it
// exists, cannot be read with certainty or in bounded memory.
var BrokenCreateShapes = []string{"empty", "null", "html", "two-tokens", "no-secret", "help", "gigabyte"}

// createShapes maps the name of a form to the function that prints it.
var createShapes = map[string]func(created) error{
	// An entry of the list with the secret beside its other fields.
	"flat":                  func(c created) error { return c.json(c.flat("token")) },
	"flat-access-token":     func(c created) error { return c.json(c.flat("access_token")) },
	"flat-token-string":     func(c created) error { return c.json(c.flat("token_string")) },
	"flat-secret":           func(c created) error { return c.json(c.flat("secret")) },
	"flat-management-token": func(c created) error { return c.json(c.flat("management_token")) },
	"pretty":                created.pretty,
	"no-id":                 created.withoutID,

	// A gRPC answer as json.Marshal writes it.
	"wrapped":              func(c created) error { return c.json(c.wrapped("token", "secret")) },
	"wrapped-access-token": func(c created) error { return c.json(c.wrapped("management_token", "access_token")) },
	"array":                func(c created) error { return c.json([]any{c.flat("token")}) },
	"camel":                created.camel,
	"string":               func(c created) error { return c.json(c.token.Secret) },

	// JSON together with something else.
	"json-then-token": func(c created) error { return c.sequence(created.entryJSON, created.bare) },
	"table-then-json": func(c created) error { return c.sequence(created.table, created.flatJSON) },
	"json-then-table": func(c created) error { return c.sequence(created.flatJSON, created.table, created.bare) },
	"warn-stdout":     created.warnOnStdout,
	"ansi":            created.colored,
	"gigabyte":        created.gigabyte,

	// No JSON.
	"table":        func(c created) error { return c.sequence(created.table, created.bare) },
	"token-only":   created.bare,
	"token-stderr": func(c created) error { return c.line(c.stderr, c.token.Secret) },

	// Failures.
	"empty":      func(created) error { return nil },
	"null":       func(c created) error { return c.line(c.stdout, "null") },
	"html":       func(c created) error { return c.line(c.stdout, htmlPage) },
	"two-tokens": created.twoTokens,
	"no-secret":  created.entryJSON,
	"help":       created.help,
}

// print prints the token in a format and form.
func (c created) print(format, shape string) error {
	c.warn(c.stderr)
	if format == formatJSON {
		if shape == "" {
			shape = "flat"
		}
		print, ok := createShapes[shape]
		if !ok {
			return fmt.Errorf("unknown create shape %q", shape)
		}
		return print(c)
	}
	if c.version.since(createTable) {
		return c.sequence(created.table, created.bare)
	}
	return c.bare()
}

func (c created) warn(w io.Writer) {
	io.WriteString(w, "warn\tplease copy the token and store in a safe place\n"+
		"warn\tthis is the *only time* you will see the token\n")
}

func (c created) line(w io.Writer, text string) error {
	_, err := fmt.Fprintln(w, text)
	return err
}

func (c created) json(v any) error {
	return json.NewEncoder(c.stdout).Encode(v)
}

func (c created) sequence(parts ...func(created) error) error {
	for _, part := range parts {
		if err := part(c); err != nil {
			return err
		}
	}
	return nil
}

// fields returns the keys and values of the token's entry in a list.
func (c created) fields(shape string) map[string]any {
	text, err := json.Marshal(entryOf(c.token, c.accountID, shape))
	if err != nil {
		panic(err) // cannot happen: strings and numbers
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		panic(err) // cannot happen: it was just marshaled
	}
	return fields
}

func (c created) flat(secretKey string) map[string]any {
	fields := c.fields("")
	fields[secretKey] = c.token.Secret
	return fields
}

func (c created) wrapped(entryKey, secretKey string) map[string]any {
	return map[string]any{entryKey: c.fields(""), secretKey: c.token.Secret}
}

func (c created) flatJSON() error  { return c.json(c.flat("token")) }
func (c created) entryJSON() error { return c.json(c.fields("")) }
func (c created) bare() error      { return c.line(c.stdout, c.token.Secret) }

func (c created) camel() error {
	fields := c.fields(ListCamel)
	fields["accessToken"] = c.token.Secret
	return c.json(fields)
}

func (c created) pretty() error {
	encoder := json.NewEncoder(c.stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(c.flat("token"))
}

func (c created) withoutID() error {
	fields := c.flat("token")
	delete(fields, "id")
	return c.json(fields)
}

func (c created) warnOnStdout() error {
	c.warn(c.stdout)
	return c.flatJSON()
}

func (c created) colored() error {
	io.WriteString(c.stdout, "\x1b[33mwarn\x1b[0m\tplease copy the token and store in a safe place\n")
	text, err := json.Marshal(c.flat("token"))
	if err != nil {
		return err
	}
	return c.line(c.stdout, "\x1b[32m"+strings.ReplaceAll(string(text), c.token.Secret, "\x1b[1m"+c.token.Secret+"\x1b[0m")+"\x1b[0m")
}

// twoTokens prints the token and a second one that does not exist.
func (c created) twoTokens() error {
	fields := c.flat("token")
	fields["access_token"] = "M.V1." + strings.Repeat("decoy+/0", 8)
	return c.json(fields)
}

// gigabyte prints a gigabyte of filler before the token.
func (c created) gigabyte() error {
	filler := []byte(strings.Repeat(strings.Repeat("x", 127)+"\n", 1<<13))
	for range 1 << 10 {
		if _, err := c.stdout.Write(filler); err != nil {
			return err
		}
	}
	return c.flatJSON()
}

// table prints the box that create prints since 2.11.0.
func (c created) table() error {
	rows := [][2]string{
		{"id", c.token.ID},
		{"description", c.token.Description},
		{"expires at", blankTime(c.token)},
		{"revoked at", ""},
	}
	width := 0
	for _, row := range rows {
		width = max(width, len(row[1]))
	}
	border := "+" + strings.Repeat("-", 13) + "+" + strings.Repeat("-", width+2) + "+\n"
	var box strings.Builder
	box.WriteString(border)
	for _, row := range rows {
		fmt.Fprintf(&box, "| %11s | %-*s |\n", row[0], width, row[1])
	}
	box.WriteString(border)
	_, err := io.WriteString(c.stdout, box.String())
	return err
}

func blankTime(t Token) string {
	if t.ExpiresAt.IsZero() {
		return ""
	}
	return timeOrEpoch(t.ExpiresAt)
}

// help prints what follows a wrong flag, although the token was created.
func (c created) help() error {
	io.WriteString(c.stdout, "Incorrect Usage: flag provided but not defined: -format\n\nNAME:\n   influxctl management create\n")
	return &commandError{text: "flag provided but not defined: -format", exit: 1}
}
