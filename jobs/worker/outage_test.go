package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"spillway/jobs"
)

// The store is away for less than a lease: nothing is lost, and it is said once.
func TestShortOutage(t *testing.T) {
	inBubble(t, func(r *rig) {
		inside := make(chan struct{})
		r.start(slice(3, func(ctx context.Context, _ *jobs.Job, l *jobs.Lease, save save) (jobs.Result, error) {
			if l.Attempt != 1 {
				r.Errorf("%s: attempt %d, want none repeated", l.Unit.ID, l.Attempt)
			}
			inside <- struct{}{}
			if l.Unit.ID == "slice-0" { // saves during the outage, the others complete
				if err := save(ctx, json.RawMessage(`1`)); err != nil {
					return jobs.Result{}, err
				}
			}
			return jobs.Result{}, nil
		}))
		j := r.create()
		time.Sleep(time.Second)
		r.store.away.Store(true)
		for range 3 {
			<-inside
		}
		time.Sleep(ttl / 2)
		if got := r.get(j.ID); got.Progress.UnitsDone != 1 {
			r.Errorf("%d units done during the outage, want the plan alone", got.Progress.UnitsDone)
		}
		r.store.away.Store(false)
		if got := r.ended(j.ID); got.State != jobs.Completed {
			r.Errorf("the job is %s: %s", got.State, got.Failure)
		}
		r.halt()
		log := r.log.String()
		if strings.Count(log, "does not work") != 1 || strings.Count(log, "works again") != 1 || strings.Count(log, "\n") != 2 {
			r.Errorf("the log should have one line for the outage and one for its end:\n%s", log)
		}
	})
}

// The store is away for longer than a lease: the unit is stopped before another
// could have it, and its result is thrown away.
func TestLongOutage(t *testing.T) {
	inBubble(t, func(r *rig) {
		var attempts atomic.Int32
		r.start(slice(1, func(ctx context.Context, _ *jobs.Job, l *jobs.Lease, _ save) (jobs.Result, error) {
			if attempts.Add(1) > 1 {
				return jobs.Result{}, nil
			}
			r.store.away.Store(true)
			began := time.Now()
			<-ctx.Done()
			if took := time.Since(began); took > ttl || took < ttl/2 {
				r.Errorf("the unit was stopped %v into the outage, want by the end of its lease of %v", took, ttl)
			}
			if !errors.Is(context.Cause(ctx), jobs.ErrLeaseLost) {
				r.Errorf("the cause is %v, want ErrLeaseLost", context.Cause(ctx))
			}
			return jobs.Result{Segments: []jobs.Segment{{Kind: jobs.KindOutput, Type: "Patient", Count: 99}}}, nil
		}))
		j := r.create()
		time.Sleep(5 * ttl)
		r.store.away.Store(false)
		got := r.ended(j.ID)
		if got.State != jobs.Completed || got.Progress.Types["Patient"].Done != 0 || attempts.Load() != 2 {
			r.Errorf("the job is %s after %d attempts, %+v; want completed after 2, by the second", got.State, attempts.Load(), got.Progress)
		}
		if r.units("slice", "lost") != 1 {
			r.Error("no attempt was counted as lost")
		}
	})
}

// A worker that is cut off loses its units to another. Every unit is completed
// once, by the attempt that holds it.
func TestTakeover(t *testing.T) {
	inBubble(t, func(r *rig) {
		const units = 6
		hang := make(chan struct{})
		cutOff := &store{Store: r.store.Store}
		healthy := r.store
		r.store = cutOff
		stop, done := r.worker(nil, slice(units, func(ctx context.Context, _ *jobs.Job, _ *jobs.Lease, _ save) (jobs.Result, error) {
			hang <- struct{}{}
			<-ctx.Done() // the outage ends it
			return jobs.Result{Segments: []jobs.Segment{{Kind: jobs.KindOutput, Type: "Patient", Count: 100}}}, nil
		}))
		j := r.create()
		for range 3 { // as many as it works on at once
			<-hang
		}
		cutOff.away.Store(true)

		r.store = healthy
		r.start(slice(units, func(context.Context, *jobs.Job, *jobs.Lease, save) (jobs.Result, error) {
			return jobs.Result{Segments: []jobs.Segment{{Kind: jobs.KindOutput, Type: "Patient", Count: 1}}}, nil
		}))
		began := time.Now()
		got := r.ended(j.ID)
		if took := time.Since(began); took > 30*time.Second {
			r.Errorf("the job went on after %v, want within 30s", took)
		}
		if got.State != jobs.Completed || got.Progress.Types["Patient"].Done != units {
			r.Errorf("the job is %s, %+v; want completed, each unit by the second worker", got.State, got.Progress)
		}
		cutOff.away.Store(false)
		time.Sleep(time.Minute)
		stop()
		<-done
		if again := r.get(j.ID); again.Progress.Types["Patient"].Done != units {
			r.Errorf("the first worker's late results were counted: %+v", again.Progress)
		}
	})
}

func TestExpiry(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start(slice(1, func(context.Context, *jobs.Job, *jobs.Lease, save) (jobs.Result, error) { return jobs.Result{}, nil }))
		j := r.create()
		expires := r.ended(j.ID).ExpiresAt
		time.Sleep(time.Until(expires) - time.Second)
		r.wantRemoved()
		time.Sleep(10 * time.Second)
		r.wantRemoved(j.ID)
	})
}

// What was canceled while nobody was there is removed by the next worker.
func TestRemovesWhatWasLeft(t *testing.T) {
	inBubble(t, func(r *rig) {
		j := r.create()
		if err := r.store.Cancel(r.Context(), j.ID); err != nil {
			r.Fatal(err)
		}
		r.start(slice(0, nil))
		time.Sleep(3 * time.Second)
		r.wantRemoved(j.ID)
	})
}

// The record stays for as long as the bytes cannot be removed.
func TestBytesThatStay(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.remove = errors.New("the disk is read-only")
		r.start(slice(0, nil))
		j := r.create()
		r.ended(j.ID)
		if err := r.store.Cancel(r.Context(), j.ID); err != nil {
			r.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		if got := r.get(j.ID); got.State != jobs.Canceled {
			r.Errorf("the job is %s, want its record kept", got.State)
		}
		r.mu.Lock()
		r.remove = nil
		r.mu.Unlock()
		time.Sleep(2 * time.Minute)
		r.wantRemoved(j.ID)
		r.halt()
		if n := strings.Count(r.log.String(), "the disk is read-only"); n != 1 {
			r.Errorf("the failure was logged %d times, want once:\n%s", n, r.log.String())
		}
	})
}

func TestOrphans(t *testing.T) {
	inBubble(t, func(r *rig) {
		kept, unknown := r.create(), jobs.NewID()
		r.known = map[jobs.ID]bool{kept.ID: false, unknown: true}
		check := func(calls int, knows ...jobs.ID) {
			r.Helper()
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.orphans != calls {
				r.Errorf("orphans were looked for %d times, want %d", r.orphans, calls)
			}
			for id, known := range r.known {
				if known != slices.Contains(knows, id) {
					r.Errorf("a job is known: %t", known)
				}
			}
		}
		r.start(func(context.Context, *jobs.Job, *jobs.Lease, save) (jobs.Result, error) {
			return jobs.Result{}, &jobs.WaitError{Until: time.Now().Add(24 * time.Hour)}
		})
		time.Sleep(time.Second)
		check(1, kept.ID) // at start
		time.Sleep(50 * time.Minute)
		check(1, kept.ID)
		time.Sleep(15 * time.Minute)
		check(2, kept.ID) // every hour
		r.store.away.Store(true)
		time.Sleep(62 * time.Minute)
		r.mu.Lock()
		known := r.known[unknown]
		r.mu.Unlock()
		if !known {
			r.Error("a job was called unknown by a store that does not answer: its bytes would go")
		}
		r.store.away.Store(false)
		time.Sleep(2 * time.Minute)
		r.mu.Lock()
		known = r.known[unknown]
		r.mu.Unlock()
		if known {
			r.Error("the search was not repeated when the store was back")
		}
	})
}

// TestOrphansOfShortRetention: orphans are looked for often enough that they
// do not outlive a short retention by much.
func TestOrphansOfShortRetention(t *testing.T) {
	for age, most := range map[time.Duration]time.Duration{
		time.Second: 2 * time.Minute, 10 * time.Minute: 6 * time.Minute, 24 * time.Hour: 61 * time.Minute,
	} {
		inBubble(t, func(r *rig) {
			r.age = age
			r.start(slice(0, nil))
			time.Sleep(10*most + time.Second)
			r.mu.Lock()
			defer r.mu.Unlock()
			if least, limit := 11, 10*int(most/time.Minute)+2; r.orphans < least || r.orphans > limit {
				r.Errorf("an age of %v: orphans were looked for %d times in %v, want %d to %d", age, r.orphans, 10*most, least, limit)
			}
		})
	}
}

// TestLostAnswer: the store recorded a result, and its answer was lost. The
// attempt is repeated to no avail, and nothing of what was recorded is undone.
func TestLostAnswer(t *testing.T) {
	for _, kind := range []jobs.UnitKind{jobs.UnitPlan, jobs.UnitSlice, jobs.UnitFinish} {
		inBubble(t, func(r *rig) {
			var lost atomic.Bool
			r.store.unsaid = func(u jobs.Unit) bool { return u.Kind == kind && lost.CompareAndSwap(false, true) }
			r.start(slice(2, func(_ context.Context, _ *jobs.Job, l *jobs.Lease, _ save) (jobs.Result, error) {
				if l.Attempt != 1 {
					r.Errorf("%s: attempt %d of what is recorded", l.Unit.ID, l.Attempt)
				}
				return jobs.Result{Segments: []jobs.Segment{{Kind: jobs.KindOutput, Type: "Patient", Count: 5}}}, nil
			}))
			j := r.create()
			if got := r.ended(j.ID); got.State != jobs.Completed || got.Progress.UnitsDone != 4 || got.Progress.Types["Patient"].Done != 10 {
				r.Errorf("%s: the job is %s: %s, %+v; want completed, 4 units, 10 resources", kind, got.State, got.Failure, got.Progress)
			}
			time.Sleep(2 * ttl)
			r.mu.Lock()
			defer r.mu.Unlock()
			if !lost.Load() || len(r.removed) > 0 {
				r.Errorf("%s: lost %t, the bytes of %d jobs removed", kind, lost.Load(), len(r.removed))
			}
		})
	}
}

// TestManySweepers: workers that sweep one store at the same time do not harm
// each other.
func TestManySweepers(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start(slice(0, nil))
		stop, done := r.worker(nil, slice(0, nil))
		for range 20 {
			j := r.create()
			r.ended(j.ID)
			if err := r.store.Cancel(r.Context(), j.ID); err != nil {
				r.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		if all, err := r.store.List(r.Context()); err != nil || len(all) > 0 {
			r.Errorf("%d exports stay, %v", len(all), err)
		}
		stop()
		<-done
		r.halt()
		if r.log.Len() > 0 {
			r.Errorf("the log:\n%s", r.log.String())
		}
	})
}

// Many jobs at once with runners that fail, wait and fall over: all end, and no
// goroutine stays.
func TestManyJobs(t *testing.T) {
	inBubble(t, func(r *rig) {
		var mu sync.Mutex
		seen := map[string]int{}
		r.start(slice(10, func(_ context.Context, j *jobs.Job, l *jobs.Lease, _ save) (jobs.Result, error) {
			mu.Lock()
			seen[string(j.ID)+l.Unit.ID]++
			n := seen[string(j.ID)+l.Unit.ID] + len(l.Unit.ID) + int(l.Unit.ID[len(l.Unit.ID)-1])
			mu.Unlock()
			switch {
			case l.Attempt > 4:
			case n%4 == 0:
				return jobs.Result{}, errors.New("boom")
			case n%4 == 1:
				return jobs.Result{}, &jobs.WaitError{Until: time.Now().Add(time.Second)}
			case n%4 == 2:
				panic("boom")
			}
			return jobs.Result{Segments: []jobs.Segment{{Kind: jobs.KindOutput, Type: "Patient", Count: 1}}}, nil
		}))
		var all []*jobs.Job
		for range 10 {
			all = append(all, r.create())
		}
		for _, j := range all {
			if got := r.ended(j.ID); got.State != jobs.Completed || got.Progress.Types["Patient"].Done != 10 {
				r.Errorf("the job is %s: %s, %+v", got.State, got.Failure, got.Progress)
			}
		}
	})
}
