package upstream

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A plant is a simulated upstream: what it does with a request while n are
// under way, this one included.
type plant struct {
	mu     sync.Mutex
	now    int
	most   int // at once
	served int
	failed int
	serve  func(n int, usual time.Duration) (status int, latency time.Duration)
}

// ask sends one request of a kind that takes some time on an idle upstream.
func (p *plant) ask(v verdict, usual time.Duration) verdict {
	p.mu.Lock()
	p.now++
	p.most = max(p.most, p.now)
	v.status, v.latency = p.serve(p.now, usual)
	p.mu.Unlock()
	time.Sleep(v.latency)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now--
	v.whole = v.status == 200
	if p.served++; v.whole {
		return v
	}
	p.served--
	p.failed++
	v.kind = KindStatus
	if v.status == 0 {
		v.kind = KindUnreachable
	}
	v.failure = &RequestError{Op: v.op, Status: v.status, Kind: v.kind}
	return v
}

// reset forgets the counts.
func (p *plant) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.most, p.served, p.failed = 0, 0, 0
}

// work has n workers send requests as an export does, for a while: counts
// that take from one to a hundred milliseconds, and pages of three types whose
// time varies by half.
func work(t *testing.T, g *governor, p *plant, n int, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for {
				v := verdict{requestKind: kindCount, op: "count Observation", bytes: 200}
				usual := time.Duration(math.Exp(rand.Float64()*math.Log(100)) * float64(time.Millisecond))
				switch rand.N(8) {
				case 0:
				case 1, 2:
					v = verdict{requestKind: kindSearch, op: "search Claim", bytes: 3 << 20}
					usual = time.Duration(300 * math.Exp(rand.NormFloat64()/2) * float64(time.Millisecond))
				case 3:
					v = verdict{requestKind: kindNext, op: "search Patient", bytes: 400 << 10}
					usual = time.Duration(30 * math.Exp(rand.NormFloat64()/2) * float64(time.Millisecond))
				default:
					v = verdict{requestKind: kindNext, op: "search Observation", bytes: 1 << 20}
					usual = time.Duration(100 * math.Exp(rand.NormFloat64()/2) * float64(time.Millisecond))
				}
				ticket, err := g.acquire(ctx, errand{since: time.Now()})
				var pause *PauseError
				if errors.As(err, &pause) {
					if sleep(ctx, time.Until(pause.Until)) == nil {
						continue
					}
				}
				if err != nil {
					return
				}
				g.release(ticket, p.ask(v, usual))
			}
		})
	}
	wg.Wait()
}

func flat(_ int, usual time.Duration) (int, time.Duration) { return 200, usual }

// shared is a server of k cores: beyond them everything takes longer.
func cores(k int) func(int, time.Duration) (int, time.Duration) {
	return func(n int, usual time.Duration) (int, time.Duration) {
		return 200, usual * time.Duration(max(n, k)) / time.Duration(k)
	}
}

func TestLimitGrowsOnAFlatUpstream(t *testing.T) {
	for _, limit := range []int{1, 2, 4, 8, 16} {
		synctest.Test(t, func(t *testing.T) {
			g, p := newTestGovernor(limit), &plant{serve: flat}
			work(t, g, p, limit+4, 2*time.Second)
			if g.limit < limit*7/8 {
				t.Errorf("the limit is %d after 2 s, want %d", g.limit, limit)
			}
			low := 0
			for range 300 {
				work(t, g, p, limit+4, time.Second)
				if g.limit < limit {
					low++
				}
			}
			if p.most != limit || low > 10 {
				t.Errorf("%d at once of %d; the limit was below in %d of 300 s", p.most, limit, low)
			}
		})
	}
}

// That few requests are answered well says nothing about more of them.
func TestLimitDoesNotGrowUnused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestGovernor(16)
		work(t, g, &plant{serve: flat}, startLimit-1, time.Minute)
		if g.limit != startLimit {
			t.Errorf("the limit is %d", g.limit)
		}
	})
}

// With 64 allowed, it stays where the cores are busy, and well below 64.
func TestLimitFindsCapacity(t *testing.T) {
	for _, k := range []int{1, 2, 4, 8} {
		synctest.Test(t, func(t *testing.T) {
			g, p := newTestGovernor(64), &plant{serve: cores(k)}
			work(t, g, p, 64, time.Minute)
			p.reset()
			work(t, g, p, 64, 20*time.Second)
			if p.most < k || p.most > 56 {
				t.Errorf("%d cores: up to %d requests at once", k, p.most)
			}
		})
	}
}

// throttles refuses what is more than k at once.
func throttles(k, status int) func(int, time.Duration) (int, time.Duration) {
	return func(n int, usual time.Duration) (int, time.Duration) {
		if n > k {
			return status, 2 * time.Millisecond
		}
		return 200, usual
	}
}

func TestLimitStaysBelowWhereItIsRefused(t *testing.T) {
	for _, status := range []int{429, 503, 504} {
		synctest.Test(t, func(t *testing.T) {
			g, p := newTestGovernor(16), &plant{serve: throttles(6, status)}
			work(t, g, p, 16, time.Minute)
			p.reset()
			work(t, g, p, 16, 10*time.Minute)
			// It may try once in two minutes whether more is allowed by now.
			if p.failed > 10 || p.failed == 0 {
				t.Errorf("%d: %d requests were refused in ten minutes", status, p.failed)
			}
			full := &plant{serve: flat}
			work(t, newTestGovernor(6), full, 16, 10*time.Minute)
			if p.served < full.served*85/100 {
				t.Errorf("%d: %d requests were served; a limit of 6 serves %d", status, p.served, full.served)
			}
		})
	}
}

// What was sent before the first refusal came is one event.
func TestLimitHalvesOnceForOneEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestGovernor(16)
		for g.limit < 16 {
			work(t, g, &plant{serve: flat}, 20, time.Second)
		}
		take := func(n int) (tickets []ticket) {
			for range n {
				ticket, err := g.acquire(t.Context(), errand{})
				if err != nil {
					t.Fatal(err)
				}
				tickets = append(tickets, ticket)
			}
			return tickets
		}
		refused := verdict{requestKind: kindSearch, status: 429, kind: KindThrottled, failure: &RequestError{}}
		for _, ticket := range take(16) {
			time.Sleep(300 * time.Millisecond) // all in all for almost five seconds
			g.release(ticket, refused)
		}
		if g.limit != 8 {
			t.Errorf("the limit is %d after one event, want 8", g.limit)
		}
		for _, want := range []int{4, 2, 1, 1, 1} {
			time.Sleep(time.Second)
			for range 5 {
				for _, ticket := range take(g.slots) {
					g.release(ticket, refused)
				}
			}
			if g.limit != want {
				t.Errorf("the limit is %d, want %d", g.limit, want)
			}
		}
	})
}

func TestLimitComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, p := newTestGovernor(8), &plant{serve: flat}
		work(t, g, p, 8, 5*time.Second)
		p.serve = throttles(2, 503)
		work(t, g, p, 8, 20*time.Second)
		if g.limit > 4 {
			t.Errorf("the limit is %d on an upstream that serves two at once", g.limit)
		}
		p.serve = flat
		work(t, g, p, 8, 2*time.Minute)
		work(t, g, p, 8, 10*time.Second)
		if g.limit != 8 {
			t.Errorf("the limit is %d after the upstream has recovered", g.limit)
		}
	})
}

// An upstream that gets slower for good is asked for less, but not for ever.
func TestLimitFollowsLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, p := newTestGovernor(32), &plant{serve: flat}
		work(t, g, p, 40, 10*time.Second)
		p.serve = func(_ int, usual time.Duration) (int, time.Duration) { return 200, 5 * usual }
		work(t, g, p, 40, time.Minute)
		if g.limit > 16 {
			t.Errorf("the limit is %d on an upstream five times as slow as it was", g.limit)
		}
		work(t, g, p, 40, time.Hour)
		if g.limit != 32 {
			t.Errorf("the limit is %d on an upstream that has been so for an hour", g.limit)
		}
	})
}

func TestBreakerSendsSingleProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, p := newTestGovernor(8), &plant{serve: flat}
		work(t, g, p, 8, 5*time.Second)
		g.vital.note(200)
		p.reset()
		p.serve = func(int, time.Duration) (int, time.Duration) { return 0, time.Millisecond }
		work(t, g, p, 8, 4*time.Minute)
		// Eight at once at first, and then one each 2, 4, 8, 16, 30, 30 ... seconds.
		if p.failed < 14 || p.failed > 24 || g.limit != 1 || !g.breaker.open {
			t.Errorf("%d requests to an upstream that was away for four minutes; limit %d", p.failed, g.limit)
		}
		p.reset()
		p.serve = flat
		start := time.Now()
		work(t, g, p, 8, 40*time.Second)
		if g.breaker.open || g.limit != 8 || p.served < 300 {
			t.Errorf("the limit is %d, %d served %v after the upstream was back", g.limit, p.served, time.Since(start))
		}
	})
}

func TestBreakerEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestGovernor(8)
		g.vital.note(200)
		last := &RequestError{Kind: KindUnreachable}
		fail := func() {
			ticket, err := g.acquire(t.Context(), errand{since: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			g.release(ticket, verdict{requestKind: kindSearch, kind: KindUnreachable, failure: last})
		}
		for range breakerFailures {
			fail()
		}
		fail()
		// A request that nobody comes back from keeps the others waiting, to the end.
		probe, err := g.acquire(t.Context(), errand{since: time.Now()})
		if err != nil || !probe.probe {
			t.Fatal(probe, err)
		}
		start := time.Now()
		_, err = g.acquire(t.Context(), errand{since: start})
		if away, ok := err.(awayError); !ok || away.last != last || since(start) != 300 {
			t.Errorf("acquire = %v after %d s", err, since(start))
		}
		// A probe that its caller gives up makes room for another.
		g.release(probe, verdict{})
		if probe, err = g.acquire(t.Context(), errand{since: time.Now()}); err != nil || !probe.probe {
			t.Fatal(probe, err)
		}
		// The headers of its answer let the others go.
		released := make(chan ticket)
		go func() {
			next, err := g.acquire(t.Context(), errand{since: time.Now()})
			if err != nil {
				t.Error(err)
			}
			released <- next
		}()
		synctest.Wait()
		g.vital.note(200)
		g.heard(200)
		synctest.Wait()
		g.release(probe, verdict{requestKind: kindSearch, status: 200, whole: true})
		g.release(<-released, verdict{})
	})
}

// BenchmarkGovernor is what the governor costs a request when nobody waits.
func BenchmarkGovernor(b *testing.B) {
	g := newTestGovernor(8)
	v := verdict{requestKind: kindNext, op: "search Observation", status: 200, whole: true, latency: 100 * time.Millisecond, bytes: 1 << 20}
	b.ReportAllocs()
	for b.Loop() {
		ticket, err := g.acquire(b.Context(), errand{})
		if err != nil {
			b.Fatal(err)
		}
		g.release(ticket, v)
	}
}
