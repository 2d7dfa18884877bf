package upstream

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

// newTestGovernor is a governor of its own with a fixed number of slots.
func newTestGovernor(slots int) *governor {
	return newGovernor(Config{MaxConcurrency: slots}.withDefaults(), newVital(), governorMetrics{})
}

func TestGovernorPausesThoseInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestGovernor(1)
		acquire := func(ctx context.Context) (ticket, error) { return g.acquire(ctx, errand{begun: true}) }
		first, err := acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		sent := make(chan int)
		go func() {
			second, err := acquire(t.Context())
			if err != nil {
				t.Error(err)
			}
			sent <- since(start)
			g.release(second, verdict{})
		}()
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := acquire(impatient); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("acquire in line = %v", err)
		}
		g.release(first, verdict{status: 429, kind: KindThrottled, retryAfter: 20 * time.Second})
		if _, err := acquire(impatient); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("acquire after the end = %v", err)
		}
		synctest.Wait()
		time.Sleep(5 * time.Second)
		// Answers come to requests that were sent before: one asks for more, one for less.
		g.release(ticket{free: true}, verdict{status: 429, kind: KindThrottled, retryAfter: 30 * time.Second})
		g.release(ticket{free: true}, verdict{status: 503, kind: KindThrottled, retryAfter: time.Second})
		if got := <-sent; got != 36 {
			t.Errorf("sent after %d s, want 36", got)
		}
	})
}

// TestFlowsTakeTurns: who has few requests does not wait for all those of who
// has many.
func TestFlowsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestGovernor(2)
		served := make(chan string, 12)
		ask := func(flow, name string) {
			go func() {
				turn, err := g.acquire(t.Context(), errand{flow: flow})
				if err != nil {
					t.Error(err)
				}
				served <- name
				time.Sleep(time.Second)
				g.release(turn, verdict{})
			}()
			synctest.Wait()
		}
		for _, name := range []string{"a1", "a2", "a3", "a4", "a5", "a6"} {
			ask("a", name)
		}
		ask("b", "b1")
		ask("b", "b2")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		close(served)
		got := map[string]int{}
		for name := range served {
			got[name] = len(got) / 2 // two at once
		}
		want := map[string]int{"a1": 0, "a2": 0, "a3": 1, "b1": 1, "a4": 2, "b2": 2, "a5": 3, "a6": 3}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("seconds at which they were served (-want +got):\n%s", diff)
		}
		if len(g.flows) != 0 {
			t.Errorf("flows are left: %v", g.flows)
		}
	})
}

func TestGovernorMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		m, err := newGovernorMetrics(reg)
		if err != nil {
			t.Fatal(err)
		}
		g := newGovernor(Config{MaxConcurrency: 2}.withDefaults(), newVital(), m)
		wantMetric(t, reg, "spillway_upstream_limit 2", "spillway_upstream_slots 2", "spillway_upstream_pause_until_seconds 0")
		turn := func() ticket {
			t.Helper()
			ticket, err := g.acquire(t.Context(), errand{since: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			return ticket
		}
		first, second := turn(), turn()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := g.acquire(ctx, errand{})
			done <- err
		}()
		synctest.Wait()
		wantMetric(t, reg, "spillway_upstream_waiting 1")
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		failed := &RequestError{Kind: KindThrottled, Status: 429}
		g.release(first, verdict{requestKind: kindSearch, status: 429, kind: KindThrottled, failure: failed, retryAfter: 10 * time.Second})
		wantMetric(t, reg, "spillway_upstream_waiting 0", "spillway_upstream_limit 1",
			"spillway_upstream_pause_until_seconds 9.4668481e+08", // 2000-01-01T00:00:10Z
			`spillway_upstream_step_backs_total{reason="throttled"} 1`)

		away := verdict{requestKind: kindSearch, kind: KindUnreachable, failure: &RequestError{Kind: KindUnreachable}}
		g.release(second, away)
		g.vital.note(200)
		g.release(turn(), away)
		wantMetric(t, reg, "spillway_upstream_breaker 0")
		g.release(turn(), away)
		wantMetric(t, reg, "spillway_upstream_breaker 1")
		probe := turn()
		wantMetric(t, reg, "spillway_upstream_breaker 2")
		g.release(probe, verdict{requestKind: kindSearch, status: 200, whole: true})
		wantMetric(t, reg, "spillway_upstream_breaker 0")
	})
}

// A long pause is for those who can give their work back; one who has begun
// waits for it.
func TestGovernorRefusesLongPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestGovernor(4)
		pauses := func(d time.Duration) {
			g.release(ticket{free: true}, verdict{status: 429, kind: KindThrottled, retryAfter: d})
		}
		start := time.Now()
		waits := func(e errand) int {
			t.Helper()
			began := time.Now()
			ticket, err := g.acquire(t.Context(), e)
			if err != nil {
				t.Fatal(err)
			}
			g.release(ticket, verdict{})
			return since(began)
		}
		refused := func(e errand) {
			t.Helper()
			_, err := g.acquire(t.Context(), e)
			var pause *PauseError
			if !errors.As(err, &pause) || pause.Hours || !pause.Until.After(time.Now().Add(patientPause)) {
				t.Errorf("acquire = %v after %d s", err, since(start))
			}
		}
		pauses(patientPause)
		if s := waits(errand{}); s != 15 {
			t.Errorf("waited %d s", s)
		}
		pauses(patientPause + time.Second)
		refused(errand{})
		if s := waits(errand{begun: true}); s != 16 {
			t.Errorf("waited %d s", s)
		}
		pauses(begunPause + time.Second)
		refused(errand{begun: true})
		refused(errand{anytime: true, free: true})
	})
}

// A pause that gets long while they wait sends those in line away.
func TestGovernorPauseGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newTestGovernor(1)
		first, err := g.acquire(t.Context(), errand{})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() {
			_, err := g.acquire(t.Context(), errand{})
			done <- err
		}()
		synctest.Wait()
		g.release(first, verdict{status: 503, kind: KindThrottled, retryAfter: time.Hour})
		var pause *PauseError
		if err := <-done; !errors.As(err, &pause) || !pause.Until.Equal(time.Now().Add(time.Hour)) {
			t.Errorf("acquire = %v", err)
		}
	})
}
