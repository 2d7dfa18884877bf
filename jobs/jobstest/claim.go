package jobstest

import (
	"fmt"
	"time"

	"github.com/google/go-cmp/cmp"

	"spillway/jobs"
)

var claimTests = []test{
	{name: "NothingThere", run: func(f *fixture) { f.noWork("the store is empty") }},
	{name: "FirstClaimRuns", run: testFirstClaimRuns},
	{name: "LeaseSaysItAll", run: testLeaseSaysItAll},
	{name: "OneHolderAtATime", run: func(f *fixture) {
		f.create()
		f.claimUnit("plan")
		f.noWork("the only unit is leased")
	}},
	{name: "HeaviestThenOldest", run: testHeaviestThenOldest},
	{name: "StagesNeverOverlap", run: testStagesNeverOverlap},
	{name: "StageOfAddedUnits", run: testStageOfAddedUnits},
	{name: "NotBeforeOfFirstUnit", run: testNotBeforeOfFirstUnit},
	{name: "NotBeforeOfNextUnits", run: testNotBeforeOfNextUnits},
	{name: "DelayedUnitHoldsLaterStages", run: testDelayedHoldsLaterStages},
	{name: "FewestLeasedFirst", run: testFewestLeasedFirst},
	{name: "ServedLongestAgoFirst", run: testServedLongestAgoFirst},
	{name: "SmallExportOvertakesLarge", run: testSmallOvertakesLarge},
	{name: "MaxActive", run: testMaxActive},
}

func testFirstClaimRuns(f *fixture) {
	j := f.create()
	l, claimed, err := f.Claim(f.Context(), "worker")
	f.ok(err, "Claim")
	if claimed.ID != j.ID || claimed.State != jobs.Running || l.Job != j.ID {
		f.Errorf("Claim gave a %s job, want the running job of the lease", claimed.State)
	}
	got := f.wantState(j.ID, jobs.Running)
	if age := now(l).Sub(got.StartedAt); age < -time.Second || age > 10*time.Second {
		f.Errorf("StartedAt is %v before the lease, want the time of the claim", age)
	}
	if !got.EndedAt.IsZero() || !got.ExpiresAt.IsZero() {
		f.Errorf("a running job has EndedAt %v, ExpiresAt %v; want none", got.EndedAt, got.ExpiresAt)
	}
	f.advance(time.Minute)
	f.claim() // a second claim does not start it again
	if again := f.get(j.ID); !again.StartedAt.Equal(got.StartedAt) {
		f.Errorf("StartedAt moved from %v to %v", got.StartedAt, again.StartedAt)
	}
}

func testLeaseSaysItAll(f *fixture) {
	j, first := f.job()
	first.Spec, first.Weight, first.Type = []byte(`{"a":[1, 2]}`), 7, "Patient"
	f.ok(f.Create(f.Context(), j, first), "Create")
	l, _, err := f.Claim(f.Context(), "worker 7")
	f.ok(err, "Claim")
	want := &jobs.Lease{Job: j.ID, Unit: first, Attempt: 1, Worker: "worker 7", ExpiresAt: l.ExpiresAt}
	if diff := cmp.Diff(want, l, equal()); diff != "" {
		f.Errorf("the first lease (-want +got):\n%s", diff)
	}
	if l.Checkpoint != nil {
		f.Errorf("Checkpoint = %q, want nil", l.Checkpoint)
	}
}

func testHeaviestThenOldest(f *fixture) {
	unit := func(id string, weight int64) jobs.Unit {
		return jobs.Unit{ID: id, Kind: jobs.UnitSlice, Type: "Patient", Weight: weight}
	}
	f.planned(unit("b", 5), unit("z", 9), unit("a", 5), unit("zero", 0), unit("big", 1<<40), unit("c", 5), unit("ten", 10))
	for _, id := range []string{"big", "ten", "z", "b", "a", "c", "zero"} {
		f.claimUnit(id)
	}
	f.noWork("all are leased, and finish is a later stage")
}

func testStagesNeverOverlap(f *fixture) {
	kinds := []jobs.UnitKind{jobs.UnitDeleted, jobs.UnitTail, jobs.UnitSlice, jobs.UnitAssociated}
	var next []jobs.Unit
	for _, k := range kinds {
		for i := range 2 { // later stages are heavier
			next = append(next, jobs.Unit{ID: fmt.Sprintf("%s-%d", k, i), Kind: k, Weight: int64(k.Stage())})
		}
	}
	j := f.planned(next...)
	for _, k := range []jobs.UnitKind{jobs.UnitSlice, jobs.UnitTail, jobs.UnitAssociated, jobs.UnitDeleted} {
		first, second := f.claimUnit(string(k)+"-0"), f.claimUnit(string(k)+"-1")
		f.noWork("the units of the stage are leased")
		f.complete(second, jobs.Result{})
		f.noWork("one unit of the stage is unfinished")
		f.ok(f.Release(f.Context(), first, time.Time{}), "Release")
		f.complete(f.claimUnit(string(k)+"-0"), jobs.Result{})
	}
	f.complete(f.claimUnit("finish"), jobs.Result{})
	f.wantState(j.ID, jobs.Completed)
}

func testStageOfAddedUnits(f *fixture) {
	f.planned(slices(2, 1)...)
	first, second := f.claim(), f.claim()
	f.complete(first, jobs.Result{Next: []jobs.Unit{ // a slice may split
		{ID: "half-1", Kind: jobs.UnitSlice, Weight: 1}, {ID: "half-2", Kind: jobs.UnitSlice, Weight: 3},
		{ID: "tail", Kind: jobs.UnitTail, Weight: 9},
	}})
	f.complete(second, jobs.Result{})
	for _, id := range []string{"half-2", "half-1", "tail", "finish"} {
		f.complete(f.claimUnit(id), jobs.Result{})
	}
}

func testNotBeforeOfFirstUnit(f *fixture) {
	f.create()
	clock := now(f.claim())
	j, first := f.job()
	first.NotBefore = clock.Add(time.Hour)
	f.ok(f.Create(f.Context(), j, first), "Create")
	f.advance(time.Second)
	f.noWork("NotBefore is in an hour")
	f.advance(time.Hour)
	for range 2 { // the other job's lease has run out meanwhile
		if l := f.claim(); l.Job == j.ID {
			return
		}
	}
	f.Error("the unit was not handed out after its NotBefore")
}

func testNotBeforeOfNextUnits(f *fixture) {
	j := f.create()
	plan := f.claim()
	next := slices(4, 1)
	next[0].NotBefore = now(plan).Add(30 * time.Minute)
	next[1].NotBefore = now(plan).Add(10 * time.Minute)
	next[2].NotBefore = now(plan).Add(-time.Hour)
	next[2].Weight = 9
	f.complete(plan, jobs.Result{Next: append(next, jobs.Unit{ID: "finish", Kind: jobs.UnitFinish})})
	f.complete(f.claimUnit("slice-2"), jobs.Result{})
	f.complete(f.claimUnit("slice-3"), jobs.Result{})
	f.noWork("two units wait for their time")
	f.advance(10*time.Minute + time.Second)
	f.complete(f.claimUnit("slice-1"), jobs.Result{})
	f.noWork("one unit waits for its time")
	f.advance(20 * time.Minute)
	f.complete(f.claimUnit("slice-0"), jobs.Result{})
	f.finish(j)
}

func testDelayedHoldsLaterStages(f *fixture) {
	f.planned(slices(1, 1)...)
	l := f.claimUnit("slice-0")
	f.ok(f.Release(f.Context(), l, now(l).Add(time.Minute)), "Release")
	f.noWork("the slice is delayed, and finish is a later stage")
	f.advance(time.Minute + time.Second)
	f.complete(f.claimUnit("slice-0"), jobs.Result{})
	f.claimUnit("finish")
}

func testFewestLeasedFirst(f *fixture) {
	a := f.planned(slices(9, 100)...)
	var held []*jobs.Lease
	for range 3 {
		held = append(held, f.claim())
	}
	b := f.create()
	f.complete(f.claimOf(b), jobs.Result{Next: append(slices(9, 1), jobs.Unit{ID: "finish", Kind: jobs.UnitFinish})})
	for range 3 { // b catches up: 0, 1, 2 leased against 3
		f.claimOf(b)
	}
	for _, l := range held[:2] { // a: 1 leased, b: 3
		f.complete(l, jobs.Result{})
	}
	f.claimOf(a)
	f.claimOf(a)
}

// claimOf claims and fails the test unless the unit belongs to this job.
func (f *fixture) claimOf(j *jobs.Job) *jobs.Lease {
	f.Helper()
	l := f.claim()
	if l.Job != j.ID {
		f.Fatalf("claimed %q of another job (ours was created at %v)", l.Unit.ID, j.CreatedAt)
	}
	return l
}

func testServedLongestAgoFirst(f *fixture) {
	var all []*jobs.Job
	for range 3 {
		all = append(all, f.create())
	}
	for _, j := range all { // oldest first, when none has been served
		plan := f.claimOf(j)
		f.complete(plan, jobs.Result{Next: append(slices(9, 1), jobs.Unit{ID: "finish", Kind: jobs.UnitFinish})})
	}
	for range 4 { // then in turn, however fast they are
		for _, j := range all {
			f.complete(f.claimOf(j), jobs.Result{})
		}
	}
	for range 3 { // also while they hold leases
		for _, j := range all {
			f.claimOf(j)
		}
	}
}

func testSmallOvertakesLarge(f *fixture) {
	const workers, units = 4, 1000
	large := f.planned(slices(units, 1000)...)
	var held []*jobs.Lease // the workers' leases, oldest first
	for range workers {
		held = append(held, f.claimOf(large))
	}
	small := f.create()
	for f.get(small.ID).State != jobs.Completed {
		if len(held) == 0 {
			f.Fatal("the small export cannot go on")
		}
		l := held[0]
		held = held[1:]
		var r jobs.Result
		if l.Unit.Kind == jobs.UnitPlan {
			r.Next = append(slices(10, 1), jobs.Unit{ID: "finish", Kind: jobs.UnitFinish})
		}
		f.complete(l, r)
		if next, _, err := f.Claim(f.Context(), "worker"); err == nil {
			held = append(held, next)
		}
		if done := f.get(large.ID).Progress.UnitsDone; done > units/3 {
			f.Fatalf("the large export has done %d of %d units before the small one ended", done, units)
		}
	}
	f.wantState(large.ID, jobs.Running)
}

func testMaxActive(f *fixture) {
	var all []*jobs.Job
	for range maxActive + 3 {
		all = append(all, f.create())
	}
	var plans []*jobs.Lease
	for _, j := range all[:maxActive] { // oldest first
		plans = append(plans, f.claimOf(j))
	}
	f.noWork("as many exports run as may")
	for _, j := range all[maxActive:] {
		f.wantState(j.ID, jobs.Queued)
	}
	// A place becomes free by completion, by failure and by cancellation.
	f.complete(plans[0], jobs.Result{Next: []jobs.Unit{{ID: "finish", Kind: jobs.UnitFinish}}})
	f.complete(f.claimOf(all[0]), jobs.Result{})
	f.wantState(all[0].ID, jobs.Completed)
	f.claimOf(all[maxActive])
	f.noWork("the free place is taken")
	f.ok(f.Fail(f.Context(), plans[1], jobs.Failure{Reason: "no", Permanent: true}, 0), "Fail")
	f.claimOf(all[maxActive+1])
	f.noWork("the free place is taken")
	f.ok(f.Cancel(f.Context(), all[2].ID), "Cancel")
	f.claimOf(all[maxActive+2])
	f.noWork("all have been served")
}
