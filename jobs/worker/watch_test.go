package worker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"spillway/jobs"
	"spillway/jobs/worker"
)

// told collects what a worker tells.
type told struct {
	mu   sync.Mutex
	list []string
	fail error // instead of taking it
}

func (o *told) observe(_ context.Context, e worker.Event) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fail != nil {
		return o.fail
	}
	what := "ended"
	if e.Removed {
		what = "removed"
	}
	o.list = append(o.list, fmt.Sprintf("%s %s %d", what, e.Job.State, len(e.Job.Files)))
	return nil
}

func (o *told) wants(t *testing.T, want ...string) {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if !slices.Equal(o.list, want) {
		t.Errorf("told: %q, want %q", o.list, want)
	}
}

func (o *told) failing(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fail = err
}

// files makes a runner whose exports leave one file.
func files(_ context.Context, _ *jobs.Job, l *jobs.Lease, _ save) (jobs.Result, error) {
	switch l.Unit.Kind {
	case jobs.UnitPlan:
		return plan(1), nil
	case jobs.UnitFinish:
		return jobs.Result{Files: []jobs.File{{Name: "1.Patient.ndjson", Kind: jobs.KindOutput, Type: "Patient", Count: 1}}}, nil
	}
	return jobs.Result{}, nil
}

func TestEndAndRemovalAreToldOnce(t *testing.T) {
	inBubble(t, func(r *rig) {
		var o told
		r.observe = o.observe
		r.start(files)
		j := r.create()
		r.ended(j.ID)
		time.Sleep(2 * time.Second)
		o.wants(t, "ended completed 1")
		r.halt()
		r.stop, r.done = r.worker(nil, files) // another process, later
		time.Sleep(5 * time.Minute)
		o.wants(t, "ended completed 1")
		time.Sleep(retention)
		o.wants(t, "ended completed 1", "removed completed 1")
	})
}

func TestFailureAndDeletionAreTold(t *testing.T) {
	inBubble(t, func(r *rig) {
		var o told
		r.observe = o.observe
		r.start(func(context.Context, *jobs.Job, *jobs.Lease, save) (jobs.Result, error) {
			return jobs.Result{}, &jobs.UnitError{Reason: "no", Permanent: true}
		})
		r.ended(r.create().ID)
		time.Sleep(2 * time.Second)
		o.wants(t, "ended failed 0")
	})
	inBubble(t, func(r *rig) {
		var o told
		r.observe = o.observe
		r.start(slice(1, func(ctx context.Context, _ *jobs.Job, _ *jobs.Lease, _ save) (jobs.Result, error) {
			<-ctx.Done()
			return jobs.Result{}, ctx.Err()
		}))
		j := r.create()
		time.Sleep(time.Second)
		if err := r.store.Cancel(t.Context(), j.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		o.wants(t, "ended canceled 0", "removed canceled 0")
	})
}

// What cannot be told stays, bytes and record, until it can.
func TestNothingIsRemovedUntold(t *testing.T) {
	inBubble(t, func(r *rig) {
		var o told
		o.failing(errors.New("the disk is full"))
		r.observe = o.observe
		r.start(files)
		j := r.create()
		r.ended(j.ID)
		time.Sleep(2 * retention)
		r.get(j.ID)
		r.mu.Lock()
		if len(r.removed) > 0 {
			t.Error("bytes were removed")
		}
		r.mu.Unlock()
		o.failing(nil)
		time.Sleep(5 * time.Minute)
		o.wants(t, "ended completed 1", "removed completed 1")
		if _, err := r.store.Get(t.Context(), j.ID); !errors.Is(err, jobs.ErrNotFound) {
			t.Errorf("the record is still there: %v", err)
		}
	})
}

func TestRevokedJobsEnd(t *testing.T) {
	inBubble(t, func(r *rig) {
		var mu sync.Mutex
		disabled := ""
		r.revoked = func(j *jobs.Job) bool {
			mu.Lock()
			defer mu.Unlock()
			return j.Owner != "" && j.Owner == disabled
		}
		var o told
		r.observe = o.observe
		r.start(func(ctx context.Context, j *jobs.Job, l *jobs.Lease, save save) (jobs.Result, error) {
			if l.Unit.Kind == jobs.UnitSlice && j.Owner != "done" {
				<-ctx.Done()
				return jobs.Result{}, ctx.Err()
			}
			return files(ctx, j, l, save)
		})
		create := func(owner string) jobs.ID {
			j, first := jobs.New(jobs.Request{Level: jobs.LevelSystem}, owner, time.Now())
			if err := r.store.Create(t.Context(), j, first); err != nil {
				t.Fatal(err)
			}
			return j.ID
		}
		done := create("done")
		r.ended(done)
		running, other := create("lab"), create("ward")
		disable := func(owner string) {
			mu.Lock()
			defer mu.Unlock()
			disabled = owner
		}
		disable("lab")
		time.Sleep(2 * time.Minute)
		if _, err := r.store.Get(t.Context(), running); !errors.Is(err, jobs.ErrNotFound) {
			t.Errorf("the running export of a revoked client: %v", err)
		}
		disable("done")
		time.Sleep(2 * time.Minute)
		if _, err := r.store.Get(t.Context(), done); !errors.Is(err, jobs.ErrNotFound) {
			t.Errorf("the completed export of a revoked client: %v", err)
		}
		if j := r.get(other); j.State != jobs.Running {
			t.Errorf("the export of another client is %s", j.State)
		}
	})
}

// What a unit has read is told before its result counts, and again for as long
// as that is not taken.
func TestReadingsAreTold(t *testing.T) {
	inBubble(t, func(r *rig) {
		var o told
		o.failing(errors.New("the disk is full"))
		r.read = func(_ context.Context, e worker.Reading) error {
			o.mu.Lock()
			defer o.mu.Unlock()
			if o.fail != nil {
				return o.fail
			}
			o.list = append(o.list, fmt.Sprintf("%s %s %d of %d bytes, attempt %d", e.Unit.Kind, e.Unit.Type, e.Resources, e.Bytes, e.Attempt))
			return nil
		}
		r.start(func(ctx context.Context, j *jobs.Job, l *jobs.Lease, s save) (jobs.Result, error) {
			result, err := files(ctx, j, l, s)
			if l.Unit.Kind == jobs.UnitSlice {
				result.Segments = []jobs.Segment{
					{Key: "k", Kind: jobs.KindOutput, Type: l.Unit.Type, Count: 3, Size: 40},
					{Key: "o", Kind: jobs.KindOutcome, Type: "OperationOutcome", Count: 1, Size: 9},
				}
			}
			return result, err
		})
		j := r.create()
		time.Sleep(10 * time.Second)
		if done, err := r.store.Done(t.Context(), j.ID); err != nil || len(done) != 1 {
			t.Errorf("%d units are done, %v; want the plan alone", len(done), err)
		}
		o.failing(nil)
		r.ended(j.ID)
		o.wants(t, "slice Patient 3 of 40 bytes, attempt 1")
	})
}
