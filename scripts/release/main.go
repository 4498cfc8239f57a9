// Command release builds what a release consists of, from the commit and the tag
// that are checked out:
//
//	PLUGIN_v1.2.3_linux_amd64           the plugin, for each platform
//	PLUGIN_v1.2.3_linux_amd64.cdx.json  what it is made of (CycloneDX)
//	PLUGIN_v1.2.3_SHA256SUMS            checksums of all these files
//
// Commit, tag and version of Go (.go-version) settle every byte, whatever the
// folder, the machine and its environment, so that anybody can build a release
// again and compare. The checksums are those of the binaries themselves, which is
// what Vault wants to know at `vault plugin register -sha256=…`.
//
// It runs from the root of the repository: go run ./scripts/release [PLATFORM...]
package main

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

const (
	module  = "github.com/influxdb3-vault/vault-plugin-secrets-influxdb"
	program = "vault-plugin-secrets-influxdb"
)

// platforms are those that Vault itself is released for and that Go builds
// without C.
var platforms = []string{
	"darwin/amd64", "darwin/arm64", "freebsd/amd64", "freebsd/arm64",
	"linux/amd64", "linux/arm64", "windows/amd64", "windows/arm64",
}

func main() {
	out := flag.String("out", "dist", "`folder` to build into; it must not exist")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: release [-out FOLDER] [OS/ARCH...]")
		flag.PrintDefaults()
	}
	flag.Parse()
	wanted := flag.Args()
	if len(wanted) == 0 {
		wanted = platforms
	}
	if err := release(*out, wanted); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// release builds for each platform, and sums up.
func release(out string, platforms []string) error {
	version, err := releasedVersion()
	if err != nil {
		return err
	}
	if err := compareGo(); err != nil {
		return err
	}
	if err := os.Mkdir(out, 0o750); err != nil {
		return err
	}
	var sums strings.Builder
	for _, platform := range platforms {
		path, err := build(out, version, platform)
		if err != nil {
			return fmt.Errorf("%s: %w", platform, err)
		}
		sum, err := checksum(path)
		if err != nil {
			return err
		}
		bill := strings.TrimSuffix(path, ".exe") + ".cdx.json"
		if err := writeBill(bill, path, sum, version); err != nil {
			return fmt.Errorf("%s: %w", platform, err)
		}
		sumOfBill, err := checksum(bill)
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%s  %s\n%s  %s\n", sum, filepath.Base(path), sumOfBill, filepath.Base(bill))
	}
	fmt.Print(sums.String())
	return os.WriteFile(filepath.Join(out, program+"_"+version+"_SHA256SUMS"), []byte(sums.String()), 0o600)
}

// semantic is what Vault takes for the version of a plugin.
var semantic = regexp.MustCompile(`^v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?$`)

// releasedVersion is the tag of the commit that is checked out. Changes that are
// not committed are an error: nobody could build them again.
func releasedVersion() (string, error) {
	changes, err := git("status", "--porcelain")
	if err != nil {
		return "", err
	}
	if changes != "" {
		return "", fmt.Errorf("a release is a commit; commit or remove first:\n%s", changes)
	}
	tags, err := git("tag", "--points-at", "HEAD")
	if err != nil {
		return "", err
	}
	var versions []string
	for tag := range strings.FieldsSeq(tags) {
		if semantic.MatchString(tag) {
			versions = append(versions, tag)
		}
	}
	if len(versions) != 1 {
		return "", fmt.Errorf("the commit must have one tag such as v1.2.3, and has %d %v: git tag v1.2.3", len(versions), versions)
	}
	return versions[0], nil
}

// compareGo warns of another Go than the one releases are built with.
func compareGo() error {
	text, err := os.ReadFile(".go-version")
	if err != nil {
		return err
	}
	if want := "go" + strings.TrimSpace(string(text)); runtime.Version() != want {
		fmt.Fprintf(os.Stderr, "release: this is %s, which gives other bytes than %s does: GOTOOLCHAIN=%s make release\n",
			runtime.Version(), want, want)
	}
	return nil
}

func git(args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w", args[0], err)
	}
	return strings.TrimRight(string(out), "\n"), nil
}

// build builds the plugin for a platform, and says where it is.
func build(out, version, platform string) (string, error) {
	system, architecture, ok := strings.Cut(platform, "/")
	if !ok {
		return "", fmt.Errorf("a platform is OS/ARCH, such as %s", platforms[0])
	}
	path := filepath.Join(out, strings.Join([]string{program, version, system, architecture}, "_"))
	if system == "windows" {
		path += ".exe"
	}
	cmd := exec.Command("go", "build", "-o", path, "-trimpath", "-buildvcs=true",
		"-ldflags", "-s -w -X "+module+"/plugin.version="+version, "./cmd/"+program)
	cmd.Env = append(os.Environ(),
		"GOOS="+system, "GOARCH="+architecture, "GOAMD64=v1", "GOARM64=v8.0", "CGO_ENABLED=0",
		"GOFLAGS=-mod=readonly", "GOWORK=off", "GOEXPERIMENT=", "GOFIPS140=off")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return path, cmd.Run()
}

func checksum(path string) (string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", sha256.Sum256(content)), nil
}
