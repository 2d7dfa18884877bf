package redisstore_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway/jobs"
	"spillway/jobs/redisstore"
	"spillway/test/testenv"
)

// TestCloseEndsIdle closes a store right after somebody left Idle. What goes on
// for that is found by goleak.
func TestCloseEndsIdle(t *testing.T) {
	r := testenv.Redis(t)
	s, err := redisstore.Open(t.Context(), redisstore.Options{URL: r.URL()})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Claim(t.Context(), "worker"); !errors.Is(err, jobs.ErrNoWork) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := s.Idle(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Idle = %v, want the error of its context", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	if took := time.Since(began); took > 700*time.Millisecond {
		t.Errorf("Idle and Close took %v; neither may wait for the second that Redis was asked to", took)
	}
}

// TestIdleIsCheap has many callers in Idle: they share one command a second.
func TestIdleIsCheap(t *testing.T) {
	r := testenv.Redis(t)
	s := open(t, redisstore.Options{URL: r.URL()})
	if _, _, err := s.Claim(t.Context(), "worker"); !errors.Is(err, jobs.ErrNoWork) {
		t.Fatal(err)
	}
	r.CLI("CONFIG", "RESETSTAT")
	var wg sync.WaitGroup
	began := time.Now()
	for range 8 {
		wg.Go(func() {
			for range 2 {
				if err := s.Idle(t.Context()); err != nil {
					t.Errorf("Idle = %v", err)
				}
			}
		})
	}
	wg.Wait()
	if took := time.Since(began); took < time.Second || took > 3*time.Second {
		t.Errorf("two rounds of Idle took %v, want about two seconds", took)
	}
	for line := range strings.SplitSeq(r.CLI("INFO", "commandstats"), "\n") {
		if calls, found := strings.CutPrefix(line, "cmdstat_xread:calls="); found {
			if calls, _, _ = strings.Cut(calls, ","); calls > "3" || len(calls) > 1 {
				t.Errorf("8 callers of Idle took %s commands in two seconds, want 3 at most", calls)
			}
		}
	}
}
