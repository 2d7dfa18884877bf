package boltstore_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"spillway/jobs"
	"spillway/jobs/boltstore"
)

// plan creates a job with n slices and returns it.
func plan(t *testing.T, s *boltstore.Store, c *clock, n int) *jobs.Job {
	t.Helper()
	j, first := jobs.New(jobs.Request{Level: jobs.LevelSystem, URL: "http://localhost/$export"}, "", c.Now())
	if err := s.Create(t.Context(), j, first); err != nil {
		t.Fatal(err)
	}
	var r jobs.Result
	for i := range n {
		r.Next = append(r.Next, jobs.Unit{ID: fmt.Sprintf("slice-%d", i), Kind: jobs.UnitSlice, Type: "Patient", Weight: 1})
	}
	r.Next = append(r.Next, jobs.Unit{ID: "finish", Kind: jobs.UnitFinish})
	r.TransactionTime = c.Now()
	if err := s.Complete(t.Context(), claim(t, s), r); err != nil {
		t.Fatal(err)
	}
	return j
}

func claim(t *testing.T, s *boltstore.Store) *jobs.Lease {
	t.Helper()
	l, _, err := s.Claim(t.Context(), "worker")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func restart(t *testing.T, s *boltstore.Store, path string, c *clock) *boltstore.Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, path, jobs.Limits{}, c)
}

func TestRestart(t *testing.T) {
	path, c := filepath.Join(t.TempDir(), "jobs.db"), newClock()
	s := open(t, path, jobs.Limits{}, c)
	j := plan(t, s, c, 4)
	done, leased, delayed := claim(t, s), claim(t, s), claim(t, s)
	err := errors.Join(
		s.Complete(t.Context(), done, jobs.Result{Segments: []jobs.Segment{{Kind: jobs.KindOutput, Type: "Patient", Count: 1, Size: 10}}}),
		s.Save(t.Context(), leased, json.RawMessage(`{"page":3}`)),
		s.Fail(t.Context(), delayed, jobs.Failure{Reason: "no"}, time.Minute),
	)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := s.Get(t.Context(), j.ID)
	s = restart(t, s, path, c)

	after, err := s.Get(t.Context(), j.ID)
	if err != nil {
		t.Fatal(err)
	}
	if after.State != jobs.Running || after.Progress.UnitsDone != 2 || after.Progress.UnitsTotal != before.Progress.UnitsTotal ||
		after.Progress.Types["Patient"] != before.Progress.Types["Patient"] || !after.TransactionTime.Equal(before.TransactionTime) {
		t.Errorf("after a restart the job is %s, %+v", after.State, after.Progress)
	}
	if d, err := s.Done(t.Context(), j.ID); err != nil || len(d) != 2 || d[1].Unit.ID != done.Unit.ID {
		t.Errorf("Done = %+v, %v; want the plan and a slice", d, err)
	}
	if err := s.Renew(t.Context(), leased); !errors.Is(err, jobs.ErrLeaseLost) {
		t.Errorf("Renew with a lease of the former process = %v, want ErrLeaseLost", err)
	}
	if err := s.Complete(t.Context(), leased, jobs.Result{}); !errors.Is(err, jobs.ErrLeaseLost) {
		t.Errorf("Complete with a lease of the former process = %v, want ErrLeaseLost", err)
	}
	// At once, though no time has passed.
	again, fresh := claim(t, s), claim(t, s)
	if again.Unit.ID != leased.Unit.ID || again.Attempt != 2 || again.Tries != 1 || string(again.Checkpoint) != `{"page":3}` {
		t.Errorf("the leased unit came back as %q, attempt %d, tries %d, checkpoint %s", again.Unit.ID, again.Attempt, again.Tries, again.Checkpoint)
	}
	if fresh.Attempt != 1 || fresh.Tries != 0 {
		t.Errorf("a unit that nobody had came back with attempt %d, tries %d", fresh.Attempt, fresh.Tries)
	}
	if _, _, err := s.Claim(t.Context(), "worker"); !errors.Is(err, jobs.ErrNoWork) {
		t.Errorf("Claim = %v; the failed unit still has to wait", err)
	}
	if err := errors.Join(s.Complete(t.Context(), again, jobs.Result{}), s.Complete(t.Context(), fresh, jobs.Result{})); err != nil {
		t.Fatal(err)
	}
	c.Advance(61 * time.Second)
	if l := claim(t, s); l.Unit.ID != delayed.Unit.ID || l.Tries != 1 {
		t.Errorf("after its delay came %q with %d tries, want the failed unit with 1", l.Unit.ID, l.Tries)
	}
}

func TestRestartKeepsReleasedUnitsBlameless(t *testing.T) {
	path, c := filepath.Join(t.TempDir(), "jobs.db"), newClock()
	s := open(t, path, jobs.Limits{}, c)
	plan(t, s, c, 1)
	for range 2 * jobs.MaxTries {
		l := claim(t, s)
		if l.Tries != 0 {
			t.Fatalf("tries %d, want 0", l.Tries)
		}
		if err := s.Release(t.Context(), l, time.Time{}); err != nil {
			t.Fatal(err)
		}
		s = restart(t, s, path, c)
	}
}

func TestUnitThatKillsItsProcess(t *testing.T) {
	path, c := filepath.Join(t.TempDir(), "jobs.db"), newClock()
	s := open(t, path, jobs.Limits{}, c)
	j := plan(t, s, c, 2)
	for range jobs.MaxTries {
		if got, _ := s.Get(t.Context(), j.ID); got.State != jobs.Running {
			t.Fatalf("the job is %s before the last try", got.State)
		}
		claim(t, s)
		s = restart(t, s, path, c)
	}
	got, err := s.Get(t.Context(), j.ID)
	if err != nil || got.State != jobs.Failed || got.Failure == "" || got.ExpiresAt.IsZero() {
		t.Errorf("after %d crashes the job is %s: %q, %v", jobs.MaxTries, got.State, got.Failure, err)
	}
	if _, _, err := s.Claim(t.Context(), "worker"); !errors.Is(err, jobs.ErrNoWork) {
		t.Errorf("Claim = %v, want ErrNoWork", err)
	}
}

func TestRestartOfCanceledJob(t *testing.T) {
	path, c := filepath.Join(t.TempDir(), "jobs.db"), newClock()
	s := open(t, path, jobs.Limits{}, c)
	j := plan(t, s, c, 2)
	claim(t, s)
	if err := s.Cancel(t.Context(), j.ID); err != nil {
		t.Fatal(err)
	}
	if ids, err := s.Removable(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("Removable = %d jobs, %v; want none while a holder may write", len(ids), err)
	}
	s = restart(t, s, path, c)
	if ids, err := s.Removable(t.Context()); err != nil || len(ids) != 1 || ids[0] != j.ID {
		t.Errorf("Removable after a restart = %d jobs, %v; want the job, its writer is gone", len(ids), err)
	}
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b", "jobs.db")
	s := open(t, path, jobs.Limits{}, newClock())
	for name, want := range map[string]os.FileMode{"a": 0o700, "a/b": 0o700, "a/b/jobs.db": 0o600} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, %v; want %v", name, info.Mode().Perm(), err, want)
		}
	}
	other, err := boltstore.Open(path, jobs.Limits{})
	if err == nil {
		_ = other.Close()
		t.Fatal("a second Open of one file succeeded")
	}
	if !strings.Contains(err.Error(), "another spillway process uses this file") || !strings.Contains(err.Error(), path) {
		t.Errorf("a second Open = %v, want it to name the file and the reason", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"Ping":   s.Ping(t.Context()),
		"Cancel": s.Cancel(t.Context(), jobs.NewID()),
	} {
		if !errors.Is(err, jobs.ErrUnavailable) {
			t.Errorf("%s of a closed store = %v, want ErrUnavailable", name, err)
		}
	}
	open(t, path, jobs.Limits{}, newClock())
}

func TestRefusesAnotherFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "jobs.db")
	s := open(t, path, jobs.Limits{}, newClock())
	_ = s.Close()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("format"), []byte{0, 0, 0, 0, 0, 0, 0, 2})
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if s, err := boltstore.Open(path, jobs.Limits{}); err == nil {
		_ = s.Close()
		t.Error("a file of another format was opened")
	} else if !strings.Contains(err.Error(), "another version of spillway") {
		t.Errorf("Open = %v, want it to say that another version wrote the file", err)
	}
}

// TestKill has another process work and say what it was told is durable, until
// it is killed at some point. All of that must be there afterwards, and the job
// must end with every unit done once.
func TestKill(t *testing.T) {
	if path := os.Getenv("BOLTSTORE_TEST_VICTIM"); path != "" {
		s, err := boltstore.Open(path, jobs.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					l, _, err := s.Claim(t.Context(), "victim")
					if err != nil {
						return
					}
					if err := s.Complete(t.Context(), l, jobs.Result{}); err == nil {
						fmt.Printf("\ndone %s %d\n", l.Unit.ID, l.Attempt)
					}
				}
			})
		}
		wg.Wait()
		select {}
	}

	const units, kills = 150, 3
	path, c := filepath.Join(t.TempDir(), "jobs.db"), newClock()
	s := open(t, path, jobs.Limits{}, c)
	j := plan(t, s, c, units)
	told := map[string]int64{}
	for kill := range kills {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		watch(t, path, told, 15+kill*10)
		s = open(t, path, jobs.Limits{}, c)
		done, err := s.Done(t.Context(), j.ID)
		if err != nil {
			t.Fatal(err)
		}
		has := map[string]int64{}
		for _, d := range done {
			has[d.Unit.ID] = d.Attempt
		}
		for unit, attempt := range told {
			if has[unit] != attempt {
				t.Errorf("kill %d: %s was completed by attempt %d and then forgotten (Done says %d)", kill, unit, attempt, has[unit])
			}
		}
		if len(done) != len(has) || len(done) == units+2 {
			t.Errorf("kill %d: %d units done, %d different ones; want no unit twice, and some to do", kill, len(done), len(has))
		}
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { workOff(t, s, j.ID, told) })
	}
	wg.Wait()
	got, err := s.Get(t.Context(), j.ID)
	if err != nil || got.State != jobs.Completed || got.Progress.UnitsDone != units+2 {
		t.Errorf("at the end the job is %s with %d units done, %v; want completed, %d", got.State, got.Progress.UnitsDone, err, units+2)
	}
}

// watch starts a victim on the file and kills it after it has completed n units.
func watch(t *testing.T, path string, told map[string]int64, n int) {
	t.Helper()
	victim := exec.Command(os.Args[0], "-test.run=^TestKill$", "-test.v")
	victim.Env = append(os.Environ(), "BOLTSTORE_TEST_VICTIM="+path)
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var unit string
		var attempt int64
		if k, _ := fmt.Sscanf(lines.Text(), "done %s %d", &unit, &attempt); k != 2 {
			continue
		}
		told[unit] = attempt
		if seen++; seen == n {
			_ = victim.Process.Kill() // what is in the pipe is still read
		}
	}
	if err := victim.Wait(); err == nil || seen < n {
		t.Fatalf("the victim ended by itself after %d units: %v", seen, err)
	}
}

// workOff completes what is left of a job.
func workOff(t *testing.T, s *boltstore.Store, id jobs.ID, told map[string]int64) {
	for {
		l, _, err := s.Claim(t.Context(), "worker")
		switch {
		case errors.Is(err, jobs.ErrNoWork):
			if j, err := s.Get(t.Context(), id); err != nil || j.State.Ended() {
				return
			}
			continue // the others still hold some
		case err != nil:
			t.Error(err)
			return
		}
		if _, again := told[l.Unit.ID]; again {
			t.Errorf("%s was handed out again after it was completed", l.Unit.ID)
		}
		if err := s.Complete(t.Context(), l, jobs.Result{}); err != nil {
			t.Error(err)
			return
		}
	}
}

// TestRestartKeepsSharedValues is what a guard against replayed tokens needs.
func TestRestartKeepsSharedValues(t *testing.T) {
	path, c := filepath.Join(t.TempDir(), "jobs.db"), newClock()
	s := open(t, path, jobs.Limits{}, c)
	before, swapped, err := s.Swap(t.Context(), "token", 0, []byte("seen"), time.Minute)
	if err != nil || !swapped {
		t.Fatalf("Swap = %t, %v", swapped, err)
	}
	s = restart(t, s, path, c)
	if v, err := s.Load(t.Context(), "token"); err != nil || v.Version != before.Version || string(v.Bytes) != "seen" {
		t.Errorf("after a restart Load = %+v, %v; want what was stored", v, err)
	}
	if _, swapped, err := s.Swap(t.Context(), "token", 0, nil, time.Minute); err != nil || swapped {
		t.Errorf("after a restart Swap = %t, %v; want it refused", swapped, err)
	}
	c.Advance(time.Minute)
	s = restart(t, s, path, c)
	after, swapped, err := s.Swap(t.Context(), "token", 0, []byte("again"), time.Minute)
	if err != nil || !swapped || after.Version <= before.Version {
		t.Errorf("after it has run out Swap = %+v, %t, %v; want it stored under a greater version", after, swapped, err)
	}
}

// TestOpensOlderFile opens a file as it was before there were shared values.
func TestOpensOlderFile(t *testing.T) {
	path, c := filepath.Join(t.TempDir(), "jobs.db"), newClock()
	s := open(t, path, jobs.Limits{}, c)
	j := plan(t, s, c, 1)
	_ = s.Close()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		return errors.Join(tx.DeleteBucket([]byte("shared")), tx.DeleteBucket([]byte("passing")))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	s = open(t, path, jobs.Limits{}, c)
	if l := claim(t, s); l.Job != j.ID {
		t.Error("the job of an older file is not handed out")
	}
	if _, swapped, err := s.Swap(t.Context(), "name", 0, []byte("x"), time.Minute); err != nil || !swapped {
		t.Errorf("Swap = %t, %v", swapped, err)
	}
}
