package backend

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// operation is one operation of a path. All of them run on the active node of
// the primary cluster: what they answer depends on the ledger, which lives
// there.
func operation(callback framework.OperationFunc, verb string, responses map[int][]framework.Response) *framework.PathOperation {
	return &framework.PathOperation{
		Callback:                    callback,
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
		DisplayAttrs:                &framework.DisplayAttributes{OperationVerb: verb},
		Responses:                   responses,
	}
}

// display names a path's operations in the OpenAPI document.
func display(verb, suffix string) *framework.DisplayAttributes {
	return &framework.DisplayAttributes{OperationPrefix: "influxdb", OperationVerb: verb, OperationSuffix: suffix}
}

// kindField is the field by which some paths are told which kind of token they
// are about.
var kindField = &framework.FieldSchema{
	Type: framework.TypeString, Default: Management, AllowedValues: []any{Management, Database},
	Description: "The kind of token that this is about: `management` or `database`.",
}

func checkKind(kind string) error {
	if kind != Management && kind != Database {
		return badRequest("token_type must be %s or %s", Management, Database)
	}
	return nil
}

// answers declares a response with fields.
func answers(status int, fields map[string]*framework.FieldSchema) map[int][]framework.Response {
	return map[int][]framework.Response{status: {{Description: http.StatusText(status), Fields: fields}}}
}

// noContent declares a response without fields.
var noContent = map[int][]framework.Response{http.StatusNoContent: {{Description: "No Content"}}}

// strict makes every operation of the paths refuse fields that it does not
// know. The framework would only warn, after the deed.
//
// It must never stand before a callback of the secret: core hands those the
// whole answer that minted it.
func strict(paths []*framework.Path) []*framework.Path {
	for _, path := range paths {
		for _, handler := range path.Operations {
			op := handler.(*framework.PathOperation)
			next := op.Callback
			op.Callback = func(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
				if err := refuseUnknown(req.Data, path.Fields); err != nil {
					return nil, err
				}
				return next(ctx, req, d)
			}
		}
	}
	return paths
}

// secretFields are the fields of requests that hold a secret.
var secretFields = []string{"mgmt_token", "client_key"}

// HandleRequest refuses secrets that are no strings before the framework sees
// them: given twice, a field is a list, and the framework's refusal would quote
// it, in the answer and so in Vault's logs.
func (b *backend) HandleRequest(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	if err := refuseOddSecrets(req); err != nil {
		return nil, err
	}
	return b.Backend.HandleRequest(ctx, req)
}

// HandleExistenceCheck is asked before a request is handled. Core answers its
// errors with "internal error", so that HandleRequest must refuse.
func (b *backend) HandleExistenceCheck(ctx context.Context, req *logical.Request) (checkFound, exists bool, err error) {
	if refuseOddSecrets(req) != nil {
		return true, true, nil
	}
	return b.Backend.HandleExistenceCheck(ctx, req)
}

func refuseOddSecrets(req *logical.Request) error {
	for _, field := range secretFields {
		if v, given := req.Data[field]; given {
			if _, ok := v.(string); !ok {
				return badRequest("%s must be given once, as a string", field)
			}
		}
	}
	return nil
}

func refuseUnknown(data map[string]any, fields map[string]*framework.FieldSchema) error {
	for _, name := range slices.Sorted(maps.Keys(data)) {
		if fields[name] != nil {
			continue
		}
		if near := nearest(name, fields); near != "" {
			return badRequest("unknown field %q: did you mean %q?", abridge(name), near)
		}
		if len(fields) == 0 {
			return badRequest("unknown field %q: this path takes none", abridge(name))
		}
		return badRequest("unknown field %q; the fields are %s", abridge(name), strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
	}
	return nil
}

// nearest returns the field whose name is a slip of the pen away from name.
func nearest(name string, fields map[string]*framework.FieldSchema) string {
	if len(name) > 64 {
		return ""
	}
	near, least := "", max(2, len(name)/3)+1
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		if n := levenshtein.ComputeDistance(name, field); n < least {
			near, least = field, n
		}
	}
	return near
}

// abridge keeps what a caller sent from flooding an answer.
func abridge(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return fmt.Sprintf("%s… (%d bytes)", s[:most], len(s))
}
