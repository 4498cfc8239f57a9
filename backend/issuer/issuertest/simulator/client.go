package simulator

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// A client sends the requests of the command to its cluster.
type client struct {
	base    string
	http    *http.Client
	profile profile
	run     int
	release func() // closes the connection whose end says that this process has ended
}

// newClient returns a client for the cluster of a profile. It does no I/O.
func newClient(p profile, s Sidecar) (*client, error) {
	c := &client{profile: p, http: &http.Client{Transport: &http.Transport{}}, base: s.URL}
	if p.Product != Clustered {
		if s.URL == "" {
			return nil, &commandError{text: TextNoSuchHost, exit: 1}
		}
		return c, nil
	}
	scheme := "https"
	if p.TLS.Disable {
		scheme = "http"
	}
	c.base = scheme + "://" + net.JoinHostPort(p.Host, cmp.Or(p.Port, "443"))
	config, err := p.TLS.config()
	if err != nil {
		return nil, err
	}
	c.http.Transport = &http.Transport{TLSClientConfig: config}
	return c, nil
}

func (t profileTLS) config() (*tls.Config, error) {
	config := &tls.Config{InsecureSkipVerify: t.Insecure}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("tls.ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("tls.ca: no certificate in the file")
		}
	}
	if t.Cert != "" || t.Key != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("tls.cert: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// A commandError ends the command with a text on standard error.
type commandError struct {
	text string
	exit int
}

func (e *commandError) Error() string { return e.text }
func (e *commandError) ExitCode() int { return e.exit }

// send sends a request. The caller closes the body of the answer. The fault is
// valid also if there is an error.
func (c *client) send(ctx context.Context, method, path string, body any) (*http.Response, Fault, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, Fault{}, err
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(text))
	if err != nil {
		return nil, Fault{}, err
	}
	req.Header.Set("Authorization", "Bearer "+c.profile.MgmtToken)
	req.Header.Set("Sim-Product", c.profile.Product)
	req.Header.Set("Sim-Account", c.profile.AccountID)
	req.Header.Set("Sim-Cluster", c.profile.ClusterID)
	answer, err := c.http.Do(req)
	if err != nil {
		return nil, Fault{}, transportError(err)
	}
	var fault Fault
	if header := answer.Header.Get(faultHeader); header != "" {
		if err := json.Unmarshal([]byte(header), &fault); err != nil {
			return nil, fault, errors.Join(err, answer.Body.Close())
		}
	}
	if answer.StatusCode < 400 {
		return answer, fault, nil
	}
	defer answer.Body.Close()
	return nil, fault, readRefusal(answer.Body)
}

// readRefusal reads the error of a refused request.
func readRefusal(body io.Reader) error {
	text, err := io.ReadAll(body)
	if err != nil {
		return transportError(err)
	}
	var refused cliError
	if err := json.Unmarshal(text, &refused); err != nil {
		return &commandError{text: strings.TrimSpace(string(text)), exit: 1}
	}
	return &commandError{text: refused.Error, exit: 1}
}

// transportError returns an error of the HTTP client with the text that gRPC
// gives to it.
func transportError(err error) error {
	if outer, ok := errors.AsType[*url.Error](err); ok {
		err = outer.Err
	}
	if errors.Is(err, http.ErrSchemeMismatch) { // net/http's own error for it
		err = tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}
	}
	text := fmt.Sprintf("rpc error: code = Unavailable desc = error reading from server: %v", err)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		text = TextDeadlineExceeded
	case handshakeFailed(err):
		text = connectionError("authentication handshake failed", err)
	case networkOp(err) == "dial":
		text = connectionError("Error while dialing", err)
	}
	return &commandError{text: text, exit: 1}
}

func connectionError(what string, err error) string {
	return fmt.Sprintf("rpc error: code = Unavailable desc = connection error: desc = %q",
		fmt.Sprintf("transport: %s: %v", what, err))
}

// handshakeFailed reports whether a TLS handshake failed.
func handshakeFailed(err error) bool {
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	_, noTLS := errors.AsType[tls.RecordHeaderError](err)
	return untrusted || noTLS || networkOp(err) == "remote error"
}

// networkOp returns the network operation that failed with err.
func networkOp(err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Op
	}
	return ""
}

// call sends a request and decodes the answer into out, if out is not nil.
func (c *client) call(ctx context.Context, path string, in, out any) (Fault, error) {
	answer, fault, err := c.send(ctx, http.MethodPost, path, in)
	if err != nil {
		return fault, err
	}
	defer answer.Body.Close()
	if out == nil || fault.Hang == Before {
		return fault, nil
	}
	if err := json.NewDecoder(answer.Body).Decode(out); err != nil {
		return fault, transportError(err)
	}
	return fault, nil
}

// start reports the run to the cluster and returns the violations. Its connection
// stays open until end, or until the process ends.
func (c *client) start(ctx context.Context, report runReport) ([]string, error) {
	// The context ctx limits only the wait for the answer.
	held, release := context.WithCancel(context.WithoutCancel(ctx))
	answered := context.AfterFunc(ctx, release)
	defer answered()
	resp, _, err := c.send(held, http.MethodPost, "/sim/cli/run", report)
	if err != nil {
		release()
		return nil, err
	}
	c.release = release
	var answer runAnswer
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, transportError(err)
	}
	c.run = answer.Run
	return answer.Violations, nil
}

// end reports that the run is over. If that fails, the cluster still notices that
// the connection is closed.
func (c *client) end(exit int) {
	if c.release == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	c.call(ctx, "/sim/cli/end", endReport{Run: c.run, Exit: exit}, nil)
	c.release()
	c.http.CloseIdleConnections()
}
