package backend

import (
	"testing"
	"time"
)

func TestSchedule_Intervals(t *testing.T) {
	const day = 24 * time.Hour
	for cron, want := range map[string][2]time.Duration{
		"0 3 * * *":      {day, day},
		"0 3 * * SAT":    {7 * day, 7 * day},
		"*/10 0-2 * * *": {10 * time.Minute, 21*time.Hour + 10*time.Minute},
		"0 0 1 * *":      {28 * day, 31 * day},
		"*/10 * * 1 *":   {10 * time.Minute, 335*day + 10*time.Minute}, // January only
	} {
		shortest, longest := schedule{Cron: cron}.intervals()
		if got := [2]time.Duration{shortest, longest}; got != want {
			t.Errorf("%s: %v, want %v", cron, got, want)
		}
	}
}
