package upstream

import (
	"net/http"
	"time"
)

// stepBack is what a request says about the limit.
func (v *verdict) stepBack() stepBack {
	switch {
	case v.status == http.StatusTooManyRequests:
		return backThrottled
	case v.status == http.StatusServiceUnavailable:
		return backUnavailable
	case v.status == http.StatusGatewayTimeout, v.kind == KindTimeout:
		return backTimeout
	}
	return noStepBack
}

// broken reports whether a request failed as all do when the upstream is away.
// One that says when to come again is not.
func (v *verdict) broken() bool {
	switch v.kind {
	case KindUnreachable:
		return true
	case KindTimeout:
		return v.status == 0
	case KindStatus:
		return v.status >= 500 && v.status != http.StatusNotImplemented && v.status != http.StatusHTTPVersionNotSupported
	}
	return false
}

// judge draws the conclusions from one request.
func (g *governor) judge(t ticket, v verdict, now time.Time) {
	a := ask{epoch: t.epoch}
	if alive(v.status) {
		a.recovered = g.well()
	}
	switch {
	case v.whole:
		g.gauge.good(v, t.round, now)
		a.vote = g.gauge.vote(g.slots, g.limit)
	case v.failure != nil:
		wasOpen := g.breaker.open
		if !wasOpen {
			a.back = v.stepBack()
		}
		if v.broken() && g.breaker.failed(t.probe, v.failure, now) {
			a.back = backOutage
		}
		if g.breaker.open {
			g.metrics.breaks(&g.breaker)
		}
	}
	if v.retryAfter > 0 {
		a.pause = v.retryAfter
		g.stay(now.Add(v.retryAfter), now)
	}
	if a != (ask{epoch: t.epoch}) {
		g.tell(a, now)
	}
}

// heard is called when the headers of an answer have come, so that nobody
// waits for the body of a probe.
func (g *governor) heard(status int) {
	if !alive(status) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.well() {
		now := time.Now()
		g.tell(ask{epoch: g.epoch, recovered: true}, now)
		g.serve(now)
	}
}

// well notes that the upstream is, and reports whether that is news.
func (g *governor) well() (news bool) {
	g.pauses = 0
	if news = g.breaker.well(); news {
		g.metrics.breaks(&g.breaker)
	}
	return news
}

// stay keeps everybody away until a time, or longer.
func (g *governor) stay(until, now time.Time) {
	if !until.After(g.until) {
		return
	}
	if !g.until.After(now) {
		g.pauses++
	}
	g.until = until
	g.metrics.pauses(g.now().Add(until.Sub(now)))
}

// observePass takes in how long the upstream let a request of the pass-through
// wait.
func (g *governor) observePass(class passClass, wait time.Duration) {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if slow := g.pass.add(class, wait, g.inFlight > 0, now); slow && g.mayStepBack(now) {
		g.tell(ask{back: backPass}, now)
		g.serve(now)
	}
}

// tell takes what is to be said to the pool there: at once to one of our own,
// soon to a shared one.
func (g *governor) tell(a ask, now time.Time) {
	if g.own != nil {
		g.settle(a, now)
		return
	}
	g.share.add(a, now)
	if urgent := a.back != noStepBack || a.pause > 0 || a.recovered; urgent ||
		a.vote == voteGrow && g.limit < g.max && now.Sub(g.share.asked) >= eagerSync {
		g.hurry()
	}
}

// settle asks our own pool.
func (g *governor) settle(a ask, now time.Time) {
	a.max, a.want, a.busy, a.peak = g.max, g.max, g.inFlight, max(g.share.peak, g.inFlight)
	g.share.peak = g.inFlight
	gr := g.own.settle(a, now)
	gr.slots = gr.limit
	g.take(gr, now)
}

// take puts a grant into effect.
func (g *governor) take(gr grant, now time.Time) {
	g.slots, g.limit = gr.slots, gr.limit
	if gr.epoch != g.epoch {
		g.epoch = gr.epoch
		g.gauge.restart()
	}
	if gr.pause > 0 {
		g.stay(now.Add(gr.pause), now)
	}
	g.metrics.grants(gr)
}

// alive reports whether a status shows the upstream to be well.
func alive(status int) bool {
	return status > 0 && status < 500 && status != http.StatusTooManyRequests
}
