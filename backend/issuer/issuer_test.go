package issuer

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestSecret_PrintsUnderNoVerb(t *testing.T) {
	token := Token{ID: "id", Secret: NewSecret("hunter2")}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T %v", "%20s", "%-5.2v"} {
		for _, arg := range []any{token, &token, token.Secret, &token.Secret, []Secret{token.Secret}, map[string]Secret{"a": token.Secret}, struct{ hidden Secret }{token.Secret}, struct{ hidden *Token }{&token}} {
			args := []any{arg}
			if strings.HasPrefix(verb, "%T") {
				args = []any{arg, arg}
			}
			if got := fmt.Sprintf(verb, args...); strings.Contains(got, "hunter2") || strings.Contains(got, "68756e746572") {
				t.Errorf("Sprintf(%q, %T) = %s", verb, arg, got)
			}
		}
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("issued", "token", token, "secret", token.Secret)
	if strings.Contains(log.String(), "hunter2") {
		t.Error(log.String())
	}
	if NewSecret("hunter2") != token.Secret || NewSecret("") != (Secret{}) || (Secret{}).Reveal() != "" {
		t.Error("equality, or the empty secret")
	}
	if token.Secret.String() != redacted || token.Secret.Reveal() != "hunter2" {
		t.Error("String or Reveal")
	}
}

func TestSecret_RefusesToBeMarshaled(t *testing.T) {
	token := Token{Secret: NewSecret("hunter2")}
	if out, err := json.Marshal(token); err == nil {
		t.Errorf("json: %s", out)
	}
	if out, err := json.Marshal(map[Secret]int{token.Secret: 1}); err == nil {
		t.Errorf("json key: %s", out)
	}
	if err := gob.NewEncoder(new(bytes.Buffer)).Encode(token); err == nil {
		t.Error("gob")
	}
}

func TestUnauthorizedIsARefusal(t *testing.T) {
	if !errors.Is(ErrUnauthorized, ErrRefused) || errors.Is(ErrRefused, ErrUnauthorized) {
		t.Error("ErrUnauthorized must wrap ErrRefused, and not the reverse")
	}
}

func TestDead(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		info Info
		want bool
	}{
		{Info{}, false},
		{Info{ExpiresAt: now.Add(time.Second)}, false},
		{Info{ExpiresAt: now}, true},
		{Info{ExpiresAt: now.Add(time.Hour), RevokedAt: now.Add(-time.Hour)}, true},
	} {
		if got := c.info.Dead(now); got != c.want {
			t.Errorf("%+v: dead = %v", c.info, got)
		}
	}
}
