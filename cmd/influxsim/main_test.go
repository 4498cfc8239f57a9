package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// start runs the command until the test ends and returns what it announces.
func start(t *testing.T, args ...string) announcement {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, args, writer)
		writer.CloseWithError(io.EOF)
		done <- err
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the command ended with: %v", err)
		}
	})
	line, err := bufio.NewReader(reader).ReadBytes('\n')
	if err != nil {
		t.Fatal(err, <-done)
	}
	var said announcement
	if err := json.Unmarshal(line, &said); err != nil {
		t.Fatal(err)
	}
	return said
}

// use tells what the cluster answers to a management token.
func use(t *testing.T, said announcement, token string) int {
	t.Helper()
	url := said.URL + "/api/v0/accounts/" + said.AccountID + "/clusters/" + said.ClusterID + "/databases"
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	return answer.StatusCode
}

func TestClusterIsServedUntilTheSignal(t *testing.T) {
	said := start(t, "cluster", "--product", "dedicated", "--account-id", "a", "--cluster-id", "c")
	if said.AccountID != "a" || said.ClusterID != "c" {
		t.Errorf("%+v", said)
	}
	if got := use(t, said, said.Root); got != http.StatusOK {
		t.Errorf("the root gets %d", got)
	}
}

func TestRootFileKeepsTheRootFromTheOutput(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root")
	said := start(t, "cluster", "--root-file", path)
	if said.Root != "" {
		t.Error("the root was printed")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := use(t, said, strings.TrimSpace(string(text))); got != http.StatusOK {
		t.Errorf("the root gets %d", got)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestBadArgumentsAreRefused(t *testing.T) {
	for _, args := range []string{"", "frob", "cluster extra", "cluster --frob", "cluster --listen nowhere:x", "cluster --tls-cert none --tls-key none"} {
		if err := run(t.Context(), strings.Fields(args), io.Discard); err == nil {
			t.Errorf("%q succeeded", args)
		}
	}
}
