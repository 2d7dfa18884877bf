package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"time"

	"spillway/jobs"
)

// An attempt is one leased unit in work.
type attempt struct {
	w     *Worker
	job   *jobs.Job
	lease *jobs.Lease // as claimed; store calls get copies, since they change it

	mu       sync.Mutex
	deadline time.Time   // until when the lease surely holds, on our clock
	expire   *time.Timer // fires at the deadline
	lose     context.CancelCauseFunc
}

// attempt begins an attempt whose claim began at a time.
func (w *Worker) attempt(l *jobs.Lease, j *jobs.Job, began time.Time) *attempt {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.active[l.Job]++
	return &attempt{w: w, job: j, lease: l, deadline: began.Add(w.c.LeaseTTL)}
}

// work runs the unit and settles it with the store. stop is the worker's context.
func (a *attempt) work(stop context.Context) {
	// held ends when the lease does, not when the worker is told to stop: the
	// unit is still to be handed back then.
	held, lose := context.WithCancelCause(context.WithoutCancel(stop))
	a.lose = lose
	a.expire = time.AfterFunc(time.Until(a.deadline), func() {
		lose(fmt.Errorf("%w: it could not be renewed in time", jobs.ErrLeaseLost))
	})
	var beat sync.WaitGroup
	beat.Go(func() { a.heartbeat(held) })
	kind := kindLabel(a.lease.Unit.Kind)
	a.w.metrics.running.WithLabelValues(kind).Inc()
	began := time.Now()

	result, err := a.run(held, stop)
	end := a.settle(held, stop, result, err)

	a.expire.Stop()
	lose(nil)
	beat.Wait()
	a.w.metrics.running.WithLabelValues(kind).Dec()
	a.w.metrics.seconds.WithLabelValues(kind).Observe(time.Since(began).Seconds())
	a.w.metrics.units.WithLabelValues(kind, end).Inc()

	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	a.w.ended = a.w.ended || end == resultFailed || end == resultEnded || end == resultCompleted && a.lease.Unit.Kind == jobs.UnitFinish
	if a.w.active[a.lease.Job]--; a.w.active[a.lease.Job] == 0 {
		delete(a.w.active, a.lease.Job)
	}
}

// run calls the runner. Its context ends with the lease and with the worker.
func (a *attempt) run(held, stop context.Context) (result jobs.Result, err error) {
	ctx, cancel := context.WithCancelCause(held)
	defer cancel(nil)
	defer context.AfterFunc(stop, func() { cancel(context.Cause(stop)) })()
	defer func() {
		if v := recover(); v != nil {
			err = panicked(v)
		}
	}()
	lease := *a.lease
	return a.w.c.Run(ctx, a.job, &lease, func(ctx context.Context, checkpoint json.RawMessage) error {
		return a.save(ctx, held, checkpoint)
	})
}

// panicked says where a runner panicked, but not with what: values may be
// patient data. The runtime's own messages hold only numbers and types.
func panicked(v any) error {
	what := fmt.Sprintf("%T", v)
	if e, ok := v.(runtime.Error); ok {
		what = e.Error()
	}
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	var at []string
	for {
		f, more := frames.Next()
		if !strings.HasPrefix(f.Function, "runtime.") {
			at = append(at, fmt.Sprintf("%s:%d", f.Function, f.Line))
		}
		if !more {
			return fmt.Errorf("panic (%s) in %s", what, strings.Join(at, " < "))
		}
	}
}

// save stores a checkpoint, and waits if the store is away.
func (a *attempt) save(ctx, held context.Context, checkpoint json.RawMessage) error {
	pause := newPause(callTimeout)
	for {
		lease, began := *a.lease, time.Now()
		err := a.w.c.Store.Save(ctx, &lease, checkpoint)
		switch {
		case err == nil:
			a.w.store.over()
			a.extend(began)
			return nil
		case over(err):
			a.lose(err)
			return err
		case !errors.Is(err, jobs.ErrUnavailable):
			return err
		}
		a.w.store.failed(err)
		sleep(ctx, pause.NextBackOff())
		if err := ctx.Err(); err != nil {
			return err
		}
		if held.Err() != nil { // ctx need not be the one that run was given
			return context.Cause(held)
		}
	}
}

// extend notes that the lease was renewed by a call that began at a time.
func (a *attempt) extend(began time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if d := began.Add(a.w.c.LeaseTTL); d.After(a.deadline) {
		a.deadline = d
		a.expire.Reset(time.Until(d))
	}
}

// heartbeat renews the lease until held ends, and ends it when the lease is lost.
func (a *attempt) heartbeat(held context.Context) {
	every := a.w.c.LeaseTTL / 4
	for wait := every; ; {
		sleep(held, wait)
		if held.Err() != nil {
			return
		}
		lease, began := *a.lease, time.Now()
		call, cancel := context.WithTimeout(held, every)
		err := a.w.c.Store.Renew(call, &lease)
		cancel()
		switch {
		case err == nil:
			a.w.store.over()
			a.extend(began)
			wait = every
		case over(err):
			a.lose(err)
			return
		case held.Err() != nil:
			return
		default: // expire ends it if this goes on for too long
			a.w.store.failed(err)
			wait = every / 4
		}
	}
}

// settle tells the store what came of the unit, and returns the label of it.
func (a *attempt) settle(held, stop context.Context, result jobs.Result, err error) string {
	if held.Err() != nil {
		return a.letGo(stop, context.Cause(held))
	}
	if err == nil {
		read := a.reading(result)
		switch err = a.write(held, stop, func(ctx context.Context, l *jobs.Lease) error {
			if read != nil {
				if err := a.w.c.Read(ctx, *read); err != nil {
					return fmt.Errorf("%w: tell what was read: %w", jobs.ErrUnavailable, err)
				}
				read = nil // once is enough, should the store be away now
			}
			return a.w.c.Store.Complete(ctx, l, result)
		}); {
		case err == nil:
			return resultCompleted
		case over(err):
			return a.letGo(stop, err)
		} // else the store refuses the result
	}
	var (
		wait   *jobs.WaitError
		end    = resultReleased
		settle func(ctx context.Context, l *jobs.Lease) error
	)
	release := func(until time.Time) func(context.Context, *jobs.Lease) error {
		return func(ctx context.Context, l *jobs.Lease) error { return a.w.c.Store.Release(ctx, l, until) }
	}
	switch {
	case stop.Err() != nil:
		settle = release(time.Time{})
	case errors.As(err, &wait):
		end, settle = resultWaiting, release(wait.Until)
	case errors.Is(err, jobs.ErrUnavailable): // not the unit's fault
		a.w.store.failed(err)
		settle = release(time.Now().Add(time.Second))
	default:
		f := a.failure(err)
		end, settle = resultFailed, func(ctx context.Context, l *jobs.Lease) error {
			return a.w.c.Store.Fail(ctx, l, f, retryIn(a.lease.Tries))
		}
	}
	if err := a.write(held, stop, settle); err != nil {
		return a.letGo(stop, err)
	}
	return end
}

// failure logs why an attempt failed and says what the client may know of it.
func (a *attempt) failure(err error) jobs.Failure {
	f := jobs.Failure{Reason: "internal error"}
	if u, ok := errors.AsType[*jobs.UnitError](err); ok {
		f = jobs.Failure{Reason: u.Reason, Permanent: u.Permanent}
	}
	a.w.log.Warn("a unit failed", a.attrs("error", err, "permanent", f.Permanent)...)
	return f
}

// attrs names the unit in a log line. Of the job's id only the beginning is
// shown: the whole is what a client without other credentials is known by.
func (a *attempt) attrs(more ...any) []any {
	return append([]any{
		"job", string(a.lease.Job[:min(len(a.lease.Job), 8)]), "kind", kindLabel(a.lease.Unit.Kind), "type", a.lease.Unit.Type,
		"attempt", a.lease.Attempt, "tries", a.lease.Tries + 1,
	}, more...)
}

// retryIn returns 1, 2, 4, then 8 seconds, give or take a quarter.
func retryIn(tries int) time.Duration {
	d := time.Second << min(max(tries, 0), 3)
	return d*3/4 + rand.N(d/2)
}

// over reports whether an error says that the lease is no more. That may also
// be the answer to a call which was recorded before and whose answer was lost,
// so the bytes of the attempt are left alone: either a result names them, or
// they go with the job.
func over(err error) bool {
	return errors.Is(err, jobs.ErrLeaseLost) || errors.Is(err, jobs.ErrEnded)
}

// write makes the last call for the unit. While the store is away it tries
// again, for as long as the lease lasts, but only once more after stop.
func (a *attempt) write(held, stop context.Context, do func(context.Context, *jobs.Lease) error) error {
	pause := newPause(callTimeout)
	for {
		stopping := stop.Err() != nil
		lease := *a.lease
		call, cancel := context.WithTimeout(held, callTimeout)
		err := do(call, &lease)
		unavailable := errors.Is(err, jobs.ErrUnavailable) || call.Err() != nil && errors.Is(err, call.Err())
		cancel()
		switch {
		case err == nil:
			a.w.store.over()
			return nil
		case held.Err() != nil:
			return context.Cause(held)
		case !unavailable:
			return err
		}
		a.w.store.failed(err)
		if stopping {
			return fmt.Errorf("%w: the worker stops and cannot hand the unit back: %w", jobs.ErrLeaseLost, err)
		}
		until, cancel := context.WithCancel(held)
		detach := context.AfterFunc(stop, cancel)
		sleep(until, pause.NextBackOff())
		detach()
		cancel()
	}
}

// letGo tells the store that nothing more is written for a unit whose lease is
// no more, so that its job may be removed. If the store does not hear it, the
// lease runs out there too.
func (a *attempt) letGo(stop context.Context, cause error) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(stop), callTimeout)
	defer cancel()
	lease := *a.lease
	err := a.w.c.Store.Release(ctx, &lease, time.Time{})
	if errors.Is(err, jobs.ErrEnded) || errors.Is(cause, jobs.ErrEnded) {
		return resultEnded
	}
	if !over(cause) { // the store refuses even to be told
		a.w.log.Error("a unit could not be settled", a.attrs("error", cause)...)
	}
	return resultLost
}
