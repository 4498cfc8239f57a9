package influxdb3server

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A conflict is the error of a name that is taken.
type conflict string

func (e conflict) Error() string { return "token name already exists, " + string(e) }

// A missing is the error of a name that no token has.
type missing string

func (e missing) Error() string { return "the requested resource was not found: " + string(e) }

var errOperator = errors.New("cannot delete operator token")

// prepareCreate checks a new token against a catalog. The check of the name
// ignores expiry.
func (g *catalog) prepareCreate(name, secret string, now, expiry time.Time, permissions []string) (change, error) {
	if g.byName[name] != nil {
		return change{}, conflict(name)
	}
	t := &Token{
		ID: g.nextID, Name: name, Hash: hashOf(secret), Permissions: permissions,
		CreatedAt: now.Truncate(time.Millisecond), Expiry: expiry,
	}
	if name == Operator {
		t.ID = 0
	}
	if !expiry.IsZero() {
		t.Expiry = expiry.Truncate(time.Millisecond)
	}
	return change{created: t}, nil
}

// An order is the body of a create.
type order struct {
	Name        *string       `json:"token_name"`
	ExpirySecs  *uint64       `json:"expiry_secs"`
	Permissions *[]permission `json:"permissions"`
}

type permission struct {
	ResourceType  *string   `json:"resource_type"`
	ResourceNames *[]string `json:"resource_names"`
	Actions       *[]string `json:"actions"`
}

// readOrder reads the body of a create; the answer says what is wrong with it.
func readOrder(r request) (o order, refusal *answer) {
	if r.Header.Get("Content-Type") != "application/json" {
		a := text(http.StatusUnsupportedMediaType, "unacceptable content-type, expected: application/json")
		return o, &a
	}
	err := json.Unmarshal(r.body, &o)
	if err == nil && o.Name == nil {
		err = errors.New("missing field `token_name`")
	}
	if err != nil {
		a := text(http.StatusBadRequest, "serde json error: %v", err)
		return o, &a
	}
	return o, nil
}

func (n *Node) createAdmin(r request) answer {
	if !n.cluster.admin(r.caller) {
		return forbidden
	}
	o, refusal := readOrder(r)
	if refusal != nil {
		return *refusal
	}
	return n.create(r, o, nil)
}

func (n *Node) createResource(r request) answer {
	if !n.cluster.admin(r.caller) {
		return forbidden
	}
	o, refusal := readOrder(r)
	switch {
	case refusal != nil:
		return *refusal
	case o.Permissions == nil:
		return text(http.StatusBadRequest, "serde json error: missing field `permissions`")
	}
	permissions := []string{}
	for _, p := range *o.Permissions {
		granted, refusal := n.cluster.grant(p)
		if refusal != nil {
			return *refusal
		}
		permissions = append(permissions, granted...)
	}
	return n.create(r, o, permissions)
}

// systemResources are the names of the resource type "system".
var systemResources = []string{"health", "metrics", "ping", "ready", "*"}

// grant returns the permissions that an entry of an order stands for.
func (c *Cluster) grant(p permission) (granted []string, refusal *answer) {
	refuse := func(status int, format string, args ...any) ([]string, *answer) {
		a := text(status, format, args...)
		return nil, &a
	}
	if p.ResourceType == nil || p.ResourceNames == nil || p.Actions == nil {
		return refuse(http.StatusBadRequest, "serde json error: missing field in permissions")
	}
	exists, actions := c.options.Databases, []string{"create", "describe", "read", "write", "delete"}
	switch *p.ResourceType {
	case "db":
	case "system":
		exists, actions = systemResources, []string{"read"}
	default:
		return refuse(http.StatusBadRequest, "cannot parse token permission, invalid resource type %s", *p.ResourceType)
	}
	for _, name := range *p.ResourceNames {
		if name == "*" && len(*p.ResourceNames) > 1 || name != "*" && !slices.Contains(exists, name) {
			return refuse(c.options.InvalidDatabase, "cannot parse token permission, invalid resource name %s", name)
		}
		for _, action := range *p.Actions {
			if !slices.Contains(actions, action) {
				return refuse(http.StatusBadRequest, "cannot parse token permission, invalid action %s", action)
			}
			granted = append(granted, *p.ResourceType+":"+name+":"+action)
		}
	}
	return granted, nil
}

// create makes a token and answers with its secret. The header says "json",
// which is not a media type.
func (n *Node) create(r request, o order, permissions []string) answer {
	c := n.cluster
	secret := newSecret()
	ch, err := n.commit(func(g *catalog) (change, error) {
		expiry, err := c.expiry(o.ExpirySecs)
		if err != nil {
			return change{}, err
		}
		if r.fault != nil && r.fault.NoExpiry {
			expiry = time.Time{}
		}
		return g.prepareCreate(*o.Name, secret, c.now(), expiry, permissions)
	})
	if err != nil {
		return catalogError(err)
	}
	t := ch.created
	body, err := json.Marshal(struct {
		ID        uint64  `json:"id"`
		Name      string  `json:"name"`
		Token     string  `json:"token"`
		Hash      string  `json:"hash"`
		CreatedAt string  `json:"created_at"`
		Expiry    *string `json:"expiry"`
	}{t.ID, t.Name, secret, t.Hash, rfc3339(t.CreatedAt), optional(t.Expiry, rfc3339)})
	if err != nil {
		return text(http.StatusInternalServerError, "%v", err)
	}
	return answer{status: http.StatusCreated, contentType: "json", body: body}
}

// maxMillis is the largest time that the catalog can hold.
const maxMillis = math.MaxInt64

// expiry returns when a token expires that is created now. A number of seconds
// that is too large ends the connection up to 3.9, means never in 3.10 and is
// cut since 3.11. It is the caller's duty to send a sensible one.
func (c *Cluster) expiry(secs *uint64) (time.Time, error) {
	if secs == nil {
		return time.Time{}, nil
	}
	now := c.now().UnixMilli()
	if *secs <= uint64((maxMillis-now)/1000) {
		return time.UnixMilli(now + int64(*secs)*1000), nil
	}
	switch {
	case atLeast(c.options.Version, 3, 11):
		return time.UnixMilli(maxMillis), nil
	case atLeast(c.options.Version, 3, 10):
		return time.Time{}, nil
	}
	return time.Time{}, errors.New("duration not to overflow")
}

// catalogError answers an error of the catalog. Any that is not in the table of
// the product is a 500 with its text.
func catalogError(err error) answer {
	var taken conflict
	var unknown missing
	switch {
	case errors.As(err, &taken):
		return text(http.StatusConflict, "%v", err)
	case errors.As(err, &unknown):
		return text(http.StatusNotFound, "%v", err)
	case errors.Is(err, errOperator):
		return text(http.StatusMethodNotAllowed, "%v", err)
	}
	return text(http.StatusInternalServerError, "%v", err)
}

func (n *Node) deleteToken(r request) answer {
	if !n.cluster.admin(r.caller) {
		return forbidden
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err == nil && !query.Has("token_name") {
		err = errors.New("missing field `token_name`")
	}
	if err != nil {
		return text(http.StatusBadRequest, "serde error: %v", err)
	}
	name := query.Get("token_name")
	_, err = n.commit(func(g *catalog) (change, error) {
		switch {
		case name == Operator:
			return change{}, errOperator
		case g.byName[name] == nil:
			return change{}, missing(name)
		}
		return change{deleted: name}, nil
	})
	if err != nil {
		return catalogError(err)
	}
	return answer{status: http.StatusOK}
}

// writeLines accepts line protocol from a token that may write the database.
func (n *Node) writeLines(r request) answer {
	db := r.URL.Query().Get("db")
	if !r.caller.may(db, "write") {
		return forbidden
	}
	return answer{status: http.StatusNoContent}
}

// may reports whether a token has a right on a database.
func (t *Token) may(db, action string) bool {
	return t == nil || t.Admin() ||
		slices.Contains(t.Permissions, "db:"+db+":"+action) || slices.Contains(t.Permissions, "db:*:"+action)
}

// rfc3339 writes a time as the product does: with three decimals, and without
// decimals if the milliseconds are 0.
func rfc3339(t time.Time) string { return sqlTime(t) + "Z" }

// sqlTime writes a timestamp without a time zone, as in the answer to a query.
func sqlTime(t time.Time) string {
	const layout = "2006-01-02T15:04:05"
	if t.UnixMilli()%1000 == 0 {
		return t.UTC().Format(layout)
	}
	return t.UTC().Format(layout + ".000")
}

// optional writes a time; nil if it is zero.
func optional(t time.Time, write func(time.Time) string) *string {
	if t.IsZero() {
		return nil
	}
	s := write(t)
	return &s
}

// rights writes permissions as the column of that name holds them.
func (t *Token) rights() string {
	if t.Admin() {
		return "*:*:*"
	}
	quoted := make([]string, len(t.Permissions))
	for i, p := range t.Permissions {
		quoted[i] = fmt.Sprintf("%q", p)
	}
	return "[" + strings.Join(quoted, ",") + "]"
}
