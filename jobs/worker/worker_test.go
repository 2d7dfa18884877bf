package worker_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"spillway/jobs"
	"spillway/jobs/boltstore"
	"spillway/jobs/worker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	ttl       = 20 * time.Second
	retention = 20 * time.Minute
)

type (
	save   = func(context.Context, json.RawMessage) error
	runner = func(ctx context.Context, j *jobs.Job, l *jobs.Lease, save save) (jobs.Result, error)
)

// A rig is a store on the fake clock of a synctest bubble, with one worker.
type rig struct {
	*testing.T
	store *store
	log   bytes.Buffer
	slog  *slog.Logger
	reg   *prometheus.Registry

	mu      sync.Mutex
	removed []jobs.ID
	known   map[jobs.ID]bool // what SweepOrphans is to ask for, and the answers
	orphans int              // how often it was called
	remove  error            // what RemoveBytes returns
	age     time.Duration    // OrphanAge
	prepare func(context.Context)
	revoked func(*jobs.Job) bool                      // Revoked
	observe func(context.Context, worker.Event) error // Observe
	read    func(context.Context, worker.Reading) error

	stop context.CancelFunc
	done chan struct{}
}

// store may be away, and may lose answers.
type store struct {
	jobs.Store
	away   atomic.Bool
	unsaid func(jobs.Unit) bool // whether the answer to Complete is lost; nil: never
}

var errAway = fmt.Errorf("%w: connection refused", jobs.ErrUnavailable)

func (s *store) Claim(ctx context.Context, worker string) (*jobs.Lease, *jobs.Job, error) {
	if s.away.Load() {
		return nil, nil, errAway
	}
	return s.Store.Claim(ctx, worker)
}

func (s *store) call(f func() error) error {
	if s.away.Load() {
		return errAway
	}
	return f()
}

func (s *store) Idle(ctx context.Context) error {
	return s.call(func() error { return s.Store.Idle(ctx) })
}

func (s *store) Renew(ctx context.Context, l *jobs.Lease) error {
	return s.call(func() error { return s.Store.Renew(ctx, l) })
}

func (s *store) Save(ctx context.Context, l *jobs.Lease, c json.RawMessage) error {
	return s.call(func() error { return s.Store.Save(ctx, l, c) })
}

func (s *store) Complete(ctx context.Context, l *jobs.Lease, r jobs.Result) error {
	return s.call(func() error {
		err := s.Store.Complete(ctx, l, r)
		if s.unsaid != nil && s.unsaid(l.Unit) {
			return fmt.Errorf("%w: the connection broke before the answer", jobs.ErrUnavailable)
		}
		return err
	})
}

func (s *store) Fail(ctx context.Context, l *jobs.Lease, f jobs.Failure, in time.Duration) error {
	return s.call(func() error { return s.Store.Fail(ctx, l, f, in) })
}

func (s *store) Release(ctx context.Context, l *jobs.Lease, at time.Time) error {
	return s.call(func() error { return s.Store.Release(ctx, l, at) })
}

func (s *store) Removable(ctx context.Context) (ids []jobs.ID, err error) {
	err = s.call(func() error { ids, err = s.Store.Removable(ctx); return err })
	return ids, err
}

func (s *store) Get(ctx context.Context, id jobs.ID) (j *jobs.Job, err error) {
	err = s.call(func() error { j, err = s.Store.Get(ctx, id); return err })
	return j, err
}

// inBubble runs a test on a fake clock: sleeping costs nothing, and time passes
// only when everybody waits.
func inBubble(t *testing.T, test func(*rig)) {
	synctest.Test(t, func(t *testing.T) {
		s, err := boltstore.Open(filepath.Join(t.TempDir(), "jobs.db"), jobs.Limits{LeaseTTL: ttl, Retention: retention})
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{T: t, store: &store{Store: s}, reg: prometheus.NewRegistry(), known: map[jobs.ID]bool{}}
		r.slog = slog.New(slog.NewTextHandler(&r.log, nil))
		defer func() {
			r.halt()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}()
		test(r)
	})
}

// start starts the worker, which halt stops.
func (r *rig) start(run runner) { r.stop, r.done = r.worker(r.reg, run) }

func (r *rig) worker(reg prometheus.Registerer, run runner) (stop context.CancelFunc, done chan struct{}) {
	w := worker.New(worker.Config{
		Store: r.store, Prepare: r.prepare, Run: run, Concurrency: 3, LeaseTTL: ttl, Name: "test",
		RemoveBytes: func(_ context.Context, id jobs.ID) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.remove == nil {
				r.removed = append(r.removed, id)
			}
			return r.remove
		},
		SweepOrphans: func(_ context.Context, known func(jobs.ID) bool, olderThan time.Duration) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.orphans++
			if want := max(cmp.Or(r.age, 24*time.Hour), time.Minute); olderThan != want {
				r.Errorf("orphans older than %v are to go, want %v", olderThan, want)
			}
			for id := range r.known {
				r.known[id] = known(id)
			}
			return nil
		},
		Revoked: r.revoked, Observe: r.observe, Read: r.read,
		OrphanAge: r.age, Registerer: reg, Logger: r.slog,
	})
	ctx, stop := context.WithCancel(r.Context())
	done = make(chan struct{})
	go func() {
		defer close(done)
		if err := w.Run(ctx); err != nil {
			r.Errorf("Run = %v, want nil", err)
		}
	}()
	return stop, done
}

// halt stops the worker and waits for it.
func (r *rig) halt() {
	if r.stop != nil {
		r.stop()
		<-r.done
	}
}

func (r *rig) create() *jobs.Job {
	r.Helper()
	j, first := jobs.New(jobs.Request{Level: jobs.LevelSystem}, "", time.Now())
	if err := r.store.Create(r.Context(), j, first); err != nil {
		r.Fatal(err)
	}
	return j
}

func (r *rig) get(id jobs.ID) *jobs.Job {
	r.Helper()
	j, err := r.store.Store.Get(r.Context(), id)
	if err != nil {
		r.Fatal(err)
	}
	return j
}

// ended waits until the job has ended.
func (r *rig) ended(id jobs.ID) *jobs.Job {
	r.Helper()
	for range 10_000 {
		if j := r.get(id); j.State.Ended() {
			return j
		}
		time.Sleep(100 * time.Millisecond)
	}
	r.Fatal("the job does not end")
	return nil
}

// plan returns the result of a plan with n slices.
func plan(n int) jobs.Result {
	var r jobs.Result
	for i := range n {
		r.Next = append(r.Next, jobs.Unit{ID: fmt.Sprintf("slice-%d", i), Kind: jobs.UnitSlice, Type: "Patient", Weight: 1})
	}
	r.Next = append(r.Next, jobs.Unit{ID: "finish", Kind: jobs.UnitFinish})
	return r
}

// slice makes a runner whose plan has n slices, each performed by f.
func slice(n int, f runner) runner {
	return func(ctx context.Context, j *jobs.Job, l *jobs.Lease, save save) (jobs.Result, error) {
		switch l.Unit.Kind {
		case jobs.UnitPlan:
			return plan(n), nil
		case jobs.UnitSlice:
			return f(ctx, j, l, save)
		}
		return jobs.Result{}, nil
	}
}

func (r *rig) wantMetric(name, want string) {
	r.Helper()
	if err := testutil.GatherAndCompare(r.reg, strings.NewReader(want), name); err != nil {
		r.Error(err)
	}
}

func TestWorksOffJobs(t *testing.T) {
	inBubble(t, func(r *rig) {
		var running, most atomic.Int32
		var began sync.Map
		r.start(slice(12, func(ctx context.Context, j *jobs.Job, l *jobs.Lease, _ save) (jobs.Result, error) {
			if _, twice := began.LoadOrStore(string(j.ID)+l.Unit.ID, true); twice {
				r.Errorf("%s runs twice", l.Unit.ID)
			}
			n := running.Add(1)
			defer running.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Second)
			return jobs.Result{Segments: []jobs.Segment{{Kind: jobs.KindOutput, Type: "Patient", Count: 7, Size: 70}}}, nil
		}))
		for _, j := range []*jobs.Job{r.create(), r.create()} {
			got := r.ended(j.ID)
			if got.State != jobs.Completed || got.Progress.UnitsDone != 14 || got.Progress.Types["Patient"].Done != 84 {
				r.Errorf("the job is %s: %s, %+v; want completed, 14 units, 84 resources", got.State, got.Failure, got.Progress)
			}
		}
		if most.Load() != 3 {
			r.Errorf("at most %d units ran at once, want 3", most.Load())
		}
		r.wantMetric("spillway_units_total", `
# HELP spillway_units_total Attempts at units of work that ended, by what came of them.
# TYPE spillway_units_total counter
spillway_units_total{kind="finish",result="completed"} 2
spillway_units_total{kind="plan",result="completed"} 2
spillway_units_total{kind="slice",result="completed"} 24
`)
		r.halt()
		r.create() // which nobody claims
		r.wantMetric("spillway_jobs", `
# HELP spillway_jobs Exports in the job store, by state.
# TYPE spillway_jobs gauge
spillway_jobs{state="canceled"} 0
spillway_jobs{state="completed"} 2
spillway_jobs{state="failed"} 0
spillway_jobs{state="queued"} 1
spillway_jobs{state="running"} 0
`)
	})
}

// A unit that takes many times LeaseTTL stays with its worker.
func TestHeartbeat(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start(slice(1, func(ctx context.Context, _ *jobs.Job, l *jobs.Lease, _ save) (jobs.Result, error) {
			if l.Attempt != 1 {
				r.Errorf("attempt %d, want the first to be left alone", l.Attempt)
			}
			time.Sleep(20 * ttl)
			return jobs.Result{}, ctx.Err()
		}))
		if got := r.ended(r.create().ID); got.State != jobs.Completed {
			r.Errorf("the job is %s: %s", got.State, got.Failure)
		}
	})
}

func TestCancelStopsUnits(t *testing.T) {
	inBubble(t, func(r *rig) {
		var stopped atomic.Int32
		r.start(slice(2, func(ctx context.Context, j *jobs.Job, _ *jobs.Lease, _ save) (jobs.Result, error) {
			<-ctx.Done()
			if !errors.Is(context.Cause(ctx), jobs.ErrEnded) {
				r.Errorf("the cause is %v, want ErrEnded", context.Cause(ctx))
			}
			time.Sleep(2 * ttl) // its last writes; the lease it had is over by then
			r.mu.Lock()
			defer r.mu.Unlock()
			if slices.Contains(r.removed, j.ID) {
				r.Error("bytes were removed while a unit was still writing")
			}
			stopped.Add(1)
			return jobs.Result{}, nil
		}))
		j := r.create()
		time.Sleep(time.Minute)
		if err := r.store.Cancel(r.Context(), j.ID); err != nil {
			r.Fatal(err)
		}
		time.Sleep(ttl/4 + time.Second)
		time.Sleep(2 * ttl)
		if stopped.Load() != 2 {
			r.Errorf("%d of 2 units have stopped within a heartbeat of the cancel", stopped.Load())
		}
		time.Sleep(3 * time.Second)
		r.wantRemoved(j.ID)
		if got := r.units("slice", "ended"); got != 2 {
			r.Errorf("%v units ended with their job, want 2", got)
		}
	})
}

// wantRemoved checks that the bytes are gone and then the record.
func (r *rig) wantRemoved(ids ...jobs.ID) {
	r.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.removed, ids) {
		r.Errorf("the bytes of %d jobs were removed, want of %d", len(r.removed), len(ids))
	}
	for _, id := range ids {
		if _, err := r.store.Store.Get(r.Context(), id); !errors.Is(err, jobs.ErrNotFound) {
			r.Errorf("Get of a removed job = %v, want ErrNotFound", err)
		}
	}
}

// units reads spillway_units_total.
func (r *rig) units(kind, result string) float64 {
	r.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		r.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "spillway_units_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == kind && m.GetLabel()[1].GetValue() == result {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

func TestSaveOfEndedJobStopsUnit(t *testing.T) {
	inBubble(t, func(r *rig) {
		result := make(chan [2]error, 1)
		r.start(slice(1, func(ctx context.Context, j *jobs.Job, _ *jobs.Lease, save save) (jobs.Result, error) {
			if err := r.store.Cancel(r.Context(), j.ID); err != nil {
				r.Error(err)
			}
			err := save(ctx, json.RawMessage(`1`))
			result <- [2]error{err, context.Cause(ctx)}
			return jobs.Result{}, err
		}))
		j := r.create()
		for _, err := range <-result {
			if !errors.Is(err, jobs.ErrEnded) {
				r.Errorf("save, or the cause of the unit's end = %v, want ErrEnded", err)
			}
		}
		time.Sleep(3 * time.Second)
		r.wantRemoved(j.ID)
	})
}

func TestCheckpoint(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.start(slice(1, func(ctx context.Context, _ *jobs.Job, l *jobs.Lease, save save) (jobs.Result, error) {
			if l.Attempt == 1 {
				return jobs.Result{}, errors.Join(save(ctx, json.RawMessage(`{"page":7}`)), errors.New("boom"))
			}
			if string(l.Checkpoint) != `{"page":7}` {
				r.Errorf("the second attempt has the checkpoint %q", l.Checkpoint)
			}
			return jobs.Result{}, nil
		}))
		if got := r.ended(r.create().ID); got.State != jobs.Completed {
			r.Errorf("the job is %s: %s", got.State, got.Failure)
		}
	})
}

// TestPrepareComesBeforeTheFirstClaim: a unit is not leased, and so not blamed
// for a crash, while the worker gets ready.
func TestPrepareComesBeforeTheFirstClaim(t *testing.T) {
	inBubble(t, func(r *rig) {
		ready := make(chan struct{})
		r.prepare = func(ctx context.Context) {
			select {
			case <-ready:
			case <-ctx.Done():
			}
		}
		j := r.create()
		r.start(func(context.Context, *jobs.Job, *jobs.Lease, save) (jobs.Result, error) {
			return jobs.Result{Next: []jobs.Unit{{ID: "finish", Kind: jobs.UnitFinish}}}, nil
		})
		synctest.Wait()
		if got := r.get(j.ID); got.State != jobs.Queued {
			t.Errorf("the job is %s before the worker is prepared", got.State)
		}
		close(ready)
		synctest.Wait()
		if got := r.get(j.ID); got.State == jobs.Queued {
			t.Error("nothing was claimed after Prepare")
		}
	})
}
