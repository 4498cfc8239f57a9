//go:build !linux

package plugin

// keepMemoryPrivate does nothing where only the operator can forbid core dumps.
func keepMemoryPrivate() error { return nil }
