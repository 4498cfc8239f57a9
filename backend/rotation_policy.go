package backend

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
)

const (
	// defaultRootTTL is how long a new root credential lives if the config says
	// nothing else.
	defaultRootTTL = 8760 * time.Hour

	// minRootInterval is the shortest time between two regular rotations.
	minRootInterval = time.Hour

	// minRotationLead is how long before its expiry the root credential is rotated at
	// the latest, whatever expiry_warning is: an expired one can issue no other.
	minRotationLead = time.Hour

	// rootCheckInterval is how often the root credential is checked if nothing is
	// known to happen to it, and how often its expiry is logged.
	rootCheckInterval = 24 * time.Hour
)

// A rotationPolicy says when the root credential is rotated, and how long the
// next one lives.
type rotationPolicy struct {
	Schedule schedule       // neither a period nor a cron expression: no regular rotation
	Disabled bool           // no unattended rotations
	TTL      *time.Duration // of a new root credential; nil: the default; 0: it never expires
	Overlap  *time.Duration // how long the previous root credential stays valid; nil: the default
	Warning  time.Duration  // before the expiry of the root credential
}

// ttl is how long a new root credential lives; 0 means that it never expires.
func (p rotationPolicy) ttl() time.Duration {
	switch {
	case p.TTL != nil:
		return *p.TTL
	case p.regular():
		return 3 * p.interval()
	}
	return defaultRootTTL
}

// regular reports whether the root credential is to be rotated at regular times.
func (p rotationPolicy) regular() bool { return p.Schedule.Period != 0 || p.Schedule.Cron != "" }

// interval is the longest time between two regular rotations.
func (p rotationPolicy) interval() time.Duration {
	_, longest := p.Schedule.intervals()
	return longest
}

// overlap is how long the previous root credential stays valid after a rotation. The
// default is longer than any request that uses it, also one that waits for a process,
// and than the time until every node of a cluster knows the new one.
func (p rotationPolicy) overlap() time.Duration {
	if p.Overlap != nil {
		return *p.Overlap
	}
	return issueWindow
}

// with returns the policy with the fields that the request names changed.
func (p rotationPolicy) with(d *framework.FieldData) rotationPolicy {
	given := func(field string) *time.Duration {
		v, ok := d.GetOk(field)
		if !ok {
			return nil
		}
		length := time.Duration(v.(int)) * time.Second
		return &length
	}
	p.Schedule = p.Schedule.with(d)
	if v := given("rotation_ttl"); v != nil {
		p.TTL = v
	}
	if v := given("rotation_overlap"); v != nil {
		p.Overlap = v
	}
	if v := given("expiry_warning"); v != nil {
		p.Warning = *v
	}
	if v, ok := d.GetOk("disable_automated_rotation"); ok {
		p.Disabled = v.(bool)
	}
	return p
}

func (p rotationPolicy) validate() error {
	if p.regular() || p.Schedule.Window != 0 {
		if err := p.Schedule.validate(minRootInterval); err != nil {
			return err
		}
	}
	switch ttl, interval := p.ttl(), p.interval(); {
	case p.Warning < 0 || ttl < 0 || p.overlap() < 0:
		return errors.New("rotation_ttl, rotation_overlap and expiry_warning must not be negative")
	case max(p.Warning, ttl, p.overlap()) > longestTTL:
		return errors.New("rotation_ttl, rotation_overlap and expiry_warning must not be longer than 100 years")
	case ttl > 0 && ttl < time.Hour:
		return errors.New("rotation_ttl must be at least 1h; 0 means that new root credentials never expire")
	case ttl > 0 && ttl < 2*interval:
		return fmt.Errorf("rotation_ttl, %s, must be at least twice rotation_period, or twice the longest interval of rotation_schedule, %s, so that a failed rotation can be repeated before the root credential expires", shortDuration(ttl), shortDuration(interval))
	}
	return nil
}

// nextRotation is when the root credential is rotated without a request, as it is
// planned at now. It is zero if it never is, for example because it cannot be
// rotated.
//
// With regular rotations, that is the next of them, or earlier if the root
// credential would expire before. A rotation that did not happen within the window
// of a schedule waits for the next one. Without regular rotations, a root credential that the
// engine issued itself is rotated before it expires: no one else could replace
// it in time, because no one knows it.
func (c config) nextRotation(now time.Time) time.Time {
	p, warning := c.Rotation, c.Rotation.Warning
	if p.Disabled || !p.regular() && c.RootAccessor == "" || c.isOperator(c.RootID) {
		return time.Time{}
	}
	var at time.Time
	if p.regular() {
		since := c.RootSince
		if p.Schedule.Window > 0 {
			since = later(since, now.Add(-p.Schedule.Window))
		}
		at, warning = p.Schedule.next(since), min(p.interval(), warning)
	}
	warning = max(warning, minRotationLead)
	if c.RootAccessor != "" && !c.RootExpiresAt.IsZero() { // else a new one with a short life would be due at once
		warning = min(warning, c.RootExpiresAt.Sub(c.RootSince)/2)
	}
	if early := c.RootExpiresAt.Add(-warning); !c.RootExpiresAt.IsZero() && (at.IsZero() || early.Before(at)) {
		at = early
	}
	return at
}

func (c config) rotationDue(now time.Time) bool {
	at := c.nextRotation(now)
	return !at.IsZero() && !now.Before(at)
}

// nextRootCheck is when the root credential must be checked again.
func (c config) nextRootCheck(now time.Time) time.Time {
	next := now.Add(rootCheckInterval)
	for _, at := range []time.Time{c.RootExpiresAt, c.RootExpiresAt.Add(-c.Rotation.Warning), c.nextRotation(now)} {
		if at.After(now) && at.Before(next) {
			next = at
		}
	}
	return next
}

// expiryWarning says that the root credential expires soon and will not be
// rotated. Otherwise it is empty.
func (c config) expiryWarning(now time.Time) string {
	expires := timestampOrNever(c.RootExpiresAt)
	switch {
	case c.RootExpiresAt.IsZero() || now.Before(c.RootExpiresAt.Add(-c.Rotation.Warning)):
		return ""
	case !now.Before(c.RootExpiresAt):
		return fmt.Sprintf("The root credential expired at %s: no token can be issued or revoked. Write a new %s to config.", expires, c.rootField())
	case c.RootID == "":
		return fmt.Sprintf("The root credential expires at %s and cannot be rotated: %v.", expires, c.noRootID())
	case !c.nextRotation(now).IsZero():
		return ""
	}
	return fmt.Sprintf("The root credential expires at %s and nothing rotates it. Rotate it (`vault write -f` this mount's config/rotate-root), set rotation_period in config, or write a new %s.", expires, c.rootField())
}
