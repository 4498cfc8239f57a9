package simulator

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// SidecarName is the file that the CLI face looks for beside its executable,
// that is, in the directory of its first argument.
const SidecarName = "influxsim.json"

// A Sidecar tells the CLI face what its caller's command line cannot.
type Sidecar struct {
	// URL is the origin of the cluster, for profiles of the product dedicated
	// and for runs that read no profile. Others go by the profile.
	URL string `json:"url,omitempty"`

	// Version is what the CLI claims to be; its flags and output follow. Empty
	// stands for LatestVersion. Text without a version in it is printed as it
	// is, by a CLI that behaves like the latest.
	Version string `json:"version,omitempty"`

	// Shape and ListShape are the forms of the JSON that create and list print:
	// one of CreateShapes and ListShapes.
	Shape     string `json:"shape,omitempty"`
	ListShape string `json:"list_shape,omitempty"`
}

// Install puts a CLI with the given sidecar into dir, under the name influxctl,
// and returns its path. program is an executable that calls Main when its first
// argument has that base name: influxsim, or a test binary with such a
// TestMain. Installing again replaces the sidecar.
func Install(dir, program string, s Sidecar) (string, error) {
	path := filepath.Join(dir, cliName)
	if err := place(program, path); err != nil {
		return "", fmt.Errorf("install the simulated CLI: %w", err)
	}
	if err := s.write(dir); err != nil {
		return "", err
	}
	return path, nil
}

// place links program at path, or copies it where no link is possible.
func place(program, path string) error {
	err := os.Link(program, path)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return nil
	}
	from, err := os.Open(program)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}

// write replaces the sidecar in dir in one step, since a CLI may be reading it.
func (s Sidecar) write(dir string) error {
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("write the sidecar: %w", err)
	}
	temporary, err := os.CreateTemp(dir, SidecarName+".*")
	if err != nil {
		return fmt.Errorf("write the sidecar: %w", err)
	}
	_, err = temporary.Write(text)
	if err := errors.Join(err, temporary.Close()); err != nil {
		return fmt.Errorf("write the sidecar: %w", err)
	}
	return os.Rename(temporary.Name(), filepath.Join(dir, SidecarName))
}

// readSidecar reads the file beside program. Without one all is as by default.
func readSidecar(program string) (Sidecar, error) {
	var s Sidecar
	file, err := os.Open(filepath.Join(filepath.Dir(program), SidecarName))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	defer file.Close()
	decoder := json.NewDecoder(file)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		return s, fmt.Errorf("%s: %w", file.Name(), err)
	}
	return s, nil
}
