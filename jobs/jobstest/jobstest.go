// Package jobstest is the contract of jobs.Store as a test suite. A store
// proves itself with a function that opens one:
//
//	Run        every sentence of jobs.Store, in groups of subtests
//	fixture    a store in a test, with the steps that most tests share
//
// The suite moves the store's clock and never sleeps; the clock may also run
// by itself meanwhile, so no test needs it to stand still.
package jobstest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"spillway/jobs"
)

// leaseTTL, retention and maxActive are what fixtures open stores with.
const (
	leaseTTL  = 20 * time.Second
	retention = 24 * time.Hour
	maxActive = 3
)

// Run exercises a store. open returns an empty one with these limits, whose end
// the test's cleanup sees to, and advance, which moves the store's notion of now.
func Run(t *testing.T, open func(t *testing.T, l jobs.Limits) (s jobs.Store, advance func(time.Duration))) {
	groups := []struct {
		name  string
		tests []test
	}{
		{"Record", recordTests},
		{"Claim", claimTests},
		{"Owners", ownerTests},
		{"Lease", leaseTests},
		{"Failure", failureTests},
		{"Complete", completeTests},
		{"Cancel", cancelTests},
		{"Remove", removeTests},
		{"Version", versionTests},
		{"Shared", sharedTests},
		{"Size", sizeTests},
		{"Idle", idleTests},
		{"Concurrent", concurrentTests},
	}
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			for _, test := range g.tests {
				t.Run(test.name, func(t *testing.T) {
					f := &fixture{T: t, created: time.Now().UTC().Truncate(time.Millisecond)}
					f.Store, f.advance = open(t, jobs.Limits{
						LeaseTTL: leaseTTL, MaxActive: maxActive, MaxActivePerOwner: test.perOwner, Retention: retention,
					})
					test.run(f)
				})
			}
		})
	}
}

type test struct {
	name     string
	run      func(*fixture)
	perOwner int // Limits.MaxActivePerOwner; 0: no limit
}

// A fixture is a store in a test.
type fixture struct {
	*testing.T
	jobs.Store
	advance func(time.Duration)
	created time.Time // CreatedAt of the next job
}

// equal compares what went in with what came out: JSON by its meaning, times by
// the instant, and nil like empty.
func equal() cmp.Option {
	return cmp.Options{
		cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) }),
		cmp.FilterValues(
			func(a, b json.RawMessage) bool { return len(a) > 0 || len(b) > 0 }, // else EquateEmpty applies
			cmp.Comparer(func(a, b json.RawMessage) bool { return compact(a) == compact(b) }),
		),
		cmpopts.EquateEmpty(),
	}
}

func compact(raw json.RawMessage) string {
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return string(raw)
	}
	return b.String()
}

// job returns a new job that is not in the store yet. Each is a second younger
// than the one before.
func (f *fixture) job() (*jobs.Job, jobs.Unit) {
	f.created = f.created.Add(time.Second)
	return jobs.New(jobs.Request{Level: jobs.LevelSystem, URL: "http://localhost/fhir/$export"}, "client", f.created)
}

// create records a new job, whose plan is claimable.
func (f *fixture) create() *jobs.Job {
	f.Helper()
	return f.createFor("client")
}

// createFor records a new job of an owner.
func (f *fixture) createFor(owner string) *jobs.Job {
	f.Helper()
	j, first := f.job()
	j.Owner = owner
	if err := f.Create(f.Context(), j, first); err != nil {
		f.Fatalf("Create = %v", err)
	}
	return j
}

// planned creates a job and completes its plan with these units and a finish unit.
func (f *fixture) planned(next ...jobs.Unit) *jobs.Job {
	f.Helper()
	j := f.create()
	plan := f.claim()
	if plan.Job != j.ID || plan.Unit.Kind != jobs.UnitPlan {
		f.Fatalf("claimed a %s unit; planned needs a store with nothing else to claim", plan.Unit.Kind)
	}
	f.complete(plan, jobs.Result{
		Next:            append(next, jobs.Unit{ID: "finish", Kind: jobs.UnitFinish}),
		TransactionTime: j.CreatedAt,
	})
	return j
}

// slices returns n slice units of this weight, with ids from "slice-0" on.
func slices(n int, weight int64) []jobs.Unit {
	units := make([]jobs.Unit, n)
	for i := range units {
		units[i] = jobs.Unit{ID: fmt.Sprintf("slice-%d", i), Kind: jobs.UnitSlice, Type: "Patient", Weight: weight}
	}
	return units
}

func (f *fixture) claim() *jobs.Lease {
	f.Helper()
	l, _, err := f.Claim(f.Context(), "worker")
	if err != nil {
		f.Fatalf("Claim = %v", err)
	}
	return l
}

// claimUnit claims and fails the test unless it is this unit.
func (f *fixture) claimUnit(id string) *jobs.Lease {
	f.Helper()
	l := f.claim()
	if l.Unit.ID != id {
		f.Fatalf("claimed %q, want %q", l.Unit.ID, id)
	}
	return l
}

func (f *fixture) noWork(why string) {
	f.Helper()
	if l, _, err := f.Claim(f.Context(), "worker"); !errors.Is(err, jobs.ErrNoWork) {
		if err == nil {
			f.Fatalf("claimed %q of a job; want ErrNoWork: %s", l.Unit.ID, why)
		}
		f.Fatalf("Claim = %v, want ErrNoWork: %s", err, why)
	}
}

func (f *fixture) complete(l *jobs.Lease, r jobs.Result) {
	f.Helper()
	if err := f.Complete(f.Context(), l, r); err != nil {
		f.Fatalf("Complete of %q = %v", l.Unit.ID, err)
	}
}

// finish works off a job that is the only one claimable.
func (f *fixture) finish(j *jobs.Job) {
	f.Helper()
	for f.get(j.ID).State != jobs.Completed {
		f.complete(f.claim(), jobs.Result{})
	}
}

func (f *fixture) get(id jobs.ID) *jobs.Job {
	f.Helper()
	j, err := f.Get(f.Context(), id)
	if err != nil {
		f.Fatalf("Get = %v", err)
	}
	return j
}

func (f *fixture) done(id jobs.ID) []jobs.Done {
	f.Helper()
	d, err := f.Done(f.Context(), id)
	if err != nil {
		f.Fatalf("Done = %v", err)
	}
	return d
}

func (f *fixture) removable() []jobs.ID {
	f.Helper()
	ids, err := f.Removable(f.Context())
	if err != nil {
		f.Fatalf("Removable = %v", err)
	}
	return ids
}

func (f *fixture) wantState(id jobs.ID, want jobs.State) *jobs.Job {
	f.Helper()
	j := f.get(id)
	if j.State != want {
		f.Fatalf("the job is %s, want %s", j.State, want)
	}
	return j
}

// ok fails the test if a step failed that should not.
func (f *fixture) ok(err error, step string) {
	f.Helper()
	if err != nil {
		f.Fatalf("%s = %v", step, err)
	}
}

// refused checks that every method that presents a lease gives one of the
// wanted errors. A lease that is let go by one of them is refused by all the same.
func (f *fixture) refused(l *jobs.Lease, wanted ...error) {
	f.Helper()
	for _, m := range f.methods() {
		err := m.call(l)
		matched := false
		for _, w := range wanted {
			matched = matched || errors.Is(err, w)
		}
		if !matched {
			f.Errorf("%s with attempt %d of %q = %v, want %v", m.name, l.Attempt, l.Unit.ID, err, wanted)
		}
	}
}

type method struct {
	name string
	call func(*jobs.Lease) error
}

// methods are those that present a lease.
func (f *fixture) methods() []method {
	ctx := f.Context()
	return []method{
		{"Renew", func(l *jobs.Lease) error { return f.Renew(ctx, l) }},
		{"Save", func(l *jobs.Lease) error { return f.Save(ctx, l, json.RawMessage(`"late"`)) }},
		{"Complete", func(l *jobs.Lease) error {
			return f.Complete(ctx, l, jobs.Result{Segments: []jobs.Segment{{Key: "late", Kind: jobs.KindOutput, Type: "Patient", Count: 1}}})
		}},
		{"Fail", func(l *jobs.Lease) error {
			return f.Fail(ctx, l, jobs.Failure{Reason: "late", Permanent: true}, 0)
		}},
		{"Release", func(l *jobs.Lease) error { return f.Release(ctx, l, time.Time{}) }},
	}
}

// now is the store's clock, as a fresh lease shows it.
func now(l *jobs.Lease) time.Time { return l.ExpiresAt.Add(-leaseTTL) }
