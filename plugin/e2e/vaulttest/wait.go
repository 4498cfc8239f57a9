package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// Eventually calls f until it succeeds. It returns the last error of f if f has
// not succeeded within the limit or before ctx is done.
func Eventually(ctx context.Context, limit time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", limit, err)
		case <-tick.C:
		}
	}
}

// Wait returns after d, or when ctx is done. It reports whether d has passed.
func Wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Concurrently calls f n times, from the given number of goroutines, and returns
// the errors joined.
func Concurrently(n, callers int, f func() error) error {
	work, results := make(chan struct{}, n), make(chan error, n)
	for range n {
		work <- struct{}{}
	}
	close(work)
	for range callers {
		go func() {
			for range work {
				results <- f()
			}
		}()
	}
	var errs []error
	for range n {
		errs = append(errs, <-results)
	}
	return errors.Join(errs...)
}

// must ends the test if there is an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
