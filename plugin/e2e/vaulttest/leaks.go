package vaulttest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// A secretSet collects the secrets that must not appear in any log of a server.
type secretSet struct {
	mu      sync.Mutex // guards secrets
	secrets []string
}

func (s *secretSet) add(secrets ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets = append(s.secrets, secrets...)
}

func (s *secretSet) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.secrets
}

// Leaks finds secrets in a text and describes each one that it finds. It looks
// for the middle half of each secret: the first characters of a token are not
// secret, and a part of a token is a leak too. It reads the text once, because
// there may be thousands of secrets.
func Leaks(text string, secrets []string) []string {
	const start = 8 // length of the prefix by which the parts are found
	parts := map[string][]string{}
	for _, secret := range secrets {
		part := secret[len(secret)/4 : len(secret)*3/4]
		parts[part[:start]] = append(parts[part[:start]], part)
	}
	var found []string
	leaked := map[string]bool{}
	for i := 0; i+start <= len(text); i++ {
		for _, part := range parts[text[i:i+start]] {
			if !leaked[part] && strings.HasPrefix(text[i:], part) {
				leaked[part] = true
				found = append(found, fmt.Sprintf("a secret (…%.4s…) after …%s", part, text[max(0, i-300):i]))
			}
		}
	}
	return found
}

// checkLogs reports secrets, data races and crashes in the logs of a server that
// has ended. If the test has failed it also prints the end of each log.
func checkLogs(t testing.TB, logs, secrets []string) {
	for _, path := range logs {
		log, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, leak := range Leaks(string(log), secrets) {
			t.Errorf("%s: %s", filepath.Base(path), leak)
		}
		for _, sign := range []string{"WARNING: DATA RACE", "panic: ", "fatal error: "} {
			if _, after, found := strings.Cut(string(log), sign); found {
				t.Errorf("%s: %s%.2000s", filepath.Base(path), sign, after)
			}
		}
		if size := 5_000; t.Failed() {
			if testing.Verbose() {
				size = 20_000
			}
			t.Logf("%s ends in:\n%s", filepath.Base(path), log[max(0, len(log)-size):])
		}
	}
}
