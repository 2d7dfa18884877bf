package jobstest

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"spillway/jobs"
)

var idleTests = []test{
	{name: "ReturnsWithinAboutASecond", run: func(f *fixture) {
		f.noWork("the store is empty")
		ctx, cancel := context.WithTimeout(f.Context(), 30*time.Second)
		defer cancel()
		f.ok(f.Idle(ctx), "Idle with nothing to do")
	}},
	{name: "EndsWithItsContext", run: func(f *fixture) {
		f.noWork("the store is empty")
		ctx, cancel := context.WithCancel(f.Context())
		go cancel()
		var err error
		for err == nil {
			err = f.Idle(ctx)
		}
		if !errors.Is(err, context.Canceled) {
			f.Errorf("Idle = %v, want context.Canceled", err)
		}
	}},
	{name: "WakesUp", run: testIdleWakesUp},
	{name: "MissesNothing", run: testIdleMissesNothing},
}

// testIdleWakesUp goes through changes that make work while somebody is in
// Idle. A store that only polls would need a second for each.
func testIdleWakesUp(f *fixture) {
	const rounds = 4
	var l *jobs.Lease
	changes := []func(){
		func() { f.create() },
		func() { // the plan's end
			f.complete(l, jobs.Result{Next: append(slices(1, 1), jobs.Unit{ID: "finish", Kind: jobs.UnitFinish})})
		},
		func() { f.ok(f.Release(f.Context(), l, time.Time{}), "Release") },
		func() { f.ok(f.Fail(f.Context(), l, jobs.Failure{Reason: "no"}, 0), "Fail") },
		func() { f.complete(l, jobs.Result{}) },
	}
	started := time.Now()
	for range rounds {
		for _, change := range changes {
			f.noWork("nothing has changed yet")
			var wg sync.WaitGroup
			claimed := make(chan *jobs.Lease, 1)
			wg.Go(func() {
				defer close(claimed)
				for {
					if err := f.Idle(f.Context()); err != nil {
						f.Errorf("Idle = %v", err)
						return
					}
					next, _, err := f.Claim(f.Context(), "worker")
					if err == nil {
						claimed <- next
						return
					}
					if !errors.Is(err, jobs.ErrNoWork) {
						f.Errorf("Claim = %v", err)
						return
					}
				}
			})
			change()
			wg.Wait()
			if l = <-claimed; l == nil {
				f.FailNow()
			}
		}
		f.complete(l, jobs.Result{})
	}
	if took, polled := time.Since(started), time.Duration(rounds*len(changes))*time.Second; took > polled/2 {
		f.Errorf("%d wake-ups took %v; a store that wakes up needs far less than %v", rounds*len(changes), took, polled)
	}
}

// testIdleMissesNothing has the change come between Claim and Idle.
func testIdleMissesNothing(f *fixture) {
	const rounds = 10
	started := time.Now()
	for range rounds {
		f.noWork("all jobs are canceled")
		j := f.create()
		f.ok(f.Idle(f.Context()), "Idle")
		f.claimUnit("plan")
		f.ok(f.Cancel(f.Context(), j.ID), "Cancel")
	}
	if took := time.Since(started); took > rounds*time.Second/2 {
		f.Errorf("%d times Idle after a change took %v; it must not wait for the next one", rounds, took)
	}
}

var concurrentTests = []test{
	{name: "EveryUnitOnce", run: testEveryUnitOnce},
	{name: "OneClaimantEach", run: testOneClaimantEach},
	{name: "CreateOnce", run: testCreateOnce},
	{name: "TakeoverRace", run: testTakeoverRace},
	{name: "CancelUnderLoad", run: testCancelUnderLoad},
	{name: "RenewAndSaveAtOnce", run: testRenewAndSave},
}

// perJob is how many slices each job of a crowd has.
const perJob = 70

// crowd is many workers on a few jobs, who fail, let go, fall silent and come
// back too late.
type crowd struct {
	*fixture
	clock sync.RWMutex // moving the clock is exclusive: only who means to be late is

	mu        sync.Mutex
	completed map[string]int // by job and unit: how often Complete returned nil
	attempt   map[string]int64
	late      []*jobs.Lease
}

func testEveryUnitOnce(f *fixture) {
	const workers = 8
	c := &crowd{fixture: f, completed: map[string]int{}, attempt: map[string]int64{}}
	var all []*jobs.Job
	for range maxActive + 1 {
		all = append(all, f.create())
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() { c.work(rand.New(rand.NewPCG(uint64(w), 1))) })
	}
	wg.Wait()
	if f.Failed() {
		return
	}
	for _, j := range all {
		got := f.wantState(j.ID, jobs.Completed)
		if got.Progress.UnitsDone != perJob+2 || got.Progress.UnitsTotal != perJob+2 || got.Progress.Types["Patient"].Done != perJob {
			f.Errorf("Progress = %+v, want %d units and %d resources", got.Progress, perJob+2, perJob)
		}
		done := f.done(j.ID)
		if len(done) != perJob+2 || done[0].Unit.Kind != jobs.UnitPlan || done[len(done)-1].Unit.Kind != jobs.UnitFinish {
			f.Errorf("%d units done, want %d from plan to finish", len(done), perJob+2)
		}
		for _, d := range done {
			key := string(j.ID) + d.Unit.ID
			if c.completed[key] != 1 || c.attempt[key] != d.Attempt {
				f.Errorf("unit %s: completed %d times, by attempt %d, and Done says attempt %d", d.Unit.ID, c.completed[key], c.attempt[key], d.Attempt)
			}
		}
	}
}

// work claims and works until nothing is left.
func (c *crowd) work(r *rand.Rand) {
	for c.Context().Err() == nil && !c.Failed() {
		c.clock.RLock()
		l, _, err := c.Claim(c.Context(), "worker")
		if err == nil {
			c.attend(l, r)
		}
		c.clock.RUnlock()
		switch {
		case err == nil:
		case !errors.Is(err, jobs.ErrNoWork):
			c.Errorf("Claim = %v", err)
			return
		default:
			if c.over() {
				return
			}
			c.clock.Lock() // what is left belongs to the silent
			c.advance(leaseTTL + time.Second)
			c.clock.Unlock()
		}
		if r.IntN(4) == 0 {
			c.comeLate(r)
		}
	}
}

// attend does one of the things a worker may do with a unit.
func (c *crowd) attend(l *jobs.Lease, r *rand.Rand) {
	choice := r.IntN(8)
	if l.Tries >= 3 { // no unit may come to its last try
		choice = 7
	}
	var err error
	switch choice {
	case 0:
		err = c.Fail(c.Context(), l, jobs.Failure{Reason: "no"}, 0)
	case 1:
		err = c.Release(c.Context(), l, time.Time{})
	case 2:
		c.mu.Lock()
		c.late = append(c.late, l)
		c.mu.Unlock()
	case 3, 4:
		if err = c.Save(c.Context(), l, json.RawMessage(`{"page":1}`)); err == nil {
			err = c.tryComplete(l)
		}
	default:
		err = c.tryComplete(l)
	}
	if err != nil {
		c.Errorf("with a lease in force: %v", err)
	}
}

func (c *crowd) tryComplete(l *jobs.Lease) error {
	var r jobs.Result
	switch l.Unit.Kind {
	case jobs.UnitPlan:
		r.Next = append(slices(perJob, 1), jobs.Unit{ID: "finish", Kind: jobs.UnitFinish})
	case jobs.UnitSlice:
		r.Segments = []jobs.Segment{{Kind: jobs.KindOutput, Type: "Patient", Count: 1, Size: 10}}
	}
	if err := c.Complete(c.Context(), l, r); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.completed[string(l.Job)+l.Unit.ID]++
	c.attempt[string(l.Job)+l.Unit.ID] = l.Attempt
	return nil
}

// comeLate tries to complete a unit that was left silently, in time or not.
func (c *crowd) comeLate(r *rand.Rand) {
	c.mu.Lock()
	if len(c.late) == 0 {
		c.mu.Unlock()
		return
	}
	i := r.IntN(len(c.late))
	l := c.late[i]
	c.late = append(c.late[:i], c.late[i+1:]...)
	c.mu.Unlock()
	if err := c.tryComplete(l); err != nil && !errors.Is(err, jobs.ErrLeaseLost) && !errors.Is(err, jobs.ErrEnded) {
		c.Errorf("a late Complete = %v, want ErrLeaseLost or ErrEnded", err)
	}
}

func (c *crowd) over() bool {
	all, err := c.List(c.Context())
	if err != nil {
		c.Errorf("List = %v", err)
		return true
	}
	for _, j := range all {
		if !j.State.Ended() {
			return false
		}
	}
	return true
}

func testOneClaimantEach(f *fixture) {
	const workers, units = 16, 80
	f.planned(slices(units, 1)...)
	var mu sync.Mutex
	seen := map[string]int{}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				l, _, err := f.Claim(f.Context(), "worker")
				if errors.Is(err, jobs.ErrNoWork) {
					return
				}
				if err != nil {
					f.Errorf("Claim = %v", err)
					return
				}
				mu.Lock()
				seen[l.Unit.ID]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for id, n := range seen {
		if n != 1 {
			f.Errorf("%s was handed out %d times", id, n)
		}
	}
	if len(seen) != units {
		f.Errorf("%d units handed out, want %d", len(seen), units)
	}
}

func testCreateOnce(f *fixture) {
	const clients = 8
	j, first := f.job()
	errs := make([]error, clients)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() { errs[i] = f.Create(f.Context(), j.Clone(), first) })
	}
	wg.Wait()
	created := 0
	for _, err := range errs {
		switch {
		case err == nil:
			created++
		case !errors.Is(err, jobs.ErrExists):
			f.Errorf("Create = %v, want nil or ErrExists", err)
		}
	}
	if created != 1 {
		f.Errorf("%d clients created the job, want one", created)
	}
}

func testRenewAndSave(f *fixture) {
	f.planned(slices(6, 1)...)
	var wg sync.WaitGroup
	for range 6 {
		l := f.claim()
		wg.Go(func() {
			heartbeat := *l
			var inner sync.WaitGroup
			inner.Go(func() {
				for range 10 {
					if err := f.Renew(f.Context(), &heartbeat); err != nil {
						f.Errorf("Renew = %v", err)
					}
				}
			})
			for range 10 {
				if err := f.Save(f.Context(), l, json.RawMessage(`{"page":1}`)); err != nil {
					f.Errorf("Save = %v", err)
				}
			}
			inner.Wait()
			if err := f.Complete(f.Context(), l, jobs.Result{}); err != nil {
				f.Errorf("Complete = %v", err)
			}
		})
	}
	wg.Wait()
	f.claimUnit("finish")
}
