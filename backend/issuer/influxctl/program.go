package influxctl

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/failure"
	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer/internal/redact"
)

const (
	// versionTimeout limits `influxctl version`, which does not use the network.
	versionTimeout = 10 * time.Second

	// maxProgram is the largest program that is copied, in bytes. The real one
	// has a tenth of that.
	maxProgram = 1 << 30
)

// An image is a private copy of the program. The bytes that were hashed are the
// bytes that run.
type image struct {
	path   string   // what to execute
	name   string   // its argv[0]: the file that it was copied from
	sha256 string   // in hex
	file   *os.File // the copy, if the process inherits it as descriptor 3
	dir    string   // private directory of the copy; empty: there is none
}

func (i *image) close() error {
	if i.dir != "" {
		discard(i.dir)
	}
	if i.file != nil {
		return i.file.Close()
	}
	return nil
}

// A program is the influxctl to run. It is checked when it is first needed.
type program struct {
	path, pin string
	launcher  *launcher
	scratch   *scratch

	// copiers are the ways to make a copy, the best first. If one is not
	// available, or its copy cannot be started, the next is tried.
	copiers []func(src *os.File) (*image, error)

	lock  chan struct{} // guards what follows; a channel, so that a context can end the wait
	image *image        // nil until the program was checked
	facts issuer.Program
}

func newProgram(cfg Config, s *scratch, l *launcher) *program {
	p := &program{path: cfg.Path, pin: cfg.SHA256, launcher: l, scratch: s, lock: make(chan struct{}, 1)}
	p.copiers = []func(*os.File) (*image, error){copyToMemory, p.copyToFile}
	return p
}

// verified returns the program. It checks the program until a check succeeds;
// other callers wait for a check. All errors wrap issuer.ErrRefused.
func (p *program) verified(ctx context.Context) (issuer.Program, *image, error) {
	select {
	case p.lock <- struct{}{}:
		defer func() { <-p.lock }()
	case <-ctx.Done():
		return issuer.Program{}, nil, failure.NotSentf("wait for the check of influxctl: %w", ctx.Err())
	}
	if p.image != nil {
		return p.facts, p.image, nil
	}
	facts, img, err := p.check(ctx)
	if err != nil {
		return facts, nil, failure.NotSent(err)
	}
	p.facts, p.image = facts, img
	return facts, img, nil
}

// forgetIfGone makes the next call check the program again if its copy has
// disappeared: some systems remove old files from the directory for temporary
// files.
func (p *program) forgetIfGone(img *image) {
	if img.dir == "" {
		return
	}
	if _, err := os.Stat(img.path); !errors.Is(err, fs.ErrNotExist) {
		return
	}
	p.lock <- struct{}{}
	defer func() { <-p.lock }()
	if p.image == img {
		p.image = nil
		discard(img.dir)
	}
}

func (p *program) close() error {
	p.lock <- struct{}{}
	defer func() { <-p.lock }()
	if p.image == nil {
		return nil
	}
	defer func() { p.image = nil }()
	return p.image.close()
}

// check finds, copies and hashes the program, and reads its version.
func (p *program) check(ctx context.Context) (facts issuer.Program, img *image, err error) {
	if facts.Path, err = find(p.path); err != nil {
		return facts, nil, err
	}
	for _, copier := range p.copiers {
		var output string
		if img, err = p.copy(facts.Path, copier); err != nil {
			continue
		}
		if err = p.checkPin(img); err != nil {
			return facts, nil, errors.Join(err, img.close())
		}
		facts.SHA256 = img.sha256
		if output, err = p.runVersion(ctx, img); err == nil {
			facts, err = checkVersion(facts, output)
		}
		if err == nil {
			return facts, img, nil
		}
		_ = img.close() // err is the reason
		if !errors.Is(err, errNotStarted) {
			return facts, nil, err
		}
	}
	return facts, nil, err
}

// copy copies the file at path.
func (p *program) copy(path string, copier func(*os.File) (*image, error)) (*image, error) {
	src, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("influxctl cannot be read: %w; let the user that runs Vault read it, or name another one with INFLUXCTL_PATH", err)
	}
	defer src.Close()
	img, err := copier(src)
	if err != nil {
		return nil, fmt.Errorf("copy %s: %w", path, err)
	}
	return img, nil
}

// checkPin compares the checksum of the copy with the one that the operator set.
func (p *program) checkPin(img *image) error {
	pin := strings.ToLower(strings.TrimSpace(p.pin))
	if pin == "" || pin == img.sha256 {
		return nil
	}
	if sum, err := hex.DecodeString(pin); err != nil || len(sum) != sha256.Size {
		return errors.New("INFLUXCTL_SHA256 is not a SHA-256 checksum: write it as 64 hexadecimal digits")
	}
	return fmt.Errorf("the SHA-256 checksum of %s is %s, and INFLUXCTL_SHA256 is %s: install the program with that checksum, or set INFLUXCTL_SHA256 to this one if you trust it", img.name, img.sha256, pin)
}

// errNotStarted means that the operating system could not start an image.
var errNotStarted = errors.New("cannot be started")

// runVersion runs `influxctl version` and returns the text of both streams.
func (p *program) runVersion(ctx context.Context, img *image) (string, error) {
	home, err := p.scratch.make()
	if err != nil {
		return "", err
	}
	defer discard(home)
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	var stdout []byte
	out, err := p.launcher.run(ctx, job{image: img, args: versionArgs, home: home, read: func(r io.Reader) error {
		stdout, err = readOutput(r)
		return err
	}})
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("influxctl version did not end in time: %w; check that %s is influxctl, or name another one with INFLUXCTL_PATH", ctx.Err(), img.name)
	case err != nil:
		return "", fmt.Errorf("%s %w: %v; install an influxctl built for this machine, or name one with INFLUXCTL_PATH", img.name, errNotStarted, err)
	case out.readErr != nil:
		return "", fmt.Errorf("influxctl version: %w", out.readErr)
	case !out.state.Success():
		return "", fmt.Errorf("influxctl version: %v%s; check that %s is influxctl, or name another one with INFLUXCTL_PATH", out.state, quoteMessage(out), img.name)
	}
	return redact.Plain(string(stdout)) + "\n" + redact.Plain(out.stderr), nil
}

// checkVersion adds the version in the output to facts. It fails if the version is
// too old, or if the output is not that of influxctl.
func checkVersion(facts issuer.Program, output string) (issuer.Program, error) {
	v, known := parseVersion(output)
	facts.Version = v.String()
	switch {
	case !known && !describesBuild.MatchString(output):
		return facts, fmt.Errorf("%s is not influxctl: its command version prints neither a version nor an architecture; name influxctl with INFLUXCTL_PATH", facts.Path)
	case v.before(minVersion):
		return facts, fmt.Errorf("influxctl %v is too old, %v or later is needed: install it, or name another one with INFLUXCTL_PATH", v, minVersion)
	}
	facts.Warning = v.warning()
	return facts, nil
}

// find returns the absolute path of the program: path, or influxctl on PATH if
// that is empty.
func find(path string) (string, error) {
	if path == "" {
		found, err := exec.LookPath("influxctl")
		if err != nil {
			return "", errors.New("influxctl is not on PATH: install it, or register the plugin with the environment variable INFLUXCTL_PATH set to its path")
		}
		path = found
	}
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("the path of influxctl, %s, is not absolute: set INFLUXCTL_PATH to an absolute path", path)
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "", fmt.Errorf("influxctl cannot be found: %w; install it there, or name another one with INFLUXCTL_PATH", err)
	case info.IsDir():
		return "", fmt.Errorf("%s is a directory: set INFLUXCTL_PATH to the influxctl in it", path)
	case !info.Mode().IsRegular() || info.Size() > maxProgram:
		return "", fmt.Errorf("%s is not a program: set INFLUXCTL_PATH to the path of influxctl", path)
	case runtime.GOOS != "windows" && info.Mode()&0o111 == 0:
		return "", fmt.Errorf("%s is not executable: make it executable, or name another influxctl with INFLUXCTL_PATH", path)
	}
	return path, nil
}

// copyToFile copies the program to a private file.
func (p *program) copyToFile(src *os.File) (img *image, err error) {
	dir, err := p.scratch.makeIn(os.TempDir())
	if err != nil {
		return nil, err
	}
	img = &image{name: src.Name(), dir: dir, path: filepath.Join(dir, filepath.Base(src.Name()))}
	// A process that is forked while the copy is open for writing keeps it open,
	// and a file that is open for writing cannot be executed.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	dst, err := os.OpenFile(img.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o500)
	if err == nil {
		img.sha256, err = copyHashed(dst, src)
		err = errors.Join(err, dst.Close())
	}
	if err != nil {
		return nil, errors.Join(err, img.close())
	}
	return img, nil
}

// copyHashed copies src to dst and returns the SHA-256 of the copy in hex.
func copyHashed(dst io.Writer, src io.Reader) (string, error) {
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(dst, sum), io.LimitReader(src, maxProgram+1))
	if err == nil && n > maxProgram {
		err = fmt.Errorf("it is larger than %d bytes", maxProgram)
	}
	return hex.EncodeToString(sum.Sum(nil)), err
}
