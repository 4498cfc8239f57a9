package influxctl

import (
	"errors"
	"testing"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

func TestAFailedRunIsJudgedByWhatItSays(t *testing.T) {
	const unavailable = `rpc error: code = Unavailable desc = connection error: desc = `
	for said, want := range map[string]error{
		"rpc error: code = Unauthenticated desc = token expired": issuer.ErrUnauthorized,
		"UNAUTHENTICATED":                   issuer.ErrUnauthorized,
		"unexpected HTTP status code 401":   issuer.ErrUnauthorized,
		"401 Unauthorized":                  issuer.ErrUnauthorized,
		"code = PermissionDenied desc = no": issuer.ErrUnauthorized,
		"Error: permission denied":          issuer.ErrUnauthorized,
		"403 Forbidden":                     issuer.ErrUnauthorized,
		unavailable + `"transport: Error while dialing: dial tcp 127.0.0.1:1: connect: connection refused"`:                                            issuer.ErrRefused,
		unavailable + `"transport: Error while dialing: dial tcp: lookup nowhere.invalid: no such host"`:                                               issuer.ErrRefused,
		unavailable + `"transport: authentication handshake failed: tls: failed to verify certificate: x509: certificate signed by unknown authority"`: issuer.ErrRefused,
		unavailable + `"transport: authentication handshake failed: tls: first record does not look like a TLS handshake"`:                             issuer.ErrRefused,
		"rpc error: code = Unavailable desc = name resolver error: produced zero addresses":                                                            issuer.ErrRefused,
		"code = InvalidArgument desc = expires in the past":                                                                                            issuer.ErrRefused,
		"code = ResourceExhausted desc = quota":                                                                                                        issuer.ErrRefused,
		"429 Too Many Requests":                                                                                                                        issuer.ErrRefused,
		"code = Unimplemented desc = unknown service":                                                                                                  issuer.ErrRefused,
		"Incorrect Usage: flag provided but not defined: -x":                                                                                           issuer.ErrRefused,
		"flag provided but not defined: -timeout":                                                                                                      issuer.ErrRefused,
		"No help topic for 'management'":                                                                                                               issuer.ErrRefused,
		"strict mode: fields in the document are missing in the target struct":                                                                         issuer.ErrRefused,
	} {
		c := causeOf(1, said)
		if c.sentinel != want || c.advice == "" {
			t.Errorf("%s: %v, want %v", said, c.sentinel, want)
		}
		for _, exit := range []int{-1, 2} {
			if c := causeOf(exit, said); c.sentinel != nil {
				t.Errorf("exit %d, %s: %v, want doubt", exit, said, c.sentinel)
			}
		}
	}
	if c := causeOf(3, ""); c.sentinel != issuer.ErrRefused {
		t.Errorf("exit 3: %v", c.sentinel)
	}
}

func TestWhatLeavesDoubtIsNoRefusal(t *testing.T) {
	for _, said := range []string{
		"",
		"something went wrong",
		"code = DeadlineExceeded desc = context deadline exceeded",
		"code = Unavailable desc = error reading from server: EOF",
		"code = Unavailable desc = upstream connect error",
		"code = Unavailable desc = connection error: desc = \"transport: authentication handshake failed: EOF\"",
		"code = Unavailable desc = dial tcp 127.0.0.1:1: i/o timeout",
		"code = Internal desc = upstream said: permission denied",
		"code = Unknown desc = 401 Unauthorized",
		"code = AlreadyExists desc = a token of this description",
		"code = NotFound desc = account not found",
		"read tcp 127.0.0.1:1: connection reset by peer, then connection refused",
		"first: unauthenticated\nsecond: timed out",
		"write: broken pipe (connection refused)",
		"http2: server sent GOAWAY: code = ResourceExhausted",
		"code = ResourceExhausted desc = grpc: received message larger than max (5 vs. 4)",
		"open /home/x/.cache/influxctl/1.json: permission denied",
		"shard 401 is down",
		"warn\tplease copy the token and store in a safe place\nflag provided but not defined: -format",
		"panic: unauthenticated",
	} {
		if c := causeOf(1, said); c.sentinel != nil {
			t.Errorf("%s: %v, want doubt", said, c.sentinel)
		}
	}
}

func TestAVerdictIsBothItsSentinelAndItsError(t *testing.T) {
	inner := errors.New("words")
	v := error(&verdict{issuer.ErrUnauthorized, inner})
	if !errors.Is(v, issuer.ErrUnauthorized) || !errors.Is(v, issuer.ErrRefused) || !errors.Is(v, inner) || v.Error() != "words" || !asked(v) {
		t.Error(v)
	}
	n := notRunf("no: %w", inner)
	if !errors.Is(n, issuer.ErrRefused) || !errors.Is(n, inner) || asked(n) {
		t.Error(n)
	}
}

// Whatever the program says, there is a verdict; where it hints at a token, a
// timeout or a crash, that is doubt.
func FuzzCauseOf(f *testing.F) {
	for _, said := range []string{"", "code = Unauthenticated", "connection refused", "panic: x", "M.V1.abcdef", "context deadline exceeded", "open /a: permission denied"} {
		f.Add(1, said)
		f.Add(-1, said)
	}
	f.Fuzz(func(t *testing.T, exit int, said string) {
		c := causeOf(exit, said)
		if c.advice == "" {
			t.Error("no advice")
		}
		doubtful := exit < 0 || exit == exitPanic || exit != exitUnknownCommand && causes[0].text.MatchString(said)
		if doubtful && c.sentinel != nil {
			t.Errorf("exit %d, %q: %v", exit, said, c.sentinel)
		}
	})
}
