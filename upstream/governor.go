package upstream

import (
	"context"
	"sync"
	"time"
)

// A verdict is what the governor sees of each request when it ends.
type verdict struct {
	status     int           // 0 if no answer came
	kind       ErrorKind     // 0 if it went well
	latency    time.Duration // time spent waiting for the upstream, headers and body
	retryAfter time.Duration // how long it asked everybody to stay away; 0 if it did not
}

// A governor spares the upstream: it limits how many requests are under way at
// once, and holds all of them back while the upstream has asked for a pause.
// Every request is one acquire and one release.
type governor struct {
	slots chan struct{} // one element per request under way; waiters are served in order

	mu    sync.Mutex
	until time.Time // nobody sends before it
}

func newGovernor(limit int) *governor {
	return &governor{slots: make(chan struct{}, limit)}
}

// acquire waits for a turn. It fails only when ctx ends.
func (g *governor) acquire(ctx context.Context) error {
	for {
		if err := sleep(ctx, g.pause()); err != nil {
			return err
		}
		select {
		case g.slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		if g.pause() <= 0 {
			return nil
		}
		<-g.slots // a pause began while this one waited in line
	}
}

// release ends a turn and takes the request's verdict into account.
func (g *governor) release(v verdict) {
	if v.retryAfter > 0 {
		g.mu.Lock()
		if until := time.Now().Add(v.retryAfter); until.After(g.until) {
			g.until = until
		}
		g.mu.Unlock()
	}
	<-g.slots
}

// pause returns how long nobody may send.
func (g *governor) pause() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Until(g.until)
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
