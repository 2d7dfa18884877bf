package upstream

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	maxStrikes    = 6                // failures of a request whose upstream otherwise answers
	probeStrikes  = 2                // the same for a probe
	firstPatience = 10 * time.Second // for an upstream that has never answered
	maxRetryAfter = time.Hour        // longer pauses are cut to this
)

// vital tells when the upstream last gave an answer that shows it to be well:
// any status below 500 but 429. It separates a request that fails from an
// upstream that is away.
type vital struct {
	born time.Time
	last atomic.Int64 // nanoseconds from born to the last such answer; 0 if none
}

func newVital() *vital { return &vital{born: time.Now()} }

func (v *vital) note(status int) {
	if alive(status) {
		v.last.Store(max(1, int64(time.Since(v.born))))
	}
}

// at returns the time of the last answer, or the zero time.
func (v *vital) at() time.Time {
	if n := v.last.Load(); n != 0 {
		return v.born.Add(time.Duration(n))
	}
	return time.Time{}
}

// do performs r until it succeeds, is hopeless, or patience ends. It returns
// nil, the visitor's own error, the context's, or a *RequestError.
func (c *Client) do(ctx context.Context, r *request, use func(*reply) error) error {
	p := patience{waits: backoff.ExponentialBackOff{
		InitialInterval: 500 * time.Millisecond, RandomizationFactor: 0.5, Multiplier: 2, MaxInterval: 30 * time.Second,
	}, began: time.Now(), previous: time.Now()}
	var failed *RequestError // the last failure
	for {
		err := c.exchange(ctx, r, p.since(), use)
		if err == nil {
			return nil
		}
		if away, ok := err.(awayError); ok {
			return c.away(r, failed, away.last)
		}
		if pause, ok := err.(*PauseError); ok {
			if failed != nil && c.governor.throttledForGood() {
				return failed
			}
			return pause
		}
		if stop, ok := err.(stopped); ok {
			return stop.error
		}
		if ctx.Err() != nil {
			return abandoned(ctx, r.op)
		}
		var ok bool
		if failed, ok = err.(*RequestError); !ok {
			return err
		}
		wait, estimate, again := p.next(c, r, failed)
		failed.Tries = p.tries
		if r.shrink != nil && tooMuch(failed) && r.shrink() && !again && !failed.Temporary() {
			wait, estimate, again = 0, 0, true
		}
		if !again {
			return failed
		}
		c.metrics.retried(r.kind)
		c.log.LogAttrs(ctx, slog.LevelWarn, "upstream request is tried again",
			slog.String("request", r.op), slog.String("failure", failed.Kind.String()),
			slog.Int("status", failed.Status), slog.Duration("wait", estimate))
		if err := sleep(ctx, wait); err != nil {
			return abandoned(ctx, r.op)
		}
	}
}

// away is the failure of a request that waited for an upstream which has been
// away for too long: its own last one, or else that of another.
func (c *Client) away(r *request, own, other *RequestError) *RequestError {
	if own != nil {
		return own
	}
	f := *other
	f.Op, f.Tries, f.Issues = r.op, 0, nil
	return &f
}

// patience is the state of one request's retries.
type patience struct {
	waits    backoff.ExponentialBackOff
	tries    int
	strikes  int       // failures while the upstream otherwise answered
	began    time.Time // first try
	failing  time.Time // first failure
	previous time.Time // last failure; at first the start
}

// since is when the wait for the upstream began.
func (p *patience) since() time.Time {
	if p.failing.IsZero() {
		return p.began
	}
	return p.failing
}

// next says whether the request is worth another try, and when: after wait,
// and when the governor lets it, which is estimated.
func (p *patience) next(c *Client, r *request, f *RequestError) (wait, estimate time.Duration, again bool) {
	now := time.Now()
	p.tries++
	if p.failing.IsZero() {
		p.failing = now
	}
	answered := c.vital.at()
	if p.struck(r, f, answered) {
		p.strikes++
	}
	p.previous = now

	if !f.Temporary() {
		// Once more for what a broken proxy or a restart might have sent.
		again = p.tries < 2 && (f.Kind == KindNotFHIR || f.Kind == KindMalformed)
		again = again || f.Status == http.StatusNotAcceptable && c.dropAccept()
		wait = p.waits.NextBackOff()
		return wait, wait, again
	}
	wait, estimate = c.governor.wait(p.waits.NextBackOff())
	switch {
	case answered.IsZero():
		again = now.Sub(p.began)+estimate <= firstPatience
	case f.Kind == KindThrottled:
		again = p.tries < maxStrikes || now.Sub(p.failing) < c.cfg.MaxOutage
	case p.strikes >= r.strikes:
		again = false
	default:
		since := p.failing
		if answered.After(since) {
			since = answered
		}
		again = now.Sub(since) < c.cfg.MaxOutage
	}
	return wait, estimate, again
}

// struck reports whether a failure is this request's rather than an upstream's
// that is away: an answer came, or others got one since the last failure.
func (p *patience) struck(r *request, f *RequestError, answered time.Time) bool {
	switch {
	case f.Kind == KindThrottled:
		return false
	case f.Kind == KindTimeout && r.strikes < maxStrikes:
		return true // a probe that takes too long has told what it was sent to find out
	case answered.After(p.previous):
		return true
	}
	switch f.Status {
	case 0, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return false
	}
	return true
}

// retryAfter reads how long the upstream wants to be left alone, 0 if it does
// not say so in a form that makes sense. A date is taken relative to the
// response's own Date, so that the two clocks need not agree. What is longer
// than an hour is cut to that: the upstream can ask again then.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	var d time.Duration
	if value == "" {
		// Azure's servers may say it in milliseconds instead.
		if ms, err := strconv.ParseInt(h.Get("X-Ms-Retry-After-Ms"), 10, 32); err == nil {
			d = time.Duration(ms) * time.Millisecond
		}
	} else if strings.Trim(value, "0123456789") == "" {
		n, err := strconv.ParseInt(value, 10, 32)
		if err != nil {
			return maxRetryAfter // more seconds than fit
		}
		d = time.Duration(n) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		if date, err := http.ParseTime(h.Get("Date")); err == nil {
			now = date
		}
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRetryAfter)
}
