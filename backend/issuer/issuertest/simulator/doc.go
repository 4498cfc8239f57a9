// Package simulator is a stand-in for what cannot be had in a test: an
// InfluxDB 3 cluster that keeps management and database tokens, and influxctl,
// the vendor's closed-source command line. It serves the tests and `make dev`;
// nothing of it reaches the plugin, and it shares no code with the driver that
// it judges.
//
// # The cluster
//
// A [Cluster] is an http.Handler with an in-memory account. It serves
//
//   - the documented HTTP Management API v0 for database tokens, at the paths of
//     both products, authorised by a living management token;
//   - POST /api/v2/write, which only tells whether a database token may write;
//   - /sim/cli/…, a private API that the CLI face uses, in place of the real
//     CLI's gRPC;
//   - /sim/control/…, a control API for tests: faults, tokens with their
//     secrets, the record of CLI runs, violations. It asks for no credential, so
//     it belongs on a loopback address.
//
// # The CLI face
//
// [Main] and [RunCLI] act as influxctl does. They parse with urfave/cli/v2, so
// that its quirks are inherited and not imitated (`revoke ID --force` takes
// --force for an ID, an unknown command exits with 3), and read the profile
// with a strict go-toml. For the product clustered the cluster is reached at
// the profile's host and port; for dedicated, whose real address is fixed, at
// the URL in a file beside the executable, see [Sidecar]. That file also
// chooses the version and the shape of the output, because the driver starts
// the CLI with an environment of its own.
//
// The CLI face is hard on its caller. It exits with [ExitViolation], and the
// cluster remembers why, when a secret that the cluster has ever known stands
// in its arguments or environment, when an INFLUXCTL_ or VAULT_ variable is
// set, when --debug or --trace is given, when the profile or its directory may
// be read by others, and when its standard input is not at its end.
//
// # Facts it encodes
//
// Documented: the commands, flags and formats of `management`, their history
// (the command since 2.6.0, --timeout since 2.9.7, revoke going on after an
// error since 2.9.8, --sort since 2.9.9, table and ID from create since
// 2.11.0), the keys of a profile and the refusal of unknown ones, the JSON of
// `management list` with its absent zero fields, and the HTTP API. Unknown, and
// therefore selectable: what create prints as JSON (see [CreateShapes]), what
// an empty list looks like, what revoking a dead token answers, how long a new
// token takes to be seen or accepted, and the wording of errors.
package simulator
