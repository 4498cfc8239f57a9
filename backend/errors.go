package backend

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/ledger"
)

var (
	// errNoConfig is the answer of every path that needs a cluster before one is
	// configured.
	errNoConfig = errors.New("no cluster is configured: write this mount's config first (see `vault path-help` of config)")

	// errStandby is returned instead of a call to the cluster on a node that may
	// not write to storage. Vault recognizes the text of logical.ErrReadOnly and
	// forwards the request where it can.
	errStandby = fmt.Errorf("this node is not the active node: %w", logical.ErrReadOnly)

	errTainted      = errors.New("the mount is being disabled or moved")
	errOtherCluster = errors.New("the token was issued on another cluster than the configured one")
	errNotListed    = errors.New("the cluster does not list the token")
	errStillListed  = errors.New("the cluster still lists the token")
	errTooYoung     = errors.New("the cluster does not know the token, but the token is too new for this to prove anything")
	errIsRoot       = errors.New("the token is the root credential")
	errIsNextRoot   = errors.New("the token becomes the root credential: a rotation is under way")
)

// An upstreamError is an error of the cluster, or of what is between the engine
// and the cluster.
type upstreamError struct {
	doing string
	err   error
}

func (e *upstreamError) Error() string { return fmt.Sprintf("%s: %v", e.doing, e.err) }
func (e *upstreamError) Unwrap() error { return e.err }

// upstream wraps an error of the cluster. It returns nil for nil.
func upstream(doing string, err error) error {
	if err == nil {
		return nil
	}
	return &upstreamError{doing, err}
}

// badRequest returns an error that the caller must fix.
func badRequest(format string, args ...any) error {
	return logical.CodedError(http.StatusBadRequest, fmt.Sprintf(format, args...))
}

// conflict returns an error about the state of the mount.
func conflict(format string, args ...any) error {
	return logical.CodedError(http.StatusConflict, fmt.Sprintf(format, args...))
}

// fail turns an error into the answer of a path operation. A coded error must be
// the outermost one, or Vault answers 500. A cluster that is out of reach is a
// 502; load balancers take a 503 of Vault for "sealed".
//
// The callbacks of the secret must not use it: Vault takes some coded errors as
// a reason to stop trying.
func fail(err error) (*logical.Response, error) {
	var coded logical.HTTPCodedError
	var up *upstreamError
	switch {
	case errors.As(err, &coded):
		return nil, logical.CodedError(coded.Code(), err.Error())
	case errors.Is(err, logical.ErrReadOnly):
		return nil, err
	case errors.Is(err, errNoConfig), errors.Is(err, issuer.ErrUnauthorized), errors.Is(err, issuer.ErrInvalid):
		return nil, badRequest("%v", err)
	case errors.Is(err, ledger.ErrMaxActive), errors.Is(err, ledger.ErrUnsettled):
		return nil, logical.CodedError(http.StatusTooManyRequests, err.Error())
	case errors.Is(err, errIsRoot), errors.Is(err, errIsNextRoot), errors.Is(err, errConfigChanged):
		return nil, conflict("%v", err)
	case errors.As(err, &up):
		return nil, logical.CodedError(http.StatusBadGateway, err.Error())
	}
	return nil, err
}
