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
	errActive     = errors.New("the cluster lists the token as active")
	errOtherToken = errors.New("the answer is about another token")
)

// A notFound is the error of a token for which the API answered 404. It does
// not say whether the token or something else, such as the cluster, was not
// found.
type notFound struct{ cause error } // what the API answered to DELETE

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
		err = c.statusError(r)
	}
	switch {
	case ctx.Err() != nil, errors.Is(err, issuer.ErrUnauthorized), r.Status == 0 && errors.Is(err, issuer.ErrRefused):
		return err
	case errors.Is(err, context.DeadlineExceeded): // reading the token would take as long
		return err
	}
	info, found, readErr := c.read(ctx, id)
	switch {
	case readErr != nil:
		return fmt.Errorf("%w; reading the token failed too: %w", err, readErr)
	case !found:
		return &notFound{err}
	case info.Dead(c.driver.options.Now()):
		return nil
	}
	return fmt.Errorf("%w: %w", errActive, err)
}

// read returns what the API says about one token. It is not found if the API
// answers 404.
func (c *cluster) read(ctx context.Context, id string) (info issuer.Info, found bool, err error) {
	r, err := c.do(ctx, call{method: http.MethodGet, id: id, read: func(body io.Reader) error {
		t, err := decodeToken(body)
		if err == nil {
			info, err = t.info()
		}
		return err
	}})
	switch {
	case err != nil:
		return issuer.Info{}, false, err
	case r.Status == http.StatusNotFound:
		return issuer.Info{}, false, nil
	case !r.Success():
		return issuer.Info{}, false, c.statusError(r)
	case !strings.EqualFold(info.ID, id):
		return issuer.Info{}, false, errOtherToken
	}
	return info, true, nil
}

// settleNotFound decides about the tokens in failed for which the API answered
// 404. A complete list that is read now proves that account and cluster exist
// and are served at this path, so that an absent token is unknown to the
// cluster. Without such a list a 404 proves nothing. One list serves all
// tokens of a call.
func (c *cluster) settleNotFound(ctx context.Context, failed map[string]error) {
	listed := map[string]issuer.Info{} // by ID in lower case
	causes := map[string]error{}
	for id, err := range failed {
		if n, ok := errors.AsType[*notFound](err); ok {
			causes[id] = n.cause
			listed[strings.ToLower(id)] = issuer.Info{}
		}
	}
	if len(causes) == 0 {
		return
	}
	listErr := c.List(ctx, func(info issuer.Info) error {
		key := strings.ToLower(info.ID)
		if _, wanted := listed[key]; wanted {
			listed[key] = info
		}
		return nil
	})
	for id, cause := range causes {
		info := listed[strings.ToLower(id)]
		switch {
		case listErr != nil:
			failed[id] = fmt.Errorf("%w; whether the token or the cluster was not found is unknown: %w", cause, listErr)
		case info.ID == "":
			failed[id] = failure.New("the cluster does not list the token: "+cause.Error(), issuer.ErrUnknown)
		case info.Dead(c.driver.options.Now()):
			delete(failed, id)
		default:
			failed[id] = fmt.Errorf("%w: %w", errActive, cause)
		}
	}
}
