package plugin

import (
	"os"
	"time"
)

// watchInterval is the time after which a plugin without its Vault ends.
const watchInterval = 5 * time.Second

// endWithVault ends this process after its parent has ended. A Vault that is killed
// cannot stop its plugins, and go-plugin does not notice. Without this, a plugin
// process with the root credential in its memory would stay behind. It relies on
// the parent process ID changing when the parent ends, so it does nothing on
// Windows.
func endWithVault() {
	parent := os.Getppid()
	go func() {
		for range time.Tick(watchInterval) {
			if os.Getppid() != parent {
				os.Exit(0)
			}
		}
	}()
}
