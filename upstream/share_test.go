package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A board is the store that processes share.
type board struct {
	mu    sync.Mutex
	value []byte
	calls int
	down  bool
	skew  time.Duration
}

var errBoardDown = errors.New("the store is away")

func (b *board) share(ctx context.Context, update func([]byte, time.Time) []byte) error {
	if err := sleep(ctx, 3*time.Millisecond); err != nil {
		return err
	}
	if err := b.apply(update); err != nil {
		return err
	}
	return sleep(ctx, 2*time.Millisecond)
}

func (b *board) apply(update func([]byte, time.Time) []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls++
	if b.down {
		return errBoardDown
	}
	update(slices.Clone(b.value), time.Now().Add(b.skew).Add(-time.Second)) // somebody else was faster
	if v := update(slices.Clone(b.value), time.Now().Add(b.skew)); v != nil {
		b.value = v
	}
	return nil
}

func (b *board) set(down bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = down
}

func (b *board) called() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls
}

// A cluster is some processes before one upstream.
type cluster struct {
	board   board
	clients []*Client
	stop    []context.CancelFunc // of Run
	net     *memory
	work    sync.WaitGroup

	mu        sync.Mutex
	now, most int
	at        []time.Time // when requests came
	by        map[string]int
	serve     func(w http.ResponseWriter, r *http.Request, n int) // n are under way
}

func newCluster(t *testing.T, n, limit int, edit ...func(*Config)) *cluster {
	k := &cluster{by: map[string]int{}, serve: func(w http.ResponseWriter, _ *http.Request, _ int) {
		time.Sleep(200 * time.Millisecond)
		answer(w, bundle("", "a"))
	}}
	handle := func(w http.ResponseWriter, r *http.Request) {
		k.mu.Lock()
		k.now++
		now, serve := k.now, k.serve
		k.most = max(k.most, k.now)
		k.at = append(k.at, time.Now())
		k.by[r.UserAgent()]++
		k.mu.Unlock()
		serve(w, r, now)
		k.mu.Lock()
		k.now--
		k.mu.Unlock()
	}
	var running sync.WaitGroup
	for i := range n {
		with := append([]func(*Config){func(c *Config) {
			c.MaxConcurrency, c.Share, c.Process, c.Version = limit, k.board.share, fmt.Sprint("p", i), fmt.Sprint(i)
		}}, edit...)
		var c *Client
		if i == 0 {
			c, k.net = serveMemory(t, handle, with...)
		} else {
			c = client(t, "http://fhir.test/fhir", with...)
			c.transport.DialContext = k.net.dial
		}
		c.vital.note(200)
		ctx, cancel := context.WithCancel(t.Context())
		running.Go(func() {
			if err := c.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		k.clients, k.stop = append(k.clients, c), append(k.stop, cancel)
	}
	t.Cleanup(func() {
		for _, stop := range k.stop {
			stop()
		}
		running.Wait()
	})
	return k
}

// run has workers of one client ask for pages, for a while. It does not wait.
func (k *cluster) run(t *testing.T, client, workers int, d time.Duration) {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				_, err := k.clients[client].Page(ctx, observations, "", idsInto(new([]string)))
				var pause *PauseError
				if errors.As(err, &pause) {
					_ = sleep(ctx, time.Until(pause.Until))
				} else if err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	k.work.Go(func() { wg.Wait(); cancel() })
}

// seen returns what came since the last call, and the most at once.
func (k *cluster) seen() (at []time.Time, most int, by map[string]int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	at, most, by = k.at, k.most, k.by
	k.at, k.most, k.by = nil, k.now, map[string]int{}
	return at, most, by
}

func TestShareStaysWithinTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t, 4, 8)
		k.run(t, 0, 8, 60*time.Second) // alone at first
		time.Sleep(4 * time.Second)
		if at, most, _ := k.seen(); most != 8 || len(at) < 110 {
			t.Errorf("alone: %d at once, %d requests in 4 s", most, len(at))
		}
		for i := 1; i < 4; i++ {
			k.run(t, i, 8, 56*time.Second)
		}
		time.Sleep(1400 * time.Millisecond)
		if _, most, by := k.seen(); most > 8 || len(by) != 4 {
			t.Errorf("while others come %d are under way at once, by %v", most, by)
		}
		time.Sleep(2 * time.Second)
		k.seen()
		calls := k.board.called()
		time.Sleep(20 * time.Second)
		at, most, by := k.seen()
		if most != 8 || len(at) < 20*5*8*95/100 {
			t.Errorf("together: %d at once, %d requests in 20 s", most, len(at))
		}
		for name, n := range by {
			if n < len(at)/4*9/10 {
				t.Errorf("%s had %d of %d requests", name, n, len(at))
			}
		}
		if n := k.board.called() - calls; n > 4*20*3/2 || n < 4*20 {
			t.Errorf("the store was called %d times in 20 s by 4 processes", n)
		}
		k.work.Wait()
		time.Sleep(3 * time.Second)
		calls = k.board.called()
		time.Sleep(time.Hour)
		if n := k.board.called() - calls; n != 0 {
			t.Errorf("the store was called %d times in an idle hour", n)
		}
	})
}

func TestShareObeysRetryAfterTogether(t *testing.T) {
	for _, value := range []string{"12", "90", time.Date(2000, 1, 1, 0, 2, 0, 0, time.UTC).Format(http.TimeFormat)} {
		synctest.Test(t, func(t *testing.T) {
			k := newCluster(t, 3, 6)
			for i := range 3 {
				k.run(t, i, 4, 4*time.Minute)
			}
			time.Sleep(10 * time.Second)
			k.seen()
			var until time.Time
			k.mu.Lock()
			usual := k.serve
			k.serve = func(w http.ResponseWriter, r *http.Request, n int) {
				k.mu.Lock()
				first := until.IsZero()
				if first {
					until = time.Now().Add(retryAfter(http.Header{"Retry-After": {value}}, time.Now()))
				}
				k.mu.Unlock()
				if first {
					w.Header().Set("Retry-After", value)
					w.WriteHeader(429)
					return
				}
				usual(w, r, n)
			}
			k.mu.Unlock()
			asked := time.Now()
			time.Sleep(3 * time.Minute)
			at, _, _ := k.seen()
			late, early, after := 0, 0, 0
			for _, when := range at {
				switch {
				case when.Before(asked.Add(time.Second + 100*time.Millisecond)):
					late++ // sent before the others knew
				case when.Before(until):
					early++
				case when.Before(until.Add(time.Second)):
					after++
				}
			}
			if early != 0 || after < 3 {
				t.Errorf("Retry-After: %s: %d requests in the first second, %d before the deadline, %d in the second after it", value, late, early, after)
			}
			k.work.Wait()
		})
	}
}

// A process that dies or cannot reach the store leaves its slots to the others
// and sends nothing itself.
func TestShareWithoutTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t, 2, 8)
		k.run(t, 0, 8, 2*time.Minute)
		k.run(t, 1, 8, 2*time.Minute)
		time.Sleep(10 * time.Second)
		k.seen()
		k.board.set(true)
		time.Sleep(grantTTL + 300*time.Millisecond)
		k.seen()
		time.Sleep(20 * time.Second)
		if at, _, _ := k.seen(); len(at) != 0 {
			t.Errorf("%d requests while the store is away", len(at))
		}
		k.board.set(false)
		time.Sleep(3 * time.Second)
		if at, most, _ := k.seen(); len(at) < 50 || most > 8 {
			t.Errorf("%d requests after the store is back, %d at once", len(at), most)
		}
		// One that ends gives its slots back, and has none itself.
		k.stop[1]()
		time.Sleep(bookedTTL + time.Second) // it has left in the middle of its work
		k.seen()
		time.Sleep(10 * time.Second)
		at, most, by := k.seen()
		if by["spillway/1"] != 0 || most != 8 || len(at) < 380 {
			t.Errorf("%d requests, %d at once, by %v", len(at), most, by)
		}
		k.work.Wait()
	})
}

func TestShareTakesTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t, 5, 2)
		for i := range 5 {
			k.run(t, i, 3, 2*time.Minute)
		}
		time.Sleep(10 * time.Second)
		k.seen()
		time.Sleep(100 * time.Second)
		at, most, by := k.seen()
		if most > 2 || len(at) < 600 {
			t.Errorf("%d at once, %d requests of 1000", most, len(at))
		}
		for i := range 5 {
			if n := by[fmt.Sprint("spillway/", i)]; n < len(at)/5/2 {
				t.Errorf("process %d had %d of %d requests", i, n, len(at))
			}
		}
		k.work.Wait()
	})
}

// One event lowers the limit once, whoever sees it.
func TestShareStepsBackTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		k := newCluster(t, 3, 12, func(c *Config) { c.Registerer = reg })
		k.mu.Lock()
		usual := k.serve
		k.serve = func(w http.ResponseWriter, r *http.Request, n int) {
			if n > 7 {
				w.WriteHeader(429)
				return
			}
			usual(w, r, n)
		}
		k.mu.Unlock()
		for i := range 3 {
			k.run(t, i, 8, 5*time.Minute)
		}
		time.Sleep(30 * time.Second)
		k.seen()
		epoch := func() int64 {
			g := k.clients[0].governor
			g.mu.Lock()
			defer g.mu.Unlock()
			return g.epoch
		}
		before := epoch()
		time.Sleep(4 * time.Minute)
		at, _, _ := k.seen()
		if steps := epoch() - before; steps < 1 || steps > 6 {
			t.Errorf("%d step backs in four minutes", steps)
		}
		if len(at) < 4*60*5*5 {
			t.Errorf("%d requests", len(at))
		}
		k.work.Wait()
	})
}

// The upstream is away, and comes back: all know within a second or two of the first answer.
func TestShareOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t, 3, 8)
		for i := range 3 {
			k.clients[i].transport.DisableKeepAlives = true
			k.run(t, i, 4, 4*time.Minute)
		}
		time.Sleep(10 * time.Second)
		k.net.setDown(true)
		time.Sleep(10 * time.Second)
		dials := k.net.dialed()
		time.Sleep(100 * time.Second)
		if n := k.net.dialed() - dials; n > 24 {
			t.Errorf("%d connections were tried in 100 s", n)
		}
		k.seen()
		k.net.setDown(false)
		for at, _, _ := k.seen(); len(at) == 0; at, _, _ = k.seen() {
			time.Sleep(time.Second)
		}
		time.Sleep(4 * time.Second)
		k.seen()
		time.Sleep(5 * time.Second)
		at, _, by := k.seen()
		if len(by) != 3 || len(at) < 5*5*8*9/10 {
			t.Errorf("%d requests by %v after the upstream is back", len(at), by)
		}
		k.work.Wait()
	})
}

func TestShareNeedsAName(t *testing.T) {
	if _, err := New(Config{URL: parse(t, "http://x"), Share: (&board{}).share}); err == nil {
		t.Error("New takes a process without a name")
	}
	c, err := New(Config{URL: parse(t, "http://x")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Run(ctx); err != nil {
		t.Error(err)
	}
}

// How long an answer of the store takes does not make a pause longer every time.
func TestSharePauseDoesNotCreep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGovernor(Config{Share: (&board{}).share}.withDefaults(), newVital(), governorMetrics{})
		end := time.Now().Add(10 * time.Second)
		store := end.Add(time.Hour) // by its clock
		for i := range 5 {
			began := time.Now()
			gr := grant{slots: 1, pause: time.Until(end), paused: store}
			time.Sleep(time.Duration(i+1) * 100 * time.Millisecond) // the way back
			g.granted(ask{want: 1}, gr, began)
			time.Sleep(time.Second)
		}
		if late := g.until.Sub(end); late != 100*time.Millisecond {
			t.Errorf("the pause ends %s late", late)
		}
		g.granted(ask{want: 1}, grant{slots: 1, pause: 20 * time.Second, paused: store.Add(time.Minute)}, time.Now())
		if left := time.Until(g.until); left != 20*time.Second {
			t.Errorf("a new pause lasts %s", left)
		}
	})
}

// A process that was frozen while its slots were dealt out again sends nothing
// with them.
func TestShareFrozen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{MaxConcurrency: 8, Share: (&board{}).share}.withDefaults()
		g := newGovernor(cfg, newVital(), governorMetrics{})
		first := time.Now()
		g.granted(ask{want: 2}, grant{slots: 2, limit: 8}, first)
		ticket, err := g.acquire(t.Context(), errand{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(grantTTL)
		blocked := func() {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := g.acquire(ctx, errand{}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("acquire = %v", err)
			}
		}
		blocked()
		// An answer that comes too late is worth as much.
		g.granted(ask{want: 2}, grant{slots: 2, limit: 8}, first.Add(time.Second))
		blocked()
		if a := g.ask("p", time.Now()); a.held != 0 || a.busy != 1 {
			t.Errorf("it claims to hold %d and use %d", a.held, a.busy)
		}
		g.release(ticket, verdict{})
		// The statement takes no slot.
		if _, err := g.acquire(t.Context(), errand{free: true}); err != nil {
			t.Error(err)
		}
	})
}
