package influxctl

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/influxdb3-vault/vault-plugin-secrets-influxdb/backend/issuer"
)

const (
	// versionTimeout bounds `influxctl version`, which asks nobody.
	versionTimeout = 10 * time.Second

	// maxProgram bounds what is copied. The real program is a tenth of it.
	maxProgram = 1 << 30
)

// An image is a copy of the program that nobody can change: the bytes that were
// hashed are the bytes that run.
type image struct {
	path   string   // what to execute
	name   string   // its argv[0]: the file that it was copied from
	sha256 string   // in hex
	file   *os.File // the copy, if the process is to inherit it, as descriptor 3
	dir    string   // private directory of the copy, if it has one
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

// A program is the influxctl to run, proven fit for use when first needed.
type program struct {
	path, pin string
	launcher  *launcher
	scratch   *scratch

	// stores are the ways to keep a copy, the best first. Where one is not to
	// be had, or what it keeps cannot be started, the next is tried.
	stores []func(src *os.File) (*image, error)

	lock  chan struct{} // guards what follows; a channel, so that waiting can end with a context
	image *image        // nil until proven
	facts issuer.Program
}

func newProgram(cfg Config, s *scratch, l *launcher) *program {
	p := &program{path: cfg.Path, pin: cfg.SHA256, launcher: l, scratch: s, lock: make(chan struct{}, 1)}
	p.stores = []func(*os.File) (*image, error){sealed, p.copied}
	return p
}

// prove returns the program, checked at the first success only. While one
// caller checks it, others wait. All errors are refusals: nothing was asked of
// any cluster.
func (p *program) prove(ctx context.Context) (issuer.Program, *image, error) {
	select {
	case p.lock <- struct{}{}:
		defer func() { <-p.lock }()
	case <-ctx.Done():
		return issuer.Program{}, nil, notRunf("wait for influxctl to be checked: %w", ctx.Err())
	}
	if p.image != nil {
		return p.facts, p.image, nil
	}
	facts, img, err := p.check(ctx)
	if err != nil {
		return facts, nil, &notRun{err}
	}
	p.facts, p.image = facts, img
	return facts, img, nil
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

// check finds, copies, hashes and asks the program.
func (p *program) check(ctx context.Context) (facts issuer.Program, img *image, err error) {
	if facts.Path, err = find(p.path); err != nil {
		return facts, nil, err
	}
	for _, store := range p.stores {
		var said string
		if img, err = p.keep(facts.Path, store); err != nil {
			continue
		}
		if err = p.checkPin(img); err != nil {
			return facts, nil, errors.Join(err, img.close())
		}
		facts.SHA256 = img.sha256
		if said, err = p.ask(ctx, img); err == nil {
			facts, err = judge(facts, said)
		}
		if err == nil {
			return facts, img, nil
		}
		_ = img.close() // the other error says more
		if !errors.Is(err, errNotStarted) {
			return facts, nil, err
		}
	}
	return facts, nil, err
}

// keep copies the file at path by way of store.
func (p *program) keep(path string, store func(*os.File) (*image, error)) (*image, error) {
	src, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("influxctl cannot be read: %w; let the user that Vault runs as read it, or name another one with INFLUXCTL_PATH", err)
	}
	defer src.Close()
	img, err := store(src)
	if err != nil {
		return nil, fmt.Errorf("copy %s: %w", path, err)
	}
	return img, nil
}

// checkPin compares what was copied with what the operator expects.
func (p *program) checkPin(img *image) error {
	pin := strings.ToLower(strings.TrimSpace(p.pin))
	if pin == "" || pin == img.sha256 {
		return nil
	}
	if sum, err := hex.DecodeString(pin); err != nil || len(sum) != sha256.Size {
		return errors.New("INFLUXCTL_SHA256 is not a SHA-256 checksum: write it as 64 hexadecimal digits")
	}
	return fmt.Errorf("the SHA-256 checksum of %s is %s, and INFLUXCTL_SHA256 is %s: install the version that was pinned, or pin this one if you trust it", img.name, img.sha256, pin)
}

// errNotStarted means that the operating system did not start an image.
var errNotStarted = errors.New("cannot be started")

// ask runs `influxctl version` and returns what it printed on either stream.
func (p *program) ask(ctx context.Context, img *image) (string, error) {
	home, err := p.scratch.make()
	if err != nil {
		return "", err
	}
	defer discard(home)
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	var stdout []byte
	out, err := p.launcher.run(ctx, job{image: img, args: versionArgs, home: home, read: func(r io.Reader) error {
		stdout, err = readBounded(r)
		return err
	}})
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("influxctl did not say its version: %w; is %s really influxctl? Name another one with INFLUXCTL_PATH", ctx.Err(), img.name)
	case err != nil:
		return "", fmt.Errorf("%s %w: %v; install an influxctl built for this machine, or name one with INFLUXCTL_PATH", img.name, errNotStarted, err)
	case out.read != nil:
		return "", fmt.Errorf("influxctl version: %w", out.read)
	}
	return plain(stdout) + "\n" + plain([]byte(out.stderr)), nil
}

// judge adds to facts what the program says of its version.
func judge(facts issuer.Program, said string) (issuer.Program, error) {
	v, _ := parseVersion(said)
	facts.Version = v.String()
	if v.before(floorVersion) {
		return facts, fmt.Errorf("influxctl %v is too old, %v or later is needed: install it, or name another one with INFLUXCTL_PATH", v, floorVersion)
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
			return "", errors.New("influxctl is not on PATH: install it, or register the plugin with the environment variable INFLUXCTL_PATH naming it")
		}
		path = found
	}
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("the path of influxctl, %s, is not absolute: name it in full with INFLUXCTL_PATH", path)
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "", fmt.Errorf("influxctl cannot be found: %w; install it there, or name another one with INFLUXCTL_PATH", err)
	case info.IsDir():
		return "", fmt.Errorf("%s is a directory: name the influxctl in it with INFLUXCTL_PATH", path)
	case !info.Mode().IsRegular() || info.Size() > maxProgram:
		return "", fmt.Errorf("%s is not a program: name influxctl with INFLUXCTL_PATH", path)
	case runtime.GOOS != "windows" && info.Mode()&0o111 == 0:
		return "", fmt.Errorf("%s is not executable: make it so, or name another influxctl with INFLUXCTL_PATH", path)
	}
	return path, nil
}

// copied keeps the program as a private file.
func (p *program) copied(src *os.File) (img *image, err error) {
	dir, err := p.scratch.makeIn(os.TempDir())
	if err != nil {
		return nil, err
	}
	img = &image{name: src.Name(), dir: dir, path: filepath.Join(dir, filepath.Base(src.Name()))}
	// A process that is forked meanwhile would keep the copy open for writing,
	// and what is open for writing cannot be executed.
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

// copyHashed copies src to dst and returns the checksum of what it wrote.
func copyHashed(dst io.Writer, src io.Reader) (string, error) {
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(dst, sum), io.LimitReader(src, maxProgram+1))
	if err == nil && n > maxProgram {
		err = errors.New("too long")
	}
	return hex.EncodeToString(sum.Sum(nil)), err
}
