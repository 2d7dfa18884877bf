package jobstest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	stdslices "slices"
	"time"

	"spillway/jobs"
)

var ownerTests = []test{
	{name: "SideBySide", run: testSideBySide},
	{name: "RunningJobsPause", run: testRunningJobsPause},
	{name: "PausedLeaseHolds", run: testPausedLease},
	{name: "FewestLeasedOwnerFirst", run: testFewestLeasedOwnerFirst},
	{name: "MaxActivePerOwner", run: testMaxActivePerOwner, perOwner: 2},
	{name: "FiftyAgainstOne", run: testFiftyAgainstOne},
	{name: "AsTheContractSays", run: testModel},
	{name: "AsTheContractSaysWithALimitPerOwner", run: testModel, perOwner: 2},
}

// want claims one unit of each of these jobs, in this order, and no more.
func (f *fixture) want(why string, all ...*jobs.Job) (leases []*jobs.Lease) {
	f.Helper()
	for _, j := range all {
		leases = append(leases, f.claimOf(j))
	}
	f.noWork(why)
	return leases
}

func testSideBySide(f *fixture) {
	var a []*jobs.Job
	for range maxActive + 2 {
		a = append(a, f.createFor("a"))
	}
	b, nobody := f.createFor("b"), f.createFor("")
	f.want("the first of each owner have all places", a[0], b, nobody)
	f.wantState(a[1].ID, jobs.Queued)
}

// planFor creates a job of an owner and completes its plan with n slices.
func (f *fixture) planFor(owner string, n int) *jobs.Job {
	f.Helper()
	j := f.createFor(owner)
	f.complete(f.claimOf(j), jobs.Result{Next: append(slices(n, 1), jobs.Unit{ID: "finish", Kind: jobs.UnitFinish})})
	return j
}

func testRunningJobsPause(f *fixture) {
	first, second, third := f.planFor("a", 0), f.createFor("a"), f.createFor("a")
	plans := []*jobs.Lease{f.claimOf(second), f.claimOf(third)} // the first has its finish unit to do
	for _, l := range plans {
		f.ok(f.Release(f.Context(), l, time.Time{}), "Release")
	}
	b, c := f.createFor("b"), f.createFor("c")
	held := f.want("the second and the third of a pause", b, c, first)
	for _, j := range []*jobs.Job{second, third} {
		f.wantState(j.ID, jobs.Running)
	}
	f.createFor("a") // queued: behind those that run
	f.ok(f.Cancel(f.Context(), b.ID), "Cancel")
	f.want("one place was free", second)
	f.complete(held[2], jobs.Result{})
	f.wantState(first.ID, jobs.Completed)
	f.want("another was", third)
}

func testPausedLease(f *fixture) {
	f.createFor("a")
	f.createFor("a")
	f.createFor("a")
	leases := []*jobs.Lease{f.claim(), f.claim(), f.claim()}
	f.createFor("b")
	f.createFor("c")
	f.claim()
	f.claim()
	paused := leases[2]
	f.ok(f.Renew(f.Context(), paused), "Renew in a job that pauses")
	f.ok(f.Save(f.Context(), paused, []byte(`1`)), "Save in a job that pauses")
	f.complete(paused, jobs.Result{Next: append(slices(1, 1), jobs.Unit{ID: "finish", Kind: jobs.UnitFinish})})
	f.noWork("the job pauses")
}

func testFewestLeasedOwnerFirst(f *fixture) {
	a1 := f.planFor("a", 9)
	a2 := f.createFor("a")
	f.complete(f.claimOf(a2), jobs.Result{Next: append(slices(9, 1), jobs.Unit{ID: "finish", Kind: jobs.UnitFinish})})
	f.claimOf(a1)
	f.claimOf(a2)
	f.claimOf(a1)
	b := f.createFor("b")
	f.complete(f.claimOf(b), jobs.Result{Next: append(slices(9, 1), jobs.Unit{ID: "finish", Kind: jobs.UnitFinish})})
	for range 3 { // a has 3 leased in two jobs
		f.claimOf(b)
	}
	f.claimOf(a2) // 3 of each owner; of the jobs a2 has the fewest
}

func testMaxActivePerOwner(f *fixture) {
	a := []*jobs.Job{f.createFor("a"), f.createFor("a"), f.createFor("a")}
	leases := f.want("an owner may have two at once", a[0], a[1])
	f.ok(f.Fail(f.Context(), leases[0], jobs.Failure{Reason: "no", Permanent: true}, 0), "Fail")
	leases = append(leases, f.want("the third takes the place", a[2])...)
	for _, l := range leases[1:] {
		f.ok(f.Cancel(f.Context(), l.Job), "Cancel")
	}
	nobody := []*jobs.Job{f.createFor(""), f.createFor(""), f.createFor(""), f.createFor("")}
	f.want("jobs without an owner are limited by MaxActive only", nobody[:maxActive]...)
}

// testFiftyAgainstOne has one owner's many exports before another's small one.
func testFiftyAgainstOne(f *fixture) {
	const workers, units = 4, 10
	for range 50 {
		f.createFor("many")
	}
	var held []*jobs.Lease
	for range workers {
		if l, _, err := f.Claim(f.Context(), "worker"); err == nil {
			held = append(held, l)
		}
	}
	one := f.createFor("one")
	others := 0
	for f.get(one.ID).State != jobs.Completed {
		for len(held) < workers {
			l, _, err := f.Claim(f.Context(), "worker")
			if errors.Is(err, jobs.ErrNoWork) {
				break
			}
			f.ok(err, "Claim")
			held = append(held, l)
		}
		l := held[0]
		held = held[1:]
		if l.Job != one.ID {
			others++
		}
		var r jobs.Result
		if l.Unit.Kind == jobs.UnitPlan {
			r.Next = append(slices(units, 1), jobs.Unit{ID: "finish", Kind: jobs.UnitFinish})
		}
		f.complete(l, r)
	}
	// Half of the workers at most are the others', but where the small one has
	// no more than one unit to hand out: plan and finish.
	if most := units + 4*workers; others > most {
		f.Errorf("%d units of the other owner ended before the %d of the small export, want %d at most", others, units+2, most)
	}
}

// A modelJob is what jobs.Store.Claim says of a job, in the fewest words.
type modelJob struct {
	*jobs.Job
	running       bool
	stage         jobs.UnitKind
	ready, leased int
	served        int
}

// testModel compares the store with the words of its contract, over a random
// history of a few owners.
func testModel(f *fixture) {
	const steps, sliced = 250, 3
	r := rand.New(rand.NewPCG(7, 11))
	owners := []string{"", "a", "b", "c"}
	var open []*modelJob // that have not ended, oldest first
	var held []*jobs.Lease
	perOwner := 0
	if f.Name()[len(f.Name())-1] == 'r' { // …PerOwner
		perOwner = 2
	}
	turn := 0
	find := func(id jobs.ID) *modelJob {
		for _, m := range open {
			if m.ID == id {
				return m
			}
		}
		f.Fatal("a unit of a job was claimed that had ended")
		return nil
	}
	drop := func(id jobs.ID) {
		open = stdslices.DeleteFunc(open, func(m *modelJob) bool { return m.ID == id })
		held = stdslices.DeleteFunc(held, func(l *jobs.Lease) bool { return l.Job == id })
	}
	for range steps {
		switch choice := r.IntN(10); {
		case choice < 2 && len(open) < 12:
			open = append(open, &modelJob{Job: f.createFor(owners[r.IntN(len(owners))]), stage: jobs.UnitPlan, ready: 1})
		case choice < 3 && len(open) > 0:
			j := open[r.IntN(len(open))]
			f.ok(f.Cancel(f.Context(), j.ID), "Cancel")
			drop(j.ID)
		case choice < 6 && len(held) > 0:
			i := r.IntN(len(held))
			l := held[i]
			held = stdslices.Delete(held, i, i+1)
			m := find(l.Job)
			m.leased--
			var result jobs.Result
			switch l.Unit.Kind {
			case jobs.UnitPlan:
				result.Next = append(slices(sliced, 1), jobs.Unit{ID: "finish", Kind: jobs.UnitFinish})
				m.stage, m.ready = jobs.UnitSlice, sliced
			case jobs.UnitSlice:
				if m.ready+m.leased == 0 {
					m.stage, m.ready = jobs.UnitFinish, 1
				}
			case jobs.UnitFinish:
				drop(l.Job)
			}
			f.complete(l, result)
		default:
			want := choose(open, perOwner)
			l, _, err := f.Claim(f.Context(), "worker")
			switch {
			case want == nil && errors.Is(err, jobs.ErrNoWork):
				continue
			case want == nil || err != nil || l.Job != want.ID:
				f.Fatalf("Claim gave %s, %v; want %s", describe(open, l), err, describe(open, lease(want)))
			}
			turn++
			want.running, want.served = true, turn
			want.ready--
			want.leased++
			held = append(held, l)
		}
	}
}

func lease(m *modelJob) *jobs.Lease {
	if m == nil {
		return nil
	}
	return &jobs.Lease{Job: m.ID}
}

func describe(open []*modelJob, l *jobs.Lease) string {
	for i, m := range open {
		if l != nil && m.ID == l.Job {
			return fmt.Sprintf("job %d of owner %q (running %t, %s, %d ready, %d leased)", i, m.Owner, m.running, m.stage, m.ready, m.leased)
		}
	}
	return "nothing"
}

// choose is the contract of Claim: which job is served next.
func choose(open []*modelJob, perOwner int) (best *modelJob) {
	rows, owned := map[string][]*modelJob{}, map[string]int{}
	for _, running := range []bool{true, false} {
		for _, m := range open {
			if m.running == running {
				rows[m.Owner] = append(rows[m.Owner], m)
				owned[m.Owner] += m.leased
			}
		}
	}
	var active []*modelJob
	for n := range open {
		for _, running := range []bool{true, false} {
			for _, m := range open {
				if row := rows[m.Owner]; n < len(row) && row[n] == m && m.running == running && (perOwner == 0 || n < perOwner || m.Owner == "") {
					active = append(active, m)
				}
			}
		}
	}
	for _, m := range active[:min(len(active), maxActive)] {
		if m.ready == 0 {
			continue
		}
		before := func(a, b *modelJob) bool {
			switch {
			case owned[a.Owner] != owned[b.Owner]:
				return owned[a.Owner] < owned[b.Owner]
			case a.leased != b.leased:
				return a.leased < b.leased
			case a.served != b.served:
				return a.served < b.served
			}
			return a.CreatedAt.Before(b.CreatedAt)
		}
		if best == nil || before(m, best) {
			best = m
		}
	}
	return best
}
