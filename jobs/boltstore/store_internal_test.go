package boltstore

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"spillway/jobs"
)

func openAt(t interface{ Fatal(...any) }, path string, now func() time.Time) *Store {
	s, err := Open(path, jobs.Limits{MaxActive: 2}, WithClock(now))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// One caller's error must not undo what others have in the same transaction.
func TestErrorOfOneInAGroup(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "jobs.db"), time.Now)
	defer func() { _ = s.Close() }()
	broken := errors.New("broken")
	const callers = 10
	s.writeMu.Lock() // so that all of them come to wait
	errs := make([]error, callers)
	then := make([]bool, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			errs[i] = s.update(t.Context(), &change{
				do: func(tx *bbolt.Tx) (bool, error) {
					if err := bucketMeta.in(tx).Put(fmt.Append(nil, i), []byte("x")); err != nil {
						return false, err
					}
					if i == 3 {
						return false, broken
					}
					return true, nil
				},
				then: func() { then[i] = true },
			})
		})
	}
	for waiting := 0; waiting < callers; {
		s.queueMu.Lock()
		waiting = len(s.queue)
		s.queueMu.Unlock()
	}
	s.writeMu.Unlock()
	wg.Wait()
	_ = s.db.View(func(tx *bbolt.Tx) error {
		for i := range callers {
			kept := bucketMeta.in(tx).Get(fmt.Append(nil, i)) != nil
			if want := i != 3; kept != want || then[i] != want || (errs[i] == nil) != want {
				t.Errorf("caller %d: kept %t, then ran %t, error %v; want success: %t", i, kept, then[i], errs[i], want)
			}
		}
		return nil
	})
}

// An idle claim must not write: it is made every second, for ever.
func TestIdleClaimWritesNothing(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "jobs.db"), time.Now)
	defer func() { _ = s.Close() }()
	written := func() int64 { st := s.db.Stats(); return st.TxStats.GetWrite() }
	before := written()
	for range 5 {
		if _, _, err := s.Claim(t.Context(), "worker"); !errors.Is(err, jobs.ErrNoWork) {
			t.Fatal(err)
		}
	}
	if after := written(); after != before {
		t.Errorf("five idle claims wrote %d times", after-before)
	}
}

// machine is a store under random steps. What must always hold is checked
// after each.
type machine struct {
	*Store
	t    *rapid.T
	now  time.Time
	ids  []jobs.ID
	held []*jobs.Lease
	next int
}

func TestInvariants(t *testing.T) {
	m := &machine{now: time.Date(2024, 7, 1, 12, 0, 0, 0, time.UTC)}
	m.Store = openAt(t, filepath.Join(t.TempDir(), "jobs.db"), func() time.Time { return m.now })
	m.db.NoSync = true // nothing here is about losing power
	defer func() { _ = m.Close() }()
	rapid.Check(t, func(rt *rapid.T) {
		m.t, m.ids, m.held = rt, nil, nil
		m.empty()
		rt.Repeat(map[string]func(*rapid.T){
			"":         m.check,
			"create":   m.create,
			"claim":    m.claim,
			"complete": m.complete,
			"fail":     m.fail,
			"release":  func(t *rapid.T) { m.tolerate(m.Release(t.Context(), m.lease(), m.now.Add(m.delay()))) },
			"renew":    func(t *rapid.T) { m.tolerate(m.Renew(t.Context(), m.lease())) },
			"save":     func(t *rapid.T) { m.tolerate(m.Save(t.Context(), m.lease(), []byte(`{}`))) },
			"cancel":   func(t *rapid.T) { m.tolerate(m.Cancel(t.Context(), m.id())) },
			"remove":   func(t *rapid.T) { m.tolerate(m.Remove(t.Context(), m.id())) },
			"advance":  func(t *rapid.T) { m.now = m.now.Add(m.delay()) },
			"restart":  m.restart,
		})
	})
}

// empty makes the file as good as new.
func (m *machine) empty() {
	m.holdings, m.placed = map[holder]*holding{}, false
	err := m.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []name{bucketJobs, bucketQueued, bucketRunning, bucketEnded} {
			if err := tx.DeleteBucket([]byte(name)); err != nil {
				return err
			}
		}
		return prepare(tx)
	})
	if err != nil {
		m.t.Fatal(err)
	}
}

// restart does what Open does with the leases of a former process.
func (m *machine) restart(t *rapid.T) {
	m.holdings = map[holder]*holding{}
	if err := m.db.Update(m.recoverLeases); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) delay() time.Duration {
	return time.Duration(rapid.IntRange(0, 40).Draw(m.t, "seconds")) * time.Second
}

func (m *machine) lease() *jobs.Lease {
	if len(m.held) == 0 {
		m.t.Skip("no lease yet")
	}
	return rapid.SampledFrom(m.held).Draw(m.t, "lease")
}

func (m *machine) id() jobs.ID {
	if len(m.ids) == 0 {
		m.t.Skip("no job yet")
	}
	return rapid.SampledFrom(m.ids).Draw(m.t, "job")
}

func (m *machine) tolerate(err error) {
	if err != nil && !errors.Is(err, jobs.ErrLeaseLost) && !errors.Is(err, jobs.ErrEnded) && !errors.Is(err, jobs.ErrNotFound) {
		m.t.Fatal(err)
	}
}

func (m *machine) create(t *rapid.T) {
	j, first := jobs.New(jobs.Request{Level: jobs.LevelSystem}, "", m.now)
	if err := m.Create(t.Context(), j, first); err != nil {
		t.Fatal(err)
	}
	m.ids = append(m.ids, j.ID)
}

func (m *machine) claim(t *rapid.T) {
	l, j, err := m.Claim(t.Context(), "worker")
	if errors.Is(err, jobs.ErrNoWork) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if j.State != jobs.Running || l.Tries >= jobs.MaxTries {
		t.Fatalf("claimed a unit with %d tries of a %s job", l.Tries, j.State)
	}
	m.held = append(m.held, l)
}

func (m *machine) complete(t *rapid.T) {
	l := m.lease()
	var r jobs.Result
	for _, k := range []jobs.UnitKind{jobs.UnitSlice, jobs.UnitTail} {
		if k.Stage() < l.Unit.Kind.Stage() {
			continue
		}
		for range rapid.IntRange(0, 2).Draw(t, "next") {
			m.next++
			r.Next = append(r.Next, jobs.Unit{ID: fmt.Sprint("u", m.next), Kind: k, NotBefore: m.now.Add(m.delay())})
		}
	}
	if l.Unit.Kind == jobs.UnitPlan {
		r.Next = append(r.Next, jobs.Unit{ID: "finish", Kind: jobs.UnitFinish})
	}
	if l.Unit.Kind == jobs.UnitFinish {
		r.Next = nil
	}
	m.tolerate(m.Complete(t.Context(), l, r))
}

func (m *machine) fail(t *rapid.T) {
	f := jobs.Failure{Reason: "no", Permanent: rapid.IntRange(0, 9).Draw(t, "permanent") == 0}
	m.tolerate(m.Fail(t.Context(), m.lease(), f, m.delay()))
}

// check looks at the whole file.
func (m *machine) check(t *rapid.T) {
	err := m.db.View(func(tx *bbolt.Tx) error {
		index := map[jobs.ID]string{}
		for _, name := range []name{bucketQueued, bucketRunning, bucketEnded} {
			_ = name.in(tx).ForEach(func(k, _ []byte) error {
				if string(name) != "running" {
					k = k[8:]
				}
				if was, twice := index[jobs.ID(k)]; twice {
					t.Fatalf("a job is in %s and in %s", was, name)
				}
				index[jobs.ID(k)] = string(name)
				return nil
			})
		}
		running := 0
		err := bucketJobs.in(tx).ForEachBucket(func(k []byte) error {
			j, _ := lookup(tx, jobs.ID(k))
			st, err := j.state()
			if err != nil {
				return err
			}
			want := string(st.State)
			if st.State.Ended() {
				want = "ended"
			}
			if index[j.id] != want {
				t.Fatalf("a %s job is in index %q", st.State, index[j.id])
			}
			delete(index, j.id)
			if st.State == jobs.Running {
				running++
			}
			if st.State.Ended() != (st.ExpiresAt.IsZero() == false) || st.State.Ended() != (st.EndedAt.IsZero() == false) {
				t.Fatalf("a %s job has EndedAt %v, ExpiresAt %v", st.State, st.EndedAt, st.ExpiresAt)
			}
			if !st.State.Ended() {
				m.checkUnits(t, j, st)
			}
			return nil
		})
		if len(index) > 0 {
			t.Fatalf("%d jobs are in an index only", len(index))
		}
		if running > m.limits.MaxActive {
			t.Fatalf("%d jobs run, %d may", running, m.limits.MaxActive)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// checkUnits checks that every unfinished unit is in one place.
func (m *machine) checkUnits(t *rapid.T, j job, st *state) {
	place := map[string]string{}
	enter := func(unit, name string) {
		if was, twice := place[unit]; twice {
			t.Fatalf("unit %s is %s and %s", unit, was, name)
		}
		place[unit] = name
	}
	_ = bucketReady.in(j.b).ForEach(func(_, unit []byte) error { enter(string(unit), "ready"); return nil })
	_ = bucketDelayed.in(j.b).ForEach(func(_, unit []byte) error { enter(string(unit), "delayed"); return nil })
	_ = bucketLeased.in(j.b).ForEach(func(unit, v []byte) error {
		enter(string(unit), "leased")
		u, err := j.unit(string(unit))
		if err != nil {
			return err
		}
		if attempt, stage := readLeased(v); attempt != u.Attempt || int(stage) != u.Kind.Stage() {
			t.Fatalf("unit %s is leased to attempt %d, its record says %d", unit, attempt, u.Attempt)
		}
		if _, known := m.holdings[holder{j.id, string(unit), u.Attempt}]; !known {
			t.Fatalf("unit %s is leased, and no memory of it would ever expire", unit)
		}
		return nil
	})
	unfinished, done := 0, 0
	_ = bucketUnits.in(j.b).ForEach(func(unit, v []byte) error {
		if len(v) == 0 {
			done++
			return nil
		}
		unfinished++
		if place[string(unit)] == "" {
			t.Fatalf("unit %s is nowhere", unit)
		}
		return nil
	})
	kept := 0
	_ = bucketDone.in(j.b).ForEach(func(_, _ []byte) error { kept++; return nil })
	if unfinished != len(place) || done != kept || unfinished == 0 ||
		st.Progress.UnitsDone != int64(done) || st.Progress.UnitsTotal != int64(done+unfinished) {
		t.Fatalf("%d unfinished units (%d in place), %d done (%d kept), progress %+v", unfinished, len(place), done, kept, st.Progress)
	}
}

// BenchmarkClaim claims and releases units of a job that has many of them, by
// one worker and by several per core.
func BenchmarkClaim(b *testing.B) {
	for _, units := range []int{200, 20_000} {
		for _, perCore := range []int{0, 8} {
			b.Run(fmt.Sprintf("units=%d/parallel=%d", units, perCore), func(b *testing.B) {
				s := openAt(b, filepath.Join(b.TempDir(), "jobs.db"), time.Now)
				defer func() { _ = s.Close() }()
				fill(b, s, units)
				b.ResetTimer()
				once := func() {
					l, _, err := s.Claim(b.Context(), "worker")
					if err == nil {
						err = s.Release(b.Context(), l, time.Time{})
					}
					if err != nil {
						b.Error(err)
					}
				}
				if perCore == 0 {
					for b.Loop() {
						once()
					}
				} else {
					b.SetParallelism(perCore)
					b.RunParallel(func(p *testing.PB) {
						for p.Next() {
							once()
						}
					})
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "claims/s")
			})
		}
	}
}

func fill(tb testing.TB, s *Store, units int) {
	j, first := jobs.New(jobs.Request{Level: jobs.LevelSystem}, "", time.Now())
	if err := s.Create(tb.Context(), j, first); err != nil {
		tb.Fatal(err)
	}
	l, _, err := s.Claim(tb.Context(), "worker")
	if err != nil {
		tb.Fatal(err)
	}
	var r jobs.Result
	for i := range units {
		r.Next = append(r.Next, jobs.Unit{
			ID: fmt.Sprintf("slice-%d", i), Kind: jobs.UnitSlice, Type: "Observation", Weight: int64(i % 10_000),
			Spec: []byte(`{"type":"Observation","from":"2024-01-01T00:00:00.000Z","to":"2024-02-01T00:00:00.000Z","count":9876}`),
		})
	}
	r.Next = append(r.Next, jobs.Unit{ID: "finish", Kind: jobs.UnitFinish})
	if err := s.Complete(tb.Context(), l, r); err != nil {
		tb.Fatal(err)
	}
}
