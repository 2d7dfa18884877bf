package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway/jobs"
)

func TestWhatARunnerReturns(t *testing.T) {
	const secret = "Mrs Canary"
	tests := []struct {
		name string
		err  func() error // of every attempt but the last
		// the job's end
		state    jobs.State
		failure  string
		attempts int
		tries    []int         // as each attempt sees them
		least    time.Duration // that all must take
		log      string        // "" for silence
		metric   string        // what the first attempt counts as
	}{
		{
			name:  "WaitError",
			err:   func() error { return fmt.Errorf("settle: %w", &jobs.WaitError{Until: time.Now().Add(time.Minute)}) },
			state: jobs.Completed, attempts: 7, tries: []int{0, 0, 0, 0, 0, 0, 0}, least: 6 * time.Minute, metric: "waiting",
		},
		{
			name:  "UnitErrorThenSuccess",
			err:   func() error { return &jobs.UnitError{Reason: "search Patient: 500", Err: errors.New("status 500")} },
			state: jobs.Completed, attempts: 3, tries: []int{0, 1, 2}, least: 2 * time.Second, log: "status 500", metric: "failed",
		},
		{
			name:  "UnitErrorUntilQuarantine",
			err:   func() error { return fmt.Errorf("slice: %w", &jobs.UnitError{Reason: "search Patient: 500"}) },
			state: jobs.Failed, failure: "search Patient: 500", attempts: 6, tries: []int{0, 1, 2, 3, 4}, least: 11 * time.Second, log: "search Patient: 500", metric: "failed",
		},
		{
			name:  "Permanent",
			err:   func() error { return &jobs.UnitError{Reason: "the Group does not exist", Permanent: true} },
			state: jobs.Failed, failure: "the Group does not exist", attempts: 6, tries: []int{0}, log: "the Group does not exist", metric: "failed",
		},
		{
			name:  "OtherError",
			err:   func() error { return errors.New("nil pointer in the works") },
			state: jobs.Failed, failure: "internal error", attempts: 6, tries: []int{0, 1, 2, 3, 4}, least: 11 * time.Second, log: "nil pointer in the works", metric: "failed",
		},
		{
			name:  "Panic",
			err:   func() error { panic(secret) },
			state: jobs.Failed, failure: "internal error", attempts: 6, tries: []int{0, 1, 2, 3, 4}, log: "panic (string) in spillway/jobs/worker_test.TestWhatARunnerReturns", metric: "failed",
		},
		{
			name: "RuntimePanic",
			err: func() error {
				var value any = secret
				return value.(error)
			},
			state: jobs.Failed, failure: "internal error", attempts: 6, tries: []int{0, 1, 2, 3, 4}, log: "interface conversion: string is not error", metric: "failed",
		},
		{
			name:  "StoreAway",
			err:   func() error { return fmt.Errorf("read the done units: %w", errAway) },
			state: jobs.Completed, attempts: 8, tries: []int{0, 0, 0, 0, 0, 0, 0, 0}, least: 7 * time.Second, log: "connection refused", metric: "released",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(r *rig) {
				var mu sync.Mutex
				var tries []int
				r.start(slice(1, func(_ context.Context, _ *jobs.Job, l *jobs.Lease, _ save) (jobs.Result, error) {
					mu.Lock()
					tries = append(tries, l.Tries)
					last := len(tries) == test.attempts
					mu.Unlock()
					if last {
						return jobs.Result{}, nil
					}
					return jobs.Result{}, test.err()
				}))
				began := time.Now()
				got := r.ended(r.create().ID)
				took := time.Since(began)
				r.halt()
				if got.State != test.state || got.Failure != test.failure {
					t.Errorf("the job is %s: %q; want %s: %q", got.State, got.Failure, test.state, test.failure)
				}
				if fmt.Sprint(tries) != fmt.Sprint(test.tries) {
					t.Errorf("attempts saw tries %v, want %v", tries, test.tries)
				}
				if took < test.least {
					t.Errorf("all took %v, want at least %v of pauses", took, test.least)
				}
				log := r.log.String()
				if strings.Contains(log, secret) {
					t.Errorf("the log shows the value of a panic:\n%s", log)
				}
				if test.log == "" && log != "" || !strings.Contains(log, test.log) {
					t.Errorf("the log should say %q:\n%s", test.log, log)
				}
				if test.metric == "failed" {
					if n := strings.Count(log, "a unit failed"); n != int(r.units("slice", "failed")) {
						t.Errorf("%d log lines for %v failures:\n%s", n, r.units("slice", "failed"), log)
					}
				}
				if r.units("slice", test.metric) == 0 {
					t.Errorf("no attempt was counted as %s", test.metric)
				}
			})
		})
	}
}

// A result that the store refuses fails the unit like an error of the runner:
// the job must end.
func TestRefusedResult(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start(slice(1, func(context.Context, *jobs.Job, *jobs.Lease, save) (jobs.Result, error) {
			return jobs.Result{Next: []jobs.Unit{{ID: "finish", Kind: jobs.UnitFinish}}}, nil // the id is taken
		}))
		if got := r.ended(r.create().ID); got.State != jobs.Failed || got.Failure != "internal error" {
			r.Errorf("the job is %s: %q; want failed: internal error", got.State, got.Failure)
		}
		r.halt()
		if !strings.Contains(r.log.String(), "has been used") {
			r.Errorf("the log does not say why:\n%s", r.log.String())
		}
	})
}

// The log shows only the beginning of a job's id: whole, it gives access where
// clients are not asked who they are.
func TestLogShowsNoWholeID(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start(slice(1, func(context.Context, *jobs.Job, *jobs.Lease, save) (jobs.Result, error) {
			return jobs.Result{}, errors.New("boom")
		}))
		j := r.create()
		r.ended(j.ID)
		r.halt()
		if log := r.log.String(); strings.Contains(log, string(j.ID)) || !strings.Contains(log, string(j.ID[:8])) {
			r.Errorf("the log should show the first 8 characters of the id and no more:\n%s", log)
		}
	})
}

func TestStopReleases(t *testing.T) {
	inBubble(t, func(r *rig) {
		inside := make(chan struct{})
		r.start(slice(2, func(ctx context.Context, _ *jobs.Job, l *jobs.Lease, save save) (jobs.Result, error) {
			if err := save(ctx, json.RawMessage(`"here"`)); err != nil {
				return jobs.Result{}, err
			}
			inside <- struct{}{}
			<-ctx.Done()
			if !errors.Is(context.Cause(ctx), context.Canceled) {
				r.Errorf("the cause is %v, want that of the worker's context", context.Cause(ctx))
			}
			return jobs.Result{}, &jobs.UnitError{Reason: "search Patient: canceled", Permanent: true, Err: ctx.Err()}
		}))
		j := r.create()
		<-inside
		<-inside
		began := time.Now()
		r.halt()
		if took := time.Since(began); took > time.Second {
			r.Errorf("Run returned after %v, want at once", took)
		}
		if got := r.units("slice", "released"); got != 2 {
			r.Errorf("%v units released, want 2", got)
		}
		for range 2 {
			l, _, err := r.store.Claim(r.Context(), "another")
			if err != nil {
				r.Fatalf("Claim after the worker has stopped = %v, want the units handed back", err)
			}
			if l.Tries != 0 || l.Attempt != 2 || string(l.Checkpoint) != `"here"` {
				r.Errorf("%s came back with tries %d, attempt %d, checkpoint %s; want 0, 2, and what was saved", l.Unit.ID, l.Tries, l.Attempt, l.Checkpoint)
			}
		}
		if got := r.get(j.ID); got.State != jobs.Running {
			r.Errorf("the job is %s, want running", got.State)
		}
		if r.log.Len() != 0 {
			r.Errorf("a stop is no news:\n%s", r.log.String())
		}
	})
}

// A unit that is ready when the worker stops is completed, not thrown away.
func TestStopKeepsResults(t *testing.T) {
	inBubble(t, func(r *rig) {
		inside := make(chan struct{})
		r.start(slice(1, func(ctx context.Context, _ *jobs.Job, _ *jobs.Lease, _ save) (jobs.Result, error) {
			close(inside)
			<-ctx.Done()
			return jobs.Result{}, nil
		}))
		j := r.create()
		<-inside
		r.halt()
		if done, err := r.store.Done(r.Context(), j.ID); err != nil || len(done) != 2 {
			r.Errorf("%d units done, %v; want the plan and the slice", len(done), err)
		}
		if l, _, err := r.store.Claim(r.Context(), "another"); err != nil || l.Unit.Kind != jobs.UnitFinish {
			r.Errorf("Claim = %v, %v; want the finish unit, which this worker no longer began", l, err)
		}
	})
}

func TestStopWhileStoreIsAway(t *testing.T) {
	inBubble(t, func(r *rig) {
		inside := make(chan struct{})
		r.start(slice(1, func(ctx context.Context, _ *jobs.Job, _ *jobs.Lease, _ save) (jobs.Result, error) {
			close(inside)
			<-ctx.Done()
			return jobs.Result{}, ctx.Err()
		}))
		r.create()
		<-inside
		r.store.away.Store(true)
		began := time.Now()
		r.halt()
		if took := time.Since(began); took > 10*time.Second {
			r.Errorf("Run returned after %v, want it bounded", took)
		}
	})
}
