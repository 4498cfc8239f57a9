package managementapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// maxAnswer bounds the answer to a mint, the header of any answer, and one
	// entry of a list.
	maxAnswer = 1 << 20

	// maxComplaint bounds what is read of an answer that says no.
	maxComplaint = 64 << 10

	// longestRetryAfter bounds what is believed of a Retry-After.
	longestRetryAfter = time.Hour
)

// A query is what is asked of the API.
type query struct {
	method string
	id     string // of a token; empty: the collection
	body   []byte // JSON

	// read takes the body of a success; nil ignores it. Its error ends the
	// exchange.
	read func(io.Reader) error
}

// A reply is how the API has answered.
type reply struct {
	status     int
	retryAfter time.Duration

	// The message of an error answer in the API's own form. It may hold
	// anything that the server or a proxy wrote.
	message string
}

func (r reply) success() bool { return r.status/100 == 2 }

// exchange sends one request to the collection at path, or to the token in it,
// and waits for the answer, for no longer than the cluster's timeout. Without
// error there was an answer, which may be a no.
//
// net/http may send a request a second time, over another connection, when the
// first was lost. With a body and without an Idempotency-Key it does so to a
// POST only if not one byte of it has left, or if the server has said by
// HTTP/2's means that it has not looked at it (GOAWAY with a lower stream,
// REFUSED_STREAM). Neither can mint twice, so that the body may be rewound.
func (c *cluster) exchange(ctx context.Context, path string, q query) (reply, error) {
	e := c.endpoint
	if err := e.gate.Acquire(ctx, 1); err != nil {
		return reply{}, notSent("wait for other requests to end", err)
	}
	defer e.gate.Release(1)
	ctx, cancel := context.WithTimeout(ctx, c.timeout())
	defer cancel()
	var d departure
	request, err := c.request(httptrace.WithClientTrace(ctx, d.trace()), path, q)
	if err != nil {
		return reply{}, notSent("prepare a request", err)
	}
	response, err := e.client.Do(request)
	if err != nil {
		return reply{}, d.judge(err, c.secrets()...)
	}
	defer response.Body.Close()
	r := reply{status: response.StatusCode, retryAfter: c.retryAfter(response.Header)}
	switch {
	case !r.success():
		r.message = readComplaint(response.Body)
	case q.read != nil:
		return r, q.read(response.Body)
	}
	return r, nil
}

func (c *cluster) request(ctx context.Context, path string, q query) (*http.Request, error) {
	target := c.endpoint.origin + path
	if q.id != "" {
		target += "/" + url.PathEscape(q.id)
	}
	var body io.Reader
	if q.body != nil {
		body = bytes.NewReader(q.body)
	}
	r, err := http.NewRequestWithContext(ctx, q.method, target, body)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+c.Root.Reveal())
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", c.driver.userAgent)
	if q.body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r, nil
}

// secrets are what must not be quoted, should it come back.
func (c *cluster) secrets() []string { return []string{c.Root.Reveal(), c.ClientKey.Reveal()} }

// readComplaint reads the body of an answer that says no. Documented is
// {"code": 404, "message": "…"}; the code may be a string, too. Of anything
// else, such as a proxy's page, nothing is returned.
func readComplaint(body io.Reader) (message string) {
	text, err := io.ReadAll(io.LimitReader(body, maxComplaint))
	var said struct {
		Code    any     `json:"code"`
		Message *string `json:"message"`
	}
	if err != nil || json.Unmarshal(text, &said) != nil || said.Code == nil || said.Message == nil {
		return ""
	}
	return *said.Message
}

// retryAfter reads the header of that name: seconds, or a date.
func (c *cluster) retryAfter(h http.Header) time.Duration {
	value := h.Get("Retry-After")
	var d time.Duration
	if secs, err := strconv.ParseUint(value, 10, 31); err == nil {
		d = time.Duration(secs) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		d = at.Sub(c.driver.now())
	}
	return min(max(d, 0), longestRetryAfter)
}

// A departure tells how far a request has come.
type departure struct {
	connected atomic.Bool // there was a connection to send it over,
	reused    atomic.Bool // on which other requests had been sent
}

func (d *departure) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		d.reused.Store(info.Reused)
		d.connected.Store(true)
	}}
}

// judge turns the error of a request without an answer into one that says
// whether the cluster can have seen it.
func (d *departure) judge(err error, secrets ...string) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // its URL says nothing that the caller does not know
	}
	switch {
	case !d.connected.Load() && errors.Is(err, context.Canceled):
		return notSent("given up before there was a connection", err, secrets...)
	case !d.connected.Load():
		return notSent(adviceOn(err), err, secrets...)
	case !d.reused.Load() && refusesCertificate(err):
		return notSent("the cluster does not accept the client certificate, or wants one: check client_cert and client_key in config", err, secrets...)
	}
	return inDoubt("it is not known whether the cluster has acted", err, secrets...)
}

// adviceOn says what to look at when there was no connection.
func adviceOn(err error) string {
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	_, noTLS := errors.AsType[tls.RecordHeaderError](err)
	network, _ := errors.AsType[*net.OpError](err)
	alert := network != nil && (network.Op == "remote error" || network.Op == "local error")
	if untrusted || noTLS || alert || strings.Contains(err.Error(), "HTTP response to HTTPS client") {
		return "there is no trusted TLS connection to the cluster: check host, port, api_url, ca_cert, client_cert and client_key in config"
	}
	return "the cluster is out of reach: check host, port and api_url in config, proxies in the environment, and the network"
}

// refusesCertificate recognises the alerts by which a server ends a handshake
// over the client's certificate. By TLS 1.3 the client learns of it only after
// it has sent its request, which the server then throws away unseen.
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
