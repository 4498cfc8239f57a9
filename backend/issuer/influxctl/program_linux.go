package influxctl

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// inherited is the path at which a process finds the first file that it inherits.
// The interpreter of a script opens it a second time, so the descriptor must stay
// open after execve.
const inherited = "/proc/self/fd/3"

// copyToMemory copies the program to anonymous memory and seals it, so that no
// process can change it.
func copyToMemory(src *os.File) (*image, error) {
	fd, err := memfd("influxctl")
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	img := &image{path: inherited, name: src.Name(), file: os.NewFile(uintptr(fd), "influxctl in memory")}
	img.sha256, err = copyHashed(img.file, src)
	if err == nil {
		const seals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
		_, err = unix.FcntlInt(img.file.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		return nil, errors.Join(err, img.close())
	}
	return img, nil
}

// memfd makes an executable file in memory. Kernels before 6.3 do not know
// MFD_EXEC and always make executable ones, see memfd_create(2).
func memfd(name string) (int, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate(name, flags)
	}
	return fd, err
}
