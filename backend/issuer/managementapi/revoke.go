package managementapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/failure"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/httpapi"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/redact"
)

// Revoke deletes the tokens, at most MaxParallel at the same time. Whether the
// API keeps a deleted token in the list as revoked is not documented; both are
// accepted. See docs/vendor-facts.md, "management-api-delete".
func (c *cluster) Revoke(ctx context.Context, ids ...string) map[string]error {
	failed := httpapi.RevokeEach(ctx, ids, c.MaxParallel, c.revokeOne)
	c.settleNotFound(ctx, failed)
	for id, err := range failed {
		failed[id] = fmt.Errorf("revoke database token %s: %w", redact.Quote(id), err)
	}
	return failed
}

var (
	errNotAnID    = errors.New("this is not the id of a token")
	errActive     = errors.New("the cluster does not list the token as revoked")
	errOtherToken = errors.New("the answer is about another token")
	errMoved      = errors.New("the cluster lists its tokens at another path now")
	errEmptyList  = errors.New("the list at the path with account_id and cluster_id is empty: these may be the IDs of another account, so check them in config")
)

// A notFound is the error of a token for which the API answered 404. It does
// not say whether the token or something else, such as the cluster, was not
// found.
type notFound struct {
	cause      error  // what the API answered to DELETE
	collection string // in which the token was not found
}

func (n *notFound) Error() string { return n.cause.Error() }
func (n *notFound) Unwrap() error { return n.cause }

// revokeOne deletes one token. Only the answer 204 proves that the token is
// revoked. After any other answer that may mean the same, it reads the token.
func (c *cluster) revokeOne(ctx context.Context, id string) error {
	if !plausibleID(id) {
		return failure.NotSent(errNotAnID)
	}
	r, err := c.do(ctx, call{method: http.MethodDelete, id: id})
	switch {
	case err == nil && r.Status == http.StatusNoContent:
		return nil
	case err == nil:
		err = c.statusError(r.Response)
	}
	switch {
	case ctx.Err() != nil, errors.Is(err, issuer.ErrUnauthorized), r.Status == 0 && errors.Is(err, issuer.ErrRefused):
		return err
	case errors.Is(err, context.DeadlineExceeded): // reading the token would take as long
		return err
	}
	info, missing, readErr := c.read(ctx, id)
	switch {
	case readErr != nil:
		return fmt.Errorf("%w; reading the token failed too: %w", err, readErr)
	case missing != "":
		return &notFound{err, missing}
	case !info.RevokedAt.IsZero(), info.Dead(c.driver.options.Now()) && mayMeanExpired(r.Status):
		return nil
	}
	return fmt.Errorf("%w: %w", errActive, err)
}

// mayMeanExpired reports whether a status may be the answer to a DELETE of a token
// that has expired. Another failure has another cause, and an expiry that has passed
// by the clock of this machine, which may be wrong, does not settle it.
func mayMeanExpired(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return false
	}
	return status/100 == 2 || status/100 == 4
}

// read returns what the API says about one token. If the API answers 404, missing
// is the collection in which the token was not found.
func (c *cluster) read(ctx context.Context, id string) (info issuer.Info, missing string, err error) {
	r, err := c.do(ctx, call{method: http.MethodGet, id: id, read: func(body io.Reader) error {
		t, err := decodeToken(body)
		if err == nil {
			info, err = t.info()
		}
		return err
	}})
	switch {
	case err != nil:
		return issuer.Info{}, "", err
	case r.Status == http.StatusNotFound:
		return issuer.Info{}, r.collection, nil
	case !r.Success():
		return issuer.Info{}, "", c.statusError(r.Response)
	case !strings.EqualFold(info.ID, id):
		return issuer.Info{}, "", errOtherToken
	}
	return info, "", nil
}

// settleNotFound decides about the tokens in failed for which the API answered
// 404. A complete list that is read now proves that account and cluster exist
// and are served at this path, so that an absent token is unknown to the
// cluster. Without such a list a 404 proves nothing. An empty list at another path
// than the documented one proves nothing either: it may be that of another account.
// One list serves all tokens of a call.
func (c *cluster) settleNotFound(ctx context.Context, failed map[string]error) {
	listed := map[string]issuer.Info{} // by ID in lower case
	causes := map[string]*notFound{}
	for id, err := range failed {
		if n, ok := errors.AsType[*notFound](err); ok {
			causes[id] = n
			listed[strings.ToLower(id)] = issuer.Info{}
		}
	}
	if len(causes) == 0 {
		return
	}
	empty := true
	collection, listErr := c.list(ctx, func(info issuer.Info) error {
		empty = false
		key := strings.ToLower(info.ID)
		if _, wanted := listed[key]; wanted {
			listed[key] = info
		}
		return nil
	})
	if listErr == nil && empty && !c.endpoint.documented(collection) {
		listErr = errEmptyList
	}
	for id, n := range causes {
		info := listed[strings.ToLower(id)]
		switch {
		case listErr != nil:
			failed[id] = fmt.Errorf("%w; whether the token or the cluster was not found is unknown: %w", n.cause, listErr)
		case info.ID == "" && n.collection != collection:
			failed[id] = fmt.Errorf("%w; %w", n.cause, errMoved)
		case info.ID == "":
			failed[id] = failure.New("the cluster does not list the token: "+n.cause.Error(), issuer.ErrUnknown)
		case info.Dead(c.driver.options.Now()):
			delete(failed, id)
		default:
			failed[id] = fmt.Errorf("%w: %w", errActive, n.cause)
		}
	}
}
