package gateway

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxThrottled is how many senders a throttle remembers. Those beyond it share
// one limit: memory is bounded, and nobody gets round a limit by being many.
const maxThrottled = 10_000

// A throttle bounds how often something is done by each of many senders: in this
// process, so that several replicas together allow that many times as much. A
// nil throttle bounds nothing.
type throttle struct {
	limit rate.Limit
	burst int

	mu     sync.Mutex
	held   map[string]*rate.Limiter
	others *rate.Limiter
}

// newThrottle returns one for a rate, of which zeros mean the default; nil
// where there is to be none.
func newThrottle(r, byDefault Rate) *throttle {
	if r.PerMinute == 0 {
		r = byDefault
	}
	if r.PerMinute < 0 {
		return nil
	}
	if r.Burst <= 0 {
		r.Burst = max(int(r.PerMinute/2), 1)
	}
	limit := rate.Limit(r.PerMinute / 60)
	return &throttle{limit: limit, burst: r.Burst, held: make(map[string]*rate.Limiter), others: rate.NewLimiter(limit, r.Burst)}
}

// take returns 0 if the sender may do it now, and then counts it; or else how
// long it must wait.
func (t *throttle) take(sender string, now time.Time) time.Duration {
	if t == nil {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	limiter, found := t.held[sender]
	if !found {
		limiter = t.remember(sender, now)
	}
	reservation := limiter.ReserveN(now, 1)
	wait := reservation.DelayFrom(now)
	if wait > 0 {
		reservation.CancelAt(now)
	}
	return wait
}

// remember makes a limiter for a sender, and room for it: one that is full again
// is as good as a new one.
func (t *throttle) remember(sender string, now time.Time) *rate.Limiter {
	if len(t.held) >= maxThrottled {
		for other, limiter := range t.held {
			if limiter.TokensAt(now) >= float64(t.burst) {
				delete(t.held, other)
			}
		}
	}
	if len(t.held) >= maxThrottled {
		return t.others
	}
	limiter := rate.NewLimiter(t.limit, t.burst)
	t.held[sender] = limiter
	return limiter
}
