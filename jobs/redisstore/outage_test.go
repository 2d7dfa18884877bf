package redisstore_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"spillway/jobs"
	"spillway/jobs/redisstore"
	"spillway/test/testenv"
)

// longest is within what time every operation must end.
const longest = 2 * time.Second

func create(t *testing.T, s *redisstore.Store) *jobs.Job {
	t.Helper()
	j, first := jobs.New(jobs.Request{Level: jobs.LevelSystem, URL: "http://localhost/fhir/$export"}, "client", time.Now())
	if err := s.Create(t.Context(), j, first); err != nil {
		t.Fatal(err)
	}
	return j
}

func claim(t *testing.T, s *redisstore.Store) *jobs.Lease {
	t.Helper()
	l, _, err := s.Claim(t.Context(), "worker")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// planned creates a job with some slices, which are then claimable.
func planned(t *testing.T, s *redisstore.Store, slices int) *jobs.Job {
	t.Helper()
	j := create(t, s)
	if err := s.Complete(t.Context(), claim(t, s), jobs.Result{Next: realistic(slices)}); err != nil {
		t.Fatal(err)
	}
	return j
}

// operations are all that a store does, but for Idle and Close.
func operations(s *redisstore.Store, l *jobs.Lease) map[string]func(context.Context) error {
	lease := func(do func(l *jobs.Lease) error) error {
		own := *l
		return do(&own)
	}
	return map[string]func(context.Context) error{
		"Create": func(ctx context.Context) error {
			j, first := jobs.New(jobs.Request{}, "", time.Now())
			return s.Create(ctx, j, first)
		},
		"Get":   func(ctx context.Context) error { _, err := s.Get(ctx, l.Job); return err },
		"List":  func(ctx context.Context) error { _, err := s.List(ctx); return err },
		"Done":  func(ctx context.Context) error { _, err := s.Done(ctx, l.Job); return err },
		"Claim": func(ctx context.Context) error { _, _, err := s.Claim(ctx, "worker"); return err },
		"Renew": func(ctx context.Context) error { return lease(func(l *jobs.Lease) error { return s.Renew(ctx, l) }) },
		"Save": func(ctx context.Context) error {
			return lease(func(l *jobs.Lease) error { return s.Save(ctx, l, nil) })
		},
		"Complete":  func(ctx context.Context) error { return s.Complete(ctx, l, jobs.Result{}) },
		"Fail":      func(ctx context.Context) error { return s.Fail(ctx, l, jobs.Failure{}, 0) },
		"Release":   func(ctx context.Context) error { return s.Release(ctx, l, time.Time{}) },
		"Cancel":    func(ctx context.Context) error { return s.Cancel(ctx, l.Job) },
		"Removable": func(ctx context.Context) error { _, err := s.Removable(ctx); return err },
		"Remove":    func(ctx context.Context) error { return s.Remove(ctx, l.Job) },
		"Load":      func(ctx context.Context) error { _, err := s.Load(ctx, "name"); return err },
		"Swap":      func(ctx context.Context) error { _, _, err := s.Swap(ctx, "name", 0, nil, time.Minute); return err },
		"Ping":      s.Ping,
	}
}

// wantAway checks that each operation ends soon and says that the store is
// away. Each is called by many at once, who must not queue behind each other.
func wantAway(t *testing.T, s *redisstore.Store, l *jobs.Lease) {
	t.Helper()
	var wg sync.WaitGroup
	for name, call := range operations(s, l) {
		for range 4 {
			wg.Go(func() {
				began := time.Now()
				err := call(context.Background())
				if !errors.Is(err, jobs.ErrUnavailable) {
					t.Errorf("%s = %v, want ErrUnavailable", name, err)
				}
				if took := time.Since(began); took > longest {
					t.Errorf("%s took %v", name, took)
				}
			})
		}
	}
	wg.Wait()
	began := time.Now()
	if err := s.Idle(context.Background()); err != nil && !errors.Is(err, jobs.ErrUnavailable) {
		t.Errorf("Idle = %v, want nil or ErrUnavailable", err)
	}
	if took := time.Since(began); took > longest {
		t.Errorf("Idle took %v", took)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began = time.Now()
	if _, err := s.Get(short, l.Job); !errors.Is(err, jobs.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Get with a short context = %v, want ErrUnavailable, or the context's error", err)
	}
	if took := time.Since(began); took > longest/2 {
		t.Errorf("Get took %v in a context of 50ms", took)
	}
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	if n := strings.Count(string(stacks), "created by github.com/redis/go-redis"); n > 16 {
		t.Errorf("%d goroutines of go-redis are left", n)
	}
}

// wantBack waits until the store serves again, without a new Open.
func wantBack(t *testing.T, s *redisstore.Store) {
	t.Helper()
	for began := time.Now(); ; {
		err := errors.Join(s.Ping(t.Context()), s.Idle(t.Context()))
		if err == nil {
			return
		}
		if !errors.Is(err, jobs.ErrUnavailable) || time.Since(began) > 10*time.Second {
			t.Fatalf("the store does not come back: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestOutages takes Redis away in several ways. Afterwards the store must go on
// by itself, with the lease that it had given.
func TestOutages(t *testing.T) {
	r := testenv.Redis(t, "--appendonly", "yes", "--appendfsync", "always")
	p := toxic(t, r.Addr)
	for name, away := range map[string]func(*testing.T) (back func()){
		"Stalled": func(*testing.T) func() { r.Stop(); return r.Continue },
		"Killed":  func(*testing.T) func() { r.Kill(); return r.Start },
		"Dropped": func(t *testing.T) func() {
			up := poison(t, p, `{"name":"up","type":"timeout","stream":"upstream","attributes":{"timeout":0}}`)
			down := poison(t, p, `{"name":"down","type":"timeout","stream":"downstream","attributes":{"timeout":0}}`)
			return func() { up(); down() }
		},
		"Reset": func(t *testing.T) func() {
			return poison(t, p, `{"name":"reset","type":"reset_peer","stream":"downstream","attributes":{"timeout":0}}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, redisstore.Options{URL: "redis://" + p.Listen, KeyPrefix: name})
			planned(t, s, 2)
			l := claim(t, s)
			var wg sync.WaitGroup
			for range 100 { // so that there are connections for what is asked next
				wg.Go(func() { _ = s.Ping(t.Context()) })
			}
			wg.Wait()
			back := away(t)
			wantAway(t, s, l)
			back()
			wantBack(t, s)
			if name == "Reset" {
				return // what was asked meanwhile has come through
			}
			// Nothing of what was asked meanwhile is done now.
			if all, err := s.List(t.Context()); err != nil || len(all) != 1 || all[0].State != jobs.Running {
				t.Errorf("List = %d jobs, %v; want the one, running", len(all), err)
			}
			if err := s.Renew(t.Context(), l); err != nil {
				t.Errorf("Renew after the restart = %v", err)
			}
			if err := s.Complete(t.Context(), l, jobs.Result{}); err != nil {
				t.Errorf("Complete after the restart = %v", err)
			}
			claim(t, s) // or else it was leased to nobody meanwhile
		})
	}
}

// TestLostAnswers loses the answer to each operation that changes something.
func TestLostAnswers(t *testing.T) {
	r := testenv.Redis(t)
	p := newLoser(t, r.Addr)
	clock := &shift{}
	s := open(t, redisstore.Options{URL: "redis://" + p.addr, Shift: clock.Get})
	warm := open(t, redisstore.Options{URL: r.URL(), KeyPrefix: "warm"})
	for _, call := range operations(warm, &jobs.Lease{Job: jobs.NewID(), Unit: jobs.Unit{ID: "plan"}}) {
		_ = call(t.Context()) // or else the answer that is lost is that Redis does not know the script
	}

	lose := func() { // the next answer on a connection that is there
		t.Helper()
		if err := s.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.lose.Store(true)
	}

	lose()
	j := create(t, s) // is repeated, and is no ErrExists to its caller
	if all, err := s.List(t.Context()); err != nil || len(all) != 1 || all[0].Progress.UnitsTotal != 1 {
		t.Fatalf("List = %d jobs, %v; want the one", len(all), err)
	}
	j2, first := j.Clone(), jobs.Unit{ID: "plan", Kind: jobs.UnitPlan}
	if err := s.Create(t.Context(), j2, first); !errors.Is(err, jobs.ErrExists) {
		t.Errorf("another Create of it = %v, want ErrExists", err)
	}

	lose()
	if _, _, err := s.Claim(t.Context(), "worker"); !errors.Is(err, jobs.ErrUnavailable) {
		t.Fatalf("Claim = %v, want ErrUnavailable", err)
	}
	if _, _, err := s.Claim(t.Context(), "worker"); !errors.Is(err, jobs.ErrNoWork) {
		t.Errorf("Claim = %v; the unit is leased to nobody", err)
	}
	clock.Advance(21 * time.Second)
	l := claim(t, s)
	if l.Attempt != 2 || l.Silent != 1 {
		t.Errorf("attempt %d, silent %d; want 2, 1", l.Attempt, l.Silent)
	}

	clock.Advance(10 * time.Second)
	before := l.ExpiresAt
	lose()
	if err := s.Renew(t.Context(), l); err != nil || !l.ExpiresAt.After(before) {
		t.Errorf("Renew = %v, lease moved by %v", err, l.ExpiresAt.Sub(before))
	}
	lose()
	if err := s.Save(t.Context(), l, []byte(`{"page":1}`)); err != nil {
		t.Errorf("Save = %v", err)
	}
	lose()
	if err := s.Complete(t.Context(), l, jobs.Result{Next: realistic(3)}); !errors.Is(err, jobs.ErrUnavailable) {
		t.Errorf("Complete = %v, want ErrUnavailable", err)
	}
	if err := s.Complete(t.Context(), l, jobs.Result{Next: realistic(3)}); !errors.Is(err, jobs.ErrLeaseLost) {
		t.Errorf("Complete again = %v, want ErrLeaseLost", err)
	}
	if d, err := s.Done(t.Context(), j.ID); err != nil || len(d) != 1 {
		t.Errorf("Done = %d units, %v; want the plan once", len(d), err)
	}

	l = claim(t, s)
	lose()
	if err := s.Fail(t.Context(), l, jobs.Failure{Reason: "no"}, 0); !errors.Is(err, jobs.ErrUnavailable) {
		t.Errorf("Fail = %v, want ErrUnavailable", err)
	}
	if err := s.Fail(t.Context(), l, jobs.Failure{Reason: "no"}, 0); !errors.Is(err, jobs.ErrLeaseLost) {
		t.Errorf("Fail again = %v, want ErrLeaseLost", err)
	}
	if again := claim(t, s); again.Unit.ID != l.Unit.ID || again.Tries != 1 {
		t.Errorf("claimed %s with %d tries, want the same unit with 1", again.Unit.ID, again.Tries)
	}

	lose()
	if err := s.Remove(t.Context(), j.ID); err != nil {
		t.Errorf("Remove = %v", err)
	}
	if _, err := s.Get(t.Context(), j.ID); !errors.Is(err, jobs.ErrNotFound) {
		t.Errorf("Get = %v, want ErrNotFound", err)
	}
}

func TestEmptied(t *testing.T) {
	r := testenv.Redis(t)
	s := open(t, redisstore.Options{URL: r.URL()})
	j := planned(t, s, 2)
	l := claim(t, s)
	r.CLI("FLUSHALL")
	for name, call := range operations(s, l) {
		want := map[string]error{
			"Get": jobs.ErrNotFound, "Done": jobs.ErrNotFound, "Cancel": jobs.ErrNotFound, "Claim": jobs.ErrNoWork,
			"Renew": jobs.ErrLeaseLost, "Save": jobs.ErrLeaseLost, "Complete": jobs.ErrLeaseLost, "Fail": jobs.ErrLeaseLost, "Release": jobs.ErrLeaseLost,
		}[name]
		if name == "Create" {
			continue
		}
		if err := call(t.Context()); !errors.Is(err, want) {
			t.Errorf("%s after FLUSHALL = %v, want %v", name, err, want)
		}
	}
	r.CLI("FLUSHALL")
	if _, _, err := s.Claim(t.Context(), "worker"); !errors.Is(err, jobs.ErrNoWork) {
		t.Errorf("Claim = %v, want ErrNoWork", err)
	}
	var wg sync.WaitGroup
	began := time.Now()
	wg.Go(func() {
		if err := s.Idle(t.Context()); err != nil {
			t.Errorf("Idle = %v", err)
		}
	})
	again := planned(t, s, 1)
	wg.Wait()
	if took := time.Since(began); took > time.Second {
		t.Errorf("Idle woke up after %v", took)
	}
	if again.ID == j.ID {
		t.Error("an id came twice")
	}
	r.CLI("SCRIPT", "FLUSH")
	if err := s.Complete(t.Context(), claim(t, s), jobs.Result{}); err != nil {
		t.Errorf("Complete after SCRIPT FLUSH = %v", err)
	}
}

// TestFull has a Redis that accepts nothing that takes memory: what is under
// way can end, and what was removed makes room.
func TestFull(t *testing.T) {
	r := testenv.Redis(t)
	s := open(t, redisstore.Options{URL: r.URL()})
	full := planned(t, s, 6)
	held := claim(t, s)
	other := create(t, s)
	r.CLI("CONFIG", "SET", "maxmemory", "1")
	j, first := jobs.New(jobs.Request{}, "", time.Now())
	for name, err := range map[string]error{
		"Create": s.Create(t.Context(), j, first),
		"Save":   s.Save(t.Context(), held, []byte(`1`)),
		"Swap":   third(s.Swap(t.Context(), "name", 0, nil, time.Minute)),
	} {
		if !errors.Is(err, jobs.ErrUnavailable) || !strings.Contains(err.Error(), "full") {
			t.Errorf("%s = %v, want ErrUnavailable and the reason", name, err)
		}
	}
	failed, released := claim(t, s), claim(t, s)
	for name, err := range map[string]error{
		"Renew":    s.Renew(t.Context(), held),
		"Fail":     s.Fail(t.Context(), failed, jobs.Failure{Reason: "no"}, 0),
		"Release":  s.Release(t.Context(), released, time.Time{}),
		"Complete": s.Complete(t.Context(), held, jobs.Result{}),
	} {
		if err != nil {
			t.Errorf("%s = %v", name, err)
		}
	}
	if err := errors.Join(s.Cancel(t.Context(), full.ID), s.Remove(t.Context(), full.ID), s.Remove(t.Context(), other.ID)); err != nil {
		t.Errorf("Cancel and Remove = %v", err)
	}
	r.CLI("CONFIG", "SET", "maxmemory", "0")
	if err := s.Create(t.Context(), j, first); err != nil {
		t.Errorf("Create when there is room again = %v", err)
	}
}

func third[T, U any](_ T, _ U, err error) error { return err }

func TestPrefixesAreApart(t *testing.T) {
	r := testenv.Redis(t)
	a, b := open(t, redisstore.Options{URL: r.URL(), KeyPrefix: "a"}), open(t, redisstore.Options{URL: r.URL()})
	j := planned(t, a, 1)
	if _, _, err := a.Swap(t.Context(), "name", 0, []byte("a"), time.Minute); err != nil {
		t.Fatal(err)
	}
	l := claim(t, a)
	for name, call := range operations(b, l) {
		want := map[string]error{
			"Get": jobs.ErrNotFound, "Done": jobs.ErrNotFound, "Cancel": jobs.ErrNotFound, "Claim": jobs.ErrNoWork,
			"Renew": jobs.ErrLeaseLost, "Save": jobs.ErrLeaseLost, "Complete": jobs.ErrLeaseLost, "Fail": jobs.ErrLeaseLost, "Release": jobs.ErrLeaseLost,
		}[name]
		if name == "Create" {
			continue
		}
		if err := call(t.Context()); !errors.Is(err, want) {
			t.Errorf("%s by another prefix = %v, want %v", name, err, want)
		}
	}
	if v, err := a.Load(t.Context(), "name"); err != nil || string(v.Bytes) != "a" {
		t.Errorf("Load = %q, %v", v.Bytes, err)
	}
	if err := a.Complete(t.Context(), l, jobs.Result{}); err != nil {
		t.Errorf("Complete = %v", err)
	}
	if all, err := a.List(t.Context()); err != nil || len(all) != 1 || all[0].ID != j.ID {
		t.Errorf("List = %d jobs, %v", len(all), err)
	}
	for key := range strings.SplitSeq(r.CLI("KEYS", "*"), "\n") {
		if !strings.HasPrefix(key, "{a}:") && !strings.HasPrefix(key, "{spillway}:") {
			t.Errorf("key %s has none of the prefixes", key)
		}
	}
}

// TestLostClaim has Redis forget a claim, as it may at a restart or failover.
// Its holder must not be taken for that of the next claim of the same unit.
func TestLostClaim(t *testing.T) {
	r := testenv.Redis(t)
	s := open(t, redisstore.Options{URL: r.URL()})
	planned(t, s, 1)
	given := map[int64]bool{}
	r.CLI("SAVE") // what comes after it is lost each time, also what is noted of a restart
	for range 3 {
		lost := claim(t, s)
		if given[lost.Attempt] {
			t.Fatalf("attempt %d was given before", lost.Attempt)
		}
		given[lost.Attempt] = true
		r.Kill()
		r.Start()
		wantBack(t, s)
		again := claim(t, s)
		if again.Unit.ID != lost.Unit.ID || given[again.Attempt] || again.Tries != 0 {
			t.Fatalf("claimed %s as attempt %d with %d tries; want %s again, as an attempt that never was", again.Unit.ID, again.Attempt, again.Tries, lost.Unit.ID)
		}
		given[again.Attempt] = true
		for name, err := range map[string]error{
			"Renew": s.Renew(t.Context(), lost), "Save": s.Save(t.Context(), lost, nil), "Complete": s.Complete(t.Context(), lost, jobs.Result{}),
			"Fail": s.Fail(t.Context(), lost, jobs.Failure{}, 0), "Release": s.Release(t.Context(), lost, time.Time{}),
		} {
			if !errors.Is(err, jobs.ErrLeaseLost) {
				t.Errorf("%s by the holder of the lost claim = %v, want ErrLeaseLost", name, err)
			}
		}
		if err := s.Release(t.Context(), again, time.Time{}); err != nil {
			t.Errorf("Release by the second holder = %v", err)
		}
	}
}
