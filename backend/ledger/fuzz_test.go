package ledger

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"
)

const fuzzAccessor = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

// FuzzRecordFrom checks that a stored entry is either refused, or read and written
// again without a difference.
func FuzzRecordFrom(f *testing.F) {
	whole, err := Record{
		TokenType: "management", Role: "ci", Accessor: fuzzAccessor, State: Revoking, TokenID: "id", Description: "d", Fingerprint: "dedicated/a/c",
		DisplayName: "token", EntityID: "e", IssuedAt: time.Unix(1e9, 7).UTC(), LeaseEnd: time.Unix(2e9, 0).UTC(), ExpiresAt: time.Unix(2e9, 0).UTC(),
		Deadline: time.Unix(2e9, 0).UTC(), Absences: 1, FailedAt: time.Unix(1e9, 0).UTC(), Attempts: 2, LastFailure: "no",
	}.entry()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole.Key, whole.Value)
	for _, value := range []string{"", "null", "[]", "{}", `{"version":2}`, `{"version":1,"token_type":"management","role":"ci","accessor":"N"}`, `{"deadline":"yesterday"}`, `{"attempts":1e99}`} {
		f.Add("ledger/ci/N", []byte(value))
	}
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		r, err := recordFrom(&logical.StorageEntry{Key: key, Value: value})
		if err != nil {
			return
		}
		entry, err := r.entry()
		if err != nil {
			t.Fatalf("%+v was read and cannot be written: %v", r, err)
		}
		again, err := recordFrom(entry)
		r.Version = recordVersion // what every record is written with
		if diff := cmp.Diff(r, again); err != nil || entry.Key != key || diff != "" {
			t.Errorf("under %q, not %q: %v\n%s", entry.Key, key, err, diff)
		}
	})
}

// FuzzRecord checks that a record is read as it was stored.
func FuzzRecord(f *testing.F) {
	f.Add("ci", fuzzAccessor, "active", "id", "[vault:0:0] text", "größer", int64(1e9), int64(1), int64(0), 3)
	f.Add("-root", "", "", "", "", "\x00", int64(-1), int64(1e12), int64(253402300799), -1)
	f.Fuzz(func(t *testing.T, role, accessor, in, id, description, name string, issued, expires, due int64, n int) {
		text := func(s string) string { return strings.ToValidUTF8(s, "?") } // as JSON, in which requests come, has it
		moment := func(secs int64) time.Time { return time.Unix(secs%253402300800, 0).UTC() }
		want := Record{
			Version: recordVersion, TokenType: "database", Role: text(role), Accessor: text(accessor), State: State(text(in)), TokenID: text(id),
			Description: text(description), Fingerprint: text(name), DisplayName: text(name), EntityID: text(id), LastFailure: text(description),
			IssuedAt: moment(issued), LeaseEnd: moment(expires), ExpiresAt: moment(expires), Deadline: moment(due), FailedAt: moment(due),
			Absences: n, Attempts: n,
		}
		entry, err := want.entry()
		if err != nil {
			if early := time.Unix(min(issued%253402300800, expires%253402300800, due%253402300800), 0).UTC(); early.Year() < 0 {
				return // JSON has no such year
			}
			t.Fatal(err)
		}
		got, err := recordFrom(entry)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v\n%s", err, diff)
		}
	})
}
