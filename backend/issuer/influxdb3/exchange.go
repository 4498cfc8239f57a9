package influxdb3

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
	"regexp"
	"strings"
	"sync/atomic"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

const (
	// maxAnswer bounds the answer to a create or a ping, the header of any
	// answer, and one entry of a list.
	maxAnswer = 1 << 20

	// maxComplaint bounds how much is read of an answer that is an error.
	maxComplaint = 64 << 10

	// uuidHeader holds the UUID of the catalog, in every answer of the server
	// since release 3.7.0, also in errors. Answers of a proxy do not have it.
	uuidHeader = "Cluster-Uuid"
)

// A query is one request.
type query struct {
	method string
	path   string // with the query string
	body   []byte // JSON

	// want is the status of a success, and read takes the body of a success;
	// nil ignores it. Its error ends the exchange.
	want int
	read func(io.Reader) error
}

// A reply is an answer that has arrived.
type reply struct {
	status int
	header http.Header
	uuid   string // cluster-uuid; empty if it is not there

	// source is why the answer is not one of the configured cluster; nil if it
	// is, or if the UUID of the cluster is not known yet.
	source error

	done    bool   // the answer is a success of the configured cluster
	message string // the body of an error
	html    bool   // the body of the error is HTML
}

// exchange sends one request and waits for the answer, for no longer than the
// cluster's timeout. If the error is nil, there was an answer, which may be an
// error of the server.
//
// net/http may send a request again over another connection when the first one
// was lost. It does so to a POST with a body and without an Idempotency-Key only
// if not one byte of it was sent, or if the server has said by HTTP/2 that it has
// not processed it (GOAWAY with a lower stream, REFUSED_STREAM). Neither can
// create a token twice.
func (c *cluster) exchange(ctx context.Context, q query) (reply, error) {
	e := c.endpoint
	if e.err != nil {
		return reply{}, notSent("cannot send a request", e.err)
	}
	if err := e.gate.Acquire(ctx, 1); err != nil {
		return reply{}, notSent("wait for other requests to end", err)
	}
	defer e.gate.Release(1)
	ctx, cancel := context.WithTimeout(ctx, c.timeout())
	defer cancel()
	var d departure
	request, err := c.request(httptrace.WithClientTrace(ctx, d.trace()), q)
	switch {
	case errors.Is(err, issuer.ErrUnauthorized):
		return reply{}, err
	case err != nil:
		return reply{}, notSent("prepare a request", err, c.secrets()...)
	}
	response, err := e.client.Do(request)
	if err != nil {
		return reply{}, d.judge(err, c.secrets()...)
	}
	defer response.Body.Close()
	r := reply{status: response.StatusCode, header: response.Header}
	r.uuid = e.learn(response.Header)
	r.source = c.checkSource(r.uuid)
	switch {
	case r.status != q.want || r.source != nil:
		r.readError(response.Body)
		return r, nil
	case q.read != nil:
		if err := q.read(response.Body); err != nil {
			return r, err
		}
	}
	r.done = true
	return r, nil
}

// request prepares a request. The root credential is part of a header.
func (c *cluster) request(ctx context.Context, q query) (*http.Request, error) {
	root := c.Root.Reveal()
	if root == "" || strings.ContainsFunc(root, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errNoRoot
	}
	var body io.Reader
	if q.body != nil {
		body = bytes.NewReader(q.body)
	}
	r, err := http.NewRequestWithContext(ctx, q.method, c.endpoint.origin+q.path, body)
	if err != nil {
		return nil, err
	}
	// The word Bearer is case-sensitive.
	r.Header.Set("Authorization", "Bearer "+root)
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", c.drivers.userAgent)
	if q.body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r, nil
}

var uuidShape = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// learn remembers the cluster-uuid of an answer and returns it.
func (e *endpoint) learn(h http.Header) string {
	uuid := h.Get(uuidHeader)
	if !uuidShape.MatchString(uuid) {
		return ""
	}
	if e.reportedUUID() != uuid {
		e.uuid.Store(&uuid)
	}
	return uuid
}

// checkSource returns an error if an answer with this cluster-uuid is not one of
// the configured cluster.
func (c *cluster) checkSource(uuid string) error {
	switch {
	case c.UUID == "" || strings.EqualFold(uuid, c.UUID):
		return nil
	case uuid == "":
		return errNoUUID
	}
	return errOtherCluster
}

// readError reads the body of an error: plain text from the token calls, or
// {"error": "…"} from the authentication. The body of any other answer may hold a
// secret and is not read.
func (r *reply) readError(body io.Reader) {
	if r.status < 400 {
		return
	}
	text, err := io.ReadAll(io.LimitReader(body, maxComplaint))
	if err != nil {
		return
	}
	r.message = string(text)
	var said struct {
		Error *string `json:"error"`
	}
	if json.Unmarshal(text, &said) == nil && said.Error != nil {
		r.message = *said.Error
	}
	kind := strings.ToLower(r.header.Get("Content-Type"))
	r.html = strings.Contains(kind, "html") || strings.HasPrefix(strings.TrimSpace(r.message), "<")
}

// A departure records how far a request has come.
type departure struct {
	connected atomic.Bool // there was a connection to send it over,
	reused    atomic.Bool // which had been used for other requests
}

func (d *departure) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		d.reused.Store(info.Reused)
		d.connected.Store(true)
	}}
}

// judge returns the error of a request without an answer. It says whether the
// cluster can have received the request.
func (d *departure) judge(err error, secrets ...string) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // the URL would quote the token's name
	}
	switch {
	case !d.connected.Load() && errors.Is(err, context.Canceled):
		return notSent("canceled before there was a connection", err, secrets...)
	case !d.connected.Load():
		return unreachable(notSent(adviceOn(err), err, secrets...))
	case !d.reused.Load() && refusesCertificate(err):
		return unreachable(notSent("the cluster does not accept the client certificate, or requires one: "+
			"check client_cert and client_key in config", err, secrets...))
	case errors.Is(err, context.Canceled):
		return inDoubt("canceled before the cluster answered", err, secrets...)
	}
	return unreachable(inDoubt("the cluster did not answer", err, secrets...))
}

// adviceOn says what to check when there was no connection.
func adviceOn(err error) string {
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	_, noTLS := errors.AsType[tls.RecordHeaderError](err)
	network, _ := errors.AsType[*net.OpError](err)
	alert := network != nil && (network.Op == "remote error" || network.Op == "local error")
	if untrusted || noTLS || alert || strings.Contains(err.Error(), "HTTP response to HTTPS client") {
		return "no trusted TLS connection to the cluster: check host, port, ca_cert, client_cert, client_key and disable_tls in config"
	}
	return "the cluster is not reachable: check host and port in config, proxies in the environment, and the network"
}

// refusesCertificate recognises the alerts by which a server ends a handshake
// because of the client's certificate. With TLS 1.3 the client receives them
// after it has sent its request, which the server discards unread.
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
