package jobstest

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"spillway/jobs"
)

// testTakeoverRace has the holders of expired leases come back while others
// take their units over.
func testTakeoverRace(f *fixture) {
	const units, claimants = 24, 8
	j := f.planned(slices(units, 1)...)
	var stale []*jobs.Lease
	for range units {
		stale = append(stale, f.claim())
	}
	f.advance(leaseTTL + time.Second)
	var wg sync.WaitGroup
	for i, l := range stale {
		wg.Go(func() {
			m := f.methods()[i%len(f.methods())]
			if err := m.call(l); !errors.Is(err, jobs.ErrLeaseLost) {
				f.Errorf("%s with an expired lease = %v, want ErrLeaseLost", m.name, err)
			}
		})
	}
	var completed atomic.Int64
	for range claimants {
		wg.Go(func() {
			for {
				l, _, err := f.Claim(f.Context(), "another")
				switch {
				case errors.Is(err, jobs.ErrNoWork):
					return
				case err != nil:
					f.Errorf("Claim = %v", err)
					return
				case l.Unit.Kind == jobs.UnitFinish: // all slices are done
					if err := f.Release(f.Context(), l, now(l).Add(time.Hour)); err != nil {
						f.Errorf("Release = %v", err)
					}
					continue
				case l.Attempt != 2:
					f.Errorf("%s was handed out as attempt %d, want 2", l.Unit.ID, l.Attempt)
				}
				if err := f.Complete(f.Context(), l, jobs.Result{}); err != nil {
					f.Errorf("Complete = %v", err)
					return
				}
				completed.Add(1)
			}
		})
	}
	wg.Wait()
	if n := completed.Load(); n != units {
		f.Errorf("%d units were completed, want %d", n, units)
	}
	for _, d := range f.done(j.ID)[1:] {
		if d.Attempt != 2 || len(d.Result.Segments) > 0 {
			f.Errorf("%s was completed by attempt %d, want 2", d.Unit.ID, d.Attempt)
		}
	}
}

// testCancelUnderLoad cancels a job that many work on.
func testCancelUnderLoad(f *fixture) {
	const workers, units = 12, 300
	j := f.planned(slices(units, 1)...)
	var (
		wg        sync.WaitGroup
		completed atomic.Int64
		canceled  atomic.Bool
		enough    = make(chan struct{})
	)
	for range workers {
		wg.Go(func() {
			for {
				l, _, err := f.Claim(f.Context(), "worker")
				switch {
				case errors.Is(err, jobs.ErrNoWork):
					return
				case err != nil:
					f.Errorf("Claim = %v", err)
					return
				}
				after := canceled.Load()
				switch err := f.Complete(f.Context(), l, jobs.Result{}); {
				case err == nil && after:
					f.Errorf("%s was completed after Cancel had returned", l.Unit.ID)
				case err == nil:
					if completed.Add(1) == 40 {
						close(enough)
					}
				case !errors.Is(err, jobs.ErrEnded):
					f.Errorf("Complete = %v, want nil or ErrEnded", err)
				}
			}
		})
	}
	over := make(chan struct{})
	go func() { wg.Wait(); close(over) }()
	select {
	case <-enough:
	case <-over:
		f.Fatal("the job was not worked on")
	}
	if err := f.Cancel(f.Context(), j.ID); err != nil {
		f.Errorf("Cancel = %v", err)
	}
	canceled.Store(true)
	<-over
	if f.Failed() {
		return
	}
	f.wantState(j.ID, jobs.Canceled)
	f.noWork("the job is canceled")
	if n := len(f.done(j.ID)) - 1; n != int(completed.Load()) || n == units {
		f.Errorf("Done has %d slices, %d Completes succeeded, want the same and fewer than %d", n, completed.Load(), units)
	}
	f.wantRemovable("all holders have let go", j)
}
