// Package simulator simulates two products that tests cannot have: an InfluxDB
// 3 Cloud Dedicated or InfluxDB Clustered cluster with its management and
// database tokens, and influxctl, the closed-source command of the vendor. Tests
// and `make dev` use it. The plugin does not contain it, and it shares no code
// with the drivers that it tests.
//
// # The cluster
//
// A [Cluster] is an http.Handler with an account in memory. It serves
//
//   - the HTTP Management API v0 for database tokens, at the paths of both
//     products. It accepts a management token that is neither revoked nor
//     expired.
//   - POST /api/v2/write, which only checks whether a database token may write.
//   - /sim/cli/…, a private API for the simulated command. The real command
//     uses gRPC.
//   - /sim/control/…, an API for tests in another process: set faults, add
//     tokens, read tokens with their secrets, read the runs of the command. It
//     needs no credential, so serve it on a loopback address only.
//
// # The command
//
// [Main] and [RunCLI] behave as influxctl does. They parse the command line with
// urfave/cli/v2, on which the real command is built, so that its special cases
// are the same (`revoke ID --force` takes --force for an ID, an unknown command
// exits with 3). They read the profile with a strict TOML parser. For the product
// clustered they connect to the host and port of the profile. For dedicated,
// whose real address is fixed, they connect to the URL in a file beside the
// program, see [Sidecar]. That file also sets the version and the form of the
// output, because the driver starts the command with an environment of its own.
//
// The command exits with [ExitViolation], and the cluster records why, if a
// secret of the cluster is in its arguments or environment. If a program starts
// it, that is, unless [Sidecar] says Interactive, it does so too if a variable
// INFLUXCTL_… or VAULT_… is set, if --debug or --trace is given, if others may
// read the profile or its directory, or if its standard input is not at its end.
//
// # What is known about the products
//
// Documented: the commands, flags and formats of `management`; that revoke
// continues after an error since 2.9.8; that create prints a table with the ID
// since 2.11.0; the keys of a profile, and that unknown keys are refused; the
// JSON of `management list`, in which zero fields are absent; the HTTP API.
//
// Unknown, and therefore selectable: what create prints as JSON (see
// [CreateShapes]), what an empty list looks like, what revoking a revoked token
// answers, how long lists lag behind, and the texts of errors.
//
// Not simulated: the table of `management list`. Each token is one line instead.
package simulator
