package backend

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

// errNoConfig is what everything that needs a cluster says before there is one.
var errNoConfig = errors.New("no cluster is configured yet: write this mount's config first (see `vault path-help` of config)")

// An upstreamError is an error of the cluster, or of what stands between it and
// us.
type upstreamError struct {
	doing string
	err   error
}

func (e *upstreamError) Error() string { return fmt.Sprintf("%s: %v", e.doing, e.err) }
func (e *upstreamError) Unwrap() error { return e.err }

// upstream marks err, if it is one, as the cluster's.
func upstream(doing string, err error) error {
	if err == nil {
		return nil
	}
	return &upstreamError{doing, err}
}

// badRequest is an error of the caller's.
func badRequest(format string, args ...any) error {
	return logical.CodedError(http.StatusBadRequest, fmt.Sprintf(format, args...))
}

// fail turns an error into the answer of a path operation. A coded error must
// stand alone and outermost, or core makes it a 500. 502 is the cluster out of
// reach; 503 would say "sealed" to a load balancer.
//
// Callbacks of the secret must not use it: core takes some of these answers for
// a reason never to try again.
func fail(err error) (*logical.Response, error) {
	var coded logical.HTTPCodedError
	var up *upstreamError
	switch {
	case errors.As(err, &coded):
		return nil, logical.CodedError(coded.Code(), err.Error())
	case errors.Is(err, errNoConfig):
		return nil, badRequest("%v", err)
	case errors.Is(err, errTooMany):
		return nil, logical.CodedError(http.StatusTooManyRequests, err.Error())
	case errors.Is(err, issuer.ErrUnauthorized):
		return nil, badRequest("%v", err)
	case errors.As(err, &up), errors.Is(err, errUnsettled):
		return nil, logical.CodedError(http.StatusBadGateway, err.Error())
	}
	return nil, err
}
