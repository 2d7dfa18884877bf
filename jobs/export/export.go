package export

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"spillway/jobs"
	"spillway/storage"
	"spillway/upstream"
)

// Config is what an Exporter needs. Upstream, Storage and Jobs are required.
type Config struct {
	Upstream *upstream.Client
	Storage  storage.Store
	Jobs     jobs.Store

	// Window is how many resources a window should hold at most. Zero means 10,000.
	Window int64
	// FileSize is the uncompressed size in bytes at which a file of the
	// manifest is closed. Zero means 1 GiB.
	FileSize int64
	// Links makes one object of each file, beside its segments, for clients that
	// fetch it without the gateway. It is the same storage. Nil means none.
	Links storage.Linker
	// Locate says in which file of the storage an object lies, and from where
	// on, if there are several in one. Segments of one type that lie in one are
	// then one file of the manifest, in the order in which they lie, so that it
	// need not be put together. Nil: each object is a file of its own.
	Locate func(ctx context.Context, key string) (file string, offset int64, err error)
	// Encoding is how segments are stored. Empty means gzip.
	Encoding jobs.Encoding
	// Settle is how long after the transaction time the upstream may still
	// make earlier changes visible. Zero means none.
	Settle time.Duration
	// SettleByProfile says that where the upstream's profile knows how long that
	// is, it counts instead of Settle.
	SettleByProfile bool
	// Cohorts is how the resources of certain patients are found. Empty means
	// CohortsAuto.
	Cohorts Cohorts
	// Referenced are types of which those resources are exported beside the
	// Patient compartment that its resources refer to: of Groups, and of patients
	// if _type names them; see ReferencedTypes. Nil means none.
	Referenced []string
	// SinceNewMembers exports, of patients who joined a Group after _since, what
	// is older as well.
	SinceNewMembers bool
	// PlanConcurrency is how many counts one plan asks for at once; the
	// upstream's own limit applies as well. Zero means 8.
	PlanConcurrency int

	Registerer prometheus.Registerer // nil: no metrics
	Logger     *slog.Logger          // nil: slog.Default
	Now        func() time.Time      // nil: time.Now
}

// An Exporter performs units. It is safe for concurrent use.
type Exporter struct {
	c       Config
	cohorts cohortCache
	metrics *metrics

	// What units use one after another.
	sets    sync.Pool // of *passSet
	chunks  sync.Pool // of *[chunkBytes]byte
	packers sync.Map  // level → *sync.Pool of *jobs.GzipWriter
}

// New returns an Exporter with the defaults of c filled in.
func New(c Config) *Exporter {
	if c.Window <= 0 {
		c.Window = 10_000
	}
	if c.FileSize <= 0 {
		c.FileSize = 1 << 30
	}
	if c.Encoding == "" {
		c.Encoding = jobs.EncodingGzip
	}
	if c.PlanConcurrency <= 0 {
		c.PlanConcurrency = 8
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Exporter{c: c, metrics: newMetrics(c.Registerer)}
}

// Run performs the unit that l leases and returns what it leaves. save stores
// a checkpoint with the unit. An error is a *jobs.WaitError, a *jobs.UnitError
// or, where the fault is ours, any other; what the attempt wrote is then gone.
func (e *Exporter) Run(ctx context.Context, j *jobs.Job, l *jobs.Lease, save func(context.Context, json.RawMessage) error) (jobs.Result, error) {
	// A storage that does not answer is another matter than a full one: it is
	// waited for when it is written to.
	if err := e.c.Storage.Ready(ctx); errors.Is(err, storage.ErrFull) {
		return jobs.Result{}, e.unitError(ctx, err)
	}
	allowed, err := allowanceOf(j)
	if err != nil {
		return jobs.Result{}, err
	}
	a := &attempt{
		Exporter: e, job: j, lease: l, save: save, allowed: allowed,
		prefix: attemptPrefix(l),
	}
	// The exports of one client share a flow; those of nobody have one each.
	flow := j.Owner
	if flow == "" {
		flow = string(j.ID)
	}
	result, err := a.run(upstream.WithFlow(ctx, flow))
	if err != nil {
		a.discard(ctx)
		return jobs.Result{}, e.unitError(ctx, err)
	}
	return result, nil
}

// An attempt is one try at one unit. It is used by one goroutine unless a
// method says otherwise.
type attempt struct {
	*Exporter
	job   *jobs.Job
	lease *jobs.Lease
	save  func(context.Context, json.RawMessage) error
	// allowed is what the job may read. Whatever writes resources or names them
	// asks it; searches are made by a.searches.
	allowed *allowance
	// prefix is where this attempt, and no other, writes.
	prefix  string
	facts   *upstream.Facts // what was learnt of the upstream; nil for units that only read
	refs    *references     // what exported resources refer to; nil: not collected
	objects int             // written so far, for their names
	kept    bool            // a checkpoint names some of them
}

// attemptPrefix returns a storage prefix that no other attempt has, also where a
// store that lost its last moments gives out an attempt number again.
func attemptPrefix(l *jobs.Lease) string {
	return fmt.Sprintf("%s%s-%d-%s/", l.Job.KeyPrefix(), l.Unit.ID, l.Attempt, rand.Text()[:8])
}

// discard removes what a failed attempt wrote. No other attempt has its
// prefix, so this is safe even if the lease is lost. What stays for want of
// time or of a living process goes with the job.
func (a *attempt) discard(ctx context.Context) {
	if a.objects == 0 || a.kept {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_ = a.c.Storage.RemoveAll(ctx, a.prefix)
}

func (a *attempt) run(ctx context.Context) (jobs.Result, error) {
	if a.lease.Silent >= renewAfter && a.renewable() {
		return a.renew(ctx)
	}
	switch a.lease.Unit.Kind {
	case jobs.UnitPlan, jobs.UnitTail, jobs.UnitAssociated, jobs.UnitDeleted:
		var err error
		if a.facts, err = a.c.Upstream.Learn(ctx); err != nil {
			return jobs.Result{}, err
		}
	}
	switch a.lease.Unit.Kind {
	case jobs.UnitPlan:
		return a.plan(ctx)
	case jobs.UnitSlice:
		return a.slice(ctx)
	case jobs.UnitAssociated:
		return a.associated(ctx)
	case jobs.UnitTail:
		return a.tail(ctx)
	case jobs.UnitDeleted:
		return a.deleted(ctx)
	case jobs.UnitFinish:
		return a.finish(ctx)
	}
	return jobs.Result{}, &jobs.UnitError{
		Reason:    fmt.Sprintf("This version of Spillway cannot perform units of kind %q; let the newer version that planned this export finish it.", a.lease.Unit.Kind),
		Permanent: true,
	}
}

// fullPause is how long an export waits before it looks again for free space.
const fullPause = 30 * time.Second

// unitError gives errors the form that the worker understands. The cause of an
// ended ctx goes through: it is not the unit's fault. Nor is a full storage:
// the export pauses.
func (e *Exporter) unitError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, storage.ErrFull) {
		e.c.Logger.WarnContext(ctx, "exports pause: the storage has not enough free space", "again", fullPause)
		return &jobs.WaitError{Until: e.c.Now().Add(fullPause)}
	}
	if pause, ok := errors.AsType[*upstream.PauseError](err); ok {
		return &jobs.WaitError{Until: pause.Until}
	}
	var request *upstream.RequestError
	if errors.As(err, &request) {
		return &jobs.UnitError{Reason: request.Error(), Permanent: !request.Temporary()}
	}
	return err
}

// RemoveBytes deletes all that a job has written. Removing nothing is no error.
func (e *Exporter) RemoveBytes(ctx context.Context, id jobs.ID) error {
	e.cohorts.forget(id)
	return e.c.Storage.RemoveAll(ctx, id.KeyPrefix())
}

// SweepOrphans deletes the bytes of jobs that are not known any more and whose
// newest object is older than olderThan, such as those of a lost job store.
// Keys that no job can have written are left alone.
func (e *Exporter) SweepOrphans(ctx context.Context, known func(jobs.ID) bool, olderThan time.Duration) error {
	newest := make(map[jobs.ID]time.Time)
	for object, err := range e.c.Storage.List(ctx, "") {
		if err != nil {
			return err
		}
		if id, ok := jobs.IDOfKey(object.Key); ok && object.Modified.After(newest[id]) {
			newest[id] = object.Modified
		}
	}
	for id, modified := range newest {
		if known(id) || e.c.Now().Sub(modified) < olderThan {
			continue
		}
		if err := e.c.Storage.RemoveAll(ctx, id.KeyPrefix()); err != nil {
			return err
		}
	}
	return nil
}
