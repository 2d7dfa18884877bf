package boltstore_test

import (
	"path/filepath"
	"sync"
	"testing"
	"time"

	"spillway/jobs"
	"spillway/jobs/boltstore"
	"spillway/jobs/jobstest"
)

// clock stands still until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2024, 7, 1, 12, 0, 0, 123456789, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func open(t *testing.T, path string, l jobs.Limits, c *clock) *boltstore.Store {
	t.Helper()
	s, err := boltstore.Open(path, l, boltstore.WithClock(c.Now))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestStore(t *testing.T) {
	jobstest.Run(t, func(t *testing.T, l jobs.Limits) (jobs.Store, func(time.Duration)) {
		c := newClock()
		return open(t, filepath.Join(t.TempDir(), "jobs.db"), l, c), c.Advance
	})
}
