package managementapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// A verdict is an error in words of its own that says what kinds of error it
// is. It keeps nothing else of its causes, which may hold what somebody
// upstream has written.
type verdict struct {
	text  string
	kinds []error
}

func (v *verdict) Error() string   { return v.text }
func (v *verdict) Unwrap() []error { return v.kinds }

// notSent is the error of a request that the cluster has not seen.
func notSent(what string, cause error, secrets ...string) error {
	return &verdict{what + ": " + quote(cause.Error(), secrets...), append(kindsOf(cause), issuer.ErrRefused)}
}

// inDoubt is the error of a request that the cluster may have acted on.
func inDoubt(what string, cause error, secrets ...string) error {
	return &verdict{what + ": " + quote(cause.Error(), secrets...), kindsOf(cause)}
}

// refused says of an error, which speaks for itself, that nothing has changed.
func refused(err error) error {
	return &verdict{err.Error(), []error{issuer.ErrRefused, err}}
}

// kindsOf names what callers may look for in an error of the network.
func kindsOf(err error) (kinds []error) {
	for _, kind := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, kind) {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// asked reports whether the cluster may have seen a request that ended with
// err.
func asked(err error) bool { return !errors.Is(err, issuer.ErrRefused) }

// err says what a reply that is no success means.
func (r reply) err(secrets ...string) error {
	advice, kind := r.meaning()
	text := fmt.Sprintf("%s: the answer is %d %s", advice, r.status, http.StatusText(r.status))
	if said := quote(r.message, secrets...); said != "" {
		text += fmt.Sprintf(", saying %q", said)
	}
	if r.retryAfter > 0 {
		text += fmt.Sprintf(", to be tried again after %s", r.retryAfter)
	}
	if kind == nil {
		return &verdict{text: text}
	}
	return &verdict{text, []error{kind}}
}

// meaning is what a status says of the cluster; a nil kind leaves in doubt
// whether it has acted. Of what the documentation does not name, only what HTTP
// itself calls the client's fault is a no. Not so 408 and 499: by them
// intermediaries tell that somebody's patience has ended.
func (r reply) meaning() (advice string, kind error) {
	switch s := r.status; {
	case s == http.StatusUnauthorized:
		return "the cluster does not accept the root token: it is wrong, revoked or expired, so write a valid mgmt_token to config", issuer.ErrUnauthorized
	case s == http.StatusForbidden:
		return "the cluster does not let the root token do this: write the mgmt_token of an account that may manage tokens to config", issuer.ErrUnauthorized
	case s == http.StatusNotFound:
		return "the cluster has nothing at this path", issuer.ErrRefused
	case s == http.StatusProxyAuthRequired:
		return "the proxy wants credentials: check proxies in the environment", issuer.ErrRefused
	case s == http.StatusConflict:
		return "the cluster has a token that this one conflicts with", issuer.ErrRefused
	case s == http.StatusTooManyRequests:
		return "the cluster wants fewer requests: try again later", issuer.ErrRefused
	case s == http.StatusRequestTimeout || s == statusClientClosedRequest:
		return "it is not known whether the cluster has acted", nil
	case s >= 400 && s < 500:
		return "the cluster finds the request invalid", issuer.ErrRefused
	case s >= 300 && s < 400:
		return "something sends requests elsewhere, where the root token must not go: check host and api_url in config", nil
	case s >= 500:
		return "the cluster has trouble, and it is not known whether it has acted", nil
	}
	return "the answer is not one that is documented", nil
}

// statusClientClosedRequest is not registered, but widely used.
const statusClientClosedRequest = 499

// maxQuote bounds what an error quotes of others' words.
const maxQuote = 200

// redacted stands where a secret stood, or what looked like one.
const redacted = "[redacted]"

var (
	secretShapes = regexp.MustCompile(strings.Join([]string{
		`apiv\d+_\S*`,                // database token
		`M\.V\d+\.\S*`,               // management token
		`eyJ[\w-]+\.[\w-]*\S*`,       // JWT
		`(?i)\bbearer\s+\S+`,         // whatever was sent as one
		`-----BEGIN[\s\S]*`,          // PEM
		`://[^/\s@]*@`,               // credentials of a proxy
		`(?i)"?accessToken"?[\s\S]*`, // an answer to a mint
	}, "|"))

	longWord = regexp.MustCompile(`[\w+/=.-]{24,}`)
	upper    = regexp.MustCompile(`[A-Z]`)
	lower    = regexp.MustCompile(`[a-z]`)
	digit    = regexp.MustCompile(`[0-9]`)
)

// quote returns the beginning of text on one line of printable ASCII and
// without secrets: not those given, nor anything that looks like one. It errs
// on the side of taking away too much.
func quote(text string, secrets ...string) string {
	text = printable(text)
	for _, s := range secrets {
		if s = strings.TrimSpace(printable(s)); s != "" {
			text = strings.ReplaceAll(text, s, redacted)
		}
	}
	text = secretShapes.ReplaceAllString(text, redacted)
	text = longWord.ReplaceAllStringFunc(text, func(word string) string {
		if upper.MatchString(word) && lower.MatchString(word) && digit.MatchString(word) {
			return redacted
		}
		return word
	})
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxQuote {
		text = text[:maxQuote] + "…"
	}
	return text
}

// printable drops what no message needs, so that no invisible character splits
// a secret.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || ' ' <= r && r <= '~' {
			return r
		}
		return -1
	}, text)
}
