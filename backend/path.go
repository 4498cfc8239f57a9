package backend

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// operation returns an operation of a path. All of them run on the active node of
// the primary cluster, because their answers depend on the ledger.
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

// typeField selects the token type that an operation is about.
var typeField = &framework.FieldSchema{
	Type: framework.TypeString, Default: Management, AllowedValues: []any{Management, adminType, Database},
	Description: "Type of the tokens: `management` (or `admin`, which means the same) or `database`. Default: management.",
}

// adminType is another word for Management: that of InfluxDB 3 Core, Enterprise
// and Cloud.
const adminType = "admin"

// tokenTypeOf returns the token type that a word means. A word without a meaning
// is returned as it is.
func tokenTypeOf(word string) string {
	if word == adminType {
		return Management
	}
	return word
}

// requestedType returns the token type that a request names.
func requestedType(d *framework.FieldData) (string, error) {
	tokenType := tokenTypeOf(d.Get("token_type").(string))
	if tokenType != Management && tokenType != Database {
		return "", badRequest("token_type must be %s (or %s) or %s", Management, adminType, Database)
	}
	return tokenType, nil
}

// answers declares a response with fields.
func answers(status int, fields map[string]*framework.FieldSchema) map[int][]framework.Response {
	return map[int][]framework.Response{status: {{Description: http.StatusText(status), Fields: fields}}}
}

// noContent declares a response without fields.
var noContent = map[int][]framework.Response{http.StatusNoContent: {{Description: "No Content"}}}

// okOrNoContent declares a response without fields that may have warnings. Vault
// answers 200 with warnings and 204 without.
var okOrNoContent = map[int][]framework.Response{
	http.StatusOK:        {{Description: "OK, with warnings"}},
	http.StatusNoContent: {{Description: "No Content"}},
}

// strict makes every operation of the paths refuse unknown fields, about which the
// framework would only warn, after the operation. It also makes the operations
// that write refuse on a node that may not write.
//
// It must not be used for the callbacks of the secret: Vault passes them the whole
// answer that issued the credential.
func (b *backend) strict(paths []*framework.Path) []*framework.Path {
	for _, path := range paths {
		for _, handler := range path.Operations {
			op := handler.(*framework.PathOperation)
			next := op.Callback
			op.Callback = func(ctx context.Context, req *logical.Request, d *framework.FieldData) (*logical.Response, error) {
				if err := refuseUnknown(req.Data, path.Fields); err != nil {
					return nil, err
				}
				if writes(req.Operation) && !b.WriteSafeReplicationState() {
					return nil, errStandby
				}
				return next(ctx, req, d)
			}
		}
	}
	return paths
}

func writes(op logical.Operation) bool {
	return op != logical.ReadOperation && op != logical.ListOperation
}

// secretFields are the request fields that hold a secret.
var secretFields = []string{"mgmt_token", "admin_token", "client_key"}

// HandleRequest refuses values of the wrong type, and names that no object can have,
// before the framework sees them. The error of the framework would quote a secret
// that is given twice, in the answer and in Vault's logs, would name functions of
// Go, and would give no reason for the refusal of a name.
func (b *backend) HandleRequest(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	if err := b.checkRequest(req); err != nil {
		return nil, err
	}
	return b.Backend.HandleRequest(ctx, req)
}

// HandleExistenceCheck runs before HandleRequest. Vault answers its errors with
// "internal error", so the refusal is left to HandleRequest.
func (b *backend) HandleExistenceCheck(ctx context.Context, req *logical.Request) (checkFound, exists bool, err error) {
	if b.checkRequest(req) != nil {
		return true, true, nil
	}
	return b.Backend.HandleExistenceCheck(ctx, req)
}

// namedPaths are the paths that are followed by the name of an object.
var namedPaths = []string{"roles", "creds", "static-roles", "static-creds", "rotate-role", "tokens"}

// checkRequest checks the name and the types of the fields of a request. A renewal
// and a revocation have no fields: their data is the answer that issued the
// credential.
func (b *backend) checkRequest(req *logical.Request) error {
	switch req.Operation {
	case logical.CreateOperation, logical.ReadOperation, logical.UpdateOperation, logical.DeleteOperation, logical.ListOperation:
	default:
		return nil
	}
	if err := checkSecretFields(req); err != nil {
		return err
	}
	path := b.Route(req.Path)
	if path == nil {
		folder, name, _ := strings.Cut(req.Path, "/")
		if slices.Contains(namedPaths, folder) && name != "" && req.Operation != logical.ListOperation {
			return badRequest("%q is not a valid name: a name has letters, digits, -, . and _, and begins and ends with a letter, a digit or _", shorten(name))
		}
		return nil
	}
	d := framework.FieldData{Raw: req.Data, Schema: path.Fields}
	for _, name := range slices.Sorted(maps.Keys(req.Data)) {
		if path.Fields[name] == nil {
			continue // see refuseUnknown
		}
		if _, _, err := d.GetOkErr(name); err != nil {
			return badRequest("%s must be %s", name, nameOfType(path.Fields[name].Type))
		}
	}
	return nil
}

// nameOfType describes the values of a type of field.
func nameOfType(t framework.FieldType) string {
	switch t {
	case framework.TypeInt:
		return "a whole number"
	case framework.TypeBool:
		return "true or false"
	case framework.TypeDurationSecond:
		return "a duration such as 30s, 10m or 24h, or a number of seconds; it must not be negative"
	case framework.TypeCommaStringSlice:
		return "a list of names, separated by commas"
	case framework.TypeKVPairs:
		return "a map: key=value, more than once if needed, or a JSON object of strings"
	}
	return "a string, given once"
}

func checkSecretFields(req *logical.Request) error {
	for _, field := range secretFields {
		if v, given := req.Data[field]; given {
			if _, ok := v.(string); !ok {
				return badRequest("%s must be given once, as a string", field)
			}
		}
	}
	return nil
}

// keepIndents puts a line before help texts that begin with an indented example.
// The framework removes space at the beginning of a text.
func keepIndents(paths []*framework.Path) []*framework.Path {
	for _, path := range paths {
		if strings.HasPrefix(path.HelpDescription, "\n    ") {
			path.HelpDescription = "Examples:\n" + path.HelpDescription
		}
	}
	return paths
}

func refuseUnknown(data map[string]any, fields map[string]*framework.FieldSchema) error {
	for _, name := range slices.Sorted(maps.Keys(data)) {
		if fields[name] != nil {
			continue
		}
		if near := nearest(name, fields); near != "" {
			return badRequest("unknown field %q: did you mean %q?", shorten(name), near)
		}
		if len(fields) == 0 {
			return badRequest("unknown field %q: this path has no fields", shorten(name))
		}
		return badRequest("unknown field %q; the fields are %s", shorten(name), strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
	}
	return nil
}

// nearest returns the field whose name differs from name by a typing error.
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
