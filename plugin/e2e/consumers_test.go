package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// testConsumers decodes answers of static-creds by the rules of the programs that
// read them, of a role with a period and of one with a schedule.
func testConsumers(t *testing.T, st *serverStage) {
	common := map[string]any{"token_type": "database", "write_databases": "metrics", "metadata": map[string]any{"team": "plant"}}
	for role, when := range map[string]map[string]any{
		"period":   {"rotation_period": "24h"},
		"schedule": {"rotation_schedule": "0 3 * * *", "rotation_window": "1h"},
		"manual":   {"rotation_period": "24h", "disable_automated_rotation": true},
	} {
		data := maps.Clone(common)
		maps.Copy(data, when)
		st.write(t, "static-roles/"+role, data)
		first, second := st.readSecret(t, "static-creds/"+role), st.readSecret(t, "static-creds/"+role)
		meta, err := operatorMeta(first.Data)
		must(t, err)
		if !meta.isStatic() {
			t.Errorf("%s: the Vault Secrets Operator does not take the answer for a static credential: %+v", role, meta)
		}
		if meta.ttl <= 2 {
			t.Errorf("%s: ttl is %d: the Vault Secrets Operator reads again and again", role, meta.ttl)
		}
		if diff := cmp.Diff(operatorCompares(first.Data), operatorCompares(second.Data)); diff != "" {
			t.Errorf("%s: the Vault Secrets Operator restarts workloads after a second read, because of\n%s", role, diff)
		}
		if wait, want := templateWait(first), time.Duration(meta.ttl+1)*time.Second; wait != want {
			t.Errorf("%s: consul-template reads again after %s, want %s", role, wait, want)
		}
		if templateDeleted(first, time.Now()) {
			t.Errorf("%s: consul-template takes the answer for a deleted secret", role)
		}
	}
}

// An operatorMetaData is what the Vault Secrets Operator (1.4.1) knows of a static
// credential (vaultdynamicsecret_controller.go).
type operatorMetaData struct {
	lastRotation, period, ttl int64
	schedule                  string
}

// operatorMeta decodes the data as the Vault Secrets Operator does.
func operatorMeta(data map[string]any) (m operatorMetaData, err error) {
	if v, ok := data["last_vault_rotation"]; ok && v != nil {
		text, isText := v.(string)
		if !isText {
			return m, fmt.Errorf("last_vault_rotation is a %T", v)
		}
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return m, err
		}
		m.lastRotation = at.Unix()
	}
	for field, into := range map[string]*int64{"rotation_period": &m.period, "ttl": &m.ttl} {
		v, ok := data[field]
		if !ok || v == nil {
			continue
		}
		number, isNumber := v.(json.Number)
		if !isNumber {
			return m, fmt.Errorf("%s is a %T", field, v)
		}
		if *into, err = number.Int64(); err != nil {
			return m, fmt.Errorf("%s: %w", field, err)
		}
	}
	if v, ok := data["rotation_schedule"]; ok && v != nil {
		if m.schedule, ok = v.(string); !ok {
			return m, errors.New("rotation_schedule is not a string")
		}
	}
	return m, nil
}

func (m operatorMetaData) isStatic() bool {
	return m.lastRotation > 0 && (m.period >= 1 || m.schedule != "")
}

// operatorCompares returns the fields whose change makes the Vault Secrets Operator
// restart workloads.
func operatorCompares(data map[string]any) map[string]any {
	compared := maps.Clone(data)
	for _, field := range []string{"ttl", "rotation_schedule", "rotation_period", "last_vault_rotation"} {
		delete(compared, field)
	}
	return compared
}

// templateWait returns after which time consul-template, which is in Vault Agent,
// reads an unleased secret again (leaseCheckWait in dependency/vault_common.go,
// version 0.41.1). A secret that does not rotate is read again after 85 to 95 % of
// the time; here it is the time itself.
func templateWait(s secretAnswer) time.Duration {
	base := s.LeaseDuration
	if _, ok := s.Data["certificate"]; ok && s.LeaseID == "" {
		if expires, ok := s.Data["expiration"].(json.Number); ok {
			if at, err := expires.Int64(); err == nil {
				base = int(at - time.Now().Unix())
			}
		}
	}
	if _, ok := s.Data["secret_id"]; ok && s.LeaseID == "" {
		if ttl, ok := s.Data["secret_id_ttl"].(json.Number); ok {
			if seconds, err := ttl.Int64(); err == nil && seconds > 0 {
				base = int(seconds) + 1
			}
		}
	}
	if _, ok := s.Data["rotation_period"]; ok && s.LeaseID == "" {
		if ttl, ok := s.Data["ttl"].(json.Number); ok {
			if seconds, err := ttl.Int64(); err == nil {
				base = int(seconds) + 1
			}
		}
	}
	if base <= 0 {
		base = int((5 * time.Minute).Seconds())
	}
	return time.Duration(base) * time.Second
}

// templateDeleted reports whether consul-template takes the answer for a deleted
// secret (deletedKVv2 in dependency/vault_read.go).
func templateDeleted(s secretAnswer, now time.Time) bool {
	metadata, _ := s.Data["metadata"].(map[string]any)
	text, ok := metadata["deletion_time"].(string)
	if !ok {
		return false
	}
	at, err := time.Parse(time.RFC3339, text)
	return err == nil && now.After(at)
}
