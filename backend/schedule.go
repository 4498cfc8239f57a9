package backend

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	sdkrotation "github.com/hashicorp/vault/sdk/rotation"
)

const (
	// minWindow is the shortest rotation_window, as in Vault's other engines.
	minWindow = time.Hour

	// sampledActivations is how many activations of a cron schedule are looked at
	// to find its shortest and longest interval.
	sampledActivations = 2000
)

// A schedule says when something is rotated: after a period, or at the
// activations of a cron expression in UTC.
type schedule struct {
	Period time.Duration // 0 with Cron
	Cron   string        // empty with Period
	Window time.Duration // after an activation, in which the rotation may happen; 0: until the next one
}

// validate checks the schedule. shortest is the shortest interval that is
// allowed. The error is written for users.
func (s schedule) validate(shortest time.Duration) error {
	switch {
	case s.Period != 0 && s.Cron != "":
		return errors.New("rotation_period and rotation_schedule exclude each other")
	case s.Cron == "" && s.Window != 0:
		return errors.New("rotation_window needs rotation_schedule")
	case s.Period == 0 && s.Cron == "":
		return errors.New("rotation_period or rotation_schedule is required")
	case s.Window != 0 && s.Window < minWindow:
		return fmt.Errorf("rotation_window must be at least %s", shortDuration(minWindow))
	case s.Window > longestTTL || s.Period > longestTTL:
		return errors.New("rotation_period and rotation_window must not be longer than 100 years")
	case s.Cron == "" && s.Period < shortest:
		return fmt.Errorf("rotation_period must be at least %s", shortDuration(shortest))
	case s.Cron == "":
		return nil
	}
	if strings.Contains(s.Cron, "=") {
		return errors.New("rotation_schedule must not name a time zone: it is in UTC")
	}
	parsed, err := sdkrotation.DefaultScheduler.Parse(s.Cron)
	if err != nil {
		return fmt.Errorf("rotation_schedule is not a cron expression of five fields, like \"0 3 * * *\" (UTC): %v", err)
	}
	if parsed.Next(time.Unix(0, 0)).IsZero() {
		return errors.New("rotation_schedule has no activation")
	}
	if least, _ := s.intervals(); least < shortest {
		return fmt.Errorf("rotation_schedule has activations only %s apart; at least %s is needed", shortDuration(least), shortDuration(shortest))
	}
	return nil
}

// with returns the schedule with the fields that the request names changed. A
// request that names a period replaces a cron expression, and the other way round,
// without naming both.
func (s schedule) with(d *framework.FieldData) schedule {
	period, hasPeriod := d.GetOk("rotation_period")
	cron, hasCron := d.GetOk("rotation_schedule")
	if hasPeriod {
		s.Period = time.Duration(period.(int)) * time.Second
	}
	if hasCron {
		s.Cron = strings.TrimSpace(cron.(string))
	}
	switch {
	case hasPeriod && !hasCron && s.Period > 0, hasCron && s.Cron == "":
		s.Cron, s.Window = "", 0
	case hasCron && !hasPeriod:
		s.Period = 0
	}
	if v, ok := d.GetOk("rotation_window"); ok {
		s.Window = time.Duration(v.(int)) * time.Second
	}
	return s
}

// next returns the first time of the schedule after t, where t is the latest
// rotation.
func (s schedule) next(t time.Time) time.Time {
	if s.Cron == "" {
		return t.Add(s.Period)
	}
	parsed, err := sdkrotation.DefaultScheduler.Parse(s.Cron)
	if err != nil {
		return time.Time{} // which validate has excluded
	}
	return parsed.Next(t.UTC())
}

// intervals returns the shortest and the longest time between two rotations.
func (s schedule) intervals() (shortest, longest time.Duration) {
	if s.Cron == "" {
		return s.Period, s.Period
	}
	return cronIntervals.of(s.Cron)
}

// cronIntervals is shared by all mounts.
var cronIntervals = intervalCache{intervals: map[string][2]time.Duration{}}

// An intervalCache remembers the intervals of cron expressions, which take some
// milliseconds to calculate. It is safe for concurrent use.
type intervalCache struct {
	mu        sync.Mutex // guards intervals
	intervals map[string][2]time.Duration
}

// maxCached is the number of cron expressions that are remembered.
const maxCached = 1000

func (c *intervalCache) of(cron string) (shortest, longest time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, ok := c.intervals[cron]
	if !ok {
		if len(c.intervals) >= maxCached {
			clear(c.intervals)
		}
		known[0], known[1] = intervalsOf(cron)
		c.intervals[cron] = known
	}
	return known[0], known[1]
}

// intervalsOf returns the shortest and the longest time between two activations of a
// cron expression: those of sampledActivations activations, and of the days and
// months without any in the two years after.
func intervalsOf(cron string) (shortest, longest time.Duration) {
	parsed, err := sdkrotation.DefaultScheduler.Parse(cron)
	if err != nil {
		return 0, 0
	}
	at := parsed.Next(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)) // any fixed time: a leap year begins
	for range sampledActivations {
		following := parsed.Next(at)
		if following.IsZero() {
			return shortest, longest
		}
		gap := following.Sub(at)
		if shortest == 0 || gap < shortest {
			shortest = gap
		}
		longest, at = max(longest, gap), following
	}
	const day = 24 * time.Hour
	for end := at.Add(2 * 366 * day); at.Before(end); {
		following := parsed.Next(at.Add(day))
		if following.IsZero() {
			break
		}
		if following.Sub(at) > 2*day { // find the last activation before the gap
			for next := parsed.Next(at); next.Before(following); next = parsed.Next(at) {
				at = next
			}
			longest = max(longest, following.Sub(at))
		}
		at = following
	}
	return shortest, longest
}

// windowEnd returns the time until which a rotation planned for at may happen. It
// is zero without a window.
func (s schedule) windowEnd(at time.Time) time.Time {
	if s.Window == 0 {
		return time.Time{}
	}
	return at.Add(s.Window)
}
