package e2e

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// program PROGRAM ARG... runs a program. It is `exec` for use with await.
func program(ts *testscript.TestScript, _ *story, args []string) error {
	return ts.Exec(args[0], args[1:]...)
}

// What profile reads in a file that Vault Agent writes with examples/vault-agent.
var (
	profileToken   = regexp.MustCompile(`(?m)^mgmt_token = "(M\.V1\.[^"]+)"$`)
	profileLease   = regexp.MustCompile(`(?m)^# Lease (\S+)$`)
	profileExpires = regexp.MustCompile(`(?m)^# .* expires at (\S+)$`)
)

// profile FILE NAME reads the credential in an influxctl profile that Vault Agent
// wrote, and sets the variables that `lease` sets.
func profile(ts *testscript.TestScript, st *story, args []string) error {
	if len(args) != 2 {
		ts.Fatalf("usage: profile FILE NAME")
	}
	text, err := os.ReadFile(ts.MkAbs(args[0]))
	if err != nil {
		return err
	}
	found := map[string]string{}
	for field, pattern := range map[string]*regexp.Regexp{
		"token": profileToken, "lease": profileLease, "expires_at": profileExpires,
	} {
		match := pattern.FindSubmatch(text)
		if match == nil {
			return fmt.Errorf("the profile has no %s", field)
		}
		found[field] = string(match[1])
	}
	for _, token := range st.cluster.Tokens() {
		if token.Secret == found["token"] {
			found["id"] = token.ID
		}
	}
	if found["id"] == "" {
		return errors.New("the cluster does not know the profile's token")
	}
	for field, value := range found {
		ts.Setenv(args[1]+"_"+field, value)
	}
	return nil
}

// A leaseRecord is Vault's answer to a lookup of a lease.
type leaseRecord struct {
	Data struct {
		IssueTime   time.Time `json:"issue_time"`
		ExpireTime  time.Time `json:"expire_time"`
		LastRenewal time.Time `json:"last_renewal"`
	} `json:"data"`
}

// lookUp looks up the lease $NAME_lease.
func lookUp(ts *testscript.TestScript, st *story, name string) (l leaseRecord, err error) {
	body := map[string]string{"lease_id": ts.Getenv(name + "_lease")}
	err = st.server.Call(st.t.Context(), "PUT", "sys/leases/lookup", body, &l)
	return l, err
}

// renewed NAME AGE succeeds if a lease was renewed when it was at least that old.
func renewed(ts *testscript.TestScript, st *story, args []string) error {
	if len(args) != 2 {
		ts.Fatalf("usage: renewed NAME AGE")
	}
	age, err := time.ParseDuration(args[1])
	ts.Check(err)
	l, err := lookUp(ts, st, args[0])
	if err == nil && l.Data.LastRenewal.Before(l.Data.IssueTime.Add(age)) {
		err = fmt.Errorf("the lease was last renewed at %s and issued at %s", l.Data.LastRenewal, l.Data.IssueTime)
	}
	return err
}

// bounded NAME succeeds if a lease ends before its token expires.
func bounded(ts *testscript.TestScript, st *story, args []string) error {
	if len(args) != 1 {
		ts.Fatalf("usage: bounded NAME")
	}
	l, err := lookUp(ts, st, args[0])
	if err != nil {
		return err
	}
	expires, err := time.Parse(time.RFC3339, ts.Getenv(args[0]+"_expires_at"))
	ts.Check(err)
	if l.Data.ExpireTime.IsZero() || l.Data.ExpireTime.After(expires) {
		return fmt.Errorf("the lease ends at %s, the token expires at %s", l.Data.ExpireTime, expires)
	}
	return nil
}
