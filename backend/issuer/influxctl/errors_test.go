package influxctl

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

func (c cause) is(kind error) bool {
	return slices.ContainsFunc(c.kinds, func(k error) bool { return errors.Is(k, kind) })
}

func TestCauseOf_Refusals(t *testing.T) {
	const unavailable = `rpc error: code = Unavailable desc = connection error: desc = `
	for stderr, want := range map[string]error{
		"rpc error: code = Unauthenticated desc = token expired": issuer.ErrUnauthorized,
		"UNAUTHENTICATED":                   issuer.ErrUnauthorized,
		"unexpected HTTP status code 401":   issuer.ErrUnauthorized,
		"401 Unauthorized":                  issuer.ErrUnauthorized,
		"code = PermissionDenied desc = no": issuer.ErrUnauthorized,
		"Error: permission denied":          issuer.ErrUnauthorized,
		"403 Forbidden":                     issuer.ErrUnauthorized,
		unavailable + `"transport: Error while dialing: dial tcp 127.0.0.1:1: connect: connection refused"`:                                                                                                 issuer.ErrUnreachable,
		"rpc error: code = Unavailable desc = last " + strings.TrimPrefix(unavailable, "rpc error: code = Unavailable desc = ") + `"transport: Error while dialing: dial tcp: connect: connection refused"`: issuer.ErrUnreachable,
		"rpc error: code = Unavailable desc = dns: A record lookup error: lookup nowhere.invalid on 127.0.0.53:53: no such host":                                                                            issuer.ErrUnreachable,
		unavailable + `"transport: Error while dialing: dial tcp: lookup nowhere.invalid: no such host"`:                                                                                                    issuer.ErrUnreachable,
		unavailable + `"transport: authentication handshake failed: tls: failed to verify certificate: x509: certificate signed by unknown authority"`:                                                      issuer.ErrUnreachable,
		unavailable + `"transport: authentication handshake failed: tls: first record does not look like a TLS handshake"`:                                                                                  issuer.ErrUnreachable,
		"rpc error: code = Unavailable desc = name resolver error: produced zero addresses":                                                                                                                 issuer.ErrUnreachable,
		"code = InvalidArgument desc = expires in the past":                                                                                                                                                 issuer.ErrInvalid,
		"400 Bad Request":                                                      issuer.ErrInvalid,
		"code = ResourceExhausted desc = quota":                                issuer.ErrRefused,
		"429 Too Many Requests":                                                issuer.ErrRefused,
		"code = Unimplemented desc = unknown service":                          issuer.ErrRefused,
		"Incorrect Usage: flag provided but not defined: -x":                   issuer.ErrRefused,
		"flag provided but not defined: -timeout":                              issuer.ErrRefused,
		"No help topic for 'management'":                                       issuer.ErrRefused,
		"strict mode: fields in the document are missing in the target struct": issuer.ErrRefused,
	} {
		c := causeOf(1, stderr)
		if !c.is(want) || !c.is(issuer.ErrRefused) || c.advice(issuer.Cluster{}) == "" {
			t.Errorf("%s: %v, want %v", stderr, c.kinds, want)
		}
		for _, other := range []error{issuer.ErrUnauthorized, issuer.ErrUnreachable, issuer.ErrInvalid} {
			if other != want && c.is(other) {
				t.Errorf("%s: %v, want %v only", stderr, c.kinds, want)
			}
		}
		for _, exit := range []int{-1, 2} {
			if c := causeOf(exit, stderr); len(c.kinds) > 0 {
				t.Errorf("exit %d, %s: %v, want none", exit, stderr, c.kinds)
			}
		}
	}
}

func TestCauseOf_DoubtIsNoRefusal(t *testing.T) {
	for stderr, unreachable := range map[string]bool{
		"":                     false,
		"something went wrong": false,
		"code = DeadlineExceeded desc = context deadline exceeded":                                                          true,
		"code = Unavailable desc = error reading from server: EOF":                                                          true,
		"code = Unavailable desc = upstream connect error":                                                                  true,
		"code = Unavailable desc = connection error: desc = \"transport: authentication handshake failed: EOF\"":            true,
		"code = Unavailable desc = dial tcp 127.0.0.1:1: i/o timeout":                                                       true,
		"code = Internal desc = upstream said: permission denied":                                                           false,
		"code = Unknown desc = 401 Unauthorized":                                                                            false,
		"code = AlreadyExists desc = a token of this description":                                                           false,
		"code = NotFound desc = account not found":                                                                          false,
		"read tcp 127.0.0.1:1: connection reset by peer, then connection refused":                                           true,
		"code = Unavailable desc = error reading from server: read tcp 10.0.0.1:5000->10.0.0.2:443: read: no route to host": true,
		"code = Unavailable desc = write tcp 10.0.0.1:5000->10.0.0.2:443: write: network is unreachable":                    true,
		"transport is closing; retry: connect: connection refused":                                                          true,
		"first: unauthenticated\nsecond: timed out":                                                                         true,
		"write: broken pipe (connection refused)":                                                                           true,
		"code = Unavailable desc = store the token: dial tcp 10.0.0.5:5432: connect: connection refused":                    true, // of the cluster
		"code = Unavailable desc = replicate: tls: failed to verify certificate: x509: expired":                             true,
		"502 Bad Gateway: dial tcp 10.0.0.5:443: connect: connection refused":                                               true, // of a proxy
		"503 Service Unavailable: lookup backend: no such host":                                                             true,
		"500 Internal Server Error: permission denied for relation tokens":                                                  false,
		"http2: server sent GOAWAY: code = ResourceExhausted":                                                               false,
		"code = ResourceExhausted desc = grpc: received message larger than max (5 vs. 4)":                                  false,
		"open /home/x/.cache/influxctl/1.json: permission denied":                                                           false,
		"shard 401 is down": false,
		"warn\tplease copy the token and store in a safe place\nflag provided but not defined: -format": false,
		"panic: unauthenticated": false,
	} {
		c := causeOf(1, stderr)
		if c.is(issuer.ErrRefused) || c.is(issuer.ErrUnreachable) != unreachable || c.advice(issuer.Cluster{}) == "" {
			t.Errorf("%s: %v", stderr, c.kinds)
		}
	}
}

// The CLI library ends with status 3 for an unknown command, and says so. The
// status alone may mean anything else.
func TestCauseOf_StatusThreeNeedsItsText(t *testing.T) {
	if c := causeOf(3, "No help topic for 'management'"); !c.is(issuer.ErrRefused) {
		t.Errorf("unknown command: %v", c.kinds)
	}
	for _, stderr := range []string{"", "code = DeadlineExceeded", "warn\tplease copy the token", "panic: x"} {
		if c := causeOf(3, stderr); c.is(issuer.ErrRefused) {
			t.Errorf("%q: %v", stderr, c.kinds)
		}
	}
}

func TestCauseOf_AdviceNamesTheLikelyCause(t *testing.T) {
	dedicated := issuer.Cluster{Product: issuer.Dedicated, Root: issuer.NewSecret("M.V1.x")}
	database := issuer.Cluster{Product: issuer.Dedicated, Root: issuer.NewSecret("apiv1_x")}
	for _, stderr := range []string{"code = Unauthenticated", "code = PermissionDenied"} {
		if got := causeOf(1, stderr).advice(dedicated); !strings.Contains(got, "account_id and cluster_id") {
			t.Error(got)
		}
		if got := causeOf(1, stderr).advice(database); !strings.Contains(got, "is a database token") {
			t.Error(got)
		}
	}
}

// Every text has advice. A text that hints at a token, a timeout or a crash is no
// refusal.
func FuzzCauseOf(f *testing.F) {
	for _, stderr := range []string{"", "code = Unauthenticated", "connection refused", "panic: x", "M.V1.abcdef", "context deadline exceeded", "open /a: permission denied"} {
		f.Add(1, stderr)
		f.Add(-1, stderr)
	}
	f.Fuzz(func(t *testing.T, exit int, stderr string) {
		c := causeOf(exit, stderr)
		if c.advice(issuer.Cluster{}) == "" {
			t.Error("no advice")
		}
		doubtful := exit < 0 || exit == exitPanic || causes[0].text.MatchString(stderr) || causes[1].text.MatchString(stderr)
		if doubtful && c.is(issuer.ErrRefused) {
			t.Errorf("exit %d, %q: %v", exit, stderr, c.kinds)
		}
		_ = saysUnknownToken(stderr)
	})
}
