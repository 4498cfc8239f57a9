package failure

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

func TestFailure_WrapsItsKinds(t *testing.T) {
	cause := errors.New("cause")
	for _, c := range []struct {
		name      string
		err       error
		text      string
		is, isNot []error
		sent      bool
	}{
		{"New", New("text", issuer.ErrUnauthorized), "text", []error{issuer.ErrUnauthorized, issuer.ErrRefused}, []error{cause}, true},
		{"New without kinds", New("text"), "text", nil, []error{issuer.ErrRefused, issuer.ErrUnknown}, true},
		{"Wrap", Wrap(cause, issuer.ErrUnknown), "cause", []error{cause, issuer.ErrUnknown}, []error{issuer.ErrRefused}, true},
		{"NotSent", NotSent(cause, issuer.ErrUnreachable), "cause", []error{cause, issuer.ErrUnreachable, issuer.ErrRefused}, nil, false},
		{"NotSentf", NotSentf("wait: %w", cause), "wait: cause", []error{cause, issuer.ErrRefused}, []error{issuer.ErrUnreachable}, false},
		{"wrapped NotSent", fmt.Errorf("more: %w", NotSent(cause)), "more: cause", []error{issuer.ErrRefused}, nil, false},
		{"refused by the cluster", Wrap(cause, issuer.ErrRefused), "cause", []error{issuer.ErrRefused}, nil, true},
	} {
		if c.err.Error() != c.text || WasSent(c.err) != c.sent {
			t.Errorf("%s: %q, sent %v", c.name, c.err, WasSent(c.err))
		}
		for _, want := range c.is {
			if !errors.Is(c.err, want) {
				t.Errorf("%s does not wrap %v", c.name, want)
			}
		}
		for _, not := range c.isNot {
			if errors.Is(c.err, not) {
				t.Errorf("%s wraps %v", c.name, not)
			}
		}
	}
	if kinds := ContextKinds(fmt.Errorf("x: %w", context.Canceled)); len(kinds) != 1 || kinds[0] != context.Canceled {
		t.Error(kinds)
	}
}
