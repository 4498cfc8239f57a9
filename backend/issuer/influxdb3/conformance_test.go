package influxdb3

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/redact"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator/influxdb3server"
)

// slack is by how much a token may live longer than requested: its life is
// rounded up to a second, and the request takes some time.
const slack = 3 * time.Second

const wrongSecret = "apiv3_not-the-root-credential-Aa1"

func TestDriver_Conforms(t *testing.T) {
	for _, product := range products {
		for kind, driver := range map[string]func(*Drivers) issuer.Driver{
			"management": (*Drivers).Management, "database": (*Drivers).Database,
		} {
			if product == issuer.Core && kind == "database" {
				continue
			}
			t.Run(product+" "+kind, func(t *testing.T) {
				t.Parallel()
				issuertest.Run(t, func(t *testing.T) issuertest.Subject {
					s := simulate(t, influxdb3server.Options{Product: product})
					refused := s.where()
					refused.Root = issuer.NewSecret(wrongSecret)
					return issuertest.Subject{
						Issuer: driver(s.Drivers).Open(s.where()), Refused: driver(s.Drivers).Open(refused),
						Read: []string{"*"}, Write: []string{"db", "other"}, Slack: slack,
						Secrets:   []issuer.Secret{s.where().Root, refused.Root},
						Usable:    func(_ context.Context, s2 issuer.Secret) (bool, error) { return s.sim.Accepts(s2.Reveal()), nil },
						Leftovers: s.leftovers, WaitUntil: s.waitUntil,
					}
				})
			})
		}
	}
}

// waitUntil moves the clock of the server.
func (s *simulation) waitUntil(then time.Time) { s.sim.SetClockOffset(time.Until(then)) }

// A subject is a server to be tested, real or simulated.
type subject struct {
	drivers *Drivers
	where   issuer.Cluster
	read    []string // databases for database tokens
	wait    func(time.Time)
}

// atHand returns the server that INFLUXDB3_URL and INFLUXDB3_ADMIN_TOKEN name,
// else a simulated one. INFLUXDB3_DATABASE names a database that exists; without
// it, database tokens are issued for all databases.
func atHand(t *testing.T) subject {
	t.Helper()
	address, token := os.Getenv("INFLUXDB3_URL"), os.Getenv("INFLUXDB3_ADMIN_TOKEN")
	if address == "" || token == "" {
		t.Log("tested is the SIMULATOR, which settles nothing about a real server; to test one, set INFLUXDB3_URL and INFLUXDB3_ADMIN_TOKEN")
		s := simulate(t, influxdb3server.Options{Product: influxdb3server.Enterprise})
		return subject{s.Drivers, s.where(), []string{"db"}, s.waitUntil}
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		t.Fatal("INFLUXDB3_URL is not a URL such as http://localhost:8181")
	}
	port := map[string]string{"http": "80", "https": "443"}[u.Scheme]
	s := subject{New(Config{UserAgent: userAgent}), issuer.Cluster{
		Product: issuer.Core, Host: u.Hostname(), Port: cmp.Or(u.Port(), port), DisableTLS: u.Scheme == "http",
		Root: issuer.NewSecret(token), Timeout: 30 * time.Second, MaxParallel: 4,
	}, []string{cmp.Or(os.Getenv("INFLUXDB3_DATABASE"), "*")}, nil}
	t.Cleanup(func() { s.drivers.Close() })
	s.where.Product = s.productAtHand(t)
	return s
}

// productAtHand returns the product that accepts the server as its own.
func (s subject) productAtHand(t *testing.T) string {
	t.Helper()
	var last error
	for _, product := range []string{issuer.Core, issuer.Enterprise, issuer.Cloud} {
		where := s.where
		where.Product = product
		if _, last = s.drivers.Management().Open(where).(issuer.Inspector).Inspect(t.Context()); last == nil {
			return product
		}
	}
	t.Fatal(last)
	return ""
}

func TestServer_ConformsAtHand(t *testing.T) {
	for kind, driver := range map[string]func(*Drivers) issuer.Driver{
		"management": (*Drivers).Management, "database": (*Drivers).Database,
	} {
		if kind == "database" && atHand(t).where.Product == issuer.Core {
			continue
		}
		t.Run(kind, func(t *testing.T) {
			issuertest.Run(t, func(t *testing.T) issuertest.Subject {
				s := atHand(t)
				refused := s.where
				refused.Root = issuer.NewSecret(wrongSecret)
				return issuertest.Subject{
					Issuer: driver(s.drivers).Open(s.where), Refused: driver(s.drivers).Open(refused), Read: s.read, Slack: slack,
					Secrets: []issuer.Secret{s.where.Root, refused.Root},
					Usable:  s.usable, WaitUntil: s.wait,
				}
			})
		})
	}
}

// usable pings the server with a token. Whether a database token may ping is
// unknown: 403 says that the token was recognised, too.
func (s subject) usable(ctx context.Context, token issuer.Secret) (bool, error) {
	where := s.where
	where.Root = token
	i := s.drivers.Management().Open(where).(*cluster)
	r, err := i.do(ctx, call{method: http.MethodGet, path: pathPing, want: http.StatusOK})
	switch {
	case err != nil:
		return false, err
	case r.done || r.status == http.StatusForbidden:
		return true, nil
	case r.status == http.StatusUnauthorized:
		return false, nil
	}
	return false, fmt.Errorf("status %d", r.status)
}

// TestFacts_SettledAtHand prints what a real server says about the facts that
// are unknown or contradictory. None of them decides whether the driver works.
func TestFacts_SettledAtHand(t *testing.T) {
	s := atHand(t)
	i := s.drivers.Management().Open(s.where).(*cluster)
	settle := func(fact, format string, args ...any) {
		t.Logf("%s: %s", fact, fmt.Sprintf(format, args...))
	}
	server, err := i.Inspect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	settle("product, version, cluster-uuid", "%s %s %q, warning %q", server.Product, server.Version, server.UUID, server.Warning)
	ping, err := i.do(t.Context(), call{method: http.MethodGet, path: pathPing, want: http.StatusOK})
	if err != nil {
		t.Fatal(err)
	}
	settle("X-Influxdb-Build", "%q", ping.header.Get("X-Influxdb-Build"))
	ask := func(fact string, q call) {
		r, err := i.do(t.Context(), q)
		settle(fact, "status %d, content type %q, %q, %v", r.status, r.header.Get("Content-Type"), redact.Quote(r.message, i.secrets()...), err)
	}
	name := "conformance no such database " + fmt.Sprint(time.Now().UnixNano())
	ask("a resource token for a database that does not exist", call{method: http.MethodPost, path: pathResource, want: http.StatusCreated,
		body: json.RawMessage(`{"token_name":"` + name + `","expiry_secs":60,"permissions":[{"resource_type":"db","resource_names":["` + strings.ReplaceAll(name, " ", "-") + `"],"actions":["read"]}]}`)})
	ask("delete of an unknown name", call{method: http.MethodDelete, path: pathToken + "?token_name=conformance+%26+no+such+token", want: http.StatusOK})
	if failed := i.Revoke(t.Context(), name); failed[name] != nil && !errors.Is(failed[name], issuer.ErrUnknown) {
		t.Error(failed)
	}
	s.settleList(t, i, settle)
	s.settleRights(t, i, settle)
}

// settleList prints what a list says about a token that was just created.
func (s subject) settleList(t *testing.T, i *cluster, settle func(fact, format string, args ...any)) {
	r := issuer.Request{Description: "conformance list " + fmt.Sprint(time.Now().UnixNano()), ExpiresAt: time.Now().Add(time.Minute)}
	token, err := i.Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Revoke(context.Background(), token.ID)
	infos, err := collect(t.Context(), i)
	if err != nil {
		t.Fatal(err)
	}
	rootFound := false
	for _, info := range infos {
		if rootFound = rootFound || info.Matches(s.where.Root); info.ID == token.ID {
			settle("a listed token", "hash prefix of %d digits that matches: %v; created %s ago by our clock; expires %s after the wish",
				len(info.HashPrefix), info.Matches(token.Secret), time.Since(info.CreatedAt).Round(time.Millisecond), info.ExpiresAt.Sub(r.ExpiresAt).Round(time.Millisecond))
		}
	}
	settle("tokens in the list", "%d; the root credential is among them: %v", len(infos), rootFound)
}

// settleRights prints whether a named admin can create and delete named admins.
func (s subject) settleRights(t *testing.T, i *cluster, settle func(fact, format string, args ...any)) {
	r := issuer.Request{Description: "conformance rights " + fmt.Sprint(time.Now().UnixNano()), ExpiresAt: time.Now().Add(time.Minute)}
	token, err := i.Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	where := s.where
	where.Root = token.Secret
	second := r
	second.Description += " second"
	other := s.drivers.Management().Open(where)
	made, err := other.Issue(t.Context(), second)
	settle("a named admin creates a named admin", "%v", err)
	if err == nil {
		settle("a named admin deletes a named admin", "%v", other.Revoke(t.Context(), made.ID))
	}
	settle("a named admin deletes itself", "%v", other.Revoke(t.Context(), token.ID))
	i.Revoke(t.Context(), token.ID, second.Description)
}
