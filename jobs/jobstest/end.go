package jobstest

import (
	"errors"
	"time"

	"github.com/google/go-cmp/cmp"

	"spillway/jobs"
)

func diffOf(want, got any) string { return cmp.Diff(want, got, equal()) }

var cancelTests = []test{
	{name: "Queued", run: func(f *fixture) {
		j := f.create()
		f.cancel(j)
		f.noWork("the job is canceled")
	}},
	{name: "Running", run: func(f *fixture) {
		j := f.planned(slices(3, 1)...)
		first, second := f.claim(), f.claim()
		f.cancel(j)
		f.noWork("the job is canceled")
		f.refused(first, jobs.ErrEnded)
		f.advance(leaseTTL + time.Second)
		f.refused(second, jobs.ErrEnded, jobs.ErrLeaseLost)
		f.noWork("the job is canceled, its leases are void")
		if d := f.done(j.ID); len(d) != 1 {
			f.Errorf("%d units done, want the plan alone", len(d))
		}
	}},
	{name: "Delayed", run: func(f *fixture) {
		j := f.planned(slices(1, 1)...)
		f.ok(f.Fail(f.Context(), f.claim(), jobs.Failure{Reason: "no"}, time.Minute), "Fail")
		f.cancel(j)
		f.advance(time.Hour)
		f.noWork("the job is canceled")
	}},
	{name: "Completed", run: func(f *fixture) {
		j := f.planned()
		f.finish(j)
		ended := f.get(j.ID).EndedAt
		f.advance(time.Minute)
		f.cancel(j)
		if got := f.get(j.ID).EndedAt; !got.Equal(ended) {
			f.Errorf("EndedAt moved from %v to %v", ended, got)
		}
	}},
	{name: "Failed", run: func(f *fixture) {
		j := f.create()
		f.ok(f.Fail(f.Context(), f.claim(), jobs.Failure{Reason: "no", Permanent: true}, 0), "Fail")
		f.cancel(j)
	}},
	{name: "Unknown", run: func(f *fixture) {
		f.create()
		if err := f.Cancel(f.Context(), jobs.NewID()); !errors.Is(err, jobs.ErrNotFound) {
			f.Errorf("Cancel of an unknown job = %v, want ErrNotFound", err)
		}
	}},
	{name: "OthersGoOn", run: func(f *fixture) {
		j := f.planned(slices(2, 1)...)
		l := f.claim()
		f.cancel(f.create())
		f.complete(l, jobs.Result{})
		f.finish(j)
	}},
}

// cancel cancels a job and then once more, which finds nothing to cancel.
func (f *fixture) cancel(j *jobs.Job) {
	f.Helper()
	f.ok(f.Cancel(f.Context(), j.ID), "Cancel")
	if got := f.wantState(j.ID, jobs.Canceled); got.EndedAt.IsZero() {
		f.Error("a canceled job has no EndedAt")
	}
	if err := f.Cancel(f.Context(), j.ID); !errors.Is(err, jobs.ErrNotFound) {
		f.Errorf("a second Cancel = %v, want ErrNotFound", err)
	}
	f.wantState(j.ID, jobs.Canceled)
}

var removeTests = []test{
	{name: "CanceledWithoutLeases", run: func(f *fixture) {
		kept, j := f.create(), f.create()
		f.cancel(j)
		f.wantRemovable("it is canceled and nobody writes", j)
		f.removeJob(j)
		f.wantRemovable("it is removed")
		f.wantState(kept.ID, jobs.Queued)
	}},
	{name: "CompletedAfterRetention", run: func(f *fixture) {
		j := f.planned()
		f.finish(j)
		f.wantRemovable("it is within its retention")
		f.advance(retention - time.Minute)
		f.wantRemovable("it is within its retention")
		f.wantState(j.ID, jobs.Completed)
		f.advance(2 * time.Minute)
		f.wantRemovable("it has expired", j)
		f.wantState(j.ID, jobs.Completed) // returned until removed
		f.removeJob(j)
	}},
	{name: "FailedAfterRetention", run: func(f *fixture) {
		j := f.create()
		f.ok(f.Fail(f.Context(), f.claim(), jobs.Failure{Reason: "no", Permanent: true}, 0), "Fail")
		f.wantRemovable("it is within its retention")
		f.advance(retention + time.Minute)
		f.wantRemovable("it has expired", j)
		f.removeJob(j)
	}},
	{name: "CanceledAfterCompletion", run: func(f *fixture) {
		j := f.planned()
		f.finish(j)
		f.cancel(j)
		f.wantRemovable("it is canceled and nobody writes", j)
		f.removeJob(j)
	}},
	{name: "NotWhileALeaseMightWrite", run: testLeaseMightWrite},
	{name: "LetGo", run: testLetGo},
	{name: "RunningNever", run: func(f *fixture) {
		j := f.planned(slices(1, 1)...)
		f.advance(10 * retention)
		f.wantRemovable("it has not ended")
		f.wantState(j.ID, jobs.Running)
	}},
	{name: "Unknown", run: func(f *fixture) {
		f.ok(f.Remove(f.Context(), jobs.NewID()), "Remove of an unknown job")
	}},
	{name: "EvenWhileItRuns", run: func(f *fixture) {
		j := f.planned(slices(1, 1)...)
		l := f.claim()
		f.removeJob(j)
		f.refused(l, jobs.ErrLeaseLost, jobs.ErrEnded)
		f.noWork("the job is gone")
		f.create() // and takes no place
		f.claimUnit("plan")
	}},
	{name: "IDIsFreeAgain", run: func(f *fixture) {
		j := f.create()
		f.removeJob(j)
		f.noWork("the job is gone")
		f.ok(f.Create(f.Context(), j, jobs.Unit{ID: "plan", Kind: jobs.UnitPlan}), "Create after Remove")
		f.claimUnit("plan")
	}},
}

func (f *fixture) wantRemovable(why string, want ...*jobs.Job) {
	f.Helper()
	got := f.removable()
	if len(got) != len(want) {
		f.Fatalf("%d jobs removable, want %d: %s", len(got), len(want), why)
	}
	for i, j := range want {
		if got[i] != j.ID {
			f.Fatalf("another job is removable: %s", why)
		}
	}
}

// removeJob removes a job, and then once more, which is no error.
func (f *fixture) removeJob(j *jobs.Job) {
	f.Helper()
	for range 2 {
		f.ok(f.Remove(f.Context(), j.ID), "Remove")
		if _, err := f.Get(f.Context(), j.ID); !errors.Is(err, jobs.ErrNotFound) {
			f.Errorf("Get of a removed job = %v, want ErrNotFound", err)
		}
		if _, err := f.Done(f.Context(), j.ID); !errors.Is(err, jobs.ErrNotFound) {
			f.Errorf("Done of a removed job = %v, want ErrNotFound", err)
		}
		if err := f.Cancel(f.Context(), j.ID); !errors.Is(err, jobs.ErrNotFound) {
			f.Errorf("Cancel of a removed job = %v, want ErrNotFound", err)
		}
	}
	all, err := f.List(f.Context())
	f.ok(err, "List")
	for _, listed := range all {
		if listed.ID == j.ID {
			f.Error("List shows a removed job")
		}
	}
}

func testLeaseMightWrite(f *fixture) {
	j := f.planned(slices(2, 1)...)
	f.claim()
	f.advance(leaseTTL / 2)
	l := f.claim()
	f.cancel(j)
	f.wantRemovable("two holders may be writing")
	f.advance(leaseTTL/2 + time.Second)
	f.wantRemovable("one holder may be writing")
	for _, m := range f.methods()[:2] { // Renew, Save
		if err := m.call(l); !errors.Is(err, jobs.ErrEnded) {
			f.Errorf("%s = %v, want ErrEnded", m.name, err)
		}
		f.wantRemovable("a holder who learns of the end by " + m.name + " has yet to stop")
	}
	f.advance(leaseTTL / 2)
	f.wantRemovable("the last lease has run out", j)
}

func testLetGo(f *fixture) {
	for _, m := range f.methods()[2:] { // Complete, Fail, Release
		j := f.planned(slices(2, 1)...)
		first, second := f.claim(), f.claim()
		f.cancel(j)
		for i, l := range []*jobs.Lease{first, second} {
			f.wantRemovable("a holder may be writing")
			if err := m.call(l); !errors.Is(err, jobs.ErrEnded) {
				f.Errorf("%s by holder %d = %v, want ErrEnded", m.name, i, err)
			}
		}
		f.wantRemovable("both holders have let go with "+m.name, j)
		f.removeJob(j)
	}
}

// Records of a later version of the program are left alone.
var versionTests = []test{
	{name: "NewerIsLeftAlone", run: func(f *fixture) {
		j, first := f.job()
		j.Version = jobs.RecordVersion + 1
		f.ok(f.Create(f.Context(), j, first), "Create")
		own := f.planned(slices(1, 1)...) // nothing else stands in its way
		f.finish(own)
		f.noWork("the job of a newer version is not ours to claim")
		if err := f.Cancel(f.Context(), j.ID); err == nil || errors.Is(err, jobs.ErrNotFound) {
			f.Errorf("Cancel = %v, want an error that is not ErrNotFound", err)
		}
		f.advance(10 * retention)
		f.wantRemovable("only the own job has expired", own)
		if err := f.Remove(f.Context(), j.ID); err == nil {
			f.Error("Remove of a job of a newer version succeeded")
		}
		if got := f.wantState(j.ID, jobs.Queued); got.Version != jobs.RecordVersion+1 {
			f.Errorf("Version = %d, want it untouched", got.Version)
		}
		all, err := f.List(f.Context())
		if f.ok(err, "List"); len(all) != 2 {
			f.Errorf("List = %d jobs, want both", len(all))
		}
	}},
	{name: "NewerTakesNoPlace", run: func(f *fixture) {
		for range maxActive + 1 {
			j, first := f.job()
			j.Version = jobs.RecordVersion + 1
			f.ok(f.Create(f.Context(), j, first), "Create")
		}
		f.finish(f.planned())
	}},
}
