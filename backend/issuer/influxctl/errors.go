package influxctl

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/failure"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/redact"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/rootcredential"
)

// A cause is a reason why a run may have failed.
type cause struct {
	text   *regexp.Regexp // on standard error
	kinds  []error        // without issuer.ErrRefused, the cluster may have processed the request
	advice func(issuer.Cluster) string
}

// always is advice that does not depend on the cluster.
func always(text string) func(issuer.Cluster) string {
	return func(issuer.Cluster) string { return text }
}

// inDoubt is the cause of a failure that says nothing certain.
var inDoubt = cause{advice: always("the cluster may have processed the request")}

// causes are tried in this order. The texts are those of gRPC, of Go and of the
// CLI library; the vendor's own texts differ between versions
// (docs/vendor-facts.md, "error-texts"). The texts that leave open whether the
// cluster has processed the request come first.
var causes = []cause{
	{
		texts(`code = deadlineexceeded`, `(^|[^-\w])timed?[ -]?out`, `deadline exceeded`,
			`\beof\b`, `\breset\b`, `broken pipe`, `closed network connection`, `transport is closing`,
			`bad gateway`, `service unavailable`, `error reading from server`, `\b(read|write) tcp\b`), // an established connection can end by "no route to host", too
		[]error{issuer.ErrUnreachable}, always("the cluster did not answer in time or the connection ended, and it may have processed the request"),
	},
	{
		// The codes of gRPC that are not here are in the entries below.
		texts(`code = (canceled|unknown|alreadyexists|failedprecondition|aborted|outofrange|internal|dataloss)`,
			`internal server error`, `context canceled`, `larger than max`, `goaway`, `panic:`,
			`\b(open|read|write|stat|mkdir|fork/exec) \S*[/\\]\S*: `, // a local file; its "permission denied" is not the cluster's
			`copy the token`, `M\.V\d+\.`), // printed for a token that was created
		nil, inDoubt.advice,
	},
	{
		texts(`unauthenticated`, `401 unauthorized`, `\b(http|status|code|error)\W{0,3}(code\W{0,3})?401\b`),
		[]error{issuer.ErrUnauthorized}, rootcredential.NotAccepted,
	},
	{
		texts(`permission ?denied`, `403 forbidden`, `\b(http|status|code|error)\W{0,3}(code\W{0,3})?403\b`),
		[]error{issuer.ErrUnauthorized}, rootcredential.NotAllowed,
	},
	{
		texts(`x509:`, `failed to verify certificate`, `handshake fail`, `tls: (bad certificate|certificate required|unknown certificate|first record does not look like a tls handshake|protocol version not supported)`),
		[]error{issuer.ErrRefused, issuer.ErrUnreachable}, always("there is no trusted TLS connection to the cluster: check host, port, ca_cert, client_cert and client_key in config"),
	},
	{
		texts(`connection refused`, `no such host`, `server misbehaving`, `network is unreachable`, `no route to host`, `produced zero addresses`),
		[]error{issuer.ErrRefused, issuer.ErrUnreachable}, always("the cluster is out of reach: check the network, and host and port in config if they are set"),
	},
	{
		texts(`code = invalidargument`, `400 bad request`),
		[]error{issuer.ErrInvalid}, always("the cluster refuses the request as invalid"),
	},
	{
		texts(`code = resourceexhausted`, `429 too many requests`, `too many requests`),
		[]error{issuer.ErrRefused}, always("the cluster limits the rate of requests: try again later"),
	},
	{
		texts(`code = unimplemented`),
		[]error{issuer.ErrRefused}, always("the cluster does not know this request: its release may be too old to manage tokens with influxctl"),
	},
	{
		texts(`no help topic for`, `incorrect usage`, `flag provided but not defined`),
		[]error{issuer.ErrRefused}, always("this influxctl does not know the command: install a newer one, or name one with INFLUXCTL_PATH"),
	},
	{
		texts(`strict mode: fields in the document`, `\btoml: `),
		[]error{issuer.ErrRefused}, always("this influxctl does not understand the profile: install a newer one, or name one with INFLUXCTL_PATH"),
	},
	unavailable,
}

// unavailable is also the cause if the cluster says that it is not available because
// one of its own connections failed.
var unavailable = cause{
	texts(`code = unavailable`),
	[]error{issuer.ErrUnreachable}, always("the cluster is not available, and may have processed the request"),
}

// ownConnection matches the texts of gRPC about a connection of the program.
var ownConnection = texts(`connection error: desc`, `while dialing`, `resolver error`, `\bdns: `)

// neverConnected reports whether c means that there was no connection.
func (c cause) neverConnected() bool {
	return slices.Contains(c.kinds, issuer.ErrRefused) && slices.Contains(c.kinds, issuer.ErrUnreachable)
}

// texts matches any of the patterns, in upper or lower case.
func texts(patterns ...string) *regexp.Regexp {
	return regexp.MustCompile(`(?i)(?:` + strings.Join(patterns, `)|(?:`) + `)`)
}

// exitPanic is the exit status of a Go program that panics. Other statuses have no
// meaning of their own: docs/vendor-facts.md, "exit-status". A process that a
// signal ended has the status -1.
const exitPanic = 2

// causeOf returns the cause of a run that failed, from its exit status and its
// standard error. Whatever it does not know is inDoubt.
func causeOf(exit int, stderr string) cause {
	if exit < 0 || exit == exitPanic {
		return inDoubt
	}
	for _, c := range causes {
		if !c.text.MatchString(stderr) {
			continue
		}
		if c.neverConnected() && unavailable.text.MatchString(stderr) && !ownConnection.MatchString(stderr) {
			return unavailable
		}
		return c
	}
	return inDoubt
}

// exitError returns the error of a run that ended with a status other than zero.
// It quotes only standard error: create may print a token on standard output.
//
// A token on standard error may be a new one, and leaves open whether it was
// created. The root credential and the client key do not, because a cluster may
// repeat them when it refuses them.
func exitError(out outcome, c issuer.Cluster) error {
	found := causeOf(out.exit(), redact.Known(redact.Plain(out.stderr), c.Root, c.ClientKey))
	text := fmt.Sprintf("%s: %v%s", found.advice(c), out.state, quoteMessage(out, c.Root, c.ClientKey))
	return failure.New(text, found.kinds...)
}

// quoteMessage quotes standard error without secrets, for the end of an error. It
// returns nothing if there is none.
func quoteMessage(out outcome, secrets ...issuer.Secret) string {
	quoted := redact.Quote(out.stderr, secrets...)
	if quoted == "" {
		return ""
	}
	return fmt.Sprintf(", with the message %q", quoted)
}

// failureText matches what a program prints about a failure: a line that begins
// with a word for it, a log entry of that level, or a status of gRPC.
var failureText = regexp.MustCompile(`(?im)^\W*(?:error|fatal|panic|failed|incorrect usage)\b|\blevel\W{1,4}(?:error|fatal)\b|\brpc error\b|\bcode = [a-z]+`)

// reportedFailure returns an error if the output of a run that ended with status 0
// reports a failure. It proves nothing, because such output is not documented
// (docs/vendor-facts.md, "exit-status").
func reportedFailure(verb, output string, c issuer.Cluster) error {
	if !failureText.MatchString(output) && !saysUnknownToken(output) {
		return nil
	}
	return failure.New(fmt.Sprintf("influxctl management %s: exit status 0, but it reports a failure: %q", verb, redact.Quote(output, c.Root, c.ClientKey)))
}

var (
	grpcNotFound = regexp.MustCompile(`(?i)code = not ?found( desc =)?`)
	notFound     = texts(`not ?found`, `does(n't| not) exist`)
	noSuchToken  = texts(`\b(no such|unknown) (management )?token`)

	// noun matches what a text may say was not found.
	noun = texts(`\b(token|account|cluster|organi[sz]ation|user|profile|file|directory|config|configuration|command|help|host|address|server|service|method|page|path|route|endpoint|url)s?\b`)
)

// deadText matches texts that may be the answer for a token that has expired or is
// revoked already. They are not documented: docs/vendor-facts.md, "revoke-again".
var deadText = texts(`expired`, `already`, `revoked`, `not active`, `inactive`, `not ?found`, `no such`, `not exist`, `failed ?precondition`, `invalid ?argument`)

// mayMeanExpired reports whether a run that failed with err may have failed because
// its token has expired. Another failure has another cause, and an expiry that has
// passed by the clock of this machine, which may be wrong, does not settle it.
func mayMeanExpired(err error, printed string) bool {
	return !errors.Is(err, issuer.ErrUnauthorized) && !errors.Is(err, issuer.ErrUnreachable) && deadText.MatchString(printed)
}

// saysUnknownToken reports whether the error text of a run with one ID says that
// the cluster does not know this token. The vendor does not document the text
// (docs/vendor-facts.md, "not-found-texts"). So it does not count if an account,
// a cluster or anything else but a token was not found, or if there is only an
// HTTP status.
func saysUnknownToken(stderr string) bool {
	text := grpcNotFound.ReplaceAllString(stderr, "")
	matches := notFound.FindAllStringIndex(text, -1)
	if text != stderr && len(matches) == 0 { // only the gRPC code says it
		matches = [][]int{{len(text), len(text)}}
	}
	for _, m := range matches {
		what := noun.FindString(text[m[1]:])
		if before := noun.FindAllString(text[:m[0]], -1); len(before) > 0 {
			what = before[len(before)-1]
		} else if text == stderr { // nothing says what was not found
			return false
		}
		if what != "" && !strings.HasPrefix(strings.ToLower(what), "token") {
			return false
		}
	}
	return len(matches) > 0 || noSuchToken.MatchString(text)
}
