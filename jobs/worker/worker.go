// Package worker says when units of work are done; jobs/export says how.
//
//	Run        claim -> run, as many at once as Concurrency says; and the sweeper beside it
//	attempt    one leased unit: run it, then Complete, Release or Fail
//	heartbeat  renews the lease every quarter of LeaseTTL, or stops the unit
//	watch      ends jobs that are revoked, tells of those that have ended
//	sweeper    bytes of removable jobs go, then their records; and orphaned bytes
//	outage     a store that is away is logged once and waited for
//
// A worker that is told that its lease is lost or its job has ended cancels the
// unit and throws its result away; the store would refuse it anyway. A worker
// that stops hands its units back without blame. The package knows no FHIR and
// no storage; it is handed functions.
package worker

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/prometheus/client_golang/prometheus"

	"spillway/jobs"
)

const (
	defaultConcurrency = 8
	defaultSweepEvery  = time.Minute
	defaultOrphanAge   = 24 * time.Hour
)

// callTimeout is how long one call of the store may take, also when a worker
// that stops hands a unit back.
const callTimeout = 5 * time.Second

// quiet is the shortest time between two log lines about one outage that comes
// and goes.
const quiet = time.Minute

// Config is what a Worker needs.
type Config struct {
	Store jobs.Store

	// Run performs one unit. It must return soon after ctx ends; the cause of
	// ctx then is jobs.ErrLeaseLost, jobs.ErrEnded, or that of the worker's own
	// context. save stores a checkpoint; it waits out a store that is away. A
	// *jobs.WaitError hands the unit back until a later time, a *jobs.UnitError
	// fails it with a reason for the client, any other error fails it with
	// "internal error".
	Run func(ctx context.Context, j *jobs.Job, l *jobs.Lease, save func(context.Context, json.RawMessage) error) (jobs.Result, error)

	// Prepare is called once before the first claim, and waited for: what takes
	// long at every start, such as learning the upstream, should not be done
	// with a unit in hand, which a crash would be counted against. Nil means
	// that nothing is to be prepared.
	Prepare func(ctx context.Context)

	// RemoveBytes deletes all that was stored for a job. Nil means that this
	// worker removes no jobs.
	RemoveBytes func(ctx context.Context, id jobs.ID) error
	// SweepOrphans deletes what is stored for jobs that are not known and is
	// older than olderThan. Nil means that nobody looks for it.
	SweepOrphans func(ctx context.Context, known func(jobs.ID) bool, olderThan time.Duration) error
	// OrphanAge is that age. It should be the retention: then a store that was
	// emptied, and is put back from a copy, has lost nothing that would still be
	// there otherwise. 0: 24h; at least a minute.
	OrphanAge time.Duration

	// Revoked reports whether a job must end though nobody deletes it, such as
	// one of a client that may have none any more. It is asked of every job, every
	// SweepEvery, and of those that have ended too. The job is without Files and
	// Evidence. Nil: none must.
	Revoked func(j *jobs.Job) bool
	// Observe is told of the end of each job, and later of its removal, each at
	// least once by some worker of the store. What it does not take, with an
	// error, it is told again: until then the bytes stay, or the record. Nil:
	// nobody is told.
	Observe func(ctx context.Context, e Event) error
	// Read is told what a unit has read, at least once, before its result is
	// recorded. While it returns an error the unit does not end. Nil: nobody is
	// told.
	Read func(ctx context.Context, r Reading) error

	Concurrency int           // units at once; 0: 8
	LeaseTTL    time.Duration // the store's limit; 0: the default of jobs.Limits
	Name        string        // of this worker, for the operator's eyes

	// SweepEvery is the longest time between two looks for removable jobs; the
	// store is looked at sooner when it changes. 0: 1m.
	SweepEvery time.Duration

	Registerer prometheus.Registerer // nil: no metrics
	Logger     *slog.Logger          // nil: slog.Default
}

// A Worker works off units until it is told to stop. New makes one.
type Worker struct {
	c       Config
	log     *slog.Logger
	metrics *metrics
	store   outage

	mu     sync.Mutex
	active map[jobs.ID]int  // attempts under way, by job
	told   map[jobs.ID]bool // jobs whose end is known to be told
	ended  bool             // a job may have ended since the last look
}

// New returns a worker that does nothing yet. It panics if the metrics are
// registered already, which is a mistake in the program.
func New(c Config) *Worker {
	if c.Concurrency <= 0 {
		c.Concurrency = defaultConcurrency
	}
	if c.SweepEvery <= 0 {
		c.SweepEvery = defaultSweepEvery
	}
	if c.OrphanAge <= 0 {
		c.OrphanAge = defaultOrphanAge
	}
	c.OrphanAge = max(c.OrphanAge, leastOrphanAge)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.LeaseTTL = jobs.Limits{LeaseTTL: c.LeaseTTL}.WithDefaults().LeaseTTL
	return &Worker{
		c:       c,
		log:     c.Logger,
		metrics: newMetrics(c.Registerer, c.Store),
		store:   outage{log: c.Logger, what: "the job store"},
		active:  map[jobs.ID]int{},
		told:    map[jobs.ID]bool{},
	}
}

// Run works until ctx ends. Then it claims nothing more, cancels the units
// under way, hands them back and returns nil after the last goroutine of its
// own. It has no other reason to return.
func (w *Worker) Run(ctx context.Context) error {
	var all sync.WaitGroup
	all.Go(func() { w.sweepUntil(ctx) })
	if w.c.Prepare != nil {
		w.c.Prepare(ctx)
	}
	slots := make(chan struct{}, w.c.Concurrency)
	for {
		select {
		case <-ctx.Done():
		case slots <- struct{}{}:
		}
		a := w.claim(ctx)
		if a == nil {
			break
		}
		all.Go(func() {
			defer func() { <-slots }()
			a.work(ctx)
		})
	}
	all.Wait()
	return nil
}

// claim waits for a unit. It returns nil when ctx ends.
func (w *Worker) claim(ctx context.Context) *attempt {
	pause := newPause(callTimeout)
	for ctx.Err() == nil {
		began := time.Now()
		// The call outlives ctx: if the store has leased a unit, the answer
		// must not be lost, or the unit is blamed for it later.
		call, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		l, j, err := w.c.Store.Claim(call, w.c.Name)
		cancel()
		switch {
		case err == nil:
			w.store.over()
			return w.attempt(l, j, began)
		case errors.Is(err, jobs.ErrNoWork):
			w.store.over()
			pause.Reset()
			if err = w.c.Store.Idle(ctx); err == nil {
				continue
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		w.store.failed(err)
		sleep(ctx, pause.NextBackOff())
	}
	return nil
}

// newPause gives growing pauses with jitter, from a fifth of a second up to longest.
func newPause(longest time.Duration) *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = 200 * time.Millisecond
	b.MaxInterval = longest
	b.Reset()
	return b
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// An outage logs the first of a row of failures, and the recovery.
type outage struct {
	log  *slog.Logger
	what string

	mu     sync.Mutex
	since  time.Time // zero: none
	logged time.Time // when one was last spoken of
	spoken bool      // of this one
}

func (o *outage) failed(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.since.IsZero() {
		return
	}
	o.since = time.Now()
	if o.logged.IsZero() || o.since.Sub(o.logged) >= quiet {
		o.logged, o.spoken = o.since, true
		o.log.Error(o.what+" does not work; waiting for it", "error", err)
	}
}

func (o *outage) over() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.spoken {
		o.log.Info(o.what+" works again", "after", time.Since(o.since).Round(time.Millisecond))
	}
	o.since, o.spoken = time.Time{}, false
}
