package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"spillway/jobs"
)

// An Event is what became of a job.
type Event struct {
	Job *jobs.Job // as it is: it has ended
	// Removed says that its bytes are gone, and its record goes now.
	Removed bool
}

// A Reading is what one unit has read of the upstream and stored.
type Reading struct {
	Job     *jobs.Job // as it was when the unit was claimed
	Unit    jobs.Unit
	Attempt int64
	// Resources and Bytes, uncompressed, of its output.
	Resources, Bytes int64
}

// reading is nil for a unit that has no output.
func (a *attempt) reading(result jobs.Result) *Reading {
	r := Reading{Job: a.job, Unit: a.lease.Unit, Attempt: a.lease.Attempt}
	for _, s := range result.Segments {
		if s.Kind == jobs.KindOutput {
			r.Resources += s.Count
			r.Bytes += s.Size
		}
	}
	if r.Resources == 0 || a.w.c.Read == nil {
		return nil
	}
	return &r
}

// toldFor is how much longer than the job itself it is remembered that its end
// was told.
const toldFor = 24 * time.Hour

// watch looks at all jobs: it ends those that are revoked, and tells of those
// that have ended, also where a store ended them.
func (w *Worker) watch(ctx context.Context) error {
	if w.c.Revoked == nil && w.c.Observe == nil {
		return nil
	}
	all, err := w.c.Store.List(ctx)
	if err != nil {
		return fmt.Errorf("list exports: %w", err)
	}
	var errs []error
	ended := make(map[jobs.ID]bool)
	for _, j := range all {
		if j.Version > jobs.RecordVersion {
			continue
		}
		if w.c.Revoked != nil && j.State != jobs.Canceled && w.c.Revoked(j) {
			switch err := w.c.Store.Cancel(ctx, j.ID); {
			case err == nil:
				w.log.Info("an export was ended: its client may have none any more", "job", string(j.ID[:min(len(j.ID), 8)]))
			case !errors.Is(err, jobs.ErrNotFound):
				errs = append(errs, fmt.Errorf("end a revoked export: %w", err))
				continue
			}
			j.State = jobs.Canceled
		}
		if j.State.Ended() && w.c.Observe != nil {
			ended[j.ID] = true
			if err := w.tellEnd(ctx, j.ID); err != nil {
				errs = append(errs, err)
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.told {
		if !ended[id] {
			delete(w.told, id)
		}
	}
	return errors.Join(errs...)
}

// tellEnd tells that a job has ended, unless some worker has done so. Two that
// do so at the same moment both tell: once is not enough to be sure.
func (w *Worker) tellEnd(ctx context.Context, id jobs.ID) error {
	w.mu.Lock()
	told := w.told[id]
	w.mu.Unlock()
	if told {
		return nil
	}
	name := "ended:" + string(id)
	mark, err := w.c.Store.Load(ctx, name)
	if err != nil {
		return fmt.Errorf("look whether the end of an export was told: %w", err)
	}
	if mark.Version == 0 {
		j, err := w.c.Store.Get(ctx, id)
		switch {
		case errors.Is(err, jobs.ErrNotFound):
			return nil // removed by a worker that told
		case err != nil:
			return fmt.Errorf("look up an export that has ended: %w", err)
		}
		if err := w.c.Observe(ctx, Event{Job: j}); err != nil {
			return fmt.Errorf("tell the end of an export: %w", err)
		}
		if _, _, err := w.c.Store.Swap(ctx, name, 0, []byte("1"), w.c.OrphanAge+toldFor); err != nil {
			return fmt.Errorf("note that the end of an export was told: %w", err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told[id] = true
	return nil
}

// tellRemoval tells that the bytes of a job are gone.
func (w *Worker) tellRemoval(ctx context.Context, j *jobs.Job) error {
	if w.c.Observe == nil {
		return nil
	}
	if err := w.c.Observe(ctx, Event{Job: j, Removed: true}); err != nil {
		return fmt.Errorf("tell the removal of an export: %w", err)
	}
	return nil
}
