package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// start runs the command until the test ends and decodes its announcement.
func start[A any](t *testing.T, args ...string) (announced A) {
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
	if err := json.Unmarshal(line, &announced); err != nil {
		t.Fatal(err)
	}
	return announced
}

// use returns the status of a request with a management token.
func use(t *testing.T, at announcement, token string) int {
	t.Helper()
	return get(t, at.URL+"/api/v0/accounts/"+at.AccountID+"/clusters/"+at.ClusterID+"/databases", token)
}

func TestCluster_ServesUntilStopped(t *testing.T) {
	at := start[announcement](t, "cluster", "--product", "dedicated")
	if got := use(t, at, at.Root); got != http.StatusOK {
		t.Errorf("status %d with the root credential", got)
	}
}

func TestCluster_RootFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root")
	at := start[announcement](t, "cluster", "--root-file", path)
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

// get returns the status of a request with a token.
func get(t *testing.T, url, token string) int {
	t.Helper()
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

func TestServer_ServesProductAndControl(t *testing.T) {
	for _, product := range []string{"core", "enterprise", "cloud"} {
		path := filepath.Join(t.TempDir(), "root")
		at := start[serverAnnouncement](t, "server", "--product", product, "--root-file", path, "--databases", "metrics,logs")
		root, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := get(t, at.URL+"/ping", strings.TrimSpace(string(root))); got != http.StatusOK {
			t.Errorf("%s: status %d with the root credential", product, got)
		}
		if got := get(t, at.URL+"/ping", "apiv3_wrong"); got != http.StatusUnauthorized {
			t.Errorf("%s: status %d with another token", product, got)
		}
		if got := get(t, at.URL+"/tokens", strings.TrimSpace(string(root))); got != http.StatusNotFound {
			t.Errorf("%s: status %d: the address of the server serves its control API", product, got)
		}
		if got := names(t, at.Control); !slices.Equal(got, []string{"_admin", "vault-root"}) {
			t.Errorf("%s: tokens %q", product, got)
		}
	}
}

// names returns the names of the tokens that a control API lists.
func names(t *testing.T, control string) (names []string) {
	t.Helper()
	answer, err := http.Get(control + "/tokens")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var tokens []struct{ Name string }
	if err := json.NewDecoder(answer.Body).Decode(&tokens); err != nil {
		t.Fatal(err)
	}
	for _, token := range tokens {
		names = append(names, token.Name)
	}
	return names
}

func TestRun_RefusesBadArguments(t *testing.T) {
	for _, args := range []string{
		"", "frob", "cluster extra", "cluster --frob", "cluster --listen nowhere:x",
		"server", "server --root-file ROOT extra", "server --root-file ROOT --product dedicated",
		"server --root-file ROOT --listen nowhere:x", "server --root-file ROOT --control nowhere:x", "server --root-file /nowhere/x",
	} {
		args = strings.ReplaceAll(args, "ROOT", filepath.Join(t.TempDir(), "root"))
		if err := run(t.Context(), strings.Fields(args), io.Discard); err == nil {
			t.Errorf("%q succeeded", args)
		}
	}
}
