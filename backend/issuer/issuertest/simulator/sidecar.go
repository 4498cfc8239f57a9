package simulator

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// SidecarName is the name of the file with the Sidecar. It is beside the command,
// that is, in the directory of its first argument, or of the command on PATH if
// the first argument is a bare name.
const SidecarName = "influxsim.json"

// A Sidecar configures the simulated command. The command line and the
// environment cannot do that, because the driver sets both.
type Sidecar struct {
	// URL is the origin of the cluster, for profiles of the product dedicated
	// and for runs that read no profile. For the product clustered, the profile
	// has the address.
	URL string `json:"url,omitempty"`

	// Version is the version of influxctl to behave as, for example "2.11.0".
	// Empty means LatestVersion.
	Version string `json:"version,omitempty"`

	// Shape and ListShape are the forms of the JSON that create and list print,
	// one of CreateShapes and one of ListShapes.
	Shape     string `json:"shape,omitempty"`
	ListShape string `json:"list_shape,omitempty"`

	// Interactive means that a person runs the command in a shell. Variables of
	// Vault in the environment, a terminal as standard input, --debug, and the
	// modes of the profile are then no violations. A secret in the arguments or
	// in the environment still is one.
	Interactive bool `json:"interactive,omitempty"`
}

// Install installs the command with the given sidecar in dir, under the name
// influxctl, and returns its path. The file program must call Main if it is
// started under that name: influxsim does, or a test binary with such a TestMain.
// If the command is installed already, Install replaces the sidecar.
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

// place links program at path, or copies it where a link is not possible.
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

// write replaces the sidecar in dir atomically, because a run may be reading it.
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

// readSidecar reads the file beside program, which is found on PATH if it is a
// bare name. Without a file it returns the zero value.
func readSidecar(program string) (Sidecar, error) {
	var s Sidecar
	if filepath.Base(program) == program {
		if path, err := exec.LookPath(program); err == nil {
			program = path
		}
	}
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
