package influxctl

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// A verdict is an error that is a kind of sentinel and says so in its own
// words.
type verdict struct{ sentinel, err error }

func (v *verdict) Error() string   { return v.err.Error() }
func (v *verdict) Unwrap() []error { return []error{v.sentinel, v.err} }

// A notRun is the error of a call for which no process did any work. It is a
// refusal: the cluster was never asked.
type notRun struct{ err error }

func (n *notRun) Error() string   { return n.err.Error() }
func (n *notRun) Unwrap() []error { return []error{issuer.ErrRefused, n.err} }

// notRunf makes a notRun.
func notRunf(format string, args ...any) error { return &notRun{fmt.Errorf(format, args...)} }

// asked reports whether the cluster may have been asked in a call that ended
// with err.
func asked(err error) bool {
	var n *notRun
	return !errors.As(err, &n)
}

// A cause is what a failed run may have come to grief on.
type cause struct {
	text     *regexp.Regexp // on standard error
	sentinel error          // nil: what the run has changed is not known
	advice   string
}

// causes are looked through in this order. The texts are gRPC's, Go's and the
// CLI library's; the vendor's own differ between versions. Whatever leaves room
// for doubt whether the cluster has acted stands first.
var causes = []cause{
	{
		// Of the codes of gRPC, those not in this list are judged below.
		texts(`code = (canceled|unknown|deadlineexceeded|alreadyexists|failedprecondition|aborted|outofrange|internal|dataloss)`,
			`(^|[^-\w])timed?[ -]?out`, `deadline exceeded`, `context canceled`, `\beof\b`, `\breset\b`, `broken pipe`,
			`closed network connection`, `larger than max`, `goaway`, `panic:`,
			`\b(open|read|write|stat|mkdir|fork/exec) \S*[/\\]\S*: `, // a local file, whose permission may be denied
			`copy the token`, `M\.V\d+\.`), // said of a token that was made
		nil, "it is not known whether the cluster has acted",
	},
	{
		texts(`unauthenticated`, `401 unauthorized`, `\b(http|status|code|error)\W{0,3}(code\W{0,3})?401\b`),
		issuer.ErrUnauthorized, "the cluster does not accept the root token: it is wrong, revoked or expired, so write a valid mgmt_token to config",
	},
	{
		texts(`permission ?denied`, `403 forbidden`, `\b(http|status|code|error)\W{0,3}(code\W{0,3})?403\b`),
		issuer.ErrUnauthorized, "the cluster does not let the root token do this: write the mgmt_token of an account that may manage tokens to config",
	},
	{
		texts(`x509:`, `failed to verify certificate`, `handshake fail`, `tls: (bad certificate|certificate required|unknown certificate|first record does not look like a tls handshake|protocol version not supported)`),
		issuer.ErrRefused, "there is no trusted TLS connection to the cluster: check host, port and ca_cert, client_cert and client_key in config",
	},
	{
		texts(`connection refused`, `no such host`, `server misbehaving`, `network is unreachable`, `no route to host`, `produced zero addresses`),
		issuer.ErrRefused, "the cluster is out of reach: check the network, and host and port in config where they are set",
	},
	{
		texts(`code = invalidargument`, `400 bad request`),
		issuer.ErrRefused, "the cluster finds the request invalid",
	},
	{
		texts(`code = resourceexhausted`, `429 too many requests`, `too many requests`),
		issuer.ErrRefused, "the cluster wants fewer requests: try again later",
	},
	{
		texts(`code = unimplemented`),
		issuer.ErrRefused, "the cluster does not know this request: it may be too old to manage tokens this way",
	},
	{
		texts(`no help topic for`, `incorrect usage`, `flag provided but not defined`),
		issuer.ErrRefused, "this influxctl does not know the command: name a newer one with INFLUXCTL_PATH",
	},
	{
		texts(`strict mode: fields in the document`, `\btoml: `),
		issuer.ErrRefused, "this influxctl does not understand its profile: name a newer one with INFLUXCTL_PATH",
	},
}

var (
	grpcNotFound = regexp.MustCompile(`(?i)code = not ?found( desc =)?`)
	notFound     = texts(`not ?found`, `does(n't| not) exist`)
	noSuchToken  = texts(`\b(no such|unknown) (management )?token`)

	// noun is what may be said not to be found.
	noun = texts(`\b(token|account|cluster|organi[sz]ation|user|profile|file|directory|config|configuration|command|help|host|address|server|service|method|page|path|route|endpoint|url)s?\b`)
)

// saysUnknownToken reports whether the error text of a run with one ID says that
// the cluster knows no such token. The vendor does not document the text. So an
// account, a cluster or anything else but a token that was not found, and an
// HTTP status alone, do not count.
func saysUnknownToken(stderr string) bool {
	text := grpcNotFound.ReplaceAllString(stderr, "")
	found := noSuchToken.MatchString(text)
	matches := notFound.FindAllStringIndex(text, -1)
	if text != stderr && len(matches) == 0 {
		found = true // only the code says so: no noun but token may follow
		matches = [][]int{{len(text), len(text)}}
	}
	for _, m := range matches {
		nouns := noun.FindAllString(text[:m[0]], -1)
		switch {
		case len(nouns) == 0 && text == stderr:
			return false // nothing says what was not found
		case len(nouns) > 0 && !strings.HasPrefix(strings.ToLower(nouns[len(nouns)-1]), "token"):
			return false
		}
		found = true
	}
	return found
}

// texts matches any of the patterns, in whatever case.
func texts(patterns ...string) *regexp.Regexp {
	all := `(?i)`
	for i, p := range patterns {
		if i > 0 {
			all += "|"
		}
		all += "(?:" + p + ")"
	}
	return regexp.MustCompile(all)
}

// Exit statuses with a meaning of their own. A process that a signal ended has
// none, and -1 in its place.
const (
	exitPanic          = 2 // a Go program's
	exitUnknownCommand = 3 // the CLI library's
)

// causeOf judges a failed run by its exit status and its standard error. It is
// slow to believe that nothing has changed: what it does not know leaves doubt.
func causeOf(exit int, stderr string) cause {
	doubt := causes[0]
	switch {
	case exit < 0 || exit == exitPanic:
		return doubt
	case exit == exitUnknownCommand:
		return cause{sentinel: issuer.ErrRefused, advice: "this influxctl does not know the command: name a newer one with INFLUXCTL_PATH"}
	}
	for _, c := range causes {
		if c.text.MatchString(stderr) {
			return c
		}
	}
	return doubt
}

// failure is the error of a run that ended with a status other than zero. Only
// its standard error is quoted: what create prints on standard output may be a
// token.
//
// A token in it makes for doubt, since it may be a new one; but not if it is one
// of the secrets, which a cluster may repeat when it refuses them.
func failure(out outcome, secrets ...string) error {
	c := causeOf(out.exit(), withoutAll(plain([]byte(out.stderr)), secrets))
	err := fmt.Errorf("%s: %v", c.advice, out.state)
	if said := quote(out.stderr, secrets...); said != "" {
		err = fmt.Errorf("%w, saying %q", err, said)
	}
	if c.sentinel == nil {
		return err
	}
	return &verdict{c.sentinel, err}
}
