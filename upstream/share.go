package upstream

import (
	"context"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"time"
)

const (
	syncEvery   = 750 * time.Millisecond // while there is work
	starvedSync = 300 * time.Millisecond // while it waits for a first slot
	shrunkSync  = 100 * time.Millisecond // to confirm that slots were given back; twice as long each time
	eagerSync   = 200 * time.Millisecond // to tell that more would be of use
	shareCall   = 2 * time.Second        // for one call of Config.Share
	shareRetry  = time.Second            // after one that failed
)

// A shareState is what a governor has to say to a shared pool, and when.
type shareState struct {
	peak int // requests under way at most, since the last ask
	want int // the same with those in line

	vote      vote
	back      stepBack
	epoch     int64 // of back
	recovered bool
	until     time.Time // an upstream's pause; zero if the pool knows it
	paused    time.Time // the last pause that the pool knew, by its clock

	asked  time.Time // when the last ask began
	wanted int       // in the last ask
	booked bool      // slots may be booked for us
	shrunk int       // asks for which slots that were given back have been in use
	seen   int64     // the pool's Recovered
	sent   time.Time // the last request
	silent time.Time // nothing is said of the pass-through before
}

func (s *shareState) used(inFlight, want int) {
	s.peak, s.want = max(s.peak, inFlight), max(s.want, want)
}

// add keeps what is to be said in the next ask.
func (s *shareState) add(a ask, now time.Time) {
	if a.vote != voteNone {
		s.vote = a.vote
	}
	if a.back != noStepBack && (a.back > s.back || a.epoch > s.epoch) {
		s.back, s.epoch = a.back, a.epoch
	}
	s.recovered = s.recovered || a.recovered
	if until := now.Add(a.pause); a.pause > 0 && until.After(s.until) {
		s.until = until
	}
}

// hurry makes the syncer ask soon.
func (g *governor) hurry() {
	select {
	case g.kick <- struct{}{}:
	default:
	}
}

// demand notes that somebody waits in line, and asks for slots where that may
// bring some.
func (g *governor) demand(now time.Time) {
	want := g.inFlight + len(g.line)
	g.share.used(g.inFlight, want)
	if g.own != nil || len(g.line) == 0 {
		return
	}
	if !g.share.booked || want > g.share.wanted && now.Sub(g.share.asked) >= eagerSync {
		g.hurry()
	}
}

// mayStepBack reports whether a slow pass-through is worth a word: exports may
// be the cause of it.
func (g *governor) mayStepBack(now time.Time) bool {
	if g.own != nil {
		return g.inFlight > 0 || now.Sub(g.share.sent) < passObserved
	}
	return !now.Before(g.share.silent)
}

// Run keeps this process's share of the limit alive until ctx ends, and then
// returns nil. It is needed only with Config.Share, and must not end before
// the work that sends requests does.
//
// While there is work it calls Share about once a second, and at once when a
// request is throttled or fails so that all should know; without work it calls
// nothing. What was granted lasts for four seconds. So nothing is sent while the
// store is away for longer, and a process that was frozen sends nothing with
// slots that others have by now.
func (c *Client) Run(ctx context.Context) error {
	if c.cfg.Share == nil {
		<-ctx.Done()
		return nil
	}
	s := syncer{g: c.governor, share: c.cfg.Share, process: c.cfg.Process, log: c.log}
	s.run(ctx)
	return nil
}

// A syncer brings a governor and a shared pool together.
type syncer struct {
	g       *governor
	share   func(context.Context, func([]byte, time.Time) []byte) error
	process string
	log     *slog.Logger
	failing bool
}

func (s *syncer) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait, again := s.wait()
		timer.Stop()
		if again {
			timer.Reset(wait)
		}
		select {
		case <-ctx.Done():
			s.leave(context.WithoutCancel(ctx))
			return
		case <-s.g.kick:
		case <-timer.C:
		}
		s.sync(ctx)
	}
}

// wait is how long until the next ask, unless something happens before.
func (s *syncer) wait() (wait time.Duration, again bool) {
	g := s.g
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case s.failing:
		return shareRetry, true
	case g.share.shrunk > 0:
		return min(shrunkSync<<min(g.share.shrunk-1, 3), syncEvery), true
	case len(g.line) > 0 && g.slots == 0:
		return starvedSync, true
	case g.inFlight > 0 || len(g.line) > 0 || g.share.booked:
		return syncEvery - rand.N(syncEvery/10), true
	}
	return 0, false
}

// sync asks the pool once.
func (s *syncer) sync(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, shareCall)
	defer cancel()
	began := time.Now()
	a := s.g.ask(s.process, began)
	gr, err := s.settle(ctx, a)
	if err != nil {
		s.g.unsaid(a, began)
		if !s.failing && ctx.Err() != context.Canceled {
			s.log.LogAttrs(ctx, slog.LevelWarn, "the limit of requests to the upstream cannot be shared; nothing is sent until it can", slog.String("error", err.Error()))
		}
		s.failing = true
		return
	}
	if s.failing {
		s.failing = false
		s.log.LogAttrs(ctx, slog.LevelInfo, "the limit of requests to the upstream is shared again")
	}
	s.g.granted(a, gr, began)
}

// settle makes one ask of the shared pool. A value that is not understood is
// begun anew.
func (s *syncer) settle(ctx context.Context, a ask) (grant, error) {
	var gr grant
	err := s.share(ctx, func(old []byte, now time.Time) []byte {
		var p pool
		if err := json.Unmarshal(old, &p); err != nil {
			p = pool{}
		}
		gr = p.settle(a, now)
		b, err := json.Marshal(p)
		if err != nil { // a time beyond the year 9999
			return nil
		}
		return b
	})
	return gr, err
}

// leave gives the slots back. Where it fails they run out by themselves.
func (s *syncer) leave(ctx context.Context) {
	g := s.g
	g.mu.Lock()
	g.slots = 0
	booked := g.share.booked
	g.mu.Unlock()
	if !booked {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, shareCall)
	defer cancel()
	a := g.ask(s.process, time.Now())
	a.want = 0
	_, _ = s.settle(ctx, a)
}

// ask is what the governor has to say now.
func (g *governor) ask(process string, now time.Time) ask {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := &g.share
	want := g.inFlight + len(g.line)
	a := ask{
		process: process, max: g.max, want: max(s.want, want), busy: g.inFlight, peak: max(s.peak, g.inFlight),
		vote: s.vote, back: s.back, epoch: s.epoch, recovered: s.recovered, pause: max(s.until.Sub(now), 0),
	}
	if g.breaker.open {
		a.want = min(a.want, 1)
	}
	if now.Before(g.slotsUntil) {
		a.held = g.slots
	}
	s.asked, s.wanted, s.booked = now, a.want, true
	s.peak, s.want, s.vote, s.back, s.epoch, s.recovered = g.inFlight, want, voteNone, noStepBack, 0, false
	s.until = time.Time{}
	return a
}

// unsaid keeps what an ask that failed had to say for the next.
func (g *governor) unsaid(a ask, asked time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.share.used(a.peak, a.want)
	if g.share.vote != voteNone {
		a.vote = voteNone
	}
	g.share.add(a, asked)
}

// granted puts the answer to an ask that began at a time into effect.
func (g *governor) granted(a ask, gr grant, began time.Time) {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	s := &g.share
	s.booked = a.want > 0 || a.busy > 0 || a.held > 0
	if s.shrunk++; gr.slots >= max(a.held, a.busy) || !s.booked {
		s.shrunk = 0
	}
	if a.back == backPass && gr.stepped == noStepBack && !gr.running {
		s.silent = now.Add(passNobody)
	}
	if gr.recovered != s.seen {
		s.seen = gr.recovered
		g.breaker.hurry(now)
	}
	// One pause is taken over once: how long an answer of the store takes varies,
	// and would make it longer every time.
	if gr.paused.Equal(s.paused) {
		gr.pause = 0
	}
	s.paused = gr.paused
	g.slotsUntil = began.Add(grantTTL)
	g.take(gr, now)
	g.serve(now)
}
