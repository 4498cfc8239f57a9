// Package issuer defines what the secrets engine asks of an InfluxDB 3
// cluster: mint a token, revoke it, list what there is.
//
// The engine in package backend knows Vault and no vendor; a driver knows one
// vendor interface and no Vault. They meet here. What an error means is
// settled here too: the engine decides with the sentinels below and never
// reads an error's text.
package issuer

import (
	"context"
	"errors"
	"fmt"
	"time"
)

var (
	// ErrRefused means that the cluster said no, or was never asked. Nothing
	// has changed there: after a refused mint no token exists.
	ErrRefused = errors.New("refused")

	// ErrUnauthorized means that the cluster did not accept the root token, or
	// does not let it do what was asked. It wraps ErrRefused.
	ErrUnauthorized = fmt.Errorf("root token not accepted: %w", ErrRefused)

	// ErrUnknown means that the cluster says it has never known a token. It
	// proves a token dead only to a caller that knows when the token was made
	// and on which cluster.
	ErrUnknown = errors.New("no such token")
)

// An Issuer mints and revokes tokens on one InfluxDB cluster.
//
// Implementations are safe for concurrent use, return soon after ctx is done
// leaving no process or connection behind, never retry a mint, and never put a
// token in an error.
type Issuer interface {
	// Issue mints a token. Unless the error wraps ErrRefused the token may exist
	// although Issue failed, and r's description is then all that List can find
	// it by.
	Issue(ctx context.Context, r Request) (Token, error)

	// Revoke kills the tokens ids. A token that is dead already is not an
	// error. The result holds an error for each id that may still be alive;
	// it wraps ErrUnknown when the cluster says it never knew the id, which the
	// caller, who knows how young the token is and whose cluster it was, must
	// judge.
	Revoke(ctx context.Context, ids ...string) map[string]error

	// List calls yield for every token of the cluster, dead ones too, whoever
	// minted it, without holding them all. An error of yield ends the list and
	// is returned. That a token was not listed says something only when List
	// returned nil.
	List(ctx context.Context, yield func(Info) error) error
}

// A Driver opens issuers that share whatever they have in common: a program,
// its limits, a pool of connections. It is safe for concurrent use.
type Driver interface {
	// Open returns the issuer of a cluster. It does no I/O, so that it succeeds
	// with the cluster out of reach.
	Open(Cluster) Issuer
}

// A ProgramDriver is a Driver whose issuers run a program of the vendor's.
type ProgramDriver interface {
	Driver

	// Program proves the program fit for use: found, its bytes those that were
	// pinned, its version new enough, in this order. What was learnt before the
	// error is filled in. A success is remembered; a failure is tried again at
	// the next call.
	Program(ctx context.Context) (Program, error)
}

// A Program describes the vendor's program that issuers run.
type Program struct {
	Path    string // absolute; empty if none was found
	SHA256  string // of the bytes that run, in hex; empty if they are not those pinned
	Version string // empty if the program did not say one that could be read
	Warning string // what an operator should know although the program can be used
}

// The products that a cluster can be.
const (
	Dedicated = "dedicated" // InfluxDB 3 Cloud Dedicated
	Clustered = "clustered" // InfluxDB Clustered
)

// A Cluster says where a cluster is, how to trust it and how to be trusted by
// it. Two clusters that compare equal with == may share an issuer.
type Cluster struct {
	Product   string // Dedicated or Clustered
	AccountID string
	ClusterID string
	Host      string // without scheme or port
	Port      string
	APIURL    string // origin of the HTTP Management API

	Root Secret // the token that mints and revokes the others

	CACert      string // PEM; empty for the system's roots
	ClientCert  string // PEM
	ClientKey   Secret // PEM
	InsecureTLS bool   // do not verify the cluster's certificate
	DisableTLS  bool   // speak plain text

	Timeout     time.Duration // of one request to the cluster
	MaxParallel int           // requests at a time
}

// A Request says what token is asked for.
type Request struct {
	Description string    // unique to the request; printable ASCII
	ExpiresAt   time.Time // when the token dies, in whole seconds; zero: never

	// Read and Write are the databases that a database token may read and
	// write; "*" is all of them. A management token knows no such limits.
	Read, Write []string
}

// A Token is a token just minted. It is the only place where its secret ever
// stands.
type Token struct {
	ID     string
	Secret Secret
}

// An Info is what a cluster tells of a token. Times that are not set are zero.
type Info struct {
	ID          string
	Description string
	Prefix      string // the first characters of the secret
	CreatedAt   time.Time
	ExpiresAt   time.Time // zero: never
	RevokedAt   time.Time
}

// Dead reports whether the token is revoked, or expired at now.
func (i Info) Dead(now time.Time) bool {
	return !i.RevokedAt.IsZero() || !i.ExpiresAt.IsZero() && !now.Before(i.ExpiresAt)
}
