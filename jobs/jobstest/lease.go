package jobstest

import (
	"encoding/json"
	"errors"
	"time"

	"spillway/jobs"
)

var leaseTests = []test{
	{name: "TTL", run: func(f *fixture) {
		f.create()
		l := f.claim()
		before := l.ExpiresAt
		f.advance(time.Minute)
		taken := f.claim()
		if d := taken.ExpiresAt.Sub(before); d < time.Minute || d > time.Minute+10*time.Second {
			f.Errorf("a minute later a lease ends %v later, want a minute", d)
		}
	}},
	{name: "RenewKeepsIt", run: testRenewKeepsIt},
	{name: "SaveRenews", run: testSaveRenews},
	{name: "TakeoverAfterExpiry", run: testTakeover},
	{name: "ExpiredCannotWrite", run: func(f *fixture) {
		j := f.planned(slices(1, 1)...)
		l := f.claim()
		f.advance(leaseTTL + time.Second)
		f.refused(l, jobs.ErrLeaseLost) // though nobody has taken the unit
		f.untouched(j)
		f.claimUnit("slice-0")
	}},
	{name: "StaleAttemptCannotWrite", run: testStaleAttempt},
	{name: "CompletedUnitIsOver", run: func(f *fixture) {
		j := f.planned(slices(2, 1)...)
		l := f.claimUnit("slice-0")
		f.complete(l, jobs.Result{})
		f.refused(l, jobs.ErrLeaseLost)
		if d := f.done(j.ID); len(d) != 2 {
			f.Errorf("%d units done, want the plan and one slice", len(d))
		}
	}},
	{name: "ReleasedLeaseIsOver", run: func(f *fixture) {
		j := f.planned(slices(1, 1)...)
		l := f.claim()
		f.ok(f.Release(f.Context(), l, time.Time{}), "Release")
		f.refused(l, jobs.ErrLeaseLost)
		f.untouched(j)
	}},
	{name: "UnknownLease", run: func(f *fixture) {
		j := f.planned(slices(1, 1)...)
		l := f.claim()
		for _, forged := range []jobs.Lease{
			{Job: l.Job, Unit: l.Unit, Attempt: l.Attempt + 1},
			{Job: l.Job, Unit: jobs.Unit{ID: "nothing", Kind: jobs.UnitSlice}, Attempt: 1},
			{Job: l.Job, Unit: jobs.Unit{ID: "finish", Kind: jobs.UnitFinish}, Attempt: 1}, // never claimed
			{Job: jobs.NewID(), Unit: l.Unit, Attempt: 1},
		} {
			f.refused(&forged, jobs.ErrLeaseLost)
		}
		f.untouched(j)
		f.ok(f.Renew(f.Context(), l), "Renew by the holder")
	}},
	{name: "CheckpointSurvivesTakeover", run: testCheckpoint},
	{name: "AttemptsOnlyGrow", run: testAttemptsOnlyGrow},
}

func testRenewKeepsIt(f *fixture) {
	f.create()
	l := f.claim()
	for range 5 {
		f.advance(leaseTTL - 5*time.Second)
		before := l.ExpiresAt
		f.ok(f.Renew(f.Context(), l), "Renew")
		if d := l.ExpiresAt.Sub(before); d < leaseTTL-5*time.Second || d > leaseTTL {
			f.Errorf("Renew moved ExpiresAt by %v, want the time that had passed", d)
		}
		f.noWork("the lease has been renewed")
	}
	f.advance(leaseTTL + time.Second)
	f.claimUnit("plan")
}

func testSaveRenews(f *fixture) {
	f.create()
	l := f.claim()
	for range 3 {
		f.advance(leaseTTL - 5*time.Second)
		before := l.ExpiresAt
		f.ok(f.Save(f.Context(), l, json.RawMessage(`{"page":1}`)), "Save")
		if !l.ExpiresAt.After(before) {
			f.Error("Save did not update ExpiresAt")
		}
	}
	f.noWork("Save has renewed the lease")
}

func testTakeover(f *fixture) {
	f.planned(slices(1, 1)...)
	old := f.claim()
	f.advance(leaseTTL - 3*time.Second)
	f.noWork("the lease has seconds to go")
	f.advance(4 * time.Second)
	l, _, err := f.Claim(f.Context(), "another")
	f.ok(err, "Claim after the lease ran out")
	if l.Unit.ID != old.Unit.ID || l.Attempt != 2 || l.Tries != 1 || l.Silent != 1 || l.Worker != "another" {
		f.Errorf("took over %q, attempt %d, tries %d, silent %d, worker %q; want the same unit, 2, 1, 1, another", l.Unit.ID, l.Attempt, l.Tries, l.Silent, l.Worker)
	}
}

func testStaleAttempt(f *fixture) {
	j := f.planned(slices(1, 1)...)
	stale := f.claim()
	f.advance(leaseTTL + time.Second)
	current := f.claim()
	f.refused(stale, jobs.ErrLeaseLost)
	f.untouched(j)
	f.ok(f.Renew(f.Context(), current), "Renew by the current attempt")
	f.complete(current, jobs.Result{})
	f.refused(stale, jobs.ErrLeaseLost)
	if d := f.done(j.ID); len(d) != 2 || d[1].Attempt != 2 {
		f.Errorf("Done = %+v, want the slice by attempt 2", d)
	}
}

// untouched fails the test if a refused call left a trace.
func (f *fixture) untouched(j *jobs.Job) {
	f.Helper()
	got := f.wantState(j.ID, jobs.Running)
	if got.Failure != "" || got.Progress.UnitsDone != 1 || got.Progress.Types["Patient"].Done != 0 {
		f.Errorf("a refused call left: failure %q, progress %+v", got.Failure, got.Progress)
	}
	if d := f.done(j.ID); len(d) != 1 {
		f.Errorf("a refused call left %d units done, want the plan alone", len(d))
	}
}

func testCheckpoint(f *fixture) {
	f.planned(slices(1, 1)...)
	l := f.claim()
	f.ok(f.Save(f.Context(), l, json.RawMessage(`{"page":1}`)), "Save")
	f.ok(f.Save(f.Context(), l, json.RawMessage(`{"page":2,"decimal":1.10}`)), "Save")
	want := `{"page":2,"decimal":1.10}`

	steps := []struct {
		name string
		do   func()
	}{
		{"silence", func() { f.advance(leaseTTL + time.Second) }},
		{"failure", func() { f.ok(f.Fail(f.Context(), l, jobs.Failure{Reason: "no"}, 0), "Fail") }},
		{"release", func() { f.ok(f.Release(f.Context(), l, time.Time{}), "Release") }},
	}
	for _, step := range steps {
		stale := *l
		step.do()
		if err := f.Save(f.Context(), &stale, json.RawMessage(`"stale"`)); !errors.Is(err, jobs.ErrLeaseLost) {
			f.Errorf("Save after %s = %v, want ErrLeaseLost", step.name, err)
		}
		l = f.claimUnit("slice-0")
		if compact(l.Checkpoint) != want {
			f.Errorf("after %s the checkpoint is %q, want %s", step.name, l.Checkpoint, want)
		}
	}
	f.complete(l, jobs.Result{})
	if l := f.claimUnit("finish"); l.Checkpoint != nil {
		f.Errorf("another unit has the checkpoint %q", l.Checkpoint)
	}
}

func testAttemptsOnlyGrow(f *fixture) {
	f.create()
	for want := int64(1); want <= 7; want++ {
		l := f.claim()
		if l.Attempt != want {
			f.Fatalf("attempt %d, want %d", l.Attempt, want)
		}
		if want == 3 {
			f.advance(leaseTTL + time.Second)
			continue
		}
		f.ok(f.Release(f.Context(), l, time.Time{}), "Release")
	}
}
