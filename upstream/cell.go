package upstream

import (
	"context"
	"sync"
	"time"
)

// A cell keeps one value that is costly to fetch. Callers that come while it is
// being fetched wait for it and share what comes, an error too.
type cell[T any] struct {
	mu     sync.Mutex
	value  *T
	until  time.Time // value is fresh before it
	flight *flight[T]
}

type flight[T any] struct {
	done  chan struct{}
	value *T
	err   error
}

// peek returns the value, fresh or not, or nil.
func (c *cell[T]) peek() *T {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.value
}

// put replaces the value; it stays fresh for ttl.
func (c *cell[T]) put(v *T, ttl time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.value, c.until = v, time.Now().Add(ttl)
}

// forget makes the next load fetch.
func (c *cell[T]) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = time.Time{}
}

// load returns the value if it is fresh, or else fetches it. The fetch runs in
// the first caller's context; if that ends, another waiter fetches.
func (c *cell[T]) load(ctx context.Context, fetch func(context.Context) (*T, time.Duration, error)) (*T, error) {
	for {
		c.mu.Lock()
		if c.value != nil && time.Now().Before(c.until) {
			defer c.mu.Unlock()
			return c.value, nil
		}
		f := c.flight
		if f == nil {
			return c.fly(ctx, fetch)
		}
		c.mu.Unlock()
		select {
		case <-f.done:
			if f.value != nil || f.err != nil {
				return f.value, f.err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// fly fetches; c.mu is held when it is called.
func (c *cell[T]) fly(ctx context.Context, fetch func(context.Context) (*T, time.Duration, error)) (*T, error) {
	f := &flight[T]{done: make(chan struct{})}
	c.flight = f
	c.mu.Unlock()
	defer close(f.done)
	defer func() {
		c.mu.Lock()
		c.flight = nil
		c.mu.Unlock()
	}()
	v, ttl, err := fetch(ctx)
	if err == nil {
		f.value = v
		c.put(v, ttl)
	} else if ctx.Err() == nil {
		f.err = err
	}
	return v, err
}
