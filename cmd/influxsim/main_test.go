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

// start runs the command until the test ends and returns its announcement.
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
			t.Errorf("run: %v", err)
		}
	})
	line, err := bufio.NewReader(reader).ReadBytes('\n')
	if err != nil {
		t.Fatal(err, <-done)
	}
	var announced announcement
	if err := json.Unmarshal(line, &announced); err != nil {
		t.Fatal(err)
	}
	return announced
}

// use returns the status of a request with a management token.
func use(t *testing.T, at announcement, token string) int {
	t.Helper()
	url := at.URL + "/api/v0/accounts/" + at.AccountID + "/clusters/" + at.ClusterID + "/databases"
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

func TestCluster_ServesUntilStopped(t *testing.T) {
	at := start(t, "cluster", "--product", "dedicated")
	if got := use(t, at, at.Root); got != http.StatusOK {
		t.Errorf("status %d with the root credential", got)
	}
}

func TestCluster_RootFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root")
	at := start(t, "cluster", "--root-file", path)
	if at.Root != "" {
		t.Error("the root credential was printed")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := use(t, at, strings.TrimSpace(string(text))); got != http.StatusOK {
		t.Errorf("status %d with the root credential", got)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestRun_RefusesBadArguments(t *testing.T) {
	for _, args := range []string{"", "frob", "cluster extra", "cluster --frob", "cluster --listen nowhere:x"} {
		if err := run(t.Context(), strings.Fields(args), io.Discard); err == nil {
			t.Errorf("%q succeeded", args)
		}
	}
}
