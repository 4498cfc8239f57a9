package influxdb3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/redact"
)

const (
	pathNamedAdmin = "/api/v3/configure/token/named_admin"
	pathResource   = "/api/v3/enterprise/configure/token"

	// maxLife is the longest life of a token. Servers before 3.10 crash on a
	// number of seconds that is too large, and 3.10 then creates a token that
	// never expires.
	maxLife = 10 * 365 * 24 * time.Hour

	// maxClockSkew is how much the clocks of the cluster and of this machine may
	// differ. A token lives as long as was asked whatever the clocks say. But if
	// one of them is corrected later, the token lives too long or too short.
	maxClockSkew = 10 * time.Minute

	// maxDelay is how much the life of a token may differ from what was asked,
	// measured on the cluster's own clock.
	maxDelay = time.Minute

	// allDatabases stands for all databases, also for those created later.
	allDatabases = "*"
)

// An order is the body of a create.
type order struct {
	Name        string       `json:"token_name"`
	ExpirySecs  int64        `json:"expiry_secs"`
	Permissions []permission `json:"permissions,omitempty"`
}

type permission struct {
	ResourceType  string   `json:"resource_type"`
	ResourceNames []string `json:"resource_names"`
	Actions       []string `json:"actions"`
}

// Issue creates a token by one POST, which is never repeated. If the outcome is
// not known, the token may exist under the name r.Description.
func (c *cluster) Issue(ctx context.Context, r issuer.Request) (issuer.Token, error) {
	token, err := c.issue(ctx, r)
	if err != nil {
		return issuer.Token{}, fmt.Errorf("issue token %q: %w", redact.Quote(r.Description), err)
	}
	return token, nil
}

func (c *cluster) issue(ctx context.Context, r issuer.Request) (issuer.Token, error) {
	path, o, err := c.order(r)
	if err != nil {
		return issuer.Token{}, err
	}
	var made createdJSON
	answer, err := c.do(ctx, call{method: http.MethodPost, path: path, body: o, want: http.StatusCreated,
		read: func(in io.Reader) (err error) {
			made, err = decodeCreated(in)
			return err
		}})
	switch {
	case err != nil:
		return issuer.Token{}, err
	case !answer.done:
		return issuer.Token{}, c.err(answer)
	}
	if err := c.checkCreated(made, o, r.ExpiresAt); err != nil {
		return issuer.Token{}, fmt.Errorf("a token was created, but %w", err)
	}
	return issuer.Token{ID: o.Name, Secret: issuer.NewSecret(made.Token)}, nil
}

// order returns the path and the body of a create.
func (c *cluster) order(r issuer.Request) (path string, o order, err error) {
	if r.Description == "" || r.Description == operator {
		return "", o, invalid("a token must have a name, and it must not be %s", operator)
	}
	o.Name = r.Description
	if o.ExpirySecs, err = c.expirySecs(r.ExpiresAt); err != nil {
		return "", o, err
	}
	switch {
	case c.kind == management:
		return pathNamedAdmin, o, nil
	case c.Product == issuer.Core:
		return "", o, invalid("InfluxDB 3 Core has no database tokens: every token of Core is an administrator; " +
			"use token_type=management, or InfluxDB 3 Enterprise")
	}
	o.Permissions, err = permissionsOf(r.Read, r.Write)
	return pathResource, o, err
}

// operator is the name of the operator token, which the server creates itself.
const operator = "_admin"

// expirySecs returns the life of a token, rounded up to seconds. The server
// takes 0 for a token that has expired already.
func (c *cluster) expirySecs(expires time.Time) (int64, error) {
	if expires.IsZero() {
		return 0, invalid("a token without an expiry is not issued, because its expiry ends it when it cannot be revoked: " +
			"set a life of at most 10 years (rotation_ttl for the root credential)")
	}
	rest := expires.Sub(c.drivers.options.Now())
	switch {
	case rest <= 0:
		return 0, invalid("the expiry is not in the future")
	case rest > maxLife:
		return 0, invalid("the expiry is more than 10 years in the future")
	}
	return int64((rest + time.Second - 1) / time.Second), nil
}

// permissionsOf returns the rights to read and to write databases. Each database
// is in one entry only, because it is not known whether the server adds up the
// rights of several entries. The server refuses an entry that holds names and
// "*", so that "*" has an entry of its own.
func permissionsOf(read, write []string) ([]permission, error) {
	if err := errors.Join(checkDatabases(read), checkDatabases(write)); err != nil {
		return nil, err
	}
	var permissions []permission
	byActions := map[string]int{} // index of the entry with names
	for _, db := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(read, write)))) {
		actions := actionsOn(db, read, write)
		key := strings.Join(actions, ",")
		if i, ok := byActions[key]; ok && db != allDatabases {
			permissions[i].ResourceNames = append(permissions[i].ResourceNames, db)
			continue
		}
		if db != allDatabases {
			byActions[key] = len(permissions)
		}
		permissions = append(permissions, permission{"db", []string{db}, actions})
	}
	if permissions == nil {
		return nil, invalid("a database token needs at least one database to read or to write")
	}
	return permissions, nil
}

func checkDatabases(list []string) error {
	switch {
	case slices.Contains(list, ""):
		return invalid("the name of a database must not be empty")
	case len(list) > 1 && slices.Contains(list, allDatabases):
		return invalid("%q stands for all databases and must not be mixed with names of databases", allDatabases)
	}
	return nil
}

// actionsOn returns what a token may do with a database.
func actionsOn(db string, read, write []string) (actions []string) {
	if slices.Contains(read, db) || slices.Contains(read, allDatabases) {
		actions = append(actions, "read")
	}
	if slices.Contains(write, db) || slices.Contains(write, allDatabases) {
		actions = append(actions, "write")
	}
	return actions
}

// checkCreated returns what is wrong with a token that was just created.
func (c *cluster) checkCreated(made createdJSON, o order, wish time.Time) error {
	life := time.Duration(o.ExpirySecs) * time.Second
	switch {
	case made.Name == nil || *made.Name != o.Name:
		return errOtherName
	case !plausibleSecret(made.Token) || made.Token == c.Root.Reveal():
		return errNoSecret
	case made.Expiry.IsZero():
		return errNoExpiry
	case !made.CreatedAt.IsZero() && !near(made.Expiry.Time, made.CreatedAt.Add(life), maxDelay):
		return fmt.Errorf("it lives for %s instead of %s", made.Expiry.Sub(made.CreatedAt.Time).Round(time.Second), life)
	case !near(made.Expiry.Time, wish, maxClockSkew):
		return fmt.Errorf("it expires at %s instead of %s: if the clocks of the cluster and of Vault differ, set them right",
			made.Expiry.Format(time.RFC3339), wish.UTC().Format(time.RFC3339))
	}
	return nil
}

// near reports whether two times differ by at most d.
func near(a, b time.Time, d time.Duration) bool { return a.Sub(b).Abs() <= d }

// plausibleSecret reports whether text has the shape of a token. Those that the
// server makes have 92 characters; those of an offline file may differ.
func plausibleSecret(text string) bool {
	const prefix = "apiv3_"
	return len(text) > len(prefix) && len(text) <= 4096 && strings.HasPrefix(text, prefix) &&
		!strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}
