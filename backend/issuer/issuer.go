// Package issuer defines what the secrets engine needs from an InfluxDB 3
// cluster: issue a token, revoke tokens, list tokens.
//
// The engine in package backend knows Vault and no vendor. A driver knows one
// vendor interface and no Vault. This package is the contract between them. It
// also defines what an error means: the engine decides by the sentinels below
// and never reads the text of an error.
package issuer

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

var (
	// ErrRefused means that the cluster refused the request, or that the
	// request was never sent. Nothing has changed on the cluster: after a
	// refused Issue no token exists.
	ErrRefused = errors.New("refused")

	// ErrInvalid means that the cluster refused the request because the request
	// itself is wrong, for example because a database does not exist. It wraps
	// ErrRefused.
	ErrInvalid = fmt.Errorf("invalid request: %w", ErrRefused)

	// ErrUnauthorized means that the cluster did not accept the root
	// credential, or does not allow it to do what was asked. It wraps
	// ErrRefused.
	ErrUnauthorized = fmt.Errorf("root credential not accepted: %w", ErrRefused)

	// ErrUnknown means that the configured cluster says that it knows no such
	// token. It is about one token only: a cluster, account or path that was
	// not found is not ErrUnknown. Whether it proves that the token does not
	// exist depends on the token's age, see Traits.
	ErrUnknown = errors.New("no such token")

	// ErrUnreachable means that no connection to the cluster could be made, or
	// that the cluster did not answer in time. The next request is likely to
	// fail in the same way. For Issue and Revoke the outcome is unknown unless
	// the error wraps ErrRefused too.
	ErrUnreachable = errors.New("cluster not reachable")
)

// An Issuer issues, revokes and lists tokens on one InfluxDB cluster.
//
// Implementations are safe for concurrent use. They return soon after ctx is
// done and leave no process and no connection behind. They never repeat an
// Issue, and never put a token's secret into an error.
type Issuer interface {
	// Issue creates a token. If the error does not wrap ErrRefused, the token
	// may exist although Issue failed. List then finds it by r.Description.
	Issue(ctx context.Context, r Request) (Token, error)

	// Revoke revokes the tokens ids. Revoking a token that is already revoked
	// or expired is not an error. The result holds an error for each ID whose
	// token may still be accepted by the cluster. Each error is about its own
	// ID: what the cluster says about one ID is never applied to another. An
	// error wraps ErrUnknown when the cluster says that it knows no such token.
	Revoke(ctx context.Context, ids ...string) map[string]error

	// List calls yield for every token on the cluster, also for revoked and
	// expired ones and for those issued by others, without holding all of them
	// in memory. An error returned by yield ends the list and is returned. The
	// absence of a token means something only if List returned nil.
	List(ctx context.Context, yield func(Info) error) error
}

// A Namer is an Issuer of a product where the client chooses the ID of a token.
// The engine stores the ID before it calls Issue, so that it can revoke the
// token without a list when the answer to Issue is lost.
type Namer interface {
	Issuer

	// IDOf returns the ID that Issue gives to the token of r. It does no I/O
	// and gives the same answer for equal requests.
	IDOf(r Request) string
}

// A Describer is an Issuer whose Traits differ from the zero value.
type Describer interface {
	Issuer

	// Traits returns what the engine must know about the product. It does no
	// I/O and always returns the same value.
	Traits() Traits
}

// Traits are the differences between products that decide what proves that a
// token is gone, and how long a fresh token needs.
type Traits struct {
	// KeepsExpired means that an expired token stays on the cluster until it is
	// revoked. The engine then revokes tokens after they have expired, too.
	KeepsExpired bool

	// UnknownAge is how old a token must be before ErrUnknown proves that it
	// does not exist. It applies to a token whose creation was confirmed. Zero
	// means DefaultUnknownAge, a negative value means any age.
	UnknownAge time.Duration

	// SpreadTime is how long the nodes of the cluster may need to learn about a
	// new token. During that time ErrUnauthorized for a new root credential
	// proves nothing. Zero means that it is not known.
	SpreadTime time.Duration

	// OneList means that List of any token type of the product yields the
	// tokens of all types.
	OneList bool
}

// Gone reports whether nothing is left to do about a token that a list shows as
// info.
func (t Traits) Gone(info Info, now time.Time) bool {
	return !info.RevokedAt.IsZero() || !t.KeepsExpired && info.Dead(now)
}

// DefaultUnknownAge is the UnknownAge of products whose documentation does not
// say how long a new token needs until every part of the cluster knows it.
const DefaultUnknownAge = 10 * time.Minute

// TraitsOf returns the traits of i, with defaults filled in.
func TraitsOf(i Issuer) Traits {
	var t Traits
	if d, ok := i.(Describer); ok {
		t = d.Traits()
	}
	switch {
	case t.UnknownAge == 0:
		t.UnknownAge = DefaultUnknownAge
	case t.UnknownAge < 0:
		t.UnknownAge = 0
	}
	return t
}

// An Inspector is an Issuer that can identify the server it talks to.
type Inspector interface {
	Issuer

	// Inspect asks the server what it is. An error that wraps ErrInvalid says
	// that the server is not what the Cluster describes, for example another
	// product or an unsupported version.
	Inspect(ctx context.Context) (Server, error)
}

// A Server is what a server says about itself.
type Server struct {
	Product string // as in Cluster; empty if the server does not say
	Version string // empty if the server does not say
	UUID    string // identifies the cluster; empty if the server does not send one
	Warning string // what an operator should know although the server can be used
}

// A UUIDReporter is an Issuer of a product whose clusters send a UUID with their
// answers. A cluster may begin to send one when it is upgraded.
type UUIDReporter interface {
	Issuer

	// ReportedUUID returns the UUID that the cluster has sent most recently, as in
	// Cluster; empty if it has sent none. It does no I/O.
	ReportedUUID() string
}

// A Driver opens issuers. Issuers of one driver share resources, such as a
// program, its limits or a pool of connections. It is safe for concurrent use.
type Driver interface {
	// Open returns the issuer of a cluster. It does no I/O and succeeds while
	// the cluster is out of reach.
	Open(Cluster) Issuer
}

// A ProgramDriver is a Driver whose issuers run a program of the vendor.
type ProgramDriver interface {
	Driver

	// Program checks that the program can be used: it exists, its checksum is
	// the pinned one, and its version is supported. What was learned before an
	// error is filled in. A success is remembered. A failure is checked again
	// at the next call.
	Program(ctx context.Context) (Program, error)
}

// A Program describes the vendor's program that issuers run.
type Program struct {
	Path    string // absolute; empty if none was found
	SHA256  string // of the bytes that run, in hex; empty if it is not the pinned one
	Version string // empty if the program did not print a readable version
	Warning string // what an operator should know although the program can be used
}

// The products.
const (
	Dedicated  = "dedicated"  // InfluxDB Cloud Dedicated
	Clustered  = "clustered"  // InfluxDB Clustered
	Core       = "core"       // InfluxDB 3 Core
	Enterprise = "enterprise" // InfluxDB 3 Enterprise
	Cloud      = "cloud"      // InfluxDB 3 Cloud
)

// A Cluster says where a cluster is, how to verify its identity, and how to
// authenticate to it. Two clusters that are equal (==) may share an issuer.
type Cluster struct {
	Product   string // one of the constants above
	AccountID string
	ClusterID string
	Host      string // without scheme or port
	Port      string
	APIURL    string // origin of the HTTP Management API
	UUID      string // that the cluster must send; empty if it is not known

	Root Secret // the root credential: issues and revokes the other tokens

	CACert      string // PEM; empty for the roots of the operating system
	ClientCert  string // PEM
	ClientKey   Secret // PEM
	InsecureTLS bool   // do not verify the certificate of the cluster
	DisableTLS  bool   // use plain text

	Timeout     time.Duration // of one request to the cluster
	MaxParallel int           // requests at the same time
}

// A Request says what token to issue.
type Request struct {
	Description string    // unique to the request; printable ASCII
	ExpiresAt   time.Time // in whole seconds; zero: never

	// Read and Write are the databases that a database token may read and
	// write; "*" means all databases. A management token has no such limits.
	Read, Write []string
}

// A Token is a token that was just issued. No other type holds its secret.
type Token struct {
	ID     string
	Secret Secret
}

// An Info is what a cluster says about a token. Times that are not set are
// zero.
type Info struct {
	ID          string
	Description string
	Prefix      string // the first characters of the secret; empty if not known
	HashPrefix  string // the first hex digits of the SHA-512 of the secret; empty if not known
	CreatedAt   time.Time
	ExpiresAt   time.Time // zero: never
	RevokedAt   time.Time
}

// Dead reports whether the token is revoked, or expired at now.
func (i Info) Dead(now time.Time) bool {
	return !i.RevokedAt.IsZero() || !i.ExpiresAt.IsZero() && !now.Before(i.ExpiresAt)
}

// Matches reports whether secret may be the secret of the token: what the
// cluster says about the secret is true of it. It is false if the cluster says
// nothing about the secret.
func (i Info) Matches(secret Secret) bool {
	switch {
	case i.Prefix != "":
		return strings.HasPrefix(secret.Reveal(), i.Prefix)
	case i.HashPrefix != "":
		sum := sha512.Sum512([]byte(secret.Reveal()))
		return strings.HasPrefix(hex.EncodeToString(sum[:]), strings.ToLower(i.HashPrefix))
	}
	return false
}
