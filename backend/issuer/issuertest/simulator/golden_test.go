package simulator_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator"
)

// The samples of the real CLI's output, from its documentation and release
// notes, judge the simulated one.

const warnLines = "warn\tplease copy the token and store in a safe place\n" +
	"warn\tthis is the *only time* you will see the token\n"

func TestCreatePrintsTheBareTokenBefore2_11(t *testing.T) {
	for _, version := range []string{"2.6.0", "2.9.9", "2.10.5"} {
		r := newVersionedRig(t, simulator.Sidecar{Version: version})
		got := r.run("management", "create", "--description=vault:m1:role-a:7f3c", "--expires-at="+future)
		want := result{stdout: r.described("vault:m1:role-a:7f3c").Secret + "\n", stderr: warnLines}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(result{})); diff != "" {
			t.Errorf("%s: -want +got\n%s", version, diff)
		}
	}
}

func TestCreatePrintsATableAndTheTokenSince2_11(t *testing.T) {
	const golden = `+-------------+--------------------------------------+
|          id | IIIIIIII-IIII-IIII-IIII-IIIIIIIIIIII |
| description | vault:m1:role-a:7f3c                 |
|  expires at | 2040-01-02T03:04:05Z                 |
|  revoked at |                                      |
+-------------+--------------------------------------+
SECRET
`
	for _, version := range []string{"2.11.0", "2.12.0", ""} {
		r := newVersionedRig(t, simulator.Sidecar{Version: version})
		got := r.run("management", "create", "--description=vault:m1:role-a:7f3c", "--expires-at="+future)
		made := r.described("vault:m1:role-a:7f3c")
		filled := strings.NewReplacer("IIIIIIII-IIII-IIII-IIII-IIIIIIIIIIII", made.ID, "SECRET", made.Secret).Replace(golden)
		want := result{stdout: filled, stderr: warnLines}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(result{})); diff != "" {
			t.Errorf("%s: -want +got\n%s", version, diff)
		}
	}
}

// sampleTokens are the tokens of the documented list.
func (r *rig) sampleTokens() {
	at := func(seconds, nanos int64) time.Time { return time.Unix(seconds, nanos).UTC() }
	for _, token := range []simulator.Token{
		{
			ID: "0b0e5c7e-7a0b-4a53-9d0e-1f1c2d3e4f50", Secret: "M.V1.+5Jkq0rest", Description: "vault:m1:role-a:7f3c",
			CreatedAt: at(1767236645, 622095000), ExpiresAt: at(1767323045, 0),
		},
		{
			ID: "1b0e5c7e-7a0b-4a53-9d0e-1f1c2d3e4f51", Secret: "M.V1.ynmfrest", Description: "old <&>",
			CreatedAt: at(1767236000, 0), RevokedAt: at(1767240000, 1000),
		},
		{
			ID: "2b0e5c7e-7a0b-4a53-9d0e-1f1c2d3e4f52", Secret: "M.V1.Eij4rest",
			CreatedAt: at(1767236000, 0),
		},
	} {
		r.AddToken(token)
	}
}

func TestListJSONHasTheDocumentedShape(t *testing.T) {
	const golden = `[
	{"id":"0b0e5c7e-7a0b-4a53-9d0e-1f1c2d3e4f50","account_id":"ACCOUNT","token_prefix":"M.V1.+5Jk","expires_at":{"seconds":1767323045},
	 "created_at":{"seconds":1767236645,"nanos":622095000},"description":"vault:m1:role-a:7f3c","created_by":"USER"},
	{"id":"1b0e5c7e-7a0b-4a53-9d0e-1f1c2d3e4f51","account_id":"ACCOUNT","token_prefix":"M.V1.ynmf","revoked_at":{"seconds":1767240000,"nanos":1000},
	 "created_at":{"seconds":1767236000},"description":"old <&>","created_by":"USER"},
	{"id":"2b0e5c7e-7a0b-4a53-9d0e-1f1c2d3e4f52","account_id":"ACCOUNT","token_prefix":"M.V1.Eij4","created_at":{"seconds":1767236000},"created_by":"USER"}]`
	r := newRig(t)
	r.sampleTokens()
	user := r.Tokens()[0].CreatedBy
	var want []map[string]any
	filled := strings.NewReplacer("ACCOUNT", accountID, "USER", user).Replace(golden)
	if err := json.Unmarshal([]byte(filled), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, r.listed()); diff != "" {
		t.Error("-want +got\n" + diff)
	}
	if got := r.run("management", "list", "--format", "json").stdout; !strings.Contains(got, `old \u003c\u0026\u003e`) {
		t.Errorf("angle brackets are not escaped as encoding/json does: %s", got)
	}
}

func TestListTableWritesUnsetTimesAsTheEpoch(t *testing.T) {
	const golden = `| ID | DESCRIPTION | PREFIX | CREATED AT | EXPIRES AT | REVOKED AT |
| 0b0e5c7e-7a0b-4a53-9d0e-1f1c2d3e4f50 | vault:m1:role-a:7f3c | M.V1.+5Jk | 2026-01-01T03:04:05Z | 2026-01-02T03:04:05Z | 1970-01-01T00:00:00Z |
| 1b0e5c7e-7a0b-4a53-9d0e-1f1c2d3e4f51 | old <&> | M.V1.ynmf | 2026-01-01T02:53:20Z | 1970-01-01T00:00:00Z | 2026-01-01T04:00:00Z |
| 2b0e5c7e-7a0b-4a53-9d0e-1f1c2d3e4f52 | | M.V1.Eij4 | 2026-01-01T02:53:20Z | 1970-01-01T00:00:00Z | 1970-01-01T00:00:00Z |
`
	r := newRig(t)
	r.sampleTokens()
	var got strings.Builder
	for line := range strings.Lines(r.run("management", "list").stdout) {
		if strings.HasPrefix(line, "|") && !strings.Contains(line, "| root ") {
			got.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
		}
	}
	if diff := cmp.Diff(golden, got.String()); diff != "" {
		t.Error("-want +got\n" + diff)
	}
}

func TestListSortsAsAsked(t *testing.T) {
	r := newRig(t)
	r.sampleTokens()
	for key, want := range map[string][]string{
		"id":          {"0", "1", "2"},
		"prefix":      {"0", "2", "1"},
		"description": {"2", "1", "0"},
		"revoked":     {"0", "2", "1"},
		"expires":     {"1", "2", "0"},
	} {
		got := r.run("management", "list", "--format", "json", "--sort", key)
		var entries []struct {
			ID          string `json:"id"`
			Description string `json:"description"`
		}
		if err := json.Unmarshal([]byte(got.stdout), &entries); err != nil {
			t.Fatalf("%s: %v: %+v", key, err, got)
		}
		var order []string
		for _, e := range entries {
			if e.Description != "root" {
				order = append(order, e.ID[:1])
			}
		}
		if diff := cmp.Diff(want, order); diff != "" {
			t.Errorf("--sort %s: -want +got\n%s", key, diff)
		}
	}
	if got := r.run("management", "list", "--sort", "colour"); got.exit != 1 {
		t.Errorf("an unknown sort key gave %+v", got)
	}
}

func TestEveryCreateShapeShowsTheTokenUnlessItIsBroken(t *testing.T) {
	for _, shape := range simulator.CreateShapes() {
		if shape == "gigabyte" {
			continue // has a test of its own
		}
		t.Run(shape, func(t *testing.T) {
			r := newVersionedRig(t, simulator.Sidecar{Shape: shape})
			got := r.run("management", "create", "--description=d", "--expires-at="+future, "--format", "json")
			secret := r.described("d").Secret
			if strings.HasPrefix(got.stderr, warnLines) == false {
				t.Errorf("standard error lacks the warn lines: %q", got.stderr)
			}
			plain := strings.NewReplacer("\x1b[1m", "", "\x1b[0m", "").Replace(got.stdout + got.stderr)
			if shown, want := strings.Contains(plain, secret), !readsNothing(shape); shown != want {
				t.Errorf("token shown: %v, want %v; %+v", shown, want, got)
			}
		})
	}
}

// readsNothing tells whether a shape does not show the token at all.
func readsNothing(shape string) bool {
	switch shape {
	case "empty", "null", "html", "no-secret", "help":
		return true
	}
	return false
}

func TestEveryListShapeTellsOfATokenUnlessItLies(t *testing.T) {
	for _, shape := range simulator.ListShapes {
		r := newVersionedRig(t, simulator.Sidecar{ListShape: shape})
		id := r.create("d").ID
		got := r.run("management", "list", "--format", "json")
		if got.exit != 0 {
			t.Errorf("%s: %+v", shape, got)
		}
		switch shape {
		case simulator.ListNothing, simulator.ListNull, simulator.ListEmpty, simulator.ListHTML, simulator.ListTruncated:
			if strings.Contains(got.stdout, id) || shape != simulator.ListEmpty && shape != simulator.ListNull && json.Valid([]byte(got.stdout)) {
				t.Errorf("%s: %s", shape, got.stdout)
			}
		default:
			if !strings.Contains(got.stdout, id) || !json.Valid([]byte(got.stdout)) {
				t.Errorf("%s: %s", shape, got.stdout)
			}
		}
	}
}
