// Package failure makes the errors that drivers return: a text without secrets,
// and the sentinels of package issuer and package context that it wraps.
package failure

import (
	"context"
	"errors"
	"fmt"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

type failure struct {
	text  string
	kinds []error
}

func (f *failure) Error() string   { return f.text }
func (f *failure) Unwrap() []error { return f.kinds }

// New returns an error with the given text that wraps kinds and nothing else.
// The text must not hold a secret.
func New(text string, kinds ...error) error { return &failure{text, kinds} }

// Wrap returns an error with the text of err that wraps err and kinds.
func Wrap(err error, kinds ...error) error {
	return &failure{err.Error(), append([]error{err}, kinds...)}
}

// errNotSent marks errors of requests that were not sent.
var errNotSent = fmt.Errorf("not sent: %w", issuer.ErrRefused)

// NotSent returns an error like Wrap that wraps issuer.ErrRefused too, for a
// request that was never sent to the cluster.
func NotSent(err error, kinds ...error) error {
	return Wrap(err, append(kinds, errNotSent)...)
}

// NotSentf is NotSent with the text of fmt.Errorf.
func NotSentf(format string, args ...any) error { return NotSent(fmt.Errorf(format, args...)) }

// WasSent reports whether the cluster may have received the request that ended
// with err. It is false only for errors of NotSent.
func WasSent(err error) bool { return !errors.Is(err, errNotSent) }

// ContextKinds returns the errors of package context that err wraps. Drivers keep
// them when they replace the text of an error.
func ContextKinds(err error) (kinds []error) {
	for _, kind := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, kind) {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}
