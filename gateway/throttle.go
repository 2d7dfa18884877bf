package gateway

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"spillway/jobs"
)

// Polling is throttled only where it is abuse: test suites and clients take a
// 429 for a failure.
const (
	pollsPerSecond = 20
	pollBurst      = 40
	maxPolled      = 10_000 // exports whose polling is remembered
)

// A throttle counts the polls of each export that this process answers: several
// replicas together allow that many times as much, which still is no load. It is
// all that is remembered of exports between requests. The zero value is ready.
type throttle struct {
	mu     sync.Mutex
	polled map[jobs.ID]*rate.Limiter
}

// allow reports whether the export may be polled at this moment. Call it only
// for exports that exist, since each is remembered.
func (t *throttle) allow(id jobs.ID, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	limiter, found := t.polled[id]
	if !found {
		t.forgetIdle(now)
		limiter = rate.NewLimiter(pollsPerSecond, pollBurst)
		if t.polled == nil {
			t.polled = make(map[jobs.ID]*rate.Limiter)
		}
		t.polled[id] = limiter
	}
	return limiter.AllowN(now, 1)
}

// forgetIdle makes room: a limiter that is full again is as good as a new one.
func (t *throttle) forgetIdle(now time.Time) {
	if len(t.polled) < maxPolled {
		return
	}
	for id, limiter := range t.polled {
		if limiter.TokensAt(now) >= pollBurst {
			delete(t.polled, id)
		}
	}
	if len(t.polled) >= maxPolled {
		clear(t.polled)
	}
}
