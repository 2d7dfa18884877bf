package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"spillway/jobs"
)

const (
	// sweepGap is the shortest time between two looks for removable jobs,
	// however often the store changes.
	sweepGap = time.Second
	// orphansSoonest and orphansLatest bound the time between two looks for
	// bytes without a job, which is half of OrphanAge.
	orphansSoonest = time.Minute
	orphansLatest  = time.Hour
	// leastOrphanAge is more than the time that a worker may go on writing for
	// a job which the store has forgotten.
	leastOrphanAge = time.Minute
)

// sweepUntil removes what nobody wants any more, until ctx ends. Any number of
// workers may do so at once, and one may be stopped at any moment and go on much
// later: what is removable or unknown stays so, and removing twice is no error.
func (w *Worker) sweepUntil(ctx context.Context) {
	problems := outage{log: w.log, what: "the watch over exports and their removal"}
	pause := newPause(w.c.SweepEvery)
	orphansEvery := min(max(w.c.OrphanAge/2, orphansSoonest), orphansLatest)
	var orphansSwept, watched time.Time
	for ctx.Err() == nil {
		err := w.sweep(ctx)
		if w.takeEnded() || time.Since(watched) >= w.c.SweepEvery {
			if werr := w.watch(ctx); werr != nil {
				err = errors.Join(err, werr)
			} else {
				watched = time.Now()
			}
		}
		if time.Since(orphansSwept) >= orphansEvery {
			if oerr := w.sweepOrphans(ctx); oerr != nil {
				err = errors.Join(err, oerr)
			} else {
				orphansSwept = time.Now()
			}
		}
		switch {
		case err == nil:
			problems.over()
			pause.Reset()
			w.awaitChange(ctx)
		case ctx.Err() != nil:
		case errors.Is(err, jobs.ErrUnavailable):
			w.store.failed(err)
			sleep(ctx, pause.NextBackOff())
		default:
			problems.failed(err)
			sleep(ctx, pause.NextBackOff())
		}
	}
}

// awaitChange waits until the store may have changed, but at least sweepGap and
// at most SweepEvery.
func (w *Worker) awaitChange(ctx context.Context) {
	sleep(ctx, min(sweepGap, w.c.SweepEvery))
	ctx, cancel := context.WithTimeout(ctx, w.c.SweepEvery)
	defer cancel()
	_ = w.c.Store.Idle(ctx) // if the store is away, the next sweep finds out
}

// sweep removes the removable jobs: bytes first, record last, so that a record
// is there for as long as any byte is.
func (w *Worker) sweep(ctx context.Context) error {
	if w.c.RemoveBytes == nil {
		return nil
	}
	ids, err := w.c.Store.Removable(ctx)
	if err != nil {
		return fmt.Errorf("list removable exports: %w", err)
	}
	var errs []error
	for _, id := range ids {
		if w.busy(id) {
			continue // a unit of it is still winding up here
		}
		if err := w.remove(ctx, id); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (w *Worker) remove(ctx context.Context, id jobs.ID) error {
	var j *jobs.Job
	if w.c.Observe != nil {
		if err := w.tellEnd(ctx, id); err != nil {
			return err
		}
		var err error
		if j, err = w.c.Store.Get(ctx, id); errors.Is(err, jobs.ErrNotFound) {
			return nil // by another worker
		} else if err != nil {
			return fmt.Errorf("look up an export that is to be removed: %w", err)
		}
	}
	if err := w.c.RemoveBytes(ctx, id); err != nil {
		return fmt.Errorf("remove the bytes of an export: %w", err)
	}
	if err := w.tellRemoval(ctx, j); err != nil {
		return err
	}
	if err := w.c.Store.Remove(ctx, id); err != nil {
		return fmt.Errorf("remove the record of an export: %w", err)
	}
	return nil
}

// takeEnded reports whether a job may have ended here since it was last called.
func (w *Worker) takeEnded() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	ended := w.ended
	w.ended = false
	return ended
}

// busy reports whether an attempt at a unit of the job is under way here.
func (w *Worker) busy(id jobs.ID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.active[id] > 0
}

// sweepOrphans removes bytes whose job the store does not know.
func (w *Worker) sweepOrphans(ctx context.Context) error {
	if w.c.SweepOrphans == nil {
		return nil
	}
	seen := map[jobs.ID]bool{}
	var failed error
	err := w.c.SweepOrphans(ctx, func(id jobs.ID) bool {
		known, asked := seen[id]
		if !asked {
			_, err := w.c.Store.Get(ctx, id)
			known = !errors.Is(err, jobs.ErrNotFound) // when in doubt the bytes stay
			if err != nil && known {
				failed = fmt.Errorf("look up an export: %w", err)
			}
			seen[id] = known
		}
		return known
	}, w.c.OrphanAge)
	if err != nil {
		return fmt.Errorf("remove bytes without an export: %w", err)
	}
	return failed
}
