package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/boundedjson"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/failure"
)

const (
	// maxErrorAnswer is how much of an answer is read that is not a success.
	maxErrorAnswer = 64 << 10

	// maxRetryAfter bounds the time of a Retry-After header.
	maxRetryAfter = time.Hour

	// maxPause is the longest pause before a request is repeated. If the server
	// asks for a longer one, the request is not repeated.
	maxPause = time.Minute

	// defaultTimeout applies if Request.Timeout is not set.
	defaultTimeout = 30 * time.Second
)

// pauses are the pauses before a request is repeated, unless the server asks for
// longer ones.
var pauses = []time.Duration{500 * time.Millisecond, 2 * time.Second, 4 * time.Second}

// A Request is one request.
type Request struct {
	Method  string
	Path    string        // escaped; may have a query
	Body    []byte        // JSON; nil for none
	Root    issuer.Secret // sent as a bearer token
	Timeout time.Duration // for connection, request and answer; 0: 30 seconds

	// Check decides about an answer with a status of 200 to 299 before Read is
	// called. Its error is returned by Do. Nil accepts all answers.
	Check func(Response) error

	// Read reads the body of an answer with a status of 200 to 299. Nil ignores
	// the body. Its error is returned by Do, unless the connection caused it.
	Read func(io.Reader) error
}

// A Response is the answer to a request.
type Response struct {
	Status     int // 0: there was no answer
	Header     http.Header
	RetryAfter time.Duration // 0: the server did not say

	// Body is the beginning of the body of an answer that is not a success. It
	// may hold anything, also secrets.
	Body []byte

	secrets []issuer.Secret // never quoted
}

// Success reports whether the status is one of 200 to 299.
func (r Response) Success() bool { return r.Status/100 == 2 }

// Do sends a request once and waits for the answer. An error means that there
// was no complete answer, or is that of Read. It wraps issuer.ErrRefused if the
// cluster cannot have received the request, and issuer.ErrUnreachable if there
// was no connection or no answer in time. The response has the status and the
// header if they were received.
//
// net/http may send a request a second time over another connection when the
// first one is lost. For a POST with a body and without an Idempotency-Key it does
// so only if no byte of it was written. Over HTTP/2 it would also do so after
// PROTOCOL_ERROR, which does not say that the server has not processed the request.
// So a request with a body is not sent again once it was sent over HTTP/2.
func (e *Endpoint) Do(ctx context.Context, r Request) (Response, error) {
	secrets := []issuer.Secret{r.Root, e.clientKey}
	if e.err != nil {
		return Response{}, notSent("no request can be sent", e.err, secrets)
	}
	if err := e.slots.Acquire(ctx, 1); err != nil {
		return Response{}, notSent("wait for other requests to end", err, secrets)
	}
	defer e.slots.Release(1)
	timeout := r.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var p progress
	request, err := e.newRequest(httptrace.WithClientTrace(ctx, p.trace()), r)
	if err != nil {
		return Response{}, notSent("prepare a request", err, secrets)
	}
	if request.GetBody != nil {
		request.GetBody = p.onlyOnce(request.GetBody)
	}
	answer, err := e.client.Do(request)
	if err != nil {
		return Response{}, p.connectionError(err, secrets)
	}
	defer answer.Body.Close()
	response := Response{Status: answer.StatusCode, Header: answer.Header, RetryAfter: e.retryAfter(answer.Header), secrets: secrets}
	switch {
	case !response.Success():
		// What could be read is enough for an error text.
		response.Body, _ = io.ReadAll(io.LimitReader(answer.Body, maxErrorAnswer))
		return response, nil
	case r.Check != nil:
		if err := r.Check(response); err != nil {
			return response, err
		}
	}
	if r.Read == nil {
		return response, nil
	}
	return response, readBody(answer.Body, r.Read, secrets)
}

// DoRepeatedly is Do for a request that may be sent several times. It sends the
// request again after a pause when the status is 429 or 500 to 599. It must not
// be used to create a token.
func (e *Endpoint) DoRepeatedly(ctx context.Context, r Request) (Response, error) {
	for attempt := 0; ; attempt++ {
		response, err := e.Do(ctx, r)
		temporary := response.Status == http.StatusTooManyRequests || response.Status >= 500
		if err != nil || !temporary || attempt == len(pauses) {
			return response, err
		}
		wait := max(pauses[attempt], response.RetryAfter)
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait || wait > maxPause {
			return response, nil
		}
		if e.options.Pause(ctx, wait) != nil {
			return response, nil // the answer says more than the error of ctx
		}
	}
}

func (e *Endpoint) newRequest(ctx context.Context, r Request) (*http.Request, error) {
	var body io.Reader
	if r.Body != nil {
		body = bytes.NewReader(r.Body)
	}
	request, err := http.NewRequestWithContext(ctx, r.Method, e.origin+r.Path, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+r.Root.Reveal())
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", e.options.UserAgent)
	if r.Body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, nil
}

// A recordedBody remembers the error that ended the body.
type recordedBody struct {
	io.Reader
	err error
}

func (b *recordedBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

// readBody calls read and replaces an error that the connection caused.
func readBody(body io.Reader, read func(io.Reader) error, secrets []issuer.Secret) error {
	recorded := &recordedBody{Reader: body}
	err := read(recorded)
	if err != nil && recorded.err != nil && (errors.Is(err, recorded.err) || errors.Is(err, boundedjson.ErrSyntax)) {
		return inDoubt("the answer ended early", recorded.err, secrets)
	}
	return err
}

// retryAfter reads the header Retry-After: seconds, or a date.
func (e *Endpoint) retryAfter(h http.Header) time.Duration {
	value := h.Get("Retry-After")
	var d time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		d = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		d = at.Sub(e.options.Now())
	}
	return min(max(d, 0), maxRetryAfter)
}

// ErrStop is for Read functions that have seen enough of an answer.
var ErrStop = errors.New("enough was read")

// notSent is the error of a request that the cluster did not receive.
func notSent(what string, cause error, secrets []issuer.Secret, kinds ...error) error {
	return failure.NotSent(describe(what, cause, secrets), kinds...)
}

// inDoubt is the error of a request that the cluster may have received.
func inDoubt(what string, cause error, secrets []issuer.Secret) error {
	err := describe(what, cause, secrets)
	if errors.Is(err, context.Canceled) {
		return err
	}
	return failure.Wrap(err, issuer.ErrUnreachable)
}

// describe returns an error that quotes cause and wraps only its errors of
// package context.
func describe(what string, cause error, secrets []issuer.Secret) error {
	return failure.New(fmt.Sprintf("%s: %s", what, quote(cause.Error(), secrets)), failure.ContextKinds(cause)...)
}
