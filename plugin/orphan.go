package plugin

import (
	"os"
	"time"
)

// watchInterval is how soon an orphan ends.
const watchInterval = 5 * time.Second

// endWithVault ends the process when its parent has gone. A Vault that is killed
// cannot end its plugins, and go-plugin does not notice: without this, each such
// death would leave a process behind, root token in memory. It takes the other
// way round for granted, that whoever starts the plugin outlives it; where a
// process never changes parents, on Windows, it does nothing.
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
