package upstream

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// patientPause is how long a request waits for the end of a pause rather
	// than to fail with a *PauseError.
	patientPause = 15 * time.Second
	// begunPause is the same for a request that continues what was begun, such
	// as one for the next page: what was read before would have to be read again.
	begunPause = 5 * time.Minute
	// hoursCheck is how far the wall clock is trusted to run on evenly.
	hoursCheck = time.Minute
)

// An awayError ends the wait of a request for an upstream that has been away for
// too long.
type awayError struct{ last *RequestError }

func (e awayError) Error() string { return "upstream: away for too long" }

// A PauseError says that no request may be sent for a while, and when to try
// again: the upstream has asked for a pause longer than 15 seconds with
// Retry-After, or it is not one of Config.Hours. It is nobody's fault; give the
// work back until then.
type PauseError struct {
	Until time.Time // by Config.Now
	Hours bool      // outside of Config.Hours; else the upstream has asked for it
}

// Error tells why and until when.
func (e *PauseError) Error() string {
	why := "the upstream has asked for it (Retry-After)"
	if e.Hours {
		why = "these are not the hours in which it may be asked (upstream.hours)"
	}
	return "upstream: nothing is sent until " + e.Until.UTC().Format(time.RFC3339) + ", since " + why
}

// An errand is what the governor must know of a request before it is sent.
type errand struct {
	free    bool      // takes no slot
	anytime bool      // may be sent outside of the hours
	begun   bool      // continues what was begun
	since   time.Time // when it was first tried, or first failed
	flow    string    // for whom; see WithFlow
}

type flowKey struct{}

// WithFlow returns a context whose requests belong to a flow, such as the
// exports of one client. Where requests must wait for each other, flows take
// turns. Without it they belong to the flow "".
func WithFlow(ctx context.Context, flow string) context.Context {
	return context.WithValue(ctx, flowKey{}, flow)
}

func flowOf(ctx context.Context) string {
	flow, _ := ctx.Value(flowKey{}).(string)
	return flow
}

// A ticket is the right to send one request. It must be given back.
type ticket struct {
	free  bool
	probe bool  // tries whether the upstream is well again
	round int64 // of the gauge
	epoch int64 // of the pool
	flow  string
}

// A verdict is what the governor sees of each request when it ends. The zero
// verdict is of a request that its caller gave up.
type verdict struct {
	requestKind string        // search, count, ...; "" if its caller gave it up
	op          string        // kind and type
	status      int           // 0 if no answer came
	kind        ErrorKind     // 0 if it went well
	failure     *RequestError // nil if it went well, or its caller did not want all of it
	whole       bool          // the answer was read to its end
	latency     time.Duration // time spent waiting for the upstream, headers and body
	bytes       int64         // of the body, inflated
	retryAfter  time.Duration // how long it asked everybody to stay away; 0 if it did not
}

// A governor spares the upstream. It limits how many requests are under way at
// once, holds all of them back while the upstream has asked for a pause or may
// not be asked, and sends single probes to one that only fails. Every request
// is one acquire and one release.
//
// How much is allowed is settled in a pool, from what the gauge and the errors
// say: at once in a pool of its own, or now and then in one that is shared, see
// syncer. In between it is one mutex and a few comparisons.
type governor struct {
	max       int
	hours     Hours
	now       func() time.Time // the wall clock
	vital     *vital
	maxOutage time.Duration
	metrics   governorMetrics
	own       *pool         // nil if it is shared
	kick      chan struct{} // the shared pool should be asked soon; nil if it is not shared

	mu         sync.Mutex
	line       []*waiter      // in the order in which they will be served
	arrived    int64          // how many ever stood in line
	inFlight   int            // requests that hold a slot
	flows      map[string]int // the same for each flow that has some
	slots      int
	slotsUntil time.Time // zero: for ever
	limit      int       // of all processes together
	epoch      int64
	until      time.Time // nobody sends before
	pauses     int       // asked for since the last good answer
	opens      hoursGate
	breaker    breaker
	gauge      gauge
	pass       passWatch
	timer      *time.Timer // looks after the line when time alone changes something
	share      shareState
}

// A waiter stands in line.
type waiter struct {
	errand
	number int64         // order of arrival
	place  int           // in the row of its flow: that many are before it, under way or in line
	ready  chan struct{} // closed when it is served
	ticket ticket
	err    error
}

func newGovernor(c Config, v *vital, m governorMetrics) *governor {
	g := &governor{
		max: c.MaxConcurrency, hours: c.Hours, now: c.Now, vital: v, maxOutage: c.MaxOutage, metrics: m, flows: map[string]int{},
	}
	if c.Share != nil {
		g.kick = make(chan struct{}, 1)
		return g
	}
	g.own = &pool{}
	g.settle(ask{}, time.Now())
	return g
}

// acquire waits for a turn. It fails when ctx ends, with a *PauseError where
// that takes long, and with an awayError when the upstream has been away for
// Config.MaxOutage.
func (g *governor) acquire(ctx context.Context, e errand) (ticket, error) {
	if err := ctx.Err(); err != nil {
		return ticket{}, err
	}
	now := time.Now()
	g.mu.Lock()
	if len(g.line) == 0 {
		if _, ok, err := g.admit(e, now); ok || err != nil {
			defer g.mu.Unlock()
			if err != nil {
				return ticket{}, err
			}
			return g.begin(e, now), nil
		}
	}
	g.arrived++
	w := &waiter{errand: e, number: g.arrived, ready: make(chan struct{})}
	g.line = append(g.line, w)
	g.serve(now)
	g.demand(now)
	g.mu.Unlock()

	select {
	case <-w.ready:
		return w.ticket, w.err
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.line, w); i >= 0 {
		g.line = slices.Delete(g.line, i, i+1)
		g.metrics.waits(len(g.line))
	} else if w.err == nil { // served just now
		g.end(w.ticket, verdict{}, time.Now())
	}
	return ticket{}, ctx.Err()
}

// release ends a turn and takes the request's verdict into account.
func (g *governor) release(t ticket, v verdict) {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.end(t, v, now)
}

// wait is how long a request that has failed must stand back, given what it
// would wait alone: not at all where acquire will hold it back.
func (g *governor) wait(alone time.Duration) (wait, estimate time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if until := max(g.until.Sub(now), g.breaker.wait(now)); until > 0 {
		return 0, until
	}
	return alone, alone
}

// throttledForGood reports whether the upstream has done nothing but throttle
// for so long that the work is to be told.
func (g *governor) throttledForGood() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pauses >= maxStrikes && time.Since(g.vital.at()) >= g.maxOutage
}

// admit says whether an errand may go now, or else the earliest time at which
// that may change by itself (zero: not by itself), or why it should not wait.
func (g *governor) admit(e errand, now time.Time) (at time.Time, ok bool, err error) {
	patience := patientPause
	if e.begun {
		patience = begunPause
	}
	if left := g.until.Sub(now); left > 0 {
		if left > patience {
			return time.Time{}, false, &PauseError{Until: g.now().Add(left)}
		}
		return g.until, false, nil
	}
	if !e.anytime && !g.hours.IsZero() {
		if left := g.opens.closed(g.hours, g.now()); left > 0 {
			if left > patience {
				return time.Time{}, false, &PauseError{Until: g.now().Add(left), Hours: true}
			}
			return now.Add(min(left, hoursCheck)), false, nil
		}
	}
	if g.breaker.open {
		deadline := g.deadline(e)
		switch {
		case !now.Before(deadline):
			return time.Time{}, false, awayError{g.breaker.last}
		case g.breaker.probing:
			return deadline, false, nil
		case now.Before(g.breaker.next):
			return earlier(g.breaker.next, deadline), false, nil
		case !e.free && !g.vacant(now):
			return deadline, false, nil
		}
		return time.Time{}, true, nil
	}
	return time.Time{}, e.free || g.vacant(now), nil
}

// vacant reports whether a slot is free.
func (g *governor) vacant(now time.Time) bool {
	return g.inFlight < g.slots && (g.slotsUntil.IsZero() || now.Before(g.slotsUntil))
}

// deadline is when an errand is told that the upstream is away.
func (g *governor) deadline(e errand) time.Time {
	answered := g.vital.at()
	if answered.IsZero() {
		return e.since.Add(firstPatience)
	}
	return later(later(e.since, answered), g.breaker.began).Add(g.maxOutage)
}

// begin hands out a turn.
func (g *governor) begin(e errand, now time.Time) ticket {
	t := ticket{free: e.free, round: g.gauge.round, epoch: g.epoch, flow: e.flow}
	if g.breaker.open {
		t.probe, g.breaker.probing = true, true
		g.metrics.breaks(&g.breaker)
	}
	if !e.free {
		g.inFlight++
		g.flows[e.flow]++
		g.share.sent = now
		g.share.used(g.inFlight, g.inFlight+len(g.line))
		if g.inFlight >= g.slots {
			g.gauge.bound = true
		}
	}
	return t
}

// end takes a turn back.
func (g *governor) end(t ticket, v verdict, now time.Time) {
	if !t.free {
		g.inFlight--
		if g.flows[t.flow]--; g.flows[t.flow] == 0 {
			delete(g.flows, t.flow)
		}
	}
	if t.probe {
		g.breaker.probing = false
	}
	g.judge(t, v, now)
	g.serve(now)
}

// arrange puts the line in order: the flows take turns, so that who has few
// requests does not wait for all those of who has many.
func (g *governor) arrange() {
	slices.SortFunc(g.line, func(a, b *waiter) int { return cmp.Compare(a.number, b.number) })
	before := maps.Clone(g.flows)
	for _, w := range g.line {
		w.place = before[w.flow]
		before[w.flow]++
	}
	slices.SortStableFunc(g.line, func(a, b *waiter) int { return cmp.Compare(a.place, b.place) })
}

// serve lets go of those in line whose turn it is, and sees to it that it is
// called again when time changes something.
func (g *governor) serve(now time.Time) {
	if len(g.line) == 0 {
		return
	}
	g.arrange()
	var next time.Time
	g.line = slices.DeleteFunc(g.line, func(w *waiter) bool {
		at, ok, err := g.admit(w.errand, now)
		switch {
		case err != nil:
			w.err = err
		case ok:
			w.ticket = g.begin(w.errand, now)
		default:
			if !at.IsZero() && (next.IsZero() || at.Before(next)) {
				next = at
			}
			return false
		}
		close(w.ready)
		return true
	})
	g.metrics.waits(len(g.line))
	if next.IsZero() {
		return
	}
	if g.timer == nil {
		g.timer = time.AfterFunc(next.Sub(now), g.tick)
		return
	}
	g.timer.Reset(next.Sub(now))
}

// tick looks after the line.
func (g *governor) tick() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.serve(time.Now())
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
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
