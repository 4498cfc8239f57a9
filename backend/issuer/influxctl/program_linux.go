package influxctl

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// inherited is where a process finds the first file that it inherits. A script
// is opened there a second time, by its interpreter, which is why the
// descriptor must outlive the execve.
const inherited = "/proc/self/fd/3"

// sealed keeps the program in anonymous memory that can be changed no more.
func sealed(src *os.File) (*image, error) {
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

// memfd asks for executable memory, in words that kernels before 6.3 do not
// know and take for granted.
func memfd(name string) (int, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate(name, flags)
	}
	return fd, err
}
