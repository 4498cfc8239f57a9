package httpapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/failure"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/redact"
)

func quote(text string, secrets []issuer.Secret) string { return redact.Quote(text, secrets...) }

// progress records how far a request has come.
type progress struct {
	connected atomic.Bool // there was a connection to send it over
	reused    atomic.Bool // on which other requests had been sent before
	http2     atomic.Bool // it speaks HTTP/2
	onStream  atomic.Bool // the request was sent over HTTP/2
}

func (p *progress) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			encrypted, ok := info.Conn.(*tls.Conn)
			p.http2.Store(ok && encrypted.ConnectionState().NegotiatedProtocol == "h2")
			p.reused.Store(info.Reused)
			p.connected.Store(true)
		},
		WroteHeaders: func() { p.onStream.Store(p.http2.Load()) },
	}
}

var errStream = errors.New("the server ended the stream of the request, which is not sent again")

// onlyOnce returns a GetBody that fails once the request was sent over HTTP/2.
func (p *progress) onlyOnce(getBody func() (io.ReadCloser, error)) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		if p.onStream.Load() {
			return nil, errStream
		}
		return getBody()
	}
}

// connectionError returns the error of a request that ended with err and without
// an answer. It wraps issuer.ErrRefused only if the cluster cannot have
// processed the request.
func (p *progress) connectionError(err error, secrets []issuer.Secret) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // without the URL, which the caller knows
	}
	switch {
	case !p.connected.Load() && errors.Is(err, context.Canceled):
		return notSent("canceled before there was a connection", err, secrets)
	case !p.connected.Load():
		return notSent(connectionAdvice(err), err, secrets, issuer.ErrUnreachable)
	case !p.reused.Load() && refusesCertificate(err):
		return notSent("the cluster refuses the client certificate, or requires one: check client_cert and client_key in config", err, secrets, issuer.ErrUnreachable)
	}
	return inDoubt("the cluster may have processed the request, no answer was received", err, secrets)
}

// connectionAdvice says what to check when there was no connection.
func connectionAdvice(err error) string {
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	_, noTLS := errors.AsType[tls.RecordHeaderError](err)
	network, _ := errors.AsType[*net.OpError](err)
	alert := network != nil && (network.Op == "remote error" || network.Op == "local error")
	if untrusted || noTLS || alert || strings.Contains(err.Error(), "HTTP response to HTTPS client") {
		return "no trusted TLS connection to the cluster: check the address, ca_cert, client_cert and client_key in config"
	}
	return "the cluster is out of reach: check the network, the proxies in the environment, and the address in config"
}

// refusesCertificate recognises the alerts with which a server ends a handshake
// because of the client's certificate. With TLS 1.3 the client learns about it
// only after it has sent its request, which the server does not read.
func refusesCertificate(err error) bool {
	network, ok := errors.AsType[*net.OpError](err)
	if !ok || network.Op != "remote error" {
		return false
	}
	switch network.Err.Error() {
	case "tls: bad certificate", "tls: unsupported certificate", "tls: revoked certificate", "tls: expired certificate",
		"tls: unknown certificate", "tls: unknown certificate authority", "tls: certificate required", "tls: access denied":
		return true
	}
	return false
}

// Advice is what a driver says about the statuses that depend on its product.
// Each begins a sentence about the cluster and ends with what the user can do.
type Advice struct {
	Unauthorized string // 401
	Forbidden    string // 403
	NotFound     string // 404
}

// statusClientClosedRequest is not registered, but proxies use it.
const statusClientClosedRequest = 499

// Err returns the error for an answer that is not the expected success. The
// message is what the body says; it is quoted without secrets. An error that
// wraps none of the sentinels of package issuer leaves open whether the cluster
// has processed the request.
func (r Response) Err(message string, a Advice) error {
	meaning, kind := r.meaning(a)
	text := fmt.Sprintf("%s: the answer is %d %s", meaning, r.Status, http.StatusText(r.Status))
	if quoted := quote(message, r.secrets); quoted != "" {
		text += fmt.Sprintf(", with the message %q", quoted)
	}
	if r.RetryAfter > 0 {
		text += fmt.Sprintf(", try again after %s", r.RetryAfter)
	}
	if kind == nil {
		return failure.New(text)
	}
	return failure.New(text, kind)
}

// meaning returns what a status means, and the sentinel for it. Of the statuses
// that the products do not document, only those that HTTP defines as the
// client's error are a refusal. 408 and 499 come from proxies that did not wait
// any longer, and 502 to 504 from those that did not reach the cluster. What 409
// conflicts with is not documented (docs/vendor-facts.md, "management-api-errors").
// Since descriptions are unique, it may be the token of the same request, sent
// twice by something on the way.
func (r Response) meaning(a Advice) (text string, kind error) {
	switch s := r.Status; {
	case s == http.StatusUnauthorized:
		return a.Unauthorized, issuer.ErrUnauthorized
	case s == http.StatusForbidden:
		return a.Forbidden, issuer.ErrUnauthorized
	case s == http.StatusNotFound:
		return a.NotFound, issuer.ErrRefused
	case s == http.StatusProxyAuthRequired:
		return "the proxy requires credentials: check the proxies in the environment", issuer.ErrRefused
	case s == http.StatusConflict:
		return "the cluster has a token that conflicts with this one, and this request may have created it", nil
	case s == http.StatusTooManyRequests:
		return "the cluster limits the rate of requests: try again later", issuer.ErrRefused
	case s == http.StatusRequestTimeout || s == statusClientClosedRequest:
		return "the cluster may have processed the request", nil
	case s == http.StatusBadRequest || s == http.StatusUnprocessableEntity:
		return "the cluster refuses the request as invalid", issuer.ErrInvalid
	case s >= 400 && s < 500:
		return "the cluster refuses the request", issuer.ErrRefused
	case s >= 300 && s < 400:
		return "the server redirects to another place, to which the root credential is not sent: check the address in config", nil
	case s == http.StatusBadGateway || s == http.StatusServiceUnavailable || s == http.StatusGatewayTimeout:
		return "the cluster is not available, and may have processed the request", issuer.ErrUnreachable
	case s >= 500:
		return "the cluster has an internal error, and may have processed the request", nil
	}
	return "the answer is not a documented one", nil
}
