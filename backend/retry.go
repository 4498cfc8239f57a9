package backend

import (
	"context"
	"time"
)

// retry calls attempt until it returns true, with pauses that double from a
// quarter of a second, for at most the given time. It returns an error if that
// time, or ctx, ended first.
func retry(ctx context.Context, within time.Duration, attempt func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for pause := time.Second / 4; ; pause *= 2 {
		if attempt() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}
