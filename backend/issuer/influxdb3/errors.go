package influxdb3

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/failure"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/redact"
)

// invalid is the error of a request that is not sent because it is wrong.
func invalid(format string, args ...any) error {
	return failure.New(fmt.Sprintf(format, args...), issuer.ErrInvalid)
}

// What the server says in the body of an error.
const (
	textNoSuchPath  = "Not found"                               // of the router, with 404
	textNoSuchToken = "the requested resource was not found: "  // of the catalog, with 404; the name follows
	textOperator    = "cannot delete operator token"            // of the catalog, with 405
	textWithoutAuth = "endpoint disabled, started without auth" // with 405
)

// err returns the error that an answer is. It says what to do and quotes the
// server. What another cluster or a proxy answers is no refusal.
func (c *cluster) err(r reply) error {
	advice, kind := c.meaning(r)
	fromGateway := errors.Is(r.source, errNoUUID) && errors.Is(kind, issuer.ErrUnreachable)
	if r.source != nil && !fromGateway {
		advice, kind = r.source.Error(), nil
	}
	var kinds []error
	if kind != nil {
		kinds = []error{kind}
	}
	text := fmt.Sprintf("%s: the answer is %d %s", advice, r.status, http.StatusText(r.status))
	switch said := redact.Quote(r.message, c.secrets()...); {
	case r.html:
		text += ", an HTML page, which InfluxDB does not send: check host, port and the proxies on the way"
	case said != "":
		text += fmt.Sprintf(", saying %q", said)
	}
	return failure.New(text, kinds...)
}

// meaning returns what a status says. A nil kind means that it is not known
// whether the cluster has acted: only statuses by which the products are known to
// refuse a request count as a refusal.
//
// 409 is not one of them. A server that stored a new token and lost the answer
// of its object store reads its own entry in the log, finds that the name is
// taken, and answers 409 although it has created the token.
func (c *cluster) meaning(r reply) (advice string, kind error) {
	switch s := r.status; s {
	case http.StatusBadRequest:
		return "the cluster says that the request is invalid", issuer.ErrInvalid
	case http.StatusUnauthorized:
		return "the cluster does not accept the root credential: it is wrong, deleted or expired, so write a valid admin_token to config", issuer.ErrUnauthorized
	case http.StatusForbidden:
		return "the cluster does not allow this to the root credential: write the admin_token of an administrator to config", issuer.ErrUnauthorized
	case http.StatusNotFound:
		if strings.TrimSpace(r.message) == textNoSuchPath {
			return fmt.Sprintf("the server does not serve this path, as %s does: check product, host and port in config", names[c.Product]), issuer.ErrRefused
		}
		return "the answer is not known to come from InfluxDB 3: check host and port in config", nil
	case http.StatusMethodNotAllowed:
		return notAllowed(r.message), issuer.ErrRefused
	case http.StatusUnsupportedMediaType:
		return "the server does not accept the type of the request", issuer.ErrRefused
	case http.StatusConflict:
		return "a token of this name exists, and this request may have created it", nil
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return "the cluster is not available, and it is not known whether it has acted", issuer.ErrUnreachable
	}
	switch {
	case r.status >= 300 && r.status < 400:
		return "a redirect is not followed, because the root credential must not be sent to another place: check host and port in config", nil
	case r.status >= 500:
		return "the cluster reports an internal error, and it is not known whether it has acted", nil
	}
	return "the answer is not documented", nil
}

// notAllowed explains a 405.
func notAllowed(message string) string {
	switch {
	case strings.HasPrefix(message, textWithoutAuth):
		return "the server runs without authentication and therefore manages no tokens: start it without --without-auth"
	case strings.HasPrefix(message, textOperator):
		return "the operator token _admin cannot be deleted"
	}
	return "the server does not allow this request"
}
