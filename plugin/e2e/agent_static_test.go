package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/issuertest/simulator/influxdb3server"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/plugin/e2e/vaulttest"
)

const agentConfig = `
vault { address = %[1]q }
auto_auth {
	method {
		type   = "token_file"
		config = { token_file_path = "%[2]s/vault-token" }
	}
}
template {
	contents    = "{{ with secret \"agent/static-creds/plant\" }}{{ .Data.token }}{{ end }}"
	destination = "%[2]s/token"
}
`

// TestStaticRole_AgentReadsAgainAfterTTL lets a Vault Agent render the token of a
// static role that changes within two minutes. The Agent must render the new token
// then, while the previous one still works, and must not read before the ttl of the
// answer is over.
func TestStaticRole_AgentReadsAgainAfterTTL(t *testing.T) {
	t.Parallel()
	st := newServerStage(t, vaulttest.Start(t), "agent", influxdb3server.Enterprise)
	change := time.Now().UTC().Add(2 * time.Minute).Truncate(time.Minute) // in one to two minutes
	st.write(t, "static-roles/plant", map[string]any{
		"token_type": "database", "write_databases": "metrics", "rotation_schedule": fmt.Sprintf("%d * * * *", change.Minute()),
		"rotation_grace_period": "5m", "token_ttl": "65m", // the shortest, which leaves no time for jitter
	})
	rendered := st.startAgent(t)
	var first, second string
	must(t, vaulttest.Eventually(t.Context(), 30*time.Second, func() (err error) {
		first, err = rendered()
		return err
	}))
	must(t, vaulttest.Eventually(t.Context(), 4*time.Minute, func() (err error) {
		if second, err = rendered(); err == nil && second == first {
			err = errors.New("the Agent has not rendered another token")
		}
		return err
	}))
	if now := time.Now(); now.Before(change) {
		t.Errorf("the token changed at %s, planned was %s", now, change)
	}
	if !st.influxdb.Accepts(first) || !st.influxdb.Accepts(second) {
		t.Errorf("the server accepts the previous token: %v, the new one: %v", st.influxdb.Accepts(first), st.influxdb.Accepts(second))
	}
	st.mustReadAfterTTL(t, "agent/static-creds/plant")
}

// startAgent starts a Vault Agent, which runs until the test ends. It returns a
// function that reads what the Agent has rendered.
func (st *serverStage) startAgent(t *testing.T) (rendered func() (string, error)) {
	t.Helper()
	dir := t.TempDir()
	var answer struct {
		Auth struct {
			Token string `json:"client_token"`
		} `json:"auth"`
	}
	must(t, st.Call(t.Context(), "POST", "auth/token/create", map[string]any{"ttl": "1h"}, &answer))
	must(t, os.WriteFile(filepath.Join(dir, "vault-token"), []byte(answer.Auth.Token), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "agent.hcl"), fmt.Appendf(nil, agentConfig, st.Addr, dir), 0o600))
	log, err := os.Create(filepath.Join(dir, "log"))
	must(t, err)
	agent := vaulttest.Command(filepath.Join(st.Bin, "vault"), "agent", "-config="+filepath.Join(dir, "agent.hcl"))
	agent.Stdout, agent.Stderr = log, log
	agent.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	stdin, err := agent.StdinPipe()
	must(t, err)
	must(t, agent.Start())
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = agent.Wait() // ended by the signal
		_ = log.Close()
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("the log of the Agent ends in:\n%s", text[max(0, len(text)-5000):])
		}
	})
	return func() (string, error) {
		text, err := os.ReadFile(filepath.Join(dir, "token"))
		if err == nil && len(text) == 0 {
			err = errors.New("the rendered file is empty")
		}
		if err == nil {
			st.KeepSecret(string(text))
		}
		return string(text), err
	}
}

// mustReadAfterTTL checks the reads of a path in the audit log: there are two or
// more, and each comes after the ttl of the answer before it.
func (st *serverStage) mustReadAfterTTL(t *testing.T, path string) {
	t.Helper()
	log, err := os.ReadFile(st.Logs[1])
	must(t, err)
	var reads int
	var next time.Time
	for lines := bufio.NewScanner(bytes.NewReader(log)); lines.Scan(); {
		var entry struct {
			Type     string
			Time     time.Time
			Request  struct{ Path string }
			Response struct {
				Data struct{ TTL int }
			}
		}
		if json.Unmarshal(lines.Bytes(), &entry) != nil || entry.Type != "response" || entry.Request.Path != path {
			continue
		}
		if entry.Time.Before(next) {
			t.Errorf("a read at %s, before the end of the ttl at %s", entry.Time, next)
		}
		reads++
		next = entry.Time.Add(time.Duration(entry.Response.Data.TTL-1) * time.Second) // ttl is rounded up
	}
	if reads < 2 {
		t.Errorf("the audit log has %d reads of %s", reads, path)
	}
}
