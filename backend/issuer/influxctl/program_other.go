//go:build !linux

package influxctl

import (
	"errors"
	"os"
)

// copyToMemory is not available on this operating system.
func copyToMemory(*os.File) (*image, error) { return nil, errors.ErrUnsupported }
