package influxctl

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

func TestManagementArgs_FlagsComeFirst(t *testing.T) {
	east := time.FixedZone("east", 2*60*60)
	for _, c := range []struct{ got, want []string }{
		{versionArgs, []string{"version"}},
		{managementArgs("/p", 90*time.Second, "list", listArgs()...), []string{
			"--config", "/p", "--profile", "vault", "--timeout", "1m30s", "management", "list", "--format", "json"}},
		{createArgs(issuer.Request{Description: "for ever"}), []string{"--description=for ever", "--format", "json"}},
		{createArgs(issuer.Request{Description: "--force", ExpiresAt: time.Date(2026, 1, 2, 3, 4, 5, 999, east)}), []string{
			"--description=--force", "--expires-at=2026-01-02T01:04:05Z", "--format", "json"}},
		{revokeArgs([]string{"a", "b"}), []string{"--force", "a", "b"}},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Error(diff)
		}
	}
}
