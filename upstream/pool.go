package upstream

import (
	"slices"
	"time"
)

const (
	// startLimit is what a limit starts from: 4 to 5 requests at once is what
	// careful extractors such as torch and smart-fetch allow themselves against
	// servers that they do not know, and it is one doubling from the default of
	// Config.MaxConcurrency.
	startLimit = 4

	grantTTL  = 4 * time.Second // how long a process uses a grant, by its own clock
	bookedTTL = 6 * time.Second // how long its slots stay booked; the clock of the store may jump by clockStep
	clockStep = bookedTTL - grantTTL
	turnTime  = 2 * time.Second // how long a process holds its slot where there are more processes than slots

	raiseEvery   = 100 * time.Millisecond
	shrinkEvery  = 250 * time.Millisecond
	lowerEvery   = time.Second
	passEvery    = 2 * time.Second  // the same for a step back for the pass-through's sake
	passHold     = 10 * time.Second // how long the limit does not grow after it; twice as long each time
	maxPassHold  = time.Minute
	firstCeiling = 15 * time.Second
	maxCeiling   = 2 * time.Minute
	idleReset    = time.Minute // after which the limit is not believed any more
)

// A stepBack is a reason to ask for less.
type stepBack uint8

const (
	noStepBack      stepBack = iota
	backThrottled            // 429
	backUnavailable          // 503
	backTimeout              // no answer in time, or 504
	backLatency              // pages take much longer than they did
	backPass                 // the pass-through is slow
	backOutage               // the upstream answers nobody
)

// A vote is what the last requests say about the limit.
type vote int8

const (
	voteNone   vote = iota
	voteGrow        // all slots were in use, and latency is flat
	voteHold        // latency has risen
	voteShrink      // latency has risen much
)

// A pool is what the processes that ask one upstream agree on: how many
// requests may be under way, how these slots are dealt out, and until when
// nobody sends. It is pure: settle takes what one process has to say and the
// time, and returns what that process may do. A process without others has a
// pool of its own.
//
// The limit follows the control of congestion in TCP. It doubles until the
// first sign of load (slow start; Jacobson 1988) and then grows by one.
// It halves on 429, 503 and time-outs (additive increase, multiplicative
// decrease: the rule under which many senders that share one bottleneck settle
// at a fair and efficient load; Chiu and Jain 1989), at most once a second and
// once for all requests that were sent under one limit, as NewReno does
// (RFC 6582). Latency steers it as in TCP Vegas (Brakmo and Peterson 1995): see
// gauge. AIMD alone would find the limit only by hitting it again and again,
// latency alone is blind to a server that throttles without getting slower; so
// both. Where it was refused at a limit, it stays below it for a while that
// doubles (a ceiling, in the manner of CUBIC's last maximum, RFC 9438), so
// that a server which says 429 at seven is not told seven every second.
//
// Slots are booked until their holder has confirmed that it uses fewer, or
// until the booking runs out. Nothing is dealt out that is booked, so the sum
// of what may be in use passes the limit only while a lowered limit has not
// reached all its users. (Requests that are under way when the booking of a
// process that cannot reach the store runs out are not cut off.) Times are the clock of the store; where that is set
// back, all times move with it, and where it leaps ahead, bookings do not age
// by more than clockStep.
type pool struct {
	At        time.Time `json:"at"`                 // of the last settle
	Limit     int       `json:"limit"`              // requests under way at once; 0 in a new pool
	Threshold int       `json:"threshold"`          // up to which the limit doubles
	Epoch     int64     `json:"epoch"`              // counts the step backs
	Raised    time.Time `json:"raised,omitzero"`    // last
	Lowered   time.Time `json:"lowered,omitzero"`   // last
	Shrunk    time.Time `json:"shrunk,omitzero"`    // last
	Hold      time.Time `json:"hold,omitzero"`      // the limit does not grow before
	Holding   int64     `json:"holding,omitempty"`  // for how long that was, in seconds
	Ceiling   int       `json:"ceiling,omitempty"`  // the limit does not pass it
	Lifted    time.Time `json:"lifted,omitzero"`    // until then
	Cooling   int64     `json:"cooling,omitempty"`  // how long the ceiling was put up for, in seconds
	Pause     time.Time `json:"pause,omitzero"`     // nobody sends before
	Recovered int64     `json:"recovered,omitzero"` // counts the ends of outages

	Members map[string]member `json:"members,omitempty"`
}

// A member is a process that has work.
type member struct {
	Want    int       `json:"want"`
	Slots   int       `json:"slots"`  // granted
	Booked  int       `json:"booked"` // may be in use; never less than Slots
	Peak    int       `json:"peak"`   // was in use
	Expires time.Time `json:"expires"`
	Turn    time.Time `json:"turn"` // since when it has a slot, or has none
}

// An ask is what a process has to say.
type ask struct {
	process   string
	max       int           // its Config.MaxConcurrency
	want      int           // requests under way or in line, at most, since its last ask; 0: none, so it leaves
	busy      int           // requests under way now
	peak      int           // the same at most since its last ask
	held      int           // slots that it was granted before and may be using
	vote      vote          // of the last round
	back      stepBack      // the gravest since its last ask
	epoch     int64         // in which the request was sent that led to back
	pause     time.Duration // how long the upstream has asked everybody to stay away from now on
	recovered bool          // the upstream answers again after an outage
}

// A grant is what a process may do.
type grant struct {
	slots     int // requests at once, for grantTTL from before the ask
	limit     int // of all processes together
	epoch     int64
	pause     time.Duration // nobody sends for so long
	paused    time.Time     // until then, by the clock of the store
	recovered int64
	stepped   stepBack // how the limit was lowered by this very ask
	running   bool     // some process has work
}

// settle takes what a process says into account.
func (p *pool) settle(a ask, now time.Time) grant {
	p.advance(a.max, now)
	for name, m := range p.Members {
		if name != a.process && !m.Expires.After(now) {
			delete(p.Members, name)
		}
	}
	if until := now.Add(min(a.pause, maxRetryAfter)); a.pause > 0 && until.After(p.Pause) {
		p.Pause = until
	}
	if a.recovered {
		p.Recovered++
	}
	g := grant{stepped: p.adjust(a, now)}
	g.slots = p.deal(a, now)
	g.limit, g.epoch, g.recovered, g.running = p.Limit, p.Epoch, p.Recovered, len(p.Members) > 0
	g.pause, g.paused = max(p.Pause.Sub(now), 0), p.Pause
	return g
}

// advance moves the pool's time on, and begins or reins it in.
func (p *pool) advance(limit int, now time.Time) {
	passed := now.Sub(p.At)
	switch {
	case p.At.IsZero() || p.Limit <= 0:
		p.Limit, p.Threshold = min(startLimit, limit), limit
	case passed < 0: // the clock was set back
		for _, t := range []*time.Time{&p.Raised, &p.Lowered, &p.Shrunk, &p.Hold, &p.Lifted, &p.Pause} {
			if !t.IsZero() {
				*t = t.Add(passed)
			}
		}
		p.age(passed)
	case passed > clockStep: // nobody was here, or the clock was set ahead: there is no telling
		p.age(passed - clockStep)
		if passed > idleReset {
			p.Limit, p.Threshold = min(startLimit, p.Limit), limit
		}
	}
	p.At = now
	p.Limit = min(p.Limit, limit)
	if p.Members == nil {
		p.Members = map[string]member{}
	}
}

// age moves the times of the members by d.
func (p *pool) age(d time.Duration) {
	for name, m := range p.Members {
		m.Expires, m.Turn = m.Expires.Add(d), m.Turn.Add(d)
		p.Members[name] = m
	}
}

// adjust moves the limit.
func (p *pool) adjust(a ask, now time.Time) stepBack {
	switch {
	case a.back != noStepBack:
		return p.lower(a, now)
	case a.vote == voteGrow:
		p.raise(a.max, now)
	case a.vote == voteHold:
		p.Threshold = min(p.Threshold, p.Limit)
	case a.vote == voteShrink && p.Limit > 1 && now.Sub(p.Shrunk) >= shrinkEvery:
		p.Limit--
		p.Threshold, p.Shrunk = p.Limit, now
		return backLatency
	}
	return noStepBack
}

func (p *pool) raise(limit int, now time.Time) {
	if now.Before(p.Hold) || now.Sub(p.Raised) < raiseEvery {
		return
	}
	if now.Before(p.Lifted) {
		limit = min(limit, p.Ceiling)
	}
	next := p.Limit + 1
	if p.Limit < p.Threshold {
		next = min(2*p.Limit, p.Threshold)
	}
	if next = min(next, limit); next > p.Limit {
		p.Limit, p.Raised = next, now
	}
}

// lower steps back, unless that has been done for the same event.
func (p *pool) lower(a ask, now time.Time) stepBack {
	used := a.peak
	for name, m := range p.Members {
		if name != a.process {
			used += m.Peak
		}
	}
	since := now.Sub(p.Lowered)
	switch {
	case a.back == backOutage:
		if p.Limit == 1 {
			return noStepBack
		}
		p.Limit, p.Threshold = 1, p.Limit // slow start when it is over
		p.Lowered = now
		p.Epoch++
		return a.back
	case a.back == backPass:
		if since < passEvery || used == 0 && !p.busyWithout(a.process) {
			return noStepBack
		}
		return p.lowerForPass(min(p.Limit, max(used, 1)), now)
	case a.epoch != p.Epoch || since < lowerEvery:
		return noStepBack
	}
	cooling := firstCeiling
	if former := time.Duration(p.Cooling) * time.Second; now.Before(p.Lifted.Add(former)) {
		cooling = min(2*former, maxCeiling)
	}
	reached := max(min(p.Limit, used), 1)
	p.Ceiling, p.Cooling, p.Lifted = max(reached-1, 2), int64(cooling/time.Second), now.Add(cooling)
	p.Limit = max(reached/2, 1)
	p.Threshold, p.Lowered = p.Limit, now
	p.Epoch++
	return a.back
}

// lowerForPass steps back from what was reached for the pass-through's sake. It
// knows no ceiling: whether the upstream can bear both depends on what its
// other clients do, not on the limit. Instead it waits longer each time before
// the limit grows again.
func (p *pool) lowerForPass(reached int, now time.Time) stepBack {
	if p.Limit == 1 {
		p.Hold = later(p.Hold, now.Add(passHold))
		return noStepBack
	}
	holding := passHold
	if former := time.Duration(p.Holding) * time.Second; now.Before(p.Hold.Add(former)) {
		holding = min(2*former, maxPassHold)
	}
	p.Holding, p.Hold = int64(holding/time.Second), now.Add(holding)
	p.Limit = max(reached/2, 1)
	p.Threshold, p.Lowered = p.Limit, now
	p.Epoch++
	return backPass
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (p *pool) busyWithout(process string) bool {
	for name, m := range p.Members {
		if name != process && m.Slots > 0 {
			return true
		}
	}
	return false
}

// deal books and returns the slots of the process that asks.
func (p *pool) deal(a ask, now time.Time) int {
	m, known := p.Members[a.process]
	if a.want <= 0 && a.busy <= 0 && a.held <= 0 {
		delete(p.Members, a.process)
		return 0
	}
	if !known {
		m.Turn = now
	}
	m.Want, m.Peak = a.want, max(a.peak, a.busy)
	p.Members[a.process] = m
	free := p.Limit
	for name, other := range p.Members {
		if name != a.process {
			free -= other.Booked
		}
	}
	slots := max(min(p.share(a.process, now), free), 0)
	if (slots > 0) != (m.Slots > 0) {
		m.Turn = now
	}
	m.Slots, m.Booked, m.Expires = slots, max(slots, a.busy, a.held), now.Add(bookedTTL)
	p.Members[a.process] = m
	return slots
}

// share is the fair part of one process: slots are dealt round by round, one to
// each that still wants one. So nobody gets more than another who wants as
// much, and what some do not want is for the others.
func (p *pool) share(process string, now time.Time) int {
	var names []string
	for name, m := range p.Members {
		if m.Want > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if len(names) > p.Limit {
		slices.SortStableFunc(names, func(x, y string) int { return p.turn(p.Members[x], p.Members[y], now) })
	}
	mine, left := 0, p.Limit
	for round := 0; left > 0; round++ {
		dealt := false
		for _, name := range names {
			if p.Members[name].Want <= round || left == 0 {
				continue
			}
			left, dealt = left-1, true
			if name == process {
				mine++
			}
		}
		if !dealt {
			break
		}
	}
	return mine
}

// turn orders members where there are too few slots for all: those whose turn
// has only begun, then those who have waited longest, then those who have had
// their turn.
func (p *pool) turn(x, y member, now time.Time) int {
	rank := func(m member) int {
		switch {
		case m.Slots == 0:
			return 1
		case now.Sub(m.Turn) < turnTime:
			return 0
		}
		return 2
	}
	if d := rank(x) - rank(y); d != 0 {
		return d
	}
	return x.Turn.Compare(y.Turn)
}
