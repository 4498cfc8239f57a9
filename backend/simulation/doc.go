// Package simulation proves the two promises of the engine by random walks through
// everything that an operator, a caller, time and bad luck can do. It has tests
// only.
//
// # Model
//
// A walk runs real engines in a bubble of testing/synctest. Everything around them
// is a model: two nodes with one storage (node_test.go, storage_test.go), Vault's
// leases (core_test.go), and a cluster for each token type (cluster_test.go). Every
// storage operation and every call to a cluster waits at a gate (gate_test.go). The
// walk opens one gate at a time, so it decides the order of everything that
// happens: it can let an operation fail before or after its effect, leave it
// waiting, let time pass, or start another request in between.
//
// # Checks
//
// checks_test.go states what must be true, and is applied after every step:
//
//	A  A valid token with the tag of the mount has a record with a deadline, or is
//	   the root credential in config. After its lease has ended, its record is
//	   revoking. While the lease lasts, the deadline is not later than its end and a
//	   margin.
//	B  The cluster accepts a token under a valid lease that nobody has revoked, and
//	   the token that a read of a static role has returned, until the reader must
//	   read again.
//	C  A secret is sent only to the place that its writer chose for it. No log,
//	   event or record contains a secret.
//	D  The engine revokes no token of others, and not the root credential in config.
//	E  After the last fault, no lease is irrevocable, and the ledger is empty within
//	   a stated time after the last lease.
//	F  Limits are exact: max_active, TTLs and expiries.
//	G  No lock is held over a call to a cluster.
//
// # Seeds
//
// A walk is a sequence of choices. The choices come from a seed; SIMULATE_SEED
// repeats the walk of a seed. A walk that fails is shortened first: steps are left
// out as long as the same check fails. The trace of the short walk is printed.
package simulation
