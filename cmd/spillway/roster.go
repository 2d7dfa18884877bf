package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"spillway/auth"
	"spillway/auth/audit"
	"spillway/cmd/spillway/internal/config"
	"spillway/jobs"
	"spillway/jobs/worker"
)

// A roster is the clients that the configuration knows. It is safe for
// concurrent use.
type roster struct {
	closed  bool                            // others have no access
	clients atomic.Pointer[map[string]bool] // whether they are enabled
}

// newRoster returns nil where nobody is told apart.
func newRoster(c *config.Auth) *roster {
	if !c.Enforces() {
		return nil
	}
	r := &roster{closed: c.Mode == config.ModeBuiltin || c.Mode == config.ModeMTLS}
	r.set(c)
	return r
}

func (r *roster) set(c *config.Auth) {
	all := make(map[string]bool)
	for _, client := range c.Everybody() {
		all[client.ID] = !client.Disabled
	}
	r.clients.Store(&all)
}

// enabled reports whether a client may still have exports.
func (r *roster) enabled(id string) bool {
	enabled, listed := (*r.clients.Load())[id]
	return enabled || !listed && !r.closed
}

// end cancels the exports of clients that may have none any more. Workers would do
// so too, a while later.
func (r *roster) end(ctx context.Context, store jobs.Store) error {
	all, err := store.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, j := range all {
		if j.State == jobs.Canceled || j.Version > jobs.RecordVersion || r.enabled(auth.ClientOf(j.Owner)) {
			continue
		}
		if err := store.Cancel(ctx, j.ID); err != nil && !errors.Is(err, jobs.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// oversight is what a worker asks and tells, for the sake of authorization and
// audit.
type oversight struct {
	revoked func(*jobs.Job) bool                      // nil: no job
	observe func(context.Context, worker.Event) error // nil: nobody is told
	read    func(context.Context, worker.Reading) error
}

// oversightOf returns that of a process. Both may be nil.
func oversightOf(clients *roster, record *recorder) oversight {
	var o oversight
	if clients != nil {
		o.revoked = func(j *jobs.Job) bool { return !clients.enabled(auth.ClientOf(j.Owner)) }
	}
	if record != nil {
		keep := func(ctx context.Context, e audit.Event) error {
			err := record.record(ctx, e)
			if err != nil && !record.deny && !errors.Is(err, ctx.Err()) {
				return nil
			}
			return err
		}
		o.observe = func(ctx context.Context, e worker.Event) error { return keep(ctx, jobEvent(e)) }
		o.read = func(ctx context.Context, r worker.Reading) error { return keep(ctx, readEvent(r)) }
	}
	return o
}

// readEvent says for the audit what was read of the upstream.
func readEvent(r worker.Reading) audit.Event {
	e := audit.Event{
		Key: fmt.Sprintf("%s/%s/%d", r.Job.ID, r.Unit.ID, r.Attempt), Kind: audit.KindQuery, Outcome: audit.OutcomeDone,
		Job: string(r.Job.ID), Client: auth.ClientOf(r.Job.Owner), Resources: r.Resources, Bytes: r.Bytes,
	}
	if r.Unit.Type != "" {
		e.Types = []string{r.Unit.Type}
	}
	return e
}

// jobEvent says for the audit what became of a job. It is the same each time
// that it is said of one end.
func jobEvent(e worker.Event) audit.Event {
	j := e.Job
	a := audit.Event{
		Key: string(j.ID), Kind: audit.KindExport, Outcome: audit.OutcomeDone, Job: string(j.ID), Client: auth.ClientOf(j.Owner),
		Level: string(j.Request.Level), Group: j.Request.GroupID, Files: len(j.Files),
	}
	if !j.EndedAt.IsZero() {
		a.Duration = j.EndedAt.Sub(j.CreatedAt).Round(time.Millisecond)
	}
	a.SHA256 = jobs.Digest(j.Files...)
	for _, f := range j.Files {
		a.Resources += f.Count
		for _, s := range f.Segments {
			a.Bytes += s.Size
		}
	}
	switch j.State {
	case jobs.Failed:
		a.Outcome, a.Reason = audit.OutcomeFailed, "failed"
	case jobs.Canceled:
		a.Reason = "canceled"
	}
	if e.Removed {
		a.Kind, a.Outcome = audit.KindRemoval, audit.OutcomeDone
		if a.Reason == "" {
			a.Reason = "expired"
		}
	}
	return a
}
