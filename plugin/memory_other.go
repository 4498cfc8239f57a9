//go:build !linux

package plugin

// keepMemoryPrivate does nothing. On these systems only the operator can forbid core
// dumps.
func keepMemoryPrivate() error { return nil }
