// Package ledger keeps one stored record for every token, from before the token
// is created until it is known to be revoked or expired. It knows no Vault
// requests and no InfluxDB.
//
// # States
//
// A record has one of three states. Without a record, the token is known not to
// be accepted by the cluster.
//
//	(none)   -> issuing    Open, before the cluster is asked to create the token
//	issuing  -> (none)     Drop, if the cluster refused the request, or the token is known not to exist
//	issuing  -> active     Change, when the token is confirmed and a lease or a static role holds it
//	issuing  -> revoking   Change or Put, when the token exists and must not be used
//	active   -> revoking   Change, when the token must be revoked and could not be revoked at once,
//	                       or when its deadline has passed because Vault lost the lease
//	any      -> (none)     Drop, when the token is known to be revoked or expired
//
// The lease of a token that may outlive it (RevokeOnExpiry) can end early. The
// record then stays active, with the expiry of the token as its deadline.
//
// # What a crash leaves behind
//
// The record is stored before the token is created, and deleted after the token
// is known to be gone. So a crash leaves at most a record without a token, never
// a token without a record:
//
//   - After Open: an issuing record. After its deadline the engine looks for the
//     token on the cluster.
//   - After the token was created, before Change: the same.
//   - After Change to active, before Vault stored the lease: an active record. Its
//     deadline passes because nobody renews or revokes it; the engine revokes the
//     token.
//   - After the token was revoked, before Drop: a record of a revoked token. The
//     next revocation finds it revoked and drops the record.
//
// # Deadlines
//
// Deadline is the time by which Vault must have acted: for issuing, the end of
// the request; for active, the end of the lease plus a margin; for revoking, the
// time of the next attempt. Due returns the records whose deadline has passed.
//
// # Locks
//
// Every change of a record happens under the lock of that record: read, check,
// write. Locks are striped by accessor, so no caller may hold two. No lock is
// held over a call to the cluster. A record leaves the index only under its
// lock, and never while its token is being issued by this process.
package ledger
