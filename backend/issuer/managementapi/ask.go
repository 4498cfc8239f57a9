package managementapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// pauses are how long to wait before a request is repeated, unless the cluster
// asks for more.
var pauses = []time.Duration{500 * time.Millisecond, 2 * time.Second, 4 * time.Second}

// ask sends a query to the path that the cluster serves. The API answers 404
// both for a path that it does not serve and for a token that it does not know.
// After a 404, ask looks for the collection, unless the collection at this path
// has answered before. A reply of 404 for one token therefore does not prove
// that the token is unknown, see settleNotFound.
func (c *cluster) ask(ctx context.Context, q query) (reply, error) {
	if c.endpoint.err != nil {
		return reply{}, notSent("the cluster cannot be asked", c.endpoint.err)
	}
	path, served := c.endpoint.collection()
	r, err := c.repeat(ctx, path, q)
	switch {
	case err == nil && r.success():
		c.endpoint.served.Store(&path)
		return r, nil
	case err != nil || r.status != http.StatusNotFound || served && q.id != "":
		return r, err
	}
	found, err := c.locate(ctx)
	switch {
	case err != nil:
		return reply{}, refused(fmt.Errorf("%w; nor is it known where else to ask: %w", r.err(c.secrets()...), err))
	case found == path:
		return r, nil
	}
	return c.repeat(ctx, found, q)
}

// errStop ends the reading of an answer whose beginning says enough.
var errStop = errors.New("enough is known")

// locate finds the collection that the cluster serves, by reading.
func (c *cluster) locate(ctx context.Context) (string, error) {
	var last error
	for _, path := range c.endpoint.collections {
		look, cancel := context.WithCancel(ctx)
		r, err := c.repeat(look, path, query{method: http.MethodGet, read: func(body io.Reader) error {
			if _, err := openList(body); err != nil {
				return err
			}
			cancel() // the list may be long
			return errStop
		}})
		cancel()
		switch {
		case errors.Is(err, errStop):
			c.endpoint.served.Store(&path)
			return path, nil
		case err != nil:
			return "", err
		}
		last = fmt.Errorf("GET %s: %w", path, r.err(c.secrets()...))
		if r.status != http.StatusNotFound {
			return "", last
		}
	}
	return "", fmt.Errorf("the tokens are not where they should be, so check api_url, host, account_id and cluster_id in config: %w", last)
}

// repeat sends a query, and sends it again while the cluster asks to be left
// alone for a while or has trouble of its own. A POST is sent once: whoever
// repeats it may mint twice.
func (c *cluster) repeat(ctx context.Context, path string, q query) (reply, error) {
	for attempt := 0; ; attempt++ {
		r, err := c.exchange(ctx, path, q)
		if err != nil || !r.passing() || q.method == http.MethodPost || attempt == len(pauses) {
			return r, err
		}
		wait := max(pauses[attempt], r.retryAfter)
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait || wait > longestWait {
			return r, nil
		}
		if c.driver.pause(ctx, wait) != nil {
			return r, nil // what the cluster said tells more
		}
	}
}

// longestWait bounds a pause for those who have no deadline.
const longestWait = time.Minute

// passing reports whether another try may end better.
func (r reply) passing() bool { return r.status == http.StatusTooManyRequests || r.status >= 500 }
