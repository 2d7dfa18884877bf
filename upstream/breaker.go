package upstream

import (
	"math/rand/v2"
	"time"
)

const (
	breakerFailures = 3 // in a row, of all requests, until the breaker opens
	firstProbe      = 2 * time.Second
	maxProbe        = 30 * time.Second
)

// A breaker keeps all requests but one away from an upstream that only fails:
// no connection, no answer in time, 5xx. While it is open one request at a time
// is let through, at intervals that double from 2 to 30 seconds; the first
// answer that shows the upstream to be well closes it. It goes on where the
// pauses between the tries of one request end, so that a single request is
// tried as often with it as without. The zero breaker is closed.
type breaker struct {
	fails    int
	began    time.Time // the first of them
	open     bool
	probing  bool
	next     time.Time     // when the next probe may be sent
	interval time.Duration // to the probe after it
	last     *RequestError // the failure that others are told
}

// failed takes a failure in and reports whether the breaker opened.
func (b *breaker) failed(probe bool, f *RequestError, now time.Time) (opened bool) {
	if b.fails++; b.fails == 1 {
		b.began = now
	}
	b.last = f
	switch {
	case b.open && probe:
		b.interval = min(2*b.interval, maxProbe)
	case !b.open && b.fails >= breakerFailures:
		b.open, opened = true, true
		b.interval = firstProbe
	default:
		return false
	}
	b.next = now.Add(b.interval*3/4 + rand.N(b.interval/2))
	return opened
}

// well closes the breaker and reports whether it was open.
func (b *breaker) well() (closed bool) {
	closed = b.open
	*b = breaker{}
	return closed
}

// wait is how long until the next probe, as far as that is known.
func (b *breaker) wait(now time.Time) time.Duration {
	if !b.open {
		return 0
	}
	return max(b.next.Sub(now), time.Millisecond)
}

// hurry lets the next probe go at once: another process was answered.
func (b *breaker) hurry(now time.Time) {
	if b.open {
		b.next, b.interval = now, firstProbe/2
	}
}
